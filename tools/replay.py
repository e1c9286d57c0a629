#!/usr/bin/env python3
"""Trains on what a run has recorded (rl_config.save_data_file), without rollout engine, verifiers and reference:
exactly the same updates.

The configuration is the run's own, in the same form as for main.py; rl_config.output_dir is where the replay writes
metrics.jsonl and hf. It starts from actor_config.load or, with --resume_training, from the newest checkpoint in
actor_config.save, and leaves out the steps before it. Under msrun, or alone.

Examples:
  python tools/replay.py --data output/run/grpo_*.mindrecord --config grpo_config.yaml \\
      --actor_checkpoint_path Qwen2.5-0.5B --rl_config.output_dir=output/replay
  python tools/replay.py --show output/run/grpo_000001.mindrecord
  python -m mindrlhf_lite.job --ranks 2 tools/replay.py --data output/run/grpo_*.mindrecord --config grpo_config.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.signals import end_on_signals
from mindrlhf_lite.commands.tool import prepare_process, run_tool, tool_parser
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import printable, say
from mindrlhf_lite.parallel.mesh import Mesh


def show(path: str) -> None:
    """Prints the texts of a file."""
    from mindrlhf_lite.data.experience_file import read_texts

    for row in read_texts(path):
        say(f"--- reward {row['reward']:g}, {row['outcome']}, gold {printable(str(row['gold']))}")
        say(f"{row['prompt']}>>> {row['completion']}")


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("--data", nargs="+", metavar="FILE", help="experience files, in any order")
    parser.add_argument("--show", metavar="FILE", help="print what a file holds, and stop")
    args, rest = parser.parse_known_args()
    if args.show:
        show(args.show)
        return
    if not args.data:
        raise UserError("--data FILE ... is needed (or --show FILE)")
    from mindrlhf_lite.launch.rank import run

    def replay(config: Config, mesh: Mesh) -> None:
        from mindrlhf_lite.trainer.replay import Replay

        Replay(config, mesh, args.data).run()

    run(rest, replay, needs_prompts=False)


if __name__ == "__main__":
    if any(word.partition("=")[0] == "--data" for word in sys.argv):
        prepare_process()
        end_on_signals()
        main()
    else:
        run_tool(main)
