"""One rank of a run with a fourth role: a frozen examiner, sharded over the ranks while the actor is copied."""

import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.config.memory_plan import memory_plan
from mindrlhf_lite.config.roles import RoleSpec
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.sections.parallel import StagedParallelConfig
from mindrlhf_lite.config.sections.reference import RefConfig
from mindrlhf_lite.config.strategies import role_strategies
from mindrlhf_lite.parallel.mesh import Mesh
from mindrlhf_lite.swap.phases import Access
from mindrlhf_lite.trainer.grpo import GrpoTrainer
from mindrlhf_lite.types import TrainSequence

# all that a role is
EXAMINER = RoleSpec("examiner", "examiner_config", {"examiner": Access.READS}, has_own_model=True)


@dataclass(frozen=True)
class ExaminedConfig(Config):
    examiner_config: RefConfig = field(default_factory=RefConfig)

    @property
    def roles(self):
        return (*super().roles, EXAMINER)


def sequences():
    rng = np.random.default_rng(0)
    return [TrainSequence.of(rng.integers(0, 250, length).astype(np.int32), 3) for length in (5, 12, 20, 23, 8)]


def main():
    mesh, settings = Mesh(), json.loads(Path(sys.argv[1]).read_text())
    examiner = RefConfig(load=settings.pop("examiner"), parallel_config=StagedParallelConfig(model_parallel=2))
    config = ExaminedConfig(**vars(build_config(settings)), examiner_config=examiner)
    trainer = GrpoTrainer(config, mesh)
    residency, seen = trainer.run.roles.residency, {}

    @contextmanager
    def watched(name):
        seen[name] = {group: residency.state(group).value for group in residency.groups}
        yield

    residency.around = watched
    last = trainer.run_steps()
    scored = trainer.run.annotator.fixed_logprobs(sequences())
    if mesh.is_main:
        plan = memory_plan(config, trainer.run.roles.model_config, mesh.world_size)
        found = {
            "groups": plan.groups,
            "phases": plan.phases,
            "seen": seen,
            "strategies": {name: each.dims.describe() for name, each in role_strategies(config, 2).items()},
            "logprobs": {name: np.concatenate(values).tolist() for name, values in scored.items()},
        }
        (Path(config.rl_config.output_dir) / "found.json").write_text(json.dumps(found))
    trainer.ending.finish(last)


if __name__ == "__main__":
    main()
