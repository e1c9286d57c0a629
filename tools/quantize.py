#!/usr/bin/env python3
"""Weight-only int8 export of a trained model for serving with MindFormers on Ascend, by MindSpore Golden Stick (bash
build.sh --quantize).

OUTPUT/model.ckpt holds int8 weights of the linear layers with a scale an output channel (round to nearest), under the
names of Golden Stick's LlamaForCausalLM; OUTPUT/model.yaml is the model's section for MindFormers. Rounding runs on any
host and is tested on CPU. Serving the result needs Ascend and was not run here; Golden Stick 1.4.1 with MindFormers
1.9.0 cannot build the deployed network (docs/weights.md).

Examples:
  python tools/quantize.py --model output/hf --output served
  python tools/quantize.py --model output/hf --output served --keep lm_head feed_forward.w2
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
    parser.add_argument(
        "--model", required=True, help="Hugging Face folder of the trained model (Qwen2, Qwen2.5 or Llama 3)"
    )
    parser.add_argument("--output", required=True, help="new folder")
    parser.add_argument(
        "--keep",
        nargs="*",
        default=["lm_head"],
        help="layers whose names contain one of these stay in float; a tied head always does (default: lm_head)",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    from mindrlhf_lite.checkpoint.quantize import quantize

    hold_output(args.output)
    result = quantize(args.model, args.output, tuple(args.keep))
    say(
        f"wrote {args.output}: {result.num_layers} linear layers in int8 ({result.int8_bytes / 2**20:.1f} MiB), "
        f"the rest in float32 ({result.other_bytes / 2**20:.1f} MiB)"
    )


if __name__ == "__main__":
    run_tool(main)
