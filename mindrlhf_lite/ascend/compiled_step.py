"""One step of a run on a simulated rank, over made-up sequences of full length: every phase is compiled for Ascend and
nothing is computed.

    python -m mindrlhf_lite.ascend.compiled_step REQUEST REPORT PARENT   (ascend/dry_run.py starts it)

REQUEST is a `StepRequest` as wire.py writes it; REPORT becomes JSON: the device memory that every phase took at its
peak, and the groups of parameters that were not in memory when they should have been, or were when they should not.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mindrlhf_lite.ascend.dry_run import StepRequest
from mindrlhf_lite.ascend.idle_threads import let_spinning_threads_idle
from mindrlhf_lite.commands.signals import listen_to_signals_again
from mindrlhf_lite.config.roles import REWARD_MODEL
from mindrlhf_lite.config.sampling_params import sampling_params
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.stages import StageConfig
from mindrlhf_lite.config.strategies import role_strategies
from mindrlhf_lite.data.supervised_rows import SupervisedRow
from mindrlhf_lite.files.text_file import say, write_text
from mindrlhf_lite.files.wire import from_bytes
from mindrlhf_lite.job.lifelines import die_with_parent
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.swap.phases import phase_of_part
from mindrlhf_lite.types import RETURNS, VALUES, GenerateRequest, SamplingParams, TrainSequence

if TYPE_CHECKING:
    from mindrlhf_lite.parallel.mesh import Mesh
    from mindrlhf_lite.roles.models import Roles
    from mindrlhf_lite.swap.residency import Residency

_NEW_TOKENS = 2  # of a decoding step there is one graph, however many tokens follow


def main() -> None:
    listen_to_signals_again()  # which whoever started this has blocked
    die_with_parent()
    if os.getppid() != int(sys.argv[3]):  # it ended before
        os._exit(1)
    let_spinning_threads_idle()
    request: StepRequest = from_bytes(Path(sys.argv[1]).read_bytes(), StepRequest)
    write_text(sys.argv[2], json.dumps(measure(request.of_its_program, request.shape)))


def measure(config: Config, shape: ModelConfig) -> dict:
    """Compiles a step. Returns {"phases": {name: bytes at the peak}, "misplaced": ["group in phase", ...]}."""
    from mindrlhf_lite.parallel.mesh import Mesh
    from mindrlhf_lite.trainer.device_context import apply_context

    context = config.context
    mesh = Mesh(context.device_target, context.num_threads, context.deterministic)
    apply_context(context, mesh.rank)
    watch = _Watch(config.rl_config.swap)
    if isinstance(config, StageConfig):
        _run_stage(config, shape, mesh, watch)
    else:
        _run_step(config, shape, mesh, watch)
    return {"phases": watch.peaks, "misplaced": watch.misplaced}


@dataclass
class _Watch:
    """What phases take, and have in memory."""

    swaps: bool
    peaks: dict[str, int] = field(default_factory=dict)
    misplaced: list[str] = field(default_factory=list)

    def look_at(self, residency: Residency) -> None:
        import mindspore as ms

        @contextmanager
        def measured(name: str) -> Iterator[None]:
            say(f"phase {name}")
            ms.runtime.synchronize()
            ms.runtime.reset_peak_memory_stats()
            if self.swaps:
                wanted = residency.phases[name].resident
                strange = [group for group in residency.groups if residency.has_memory(group) != (group in wanted)]
                self.misplaced += [f"{group} in {name}" for group in strange]
            yield
            ms.runtime.synchronize()
            name = phase_of_part("step", 0) if name.startswith("step_") else name  # the fullest of them
            self.peaks[name] = max(self.peaks.get(name, 0), int(ms.runtime.max_memory_allocated()))

        residency.around = measured


def _run_stage(config: StageConfig, shape: ModelConfig, mesh: Mesh, watch: _Watch) -> None:
    """One update of a run on rows, and an evaluation."""
    from mindrlhf_lite.roles.models import Roles
    from mindrlhf_lite.trainer.learning_rate import LearningRate
    from mindrlhf_lite.trainer.stage_run import roles_of_stage, scoring_of_stage, shapes_of_stage, trainer_of_stage
    from mindrlhf_lite.trainer.tasks import TASKS

    actor, rl = replace(config.actor_config, load=""), replace(config.rl_config, output_dir=".")
    config = replace(config, actor_config=actor, rl_config=rl)  # no weights; what is written is thrown away
    task = TASKS[config.program](config)
    roles = roles_of_stage(config, mesh, task, shape)
    watch.look_at(roles.residency)
    shapes, rows = shapes_of_stage(config, roles), made_up_rows(config, shape.vocab_size, mesh.world_size)
    scoring = scoring_of_stage(config, mesh, roles, shapes)
    task.begin(scoring, rows, rows, "")
    if rl.eval_dataset_file:  # as before the first update
        task.evaluate(scoring)
    if isinstance(roles, Roles):
        _generate(config, shape, mesh, roles)
    trainer = trainer_of_stage(config, mesh, roles, shapes, task.batcher, LearningRate.constant(1e-6))
    trainer.step(*task.update(scoring, range(len(rows))))


def _generate(config: Config, shape: ModelConfig, mesh: Mesh, roles: Roles) -> None:
    with roles.residency.phase("reshard"):
        roles.move_to_rollout(is_checked=False)
        roles.rollout.weights_changed()
    with roles.residency.phase("generate"):
        roles.rollout.generate(*prompts_and_sampling(config, shape.vocab_size, mesh.world_size))


def _run_step(config: Config, shape: ModelConfig, mesh: Mesh, watch: _Watch) -> None:
    """One step of a GRPO run."""
    from mindrlhf_lite.roles.build import build_roles
    from mindrlhf_lite.trainer.annotation import Annotator, with_logprobs
    from mindrlhf_lite.trainer.assembly import assemble_training
    from mindrlhf_lite.trainer.learning_rate import LearningRate

    roles = build_roles(config, mesh, shape)
    training, residency = assemble_training(config, mesh, roles), roles.residency
    watch.look_at(residency)
    sequences = made_up_sequences(config, shape.vocab_size, mesh.world_size)
    _generate(config, shape, mesh, roles)
    if roles.reward_model is not None:
        with residency.phase(REWARD_MODEL.name):
            training.scoring.score(REWARD_MODEL.name, roles.reward_model, sequences)
    annotator = Annotator(config, roles, training.scoring, residency.phase)
    sequences = with_logprobs(sequences, annotator.fixed_logprobs(sequences))
    generated = [np.zeros(each.completion_length, np.float32) for each in sequences]
    schedule = LearningRate.constant(1e-6)
    training.update.run(sequences, generated, config.rl_config.beta, schedule)
    if training.critic_update is not None:
        training.critic_update.run(_with_returns(sequences), schedule)


def _with_returns(sequences: list[TrainSequence]) -> list[TrainSequence]:
    """Of a critic, equal to its values."""
    return [replace(each, of_roles={**each.of_roles, RETURNS: each.of_roles[VALUES]}) for each in sequences]


def made_up_sequences(config: Config, vocab_size: int, world_size: int) -> list[TrainSequence]:
    """Groups of full-length sequences: enough that every data-parallel rank fills more micro-batches than there are
    stages, and as many as an update has at most.
    """
    rl, parallel, group = config.rl_config, config.actor_config.parallel_config, config.rl_config.num_generations
    rng, degree = np.random.default_rng(0), parallel.data_degree(world_size)
    new = config.generate_config.sampling_config.max_tokens
    length = min(config.generate_config.max_prompt_length, rl.seq_length - new)
    rows = -(-config.micro_batch_tokens(degree) // (length + new)) * (parallel.pipeline_stage + 1)
    count = min(-(-rows // group) * group * degree, config.completions_per_update)
    found = []
    for _ in range(-(-count // group)):
        prompt = rng.integers(0, vocab_size, length)
        for number in range(group):
            ids = np.concatenate([prompt, rng.integers(0, vocab_size, new)]).astype(np.int32)
            found.append(TrainSequence.of(ids, length, 1.0 if number % 2 else -1.0))
    return found[:count]


def made_up_rows(config: StageConfig, vocab_size: int, world_size: int) -> list[SupervisedRow]:
    """Full-length rows, as many as `made_up_sequences`; the prompt is one token, so that all the others count."""
    parallel, length = config.actor_config.parallel_config, config.rl_config.seq_length
    rng, degree = np.random.default_rng(0), parallel.data_degree(world_size)
    in_a_batch = -(-config.micro_batch_tokens(degree) // (length * config.row))
    count = min(in_a_batch * (parallel.pipeline_stage + 1) * degree, config.prompts_per_step)
    prompt = rng.integers(0, vocab_size, 1)

    def made_up() -> TrainSequence:
        ids = np.concatenate([prompt, rng.integers(0, vocab_size, length - 1)]).astype(np.int32)
        return TrainSequence.of(ids, 1)

    return [SupervisedRow(row, tuple(made_up() for _ in range(config.row)), "", "") for row in range(1, count + 1)]


def prompts_and_sampling(
    config: Config, vocab_size: int, world_size: int
) -> tuple[list[GenerateRequest], SamplingParams]:
    """Prompts of full length for every slot, and two tokens of each."""
    generate = config.generate_config
    group = 1 if isinstance(config, StageConfig) else config.rl_config.num_generations
    slots = config.rollout_slots(role_strategies(config, world_size)["rollout"].dims.copies)
    s, rng = generate.sampling_config, np.random.default_rng(1)
    least = min(s.min_tokens, _NEW_TOKENS)
    sampling = sampling_params(s, max_tokens=_NEW_TOKENS, min_tokens=least, stop_token_ids=(0,))
    length = min(generate.max_prompt_length, config.rl_config.seq_length - s.max_tokens)
    requests = [
        GenerateRequest(tuple(map(int, rng.integers(1, vocab_size, length))), group, (0, 0, index))
        for index in range(max(1, slots // group))
    ]
    return requests, sampling


if __name__ == "__main__":
    main()
