#!/usr/bin/env python3
"""Converts a model's weights between parallel strategies, offline, with the same layouts as a reshard.

The source is a Hugging Face folder, a run's checkpoints/step_N folder, or a folder that this tool wrote. The
destination strategy is "full" (a Hugging Face folder), text such as dp=1,tp=2,pp=2, or the strategy.json that `main.py
--only_save_strategy` writes. Memory stays at one tensor, whatever the size of the model; dtypes stay as they are. Other
formats: tools/convert_weight.py.

Examples:
  python tools/transform_checkpoint.py --src_checkpoint Qwen2.5-7B --dst_checkpoint shards --dst_strategy dp=1,tp=4,pp=2
  python tools/transform_checkpoint.py --src_checkpoint shards --dst_checkpoint wider \\
      --dst_strategy output/strategy.json
  python tools/transform_checkpoint.py --src_checkpoint output/checkpoints/step_40 --dst_checkpoint hf \\
      --dst_strategy full
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import run_tool, tool_parser
from mindrlhf_lite.files.text_file import say
from mindrlhf_lite.job.lock import hold_output


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--src_checkpoint", required=True, help="folder to convert")
    parser.add_argument("--src_strategy", help="strategy that it was saved under; default: what it says itself")
    parser.add_argument("--dst_checkpoint", required=True, help="new folder to write")
    parser.add_argument("--dst_strategy", required=True, help="full, dp=..,tp=..,pp=.., or a strategy.json")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    from mindrlhf_lite.checkpoint.open_checkpoint import open_checkpoint, read_strategy
    from mindrlhf_lite.checkpoint.transform import check_is_new, number_of_tensors, transform
    from mindrlhf_lite.commands.progress import Progress
    from mindrlhf_lite.data.tokenizer import copy_first_tokenizer
    from mindrlhf_lite.observe.host import peak_rss_gb

    hold_output(args.dst_checkpoint)
    check_is_new(Path(args.dst_checkpoint))
    source = open_checkpoint(
        args.src_checkpoint, read_strategy(args.src_strategy, "--src_strategy") if args.src_strategy else None
    )
    strategy = None if args.dst_strategy == "full" else read_strategy(args.dst_strategy, "--dst_strategy")
    with Progress(number_of_tensors(source.config, strategy), "tensor", "converting") as progress:
        transform(source, args.dst_checkpoint, strategy, progress.update)
    copy_first_tokenizer([args.src_checkpoint], args.dst_checkpoint)
    say(f"wrote {args.dst_checkpoint} ({args.dst_strategy}); peak memory {peak_rss_gb():.2f} GiB")


if __name__ == "__main__":
    run_tool(main)
