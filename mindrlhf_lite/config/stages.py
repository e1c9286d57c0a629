"""Runs that train on rows of a file as they are: what a step of each is, which models it has, what its settings must
be.

A configuration of such a run is a `Config` whose derived numbers and roles are its own; sections and keys are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import ClassVar

from mindrlhf_lite.config.adapters import lora_problems
from mindrlhf_lite.config.file_checks import file_problems, has_run
from mindrlhf_lite.config.load import facts_of_settings
from mindrlhf_lite.config.roles import ACTOR, REFERENCE, ROLLOUT, RoleSpec
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.strategies import dims_of
from mindrlhf_lite.config.trackers import tracker_problems
from mindrlhf_lite.config.validate import frozen_problems, layout_problems, parallel_problems, range_problems
from mindrlhf_lite.data.files import SUFFIXES
from mindrlhf_lite.data.supervised_rows import Reading
from mindrlhf_lite.shapes.model_config import ModelConfig

_OF_GRPO = (
    *("reward_config.", "environment_config.", "data_config.", "msprobe_config.", "teacher_config.", "critic_config."),
)
_OF_GRPO_STEPS = (
    *("chunk_size", "num_rollouts", "num_generations", "batch_size", "num_iterations", "save_best"),
    *("early_stopping.patience", "eval_samples", "eval_verifier", "save_data_file", "performance_stats"),
    *("save_prompt_completions_data", "save_prompt_completions_interval"),
)


@dataclass(frozen=True)
class StageConfig(Config):
    """Of supervised training. A step is one update of `supervised_config.batch_size` rows."""

    program: ClassVar[str] = "sft"
    row: ClassVar[int] = 1  # sequences a row has
    unread: ClassVar[tuple[str, ...]] = ("preference_config.", "ref_config.")  # keys that begin so

    @classmethod
    def reads(cls, key: str) -> bool:
        """Whether such a run reads a setting."""
        facts = facts_of_settings().get(key)
        is_unread = (
            (facts is not None and facts.is_objective)
            or key.startswith((*_OF_GRPO, *cls.unread))
            or key.removeprefix("rl_config.") in _OF_GRPO_STEPS
            or (key.startswith("monitor_config.health.") and not key.endswith(".max_weight"))
        )
        return not is_unread

    @property
    def generates(self) -> bool:
        return self.supervised_config.num_samples > 0 and bool(self.rl_config.eval_dataset_file)

    @property
    def has_reference(self) -> bool:
        """Whether there is a reference besides the trained model as it begins."""
        return False

    @property
    def roles(self) -> tuple[RoleSpec, ...]:
        reference = replace(REFERENCE, is_used=lambda _: self.has_reference, follows_actor=lambda _: False)
        return ACTOR, reference, replace(ROLLOUT, is_used=lambda _: self.generates)

    @property
    def prompts_per_step(self) -> int:
        return self.supervised_config.batch_size

    @property
    def completions_per_step(self) -> int:
        return self.row * self.prompts_per_step

    @property
    def completions_per_update(self) -> int:
        return self.completions_per_step

    @property
    def updates_per_step(self) -> int:
        return 1

    @property
    def keeps_frozen_policy(self) -> bool:
        return False

    @property
    def scores_policy(self) -> bool:
        return bool(self.rl_config.eval_dataset_file)

    @property
    def policy_temperature(self) -> float:
        return 1.0

    @property
    def step_in_words(self) -> str:
        return f"{self.prompts_per_step} rows, 1 update"

    def micro_batch_tokens(self, shares: int, sequences: int = 0) -> int:
        """At least a row of the longest sequences."""
        rl = self.rl_config
        rows = -(-self.prompts_per_step // shares // (self.actor_config.parallel_config.micro_batch_num or 1))
        rows = -(-sequences // self.row) if sequences else max(1, rows)
        return max(rl.micro_batch_tokens or rows * self.row * rl.seq_length, self.row * rl.seq_length)

    def rollout_slots(self, copies: int) -> int:
        return min(self.generate_config.max_num_seqs, -(-self.supervised_config.num_samples // copies))


@dataclass(frozen=True)
class PreferenceStageConfig(StageConfig):
    """Of training on pairs (dpo)."""

    program: ClassVar[str] = "dpo"
    row: ClassVar[int] = 2
    unread: ClassVar[tuple[str, ...]] = ("supervised_config.train_on", "preference_config.center_rewards")

    @property
    def needs_reference(self) -> bool:
        """Whether the loss has reference logprobs."""
        return self.preference_config.loss != "simpo"

    @property
    def has_reference(self) -> bool:
        actor = self.actor_config
        is_other = self.ref_config.load not in ("", actor.load) or bool(actor.lora.load)
        return self.needs_reference and is_other

    @property
    def scores_policy(self) -> bool:
        return self.needs_reference or super().scores_policy

    @property
    def step_in_words(self) -> str:
        return f"{self.prompts_per_step} pairs, 1 update"


@dataclass(frozen=True)
class RewardModelConfig(StageConfig):
    """Of a reward model."""

    program: ClassVar[str] = "reward_model"
    row: ClassVar[int] = 2
    unread: ClassVar[tuple[str, ...]] = (
        "supervised_config.train_on",
        "supervised_config.num_samples",
        "ref_config.",
        *(f"preference_config.{name}" for name in ("loss", "beta", "label_smoothing", "simpo_margin")),
        *(f"preference_config.{name}" for name in ("desirable_weight", "undesirable_weight")),
    )

    @property
    def generates(self) -> bool:
        return False

    @property
    def trains_scores(self) -> bool:
        return True

    @property
    def step_in_words(self) -> str:
        return f"{self.prompts_per_step} pairs, 1 update"


def reading_of(config: StageConfig) -> Reading:
    """How its files are read."""
    supervised, folder = config.supervised_config, config.actor_config.load
    return Reading(
        "conversations" if config.row == 1 else "pairs",
        config.tokenizer_dir,
        folder,
        config.rl_config.seq_length,
        ModelConfig.from_dir(folder).vocab_size,
        supervised.prompt_type,
        supervised.chat_template == "chatml",
        supervised.train_on == "last",
    )


def stage_problems(config: Config, world_size: int, is_plan: bool = False, needs_prompts: bool = True) -> list[str]:
    """As `validate.find_problems`, of a run on rows."""
    assert isinstance(config, StageConfig)
    problems = [
        *range_problems(config),
        *_unread(config),
        *_sizes(config, world_size),
        *tracker_problems(config),
        *parallel_problems(config, world_size),
        *layout_problems(config, world_size),
        *frozen_problems(config),
        *lora_problems(config, is_plan),
    ]
    return problems if is_plan else [*problems, *file_problems(config, needs_prompts=False), *_files(config)]


def _unread(config: StageConfig) -> list[str]:
    """Settings that were given, and that no such run reads."""
    defaults, problems = Config(), []
    for key in facts_of_settings():
        if not config.reads(key) and (value := attrgetter(key)(config)) != attrgetter(key)(defaults):
            instead = "; use supervised_config.batch_size" if key == "rl_config.batch_size" else "; leave it out"
            problems.append(f"{key}={value}: is not read by {config.program}{instead}")
    return problems


def _sizes(config: StageConfig, world_size: int) -> list[str]:
    rows, problems = config.supervised_config.batch_size, []
    shares = dims_of(config.actor_config.parallel_config, world_size).shares
    if rows % shares:
        problems.append(
            f"supervised_config.batch_size={rows}: must be a multiple of the actor's {shares} data-parallel ranks"
        )
    micro = config.actor_config.parallel_config.micro_batch_num
    if micro > rows // shares > 0:
        problems.append(
            f"actor_config.parallel_config.micro_batch_num={micro}: more than the {rows // shares} rows that a rank "
            "has in an update"
        )
    most, length = config.generate_config.sampling_config.max_tokens, config.rl_config.seq_length
    if config.generates and most >= length:
        problems.append(
            f"generate_config.sampling_config.max_tokens={most}: leaves no room for a prompt in rl_config.seq_length="
            f"{length}; sampled answers (supervised_config.num_samples) need some"
        )
    if config.program == "dpo" and config.preference_config.loss == "simpo" and config.ref_config.load:
        problems.append(f"ref_config.load={config.ref_config.load!r}: simpo has no reference; leave it out")
    return problems


def _files(config: StageConfig) -> list[str]:
    rl, problems = config.rl_config, []
    for name in ("dataset_file", "eval_dataset_file"):
        path = getattr(rl, name)
        if not path and name == "dataset_file":
            problems.append(f"rl_config.{name}='': give a file of rows ({', '.join(SUFFIXES)})")
        elif path and not Path(path).is_file():
            problems.append(f"rl_config.{name}={path!r}: no such file")
        elif path and Path(path).suffix.lower() not in SUFFIXES:
            problems.append(f"rl_config.{name}={path!r}: rows are read from {', '.join(SUFFIXES)}")
    if not rl.resume_training and has_run(Path(rl.output_dir), Path(config.checkpoint_dir)):
        problems.append(
            f"rl_config.output_dir={rl.output_dir!r}: a run is there already; continue it with --resume_training, or "
            "give another folder"
        )
    return problems
