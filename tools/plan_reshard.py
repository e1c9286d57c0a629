#!/usr/bin/env python3
"""Plans moving a model's weights from one parallel strategy to another, on paper: bytes, balance, buckets, seconds.

No device and no ranks are needed. A strategy is dp=1,tp=4,pp=2; layers=13/11 splits the stages unevenly, zero=1 shares
rows over the data ranks, fused=1 is an engine with fused linears, emb=whole keeps the embedding table whole on every
tensor rank.

Examples:
  python tools/plan_reshard.py --model_config model_configs/qwen2_5_7b.yaml --src dp=1,tp=4,pp=2 --dst dp=2,tp=4,pp=1
  python tools/plan_reshard.py --model_config model_configs/qwen2_5_7b.yaml --src dp=2,tp=4 --dst dp=4,tp=2 --lora 16
  python tools/plan_reshard.py --model_config model_configs/qwen2_5_72b.yaml --src dp=16,tp=8,pp=8 \\
      --dst dp=128,tp=8 --json
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import COUNT_OR_NONE, POSITIVE_NUMBER, run_tool, tool_parser
from mindrlhf_lite.files.text_file import say


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--model_config", required=True, help="YAML of model_configs/, or a Hugging Face folder")
    parser.add_argument("--src", required=True, help="strategy that the weights are in, e.g. dp=1,tp=4,pp=2")
    parser.add_argument("--dst", required=True, help="strategy that they go to")
    parser.add_argument("--bucket_mb", type=POSITIVE_NUMBER, default=8, help="bucket size in MiB (default: 8)")
    parser.add_argument(
        "--link_gb_per_s", type=POSITIVE_NUMBER, default=25, help="GB/s that a rank receives (default: 25)"
    )
    parser.add_argument(
        "--memory_gb_per_s",
        type=POSITIVE_NUMBER,
        default=800,
        help="GB/s that a rank copies in its memory (default: 800)",
    )
    parser.add_argument(
        "--lora", type=COUNT_OR_NONE, default=0, help="move adapters of this rank on all linears; 0: all weights"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    from mindrlhf_lite.config.adapters import with_all_adapters
    from mindrlhf_lite.config.model_file import read_model_file
    from mindrlhf_lite.parallel.layout import parse_strategy
    from mindrlhf_lite.reshard.plan import lower_bound_bytes, make_plan
    from mindrlhf_lite.shapes.parameters import FLOAT32_BYTES, count_parameters

    config = read_model_file(args.model_config).shape
    source, destination = parse_strategy(args.src, "--src", config), parse_strategy(args.dst, "--dst", config)
    if args.lora:
        config = with_all_adapters(config, args.lora).moved
    start = time.perf_counter()
    plan = make_plan(config, source, destination)
    planning = time.perf_counter() - start
    bound = lower_bound_bytes(config, source, destination, plan.num_ranks)
    link, memory = args.link_gb_per_s * 1e9, args.memory_gb_per_s * 1e9
    seconds = [
        max(int(sent), int(got)) / link + int(copied) / memory
        for sent, got, copied in zip(plan.sent_bytes, plan.received_bytes, plan.copied_bytes)
    ]
    result = {
        "ranks": plan.num_ranks,
        "weights_bytes": FLOAT32_BYTES * count_parameters(config),
        "received_bytes": {"max": int(plan.received_bytes.max()), "total": int(plan.received_bytes.sum())},
        "lower_bound_bytes": {"max": int(bound.max()), "total": int(bound.sum())},
        "sent_bytes": {"max": int(plan.sent_bytes.max()), "total": int(plan.sent_bytes.sum())},
        "balance": round(plan.balance, 4),
        "buckets_per_rank": int(-(-plan.copied_bytes.max() // int(args.bucket_mb * 2**20))),
        "estimated_seconds": round(max(seconds), 4),
        "planning_seconds": round(planning, 3),
        "received_bytes_by_rank": plan.received_bytes.tolist(),
        "lower_bound_bytes_by_rank": bound.tolist(),
        "sent_bytes_by_rank": plan.sent_bytes.tolist(),
    }
    say(json.dumps(result) if args.json else _table(result, args))


def _table(result: dict, args: argparse.Namespace) -> str:
    def gib(value: int) -> str:
        return f"{value / 2**30:9.3f} GiB"

    ranks = result["ranks"]
    rows = [
        f"{args.src} -> {args.dst} on {ranks} ranks, weights {gib(result['weights_bytes']).strip()} (float32)",
        f"{'rank':>6} {'receives':>13} {'lower bound':>13} {'sends':>13}",
        *(
            f"{rank:6d} {gib(result['received_bytes_by_rank'][rank])} "
            f"{gib(result['lower_bound_bytes_by_rank'][rank])} {gib(result['sent_bytes_by_rank'][rank])}"
            for rank in range(min(ranks, 16))
        ),
        *([f"   ... {ranks - 16} more ranks; --json lists all"] if ranks > 16 else []),
        f"   all {gib(result['received_bytes']['total'])} {gib(result['lower_bound_bytes']['total'])} "
        f"{gib(result['sent_bytes']['total'])}",
        f"balance of sending among replicas (max / mean): {result['balance']:.3f}",
        f"buckets of {args.bucket_mb:g} MiB a rank: {result['buckets_per_rank']}",
        f"estimated at {args.link_gb_per_s:g} GB/s a link and {args.memory_gb_per_s:g} GB/s memory: "
        f"{result['estimated_seconds']:.3f} s (the slowest rank; latency and congestion not counted)",
        f"planned in {result['planning_seconds']:.3f} s",
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    run_tool(main)
