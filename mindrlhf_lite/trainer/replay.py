"""Training on recorded experience: the updates of a run again, without rollout engine, verifiers and reference.

From the weights and moments that the run's step started from, under the same settings and ranks, an update is the same
bit for bit: everything else that it takes is in the file.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mindrlhf_lite.config.file_checks import has_run
from mindrlhf_lite.config.roles import TEACHER
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.experience_file import ExperienceHeader, StepExperience, read_experience
from mindrlhf_lite.data.prompt_sampler import PromptSampler
from mindrlhf_lite.data.tokenizer import Tokenizer, stop_token_ids
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.learner.statistics import UpdateCounts, update_metrics
from mindrlhf_lite.observe.host import peak_rss_gb
from mindrlhf_lite.observe.writers import MetricsWriter
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.roles.build import build_trained_roles
from mindrlhf_lite.trainer.assembly import assemble_training
from mindrlhf_lite.trainer.export import Export
from mindrlhf_lite.trainer.kl_coefficient import KlCoefficient
from mindrlhf_lite.trainer.learning_rate import learning_rate_of
from mindrlhf_lite.trainer.persistence import Persistence
from mindrlhf_lite.trainer.run_state import RunState
from mindrlhf_lite.trainer.same_run import check_same_run
from mindrlhf_lite.trainer.soundness import is_sound, ruined
from mindrlhf_lite.types import StepMetrics


class Replay:
    """Trains on files of `rl_config.save_data_file`, in order of their steps; every rank makes one.

    Args: config: as the run's; actor_config.load are the weights before the first file's step, or, with
        rl_config.resume_training, the newest checkpoint is gone on from.
    """

    def __init__(self, config: Config, mesh: Mesh, paths: Sequence[str]):
        rl = config.rl_config
        self.config, self.mesh, self.tokenizer = config, mesh, Tokenizer(config.tokenizer_dir)
        if has_run(Path(rl.output_dir), Path(rl.output_dir) / "checkpoints"):
            raise UserError(f"rl_config.output_dir={rl.output_dir!r}: a run is there already; give another folder")
        read = sorted(((read_experience(path), path) for path in paths), key=lambda pair: pair[0].header.step)
        for step, path in read:
            self._check(step, path)
        self.steps = [step for step, _ in read]
        header = self.steps[0].header
        self.roles = build_trained_roles(config, mesh, has_scorers=False)
        self.update = assemble_training(config, mesh, self.roles).update
        sampler, schedule = (
            PromptSampler(header.num_prompts, rl.seed),
            learning_rate_of(config.actor_config.lr_schedule, header.decay_steps),
        )
        self.state = RunState(sampler, replace(schedule, decay_steps=header.decay_steps), KlCoefficient(config))
        self.end_tokens = list(config.generate_config.sampling_config.eos_token_id) or list(
            stop_token_ids(config.actor_config.load, self.tokenizer)
        )
        self._resume(header)
        output, is_main = Path(rl.output_dir), mesh.is_main
        self.writer = MetricsWriter(output, None, self.steps[0].header.step - 1) if is_main else None

    def _check(self, step: StepExperience, path: str) -> None:
        header, wanted = step.header, self.config.completions_per_step
        if header.tokenizer_sha256 != self.tokenizer.fingerprint():
            raise UserError(f"experience file {path}: made with another tokenizer than {self.config.tokenizer_dir}")
        if len(step.sequences) != wanted:
            raise UserError(
                f"experience file {path}: {len(step.sequences)} completions, but a step of this configuration has "
                f"chunk_size * num_rollouts * num_generations = {wanted}; give the run's own configuration"
            )
        needs_frozen = self.config.keeps_frozen_policy
        if needs_frozen and step.sequences[0].frozen_logprobs is None:
            raise UserError(
                f"experience file {path}: without the policy's logprobs that several updates a step need: its run made "
                "one update a step (rl_config.batch_size, num_iterations)"
            )
        if self.config.rl_config.distillation.coef > 0 and TEACHER.name not in step.sequences[0].of_roles:
            raise UserError(
                f"experience file {path}: without the teacher's logprobs that rl_config.distillation.coef needs; set "
                "it to 0, as its run had it"
            )
        if self.config.rl_config.beta > 0 and step.sequences[0].reference_logprobs is None:
            raise UserError(
                f"experience file {path}: without the reference's logprobs that rl_config.beta="
                f"{self.config.rl_config.beta:g} needs; set it to 0, as its run had it"
            )

    def _resume(self, header: ExperienceHeader) -> None:
        """Leaves out the steps before the checkpoint, where there is one to go on from."""
        persistence = Persistence(
            self.config,
            self.mesh,
            self.roles,
            self.tokenizer,
            header.prompts_digest,
            self.end_tokens,
            self.steps[-1].header.step,
        )
        first, notes = persistence.resume(self.state)
        self.steps = [step for step in self.steps if step.header.step >= first]
        if not self.steps:
            raise UserError(f"--data: no step from {first} on, where the checkpoint goes on")
        numbers = [step.header.step for step in self.steps]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise UserError(f"--data: steps {', '.join(map(str, numbers))}: every step once, without a gap")
        if numbers[0] > first:
            notes.append(
                f"note: step {numbers[0]} is the first, and the optimizer has made the updates of {first - 1} step(s): "
                "not the run's own; give the files from the first step, or --resume_training with its checkpoint"
            )
        settings = {"config": header.settings, "prompts_digest": header.prompts_digest}
        try:
            check_same_run(settings, asdict(self.config), header.prompts_digest)
        except UserError as error:
            differences = [line for line in str(error).splitlines() if line.startswith("  - ")]
            notes.append("\n".join(["note: settings that the recorded run did not have:", *differences]))
        for note in notes if self.mesh.is_main else []:
            print(note, flush=True)

    def run(self) -> None:
        """All steps; then OUTPUT/hf."""
        for step in self.steps:
            started = time.perf_counter()
            with self.update.dumps.step(step.header.step):
                self.update.dumps.key_data(step.sequences)
                kl, schedule = step.header.kl_coefficient, self.state.schedule
                counts = self.update.run(step.sequences, step.engine_logprobs, kl, schedule)
            seconds = time.perf_counter() - started
            ranks, peaks = zip(
                *gather_objects(self.mesh.world, (counts, peak_rss_gb()), tuple[UpdateCounts, float]), strict=True
            )
            values = update_metrics(ranks, self.config.updates_per_step)
            values |= {"time_s/update": seconds, "memory/peak_rss_gb": max(peaks)}
            if not is_sound(values["health/max_weight"], self.config.monitor_config.health.max_weight):
                raise ruined(f"after step {step.header.step}, its largest weight is {values['health/max_weight']:g}")
            if self.writer is not None:
                self.writer.write(StepMetrics(step.header.step, values))
                print(_line(step.header.step, values), flush=True)
        if self.writer is not None:
            self.writer.close()
        if self.config.rl_config.save_hf_model:
            folder, dtype = Path(self.config.rl_config.output_dir) / "hf", self.config.rl_config.save_hf_dtype
            max_weight = self.config.monitor_config.health.max_weight
            base = self.config.actor_config.load
            Export(self.roles, self.mesh, self.tokenizer, self.end_tokens, dtype, max_weight, base).run(folder)
        self.roles.residency.close()


def _line(step: int, values: dict[str, Any]) -> str:
    return (
        f"step {step:4d} | loss {values['loss/total']:.6f} | grad {values['policy/grad_norm']:.4f} | "
        f"{values['time_s/update']:.2f} s | peak memory {values['memory/peak_rss_gb']:.2f} GiB a rank"
    )
