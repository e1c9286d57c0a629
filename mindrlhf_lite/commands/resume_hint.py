"""What a person types to go on with a run that ended early."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

COMMAND_VARIABLE = "MINDRLHF_RESUME_COMMAND"  # set by scripts that have an option for it
_STEP = re.compile(r"step_(0|[1-9][0-9]{0,17})")


def steps_in(folder: str | Path) -> list[int]:
    """Steps whose folders are in a folder of checkpoints, newest first; as they are named when they are saved: no
    step_0012, no step_² (a digit to Python, and no number).
    """
    found = (_STEP.fullmatch(path.name) for path in Path(folder).glob("step_*"))
    return sorted((int(match[1]) for match in found if match), reverse=True)


@dataclass(frozen=True)
class ResumeHint:
    """Example: ResumeHint("output/run", "output/run/checkpoints", "bash examples/quickstart/run_grpo.sh --resume
    output/run")
    """

    output_dir: str
    checkpoint_dir: str
    command: str

    @staticmethod
    def of(output_dir: str, checkpoint_dir: str) -> ResumeHint:
        usual = f"the same command with --rl_config.output_dir={output_dir} --resume_training"
        return ResumeHint(output_dir, checkpoint_dir, os.environ.get(COMMAND_VARIABLE) or usual)

    def as_dict(self) -> dict[str, str]:
        return asdict(self)

    def newest(self) -> str:
        """Example: "the newest checkpoint is after step 20"; "" where there is none."""
        steps = steps_in(self.checkpoint_dir)
        return f"the newest checkpoint is after step {steps[0]}" if steps else ""

    def text(self) -> str:
        """Example: "the newest checkpoint is after step 20; go on with: bash ... --resume output/run" """
        newest = self.newest()
        if not newest:
            return "there is no checkpoint to go on from (rl_config.save_ckpt_interval sets the steps between them)"
        return f"{newest}; go on with: {self.command}"
