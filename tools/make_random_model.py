#!/usr/bin/env python3
"""Writes a model of a given shape with random weights, for measurements where no real weights are at hand.

Example:
  python tools/make_random_model.py --config model_configs/qwen2_5_0_5b.yaml --tokenizer_dir Qwen2.5-tokenizer \\
      --output random_0_5b
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import SEED, run_tool, tool_parser
from mindrlhf_lite.files.text_file import say
from mindrlhf_lite.job.lock import hold_output


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--config", required=True, help="YAML of model_configs/, or a Hugging Face folder")
    parser.add_argument(
        "--tokenizer_dir", required=True, help="folder with the tokenizer's files, which are copied beside the weights"
    )
    parser.add_argument("--output", required=True, help="folder to write, in Hugging Face format")
    parser.add_argument("--seed", type=SEED, default=0, help="default: 0")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    from mindrlhf_lite.checkpoint.transform import check_is_new
    from mindrlhf_lite.config.model_file import read_model_file
    from mindrlhf_lite.data.tokenizer import Tokenizer
    from mindrlhf_lite.models.hf_weights import save_hf_model
    from mindrlhf_lite.shapes.parameters import count_parameters, initial_weights

    hold_output(args.output)
    check_is_new(Path(args.output))
    config = read_model_file(args.config).shape
    tokenizer = Tokenizer(args.tokenizer_dir)
    save_hf_model(
        args.output, config, initial_weights(config, args.seed), tokenizer.eos_token_id, tokenizer.pad_token_id
    )
    tokenizer.save(args.output)
    say(f"Wrote {args.output}: {count_parameters(config):,} random parameters")


if __name__ == "__main__":
    run_tool(main)
