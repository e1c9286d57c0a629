"""A run on rows, put together; its loop: trainer/stage_loop.py. What is trained, and on what, is its task's
(trainer/stage_task.py).

Every step is one update. Rows are drawn in a seeded permutation an epoch; all ranks hold all rows of an update in one
order, and each takes the share that its data-parallel degree gives it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import lcm

from mindrlhf_lite.algorithms.aggregation import token_mean
from mindrlhf_lite.config.stages import StageConfig, reading_of
from mindrlhf_lite.data.prompt_sampler import PromptSampler
from mindrlhf_lite.data.supervised_rows import SupervisedRow, left_out, read_supervised
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.parallel.mesh import Mesh
from mindrlhf_lite.roles.build import build_roles, build_trained_roles, kernels_of_run
from mindrlhf_lite.roles.models import Roles, TrainedRoles
from mindrlhf_lite.scoring.batches import MicroBatch
from mindrlhf_lite.scoring.sequences import MicroBatcher, SequenceScoring
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.trainer.actor_update import update_actor
from mindrlhf_lite.trainer.kl_coefficient import KlCoefficient
from mindrlhf_lite.trainer.learning_rate import LearningRate, learning_rate_of
from mindrlhf_lite.trainer.persistence import Persistence
from mindrlhf_lite.trainer.phase_clock import PhaseClock
from mindrlhf_lite.trainer.run_state import RunState
from mindrlhf_lite.trainer.sampling import end_token_ids, sampling_of_run
from mindrlhf_lite.trainer.stage_report import StageReport
from mindrlhf_lite.trainer.stage_samples import Samples
from mindrlhf_lite.trainer.stage_task import Scoring, Task
from mindrlhf_lite.trainer.supervised import SupervisedTrainer

TaskOf = Callable[[StageConfig], Task]


@dataclass
class StageRun:
    """A run on this rank."""

    config: StageConfig
    mesh: Mesh
    tokenizer: Tokenizer
    roles: TrainedRoles
    task: Task
    scoring: Scoring
    trainer: SupervisedTrainer
    samples: Samples | None
    state: RunState
    persistence: Persistence
    report: StageReport
    clock: PhaseClock
    first_step: int
    last_step: int
    has_held_out: bool


def digest_of(rows: Sequence[SupervisedRow]) -> str:
    """SHA-256 of all that is trained on, in order."""
    digest = hashlib.sha256()
    for row in rows:
        for each in row.sequences:
            digest.update(f"{each.prompt_length} {row.margin}".encode() + each.token_ids.tobytes())
            digest.update(each.mask.tobytes())
    return digest.hexdigest()


def rows_of_run(config: StageConfig) -> tuple[tuple[SupervisedRow, ...], tuple[SupervisedRow, ...], list[str]]:
    """(training rows, held-out ones, lines for the console)."""
    rl, reading = config.rl_config, reading_of(config)
    rows, bad = read_supervised(rl.dataset_file, reading)
    held_out, bad_too = read_supervised(rl.eval_dataset_file, reading) if rl.eval_dataset_file else ((), ())
    return rows, held_out[: rl.eval_max_prompts or None], left_out((*bad, *bad_too))


def assemble_stage(config: StageConfig, mesh: Mesh, task_of: TaskOf) -> StageRun:
    """Everything up to the first step, resumed where the configuration asks for it; every rank calls it."""
    started, tokenizer, task = time.perf_counter(), Tokenizer(config.tokenizer_dir), task_of(config)
    rows, held_out, lines = rows_of_run(config)
    steps = config.rl_config.max_steps or max(1, config.rl_config.epochs * len(rows) // config.prompts_per_step)
    roles = roles_of_stage(config, mesh, task)
    shapes = shapes_of_stage(config, roles)
    sampling = sampling_of_run(config, tokenizer, roles.model_config.vocab_size)[1]
    schedule = learning_rate_of(config.actor_config.lr_schedule, steps)
    sampler = PromptSampler(len(rows), config.rl_config.seed)
    state, digest = RunState(sampler, schedule, KlCoefficient(config)), digest_of(rows)
    persistence = Persistence(config, mesh, roles, tokenizer, digest, end_token_ids(sampling), steps)
    scoring = scoring_of_stage(config, mesh, roles, shapes)
    first_step, notes = persistence.resume(state)
    report = StageReport(config, mesh, first_step, steps, started)
    clock = PhaseClock(roles.residency, report.console, [])
    trainer = trainer_of_stage(config, mesh, roles, shapes, task.batcher, state.schedule)
    samples = Samples(config, mesh, roles, tokenizer, held_out, sampling, clock) if isinstance(roles, Roles) else None
    has_held_out = bool(held_out)
    run = (config, mesh, tokenizer, roles, task, scoring, trainer, samples, state, persistence, report, clock)
    kernels = kernels_of_run(config)
    for line in (*filter(None, [kernels and f"kernels: {kernels}"]), *lines, *notes):
        report.console.say(line)
    for line in task.begin(scoring, rows, held_out, digest_of((*rows, *held_out))):
        report.console.say(line)
    return StageRun(*run, first_step, steps, has_held_out)


def roles_of_stage(config: StageConfig, mesh: Mesh, task: Task, shape: ModelConfig | None = None) -> TrainedRoles:
    """`Roles`, where it generates. Args: shape: as of `build_roles`."""
    build = build_roles if config.generates else build_trained_roles
    return build(config, mesh, shape, loss_of=task.loss)


def scoring_of_stage(config: StageConfig, mesh: Mesh, roles: TrainedRoles, shapes: StreamShapes) -> Scoring:
    each_alone = MicroBatcher(token_mean, config.rl_config.packing)  # pairs are scored apart
    return Scoring(mesh, roles, SequenceScoring(mesh, each_alone, shapes))


def trainer_of_stage(
    config: StageConfig,
    mesh: Mesh,
    roles: TrainedRoles,
    shapes: StreamShapes,
    batcher: MicroBatcher,
    schedule: LearningRate,
) -> SupervisedTrainer:
    def update(batches: Sequence[MicroBatch], lr: float) -> tuple[dict[str, float], float]:
        statistics, _, norm = update_actor(config, roles, mesh, batches, lr)
        return statistics, norm

    return SupervisedTrainer(roles.actor, shapes, schedule, batcher, config.row, update)


def shapes_of_stage(config: StageConfig, roles: TrainedRoles) -> StreamShapes:
    all_dims = [roles.actor.mesh.dims, *(scorer.model.mesh.dims for scorer in roles.scorers.values())]
    multiple, parts = lcm(*(dims.tensor for dims in all_dims)), lcm(*(dims.context for dims in all_dims))
    return StreamShapes(config.micro_batch_tokens(all_dims[0].shares), config.rl_config.seq_length, multiple, parts)
