"""The processes of python -m mindrlhf_lite.sft, dpo and reward_model."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.stages import StageConfig
from mindrlhf_lite.launch.program import Program
from mindrlhf_lite.launch.rank import run
from mindrlhf_lite.launch.stage_mistakes import rows_left_out, stage_mistakes
from mindrlhf_lite.parallel.mesh import Mesh


def main(program: Program, arguments: Sequence[str] | None = None) -> None:
    given = sys.argv[1:] if arguments is None else arguments
    run(given, train_stage, program=program, find_mistakes=stage_mistakes, rows_left_out=rows_left_out)


def train_stage(config: Config, mesh: Mesh) -> None:
    """The run of a `StageConfig`, on this rank."""
    from mindrlhf_lite.trainer.stage_loop import StageTrainer
    from mindrlhf_lite.trainer.tasks import TASKS

    assert isinstance(config, StageConfig)
    StageTrainer(config, mesh, TASKS[config.program]).train()
