#!/usr/bin/env python3
"""Converts weights between Hugging Face, MindFormers and this project's sharded checkpoints, and GGUF files into them.

Formats are told by what is there and by the name of what is written:
  Hugging Face   a folder with config.json and safetensors
  MindFormers    a file .ckpt or .safetensors with the names of LlamaForCausalLM; read with --config_path: its YAML, a
                 YAML of model_configs/, or a Hugging Face folder, which also gives the tokenizer
  GGUF           a file .gguf of llama.cpp (architectures llama, qwen2, qwen3): quantised tensors become float32, or
                 --dtype; its tokenizer and chat template become files that transformers loads; read only
  sharded        a folder of rank files, written for --dst_strategy; a run's checkpoints/step_N is one too. One of
                 adapters becomes a model with them merged in and, of Hugging Face format, a folder adapter/ (peft's)

Every tensor keeps its dtype unless --dtype says otherwise; a conversion that keeps it is exact to the bit. Memory stays
at a few hundred MiB for any model but with --dst_strategy, where it is the largest tensor of a rank. A missing, extra
or misshaped tensor is an error that names all of them, and nothing is written.

Examples:
  python tools/convert_weight.py --torch_ckpt_dir Qwen2.5-7B --mindspore_ckpt_path qwen2_5_7b.ckpt --dtype bf16
  python tools/convert_weight.py --reversed --mindspore_ckpt_path qwen2_5_7b.ckpt \\
      --config_path finetune_qwen2_5_7b_8k.yaml --torch_ckpt_dir hf
  python tools/convert_weight.py --input_path output/checkpoints/step_40 --output_path trained.safetensors --dtype bf16
  python tools/convert_weight.py --input_path SmolLM2-135M-Instruct.Q4_1.gguf --output_path smollm2
  python tools/convert_weight.py --input_path qwen2_5_7b.ckpt --config_path Qwen2.5-7B --output_path shards \\
      --dst_strategy dp=1,tp=4,pp=2
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import run_tool, tool_parser
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import say
from mindrlhf_lite.job.lock import hold_output

_NOT_WRITTEN = (".bin", ".pth", ".pt", ".npz", ".gguf", ".onnx")


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--input_path", help="what to convert")
    parser.add_argument("--output_path", help="new file or folder")
    parser.add_argument("--torch_ckpt_dir", help="Hugging Face folder: the source, or with --reversed what is written")
    parser.add_argument(
        "--mindspore_ckpt_path", help="MindFormers file: what is written, or with --reversed the source"
    )
    parser.add_argument("--reversed", action="store_true", help="from --mindspore_ckpt_path to --torch_ckpt_dir")
    parser.add_argument(
        "--dtype", choices=("fp32", "fp16", "bf16"), help="what is written (default: the source's, tensor by tensor)"
    )
    parser.add_argument(
        "--config_path",
        help="shape of the model in a MindFormers file (and, for any source, end tokens and tokenizer): MindFormers' "
        "YAML, a YAML of model_configs/, or a Hugging Face folder",
    )
    parser.add_argument(
        "--src_strategy", help="strategy that a sharded source was saved under (default: what it says itself)"
    )
    parser.add_argument("--dst_strategy", help="write rank files for dp=..,tp=..,pp=.. or a strategy.json")
    return parser.parse_args()


def paths(args: argparse.Namespace) -> tuple[str, str]:
    """(source, destination) from either pair of options."""
    pair = (args.torch_ckpt_dir, args.mindspore_ckpt_path)
    source, destination = pair[::-1] if args.reversed else pair
    if (source and args.input_path) or (destination and args.output_path):
        raise UserError("give --input_path and --output_path, or --torch_ckpt_dir and --mindspore_ckpt_path, not both")
    source, destination = source or args.input_path, destination or args.output_path
    if not source or not destination:
        raise UserError(
            "a source and a destination are needed: --input_path and --output_path, or --torch_ckpt_dir and "
            "--mindspore_ckpt_path"
        )
    if args.mindspore_ckpt_path and not args.mindspore_ckpt_path.endswith((".ckpt", ".safetensors")):
        raise UserError(
            f"--mindspore_ckpt_path {args.mindspore_ckpt_path}: a MindFormers file ends in .ckpt or .safetensors"
        )
    if destination.endswith(_NOT_WRITTEN):
        raise UserError(
            f"{destination}: this format is not written; give a folder (Hugging Face), or a file .ckpt or "
            ".safetensors (MindFormers)"
        )
    return source, destination


def main() -> None:
    args = parse_arguments()
    source_path, destination = paths(args)
    from mindrlhf_lite.checkpoint import open_checkpoint as sources
    from mindrlhf_lite.checkpoint import transform as conversion
    from mindrlhf_lite.commands.progress import Progress
    from mindrlhf_lite.config.model_file import read_model_file
    from mindrlhf_lite.data.tokenizer import copy_first_tokenizer
    from mindrlhf_lite.models.stored_numbers import DTYPES
    from mindrlhf_lite.observe.host import peak_rss_gb

    hold_output(destination)
    conversion.check_is_new(Path(destination))
    if Path(source_path).suffix in conversion.MINDFORMERS_SUFFIXES:
        if not args.config_path:
            raise UserError(
                f"--config_path: needed for {source_path}, which does not say the shape of its model: a "
                "MindFormers YAML or a Hugging Face folder"
            )
        source = sources.open_mindformers(source_path, args.config_path)
    elif source_path.endswith(".gguf"):
        source = sources.open_gguf(source_path)
    else:
        source = sources.open_checkpoint(
            source_path, sources.read_strategy(args.src_strategy, "--src_strategy") if args.src_strategy else None
        )
    if source.end_token_ids is None and args.config_path:
        model = read_model_file(args.config_path)
        source = replace(source, end_token_ids=model.end_token_ids, pad_token_id=model.pad_token_id)
    if source.left_out:
        say(f"left out {len(source.left_out)} tensors that are no weights, such as {source.left_out[0]}")
    strategy = sources.read_strategy(args.dst_strategy, "--dst_strategy") if args.dst_strategy else None
    is_mindformers = Path(destination).suffix in conversion.MINDFORMERS_SUFFIXES
    if strategy and is_mindformers:
        raise UserError(f"--dst_strategy {args.dst_strategy}: rank files go into a folder, not into {destination}")
    dtype = DTYPES[args.dtype] if args.dtype else None
    with Progress(conversion.number_of_tensors(source.config, strategy), "tensor", "converting") as progress:
        if is_mindformers:
            conversion.write_mindformers(source, destination, progress.update, dtype)
        else:
            conversion.transform(source, destination, strategy, progress.update, dtype)
    if not is_mindformers and not source.gguf:
        copy_first_tokenizer([source_path, args.config_path], destination)
    if not strategy and not is_mindformers and source.end_token_ids is None:
        say(
            "warning: no end token is known, so that answers will not stop: give a Hugging Face folder by "
            "--config_path, or set eos_token_id in config.json"
        )
    say(f"wrote {destination}; peak memory {peak_rss_gb():.2f} GiB")


if __name__ == "__main__":
    run_tool(main)
