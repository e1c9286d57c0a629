"""The whole configuration. Every setting stands once, in its section (config/sections), with what is known of it;
docs/config.md is written from there.

Key names are those that GRPO users of MindSpore know. A setting that nothing reads does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mindrlhf_lite.config.roles import ROLES, RoleSpec
from mindrlhf_lite.config.sampling_params import sampling_params
from mindrlhf_lite.config.sections.actor import ActorConfig
from mindrlhf_lite.config.sections.context import ContextConfig
from mindrlhf_lite.config.sections.critic import CriticConfig
from mindrlhf_lite.config.sections.data import DataConfig
from mindrlhf_lite.config.sections.environment import EnvironmentConfig
from mindrlhf_lite.config.sections.generate import GenerateConfig
from mindrlhf_lite.config.sections.monitor import MonitorConfig
from mindrlhf_lite.config.sections.preference import PreferenceConfig
from mindrlhf_lite.config.sections.profiler import MsprobeConfig, ProfilerConfig
from mindrlhf_lite.config.sections.reference import RefConfig
from mindrlhf_lite.config.sections.reward import RewardConfig
from mindrlhf_lite.config.sections.rl import RlConfig
from mindrlhf_lite.config.sections.supervised import SupervisedConfig
from mindrlhf_lite.config.sections.teacher import TeacherConfig
from mindrlhf_lite.reshard.buckets import bytes_of_bucket


@dataclass(frozen=True)
class Config:
    """The whole run."""

    rl_config: RlConfig = field(default_factory=RlConfig)
    actor_config: ActorConfig = field(default_factory=ActorConfig)
    ref_config: RefConfig = field(default_factory=RefConfig)
    teacher_config: TeacherConfig = field(default_factory=TeacherConfig)
    critic_config: CriticConfig = field(default_factory=CriticConfig)
    reward_config: RewardConfig = field(default_factory=RewardConfig)
    generate_config: GenerateConfig = field(default_factory=GenerateConfig)
    environment_config: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    data_config: DataConfig = field(default_factory=DataConfig)
    supervised_config: SupervisedConfig = field(default_factory=SupervisedConfig)
    preference_config: PreferenceConfig = field(default_factory=PreferenceConfig)
    monitor_config: MonitorConfig = field(default_factory=MonitorConfig)
    profiler_config: ProfilerConfig = field(default_factory=ProfilerConfig)
    msprobe_config: MsprobeConfig = field(default_factory=MsprobeConfig)
    context: ContextConfig = field(default_factory=ContextConfig)

    @property
    def prompts_per_step(self) -> int:
        return self.rl_config.chunk_size * self.rl_config.num_rollouts

    @property
    def completions_per_step(self) -> int:
        return self.prompts_per_step * self.rl_config.num_generations

    @property
    def completions_per_update(self) -> int:
        return self.rl_config.batch_size or self.completions_per_step

    @property
    def updates_per_step(self) -> int:
        return self.rl_config.num_iterations * (self.completions_per_step // self.completions_per_update)

    @property
    def keeps_frozen_policy(self) -> bool:
        """Whether the policy's logprobs before the first of several updates are kept, for the loss's ratio."""
        return self.updates_per_step > 1 and self.rl_config.ratio_to == "step"

    @property
    def has_teacher_alone(self) -> bool:
        """Whether rewards teach nothing."""
        return self.rl_config.distillation.coef > 0 and not self.rl_config.distillation.with_rewards

    @property
    def trains_scores(self) -> bool:
        """Whether the trained model has a score head."""
        return False

    @property
    def scores_policy(self) -> bool:
        """Whether the trained model scores sequences, besides its updates."""
        return self.keeps_frozen_policy

    @property
    def step_in_words(self) -> str:
        rl = self.rl_config
        return (
            f"{self.prompts_per_step} prompts x {rl.num_generations} completions = {self.completions_per_step} "
            f"sequences, {self.updates_per_step} update(s)"
            + ("" if self.keeps_frozen_policy else ": the ratio is 1 and nothing is clipped")
        )

    def micro_batch_tokens(self, shares: int, sequences: int = 0) -> int:
        """Tokens that a micro-batch is filled with: as set, or what `sequences` of the longest need at most; 0: as many
        as an actor's micro-batch has where so many shares of an update are computed side by side.
        """
        rl, generate = self.rl_config, self.generate_config
        share = self.completions_per_update // shares
        rows = sequences or -(-share // (self.actor_config.parallel_config.micro_batch_num or 1))
        prompts = -(-rows // rl.num_generations) if rl.packing else rows
        longest = rows * generate.sampling_config.max_tokens + prompts * generate.max_prompt_length
        environment = self.environment_config
        # the samples of a completion share one
        own = environment.max_turns * rl.seq_length if environment.on_changed_past == "new_sample" else 0
        return max(rl.micro_batch_tokens or min(longest, rows * rl.seq_length), own)

    def rollout_slots(self, copies: int) -> int:
        """Sequences that a rank decodes together: max_num_seqs, or fewer where it never has so many. Args: copies: of
        the rollout model.
        """
        rl, most = self.rl_config, self.generate_config.max_num_seqs
        if rl.eval_dataset_file:
            return most
        return min(most, -(-rl.chunk_size // copies) * rl.num_generations)

    @property
    def reshard_bucket_bytes(self) -> int:
        return bytes_of_bucket(self.rl_config.reshard_bucket_mb, self.context.device_target == "CPU")

    @property
    def roles(self) -> tuple[RoleSpec, ...]:
        """The models of the run, used or not; of those with a folder of their own, the used ones."""
        return tuple(role for role in ROLES if not role.has_own_model or role.is_used(self))

    def role(self, name: str) -> RoleSpec:
        return next(role for role in self.roles if role.name == name)

    def dtypes(self, role: str) -> tuple[str, str]:
        """(compute type, stored type) of a role, by name."""
        section = self.role(role).section_of(self)
        compute = section.compute_dtype or self.actor_config.compute_dtype
        return compute, section.param_dtype or compute

    def has_fused_kernels(self, role: str) -> bool:
        """Whether the models of a role compute with them."""
        context = self.context
        return context.fused_kernels and context.device_target == "Ascend" and self.dtypes(role)[0] != "float32"

    def wants_native_kernels(self, role: str) -> bool:
        """Whether the models of a role compute with the CPU's own operators, where they are built."""
        is_wanted = self.context.native_kernels == "auto" and self.context.device_target == "CPU"
        return is_wanted and self.dtypes(role) == ("float32", "float32")

    @property
    def engine_copies_weights(self) -> bool:
        """Whether the rollout engine computes with a copy of its own of the weights that a reshard gives it."""
        return self.context.device_target == "Ascend" and bool(self.generate_config.use_vllm)

    @property
    def merges_adapters(self) -> bool:
        """Whether the rollout model has merged weights of its own, not adapters."""
        lora, is_vllm = self.actor_config.lora, self.generate_config.use_vllm > 0
        return lora.rank > 0 and (lora.rollout == "merge" or (lora.rollout == "auto" and is_vllm))

    @property
    def tokenizer_dir(self) -> str:
        return self.rl_config.tokenizer_dir or self.actor_config.load

    @property
    def policy_temperature(self) -> float:
        """By which the logits of policy and reference are divided in training."""
        temperature = self.generate_config.sampling_config.temperature
        return temperature if self.rl_config.logprob_temperature == "sampling" and temperature > 0 else 1.0

    @property
    def reports_only_policy_logprobs(self) -> bool:
        """Whether the rollout engine does not say what the logprobs of the draw were, only those of the policy at
        temperature 1: vLLM on Ascend, with filters, penalties or another temperature.
        """
        is_off_policy = sampling_params(self.generate_config.sampling_config).is_off_policy
        return is_off_policy and bool(self.generate_config.use_vllm) and self.context.device_target == "Ascend"

    @property
    def completions_dir(self) -> str:
        return self.rl_config.save_prompt_completions_dir or f"{self.rl_config.output_dir}/completions"

    @property
    def checkpoint_dir(self) -> str:
        return self.actor_config.save or f"{self.rl_config.output_dir}/checkpoints"
