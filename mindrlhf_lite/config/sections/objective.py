"""The objective of rl_config: its loss with what that can be told, the KL, the advantage, which completions count.

The options of a loss are a class of their own; a new loss brings its own (algorithms/losses.py: LOSS_OPTIONS).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mindrlhf_lite.algorithms.names import (
    ADVANTAGE_NAMES,
    AGGREGATION_NAMES,
    CORRECTIONS,
    DISTILLATION_FORMS,
    GAE,
    KL_ESTIMATORS,
    LOSS_NAMES,
)
from mindrlhf_lite.config.setting import AT_MOST_ONE, NOT_NEGATIVE, POSITIVE, SHARE, setting


@dataclass(frozen=True)
class KlControl:
    type: str = setting(
        "fixed", "whether beta stays as it is, or follows the measured KL", ("fixed", "adaptive"), is_objective=True
    )
    target: float = setting(
        0.1, "adaptive: the mean KL of a token that is wanted", bounds=POSITIVE, unit="nats", is_objective=True
    )
    horizon: int = setting(
        10000,
        "adaptive: completions over which beta is adapted",
        bounds=POSITIVE,
        unit="completions",
        is_objective=True,
    )


@dataclass(frozen=True)
class DynamicSampling:
    enabled: bool = setting(
        False, "draw prompts until a step has chunk_size * num_rollouts groups whose rewards differ", is_objective=True
    )
    max_attempts: int = setting(
        10,
        "draws a step; then it takes what there is, and groups that teach nothing fill it up",
        bounds=POSITIVE,
        is_objective=True,
    )


@dataclass(frozen=True)
class Overlong:
    """What happens to completions that are too long."""

    filter: bool = setting(False, "tokens of completions that max_tokens cut off do not count", is_objective=True)
    buffer: float = setting(
        0.0,
        "the last so many tokens before max_tokens, or below 1 this share of max_tokens, are punished, the more the "
        "later; 0: none",
        bounds=NOT_NEGATIVE,
        is_objective=True,
    )
    penalty: float = setting(
        1.0, "what a completion of max_tokens loses", bounds=NOT_NEGATIVE, unit="reward", is_objective=True
    )

    def buffer_tokens(self, max_tokens: int) -> int:
        """`buffer` in tokens."""
        if not self.buffer:
            return 0
        return max(1, round(self.buffer * max_tokens if self.buffer < 1 else self.buffer))


@dataclass(frozen=True)
class DistillationSettings:
    """What the actor learns from the model of teacher_config."""

    coef: float = setting(
        0.0,
        "weight of the reverse KL to the teacher, on the actor's own completions; 0: no teacher is loaded",
        bounds=NOT_NEGATIVE,
        is_objective=True,
    )
    applied_as: str = setting(
        "advantage",
        "advantage: coef * (log p_teacher - log p_actor) is added to a token's advantage, and the policy loss clips it "
        "as any; loss: a term of the loss, of the policy as it is in each of several updates",
        DISTILLATION_FORMS,
        is_objective=True,
    )
    with_rewards: bool = setting(
        True,
        "false: rewards teach nothing, the teacher alone does; verifiers still measure, and one completion a prompt is "
        "enough",
        is_objective=True,
    )


@dataclass(frozen=True)
class ClipSettings:
    """Of losses that clip the ratio."""

    epsilon_low: float = setting(
        0.2, "the ratio is clipped below 1 - epsilon_low", bounds=AT_MOST_ONE, is_objective=True
    )
    epsilon_high: float = setting(
        0.2, "the ratio is clipped above 1 + epsilon_high", bounds=NOT_NEGATIVE, is_objective=True
    )
    dual_clip: float = setting(
        0.0,
        "most that the ratio multiplies a negative advantage by (ppo, gspo); 0: no limit; 3.0 is usual",
        bounds=NOT_NEGATIVE,
        is_objective=True,
    )


@dataclass(frozen=True)
class SapoSettings:
    sapo_temperature_positive: float = setting(1.0, "sapo: of the gate of positive advantages", bounds=POSITIVE)
    sapo_temperature_negative: float = setting(1.05, "sapo: of the gate of negative advantages", bounds=POSITIVE)


@dataclass(frozen=True)
class DppoSettings:
    dppo_divergence: float = setting(0.2, "dppo: how far the probability of a token may move", bounds=POSITIVE)


@dataclass(frozen=True)
class ObjectiveSettings(DppoSettings, SapoSettings, ClipSettings):
    beta: float = setting(
        0.04,
        "weight of the KL to the reference; 0: no reference model is loaded",
        bounds=NOT_NEGATIVE,
        is_objective=True,
    )
    kl_estimator: str = setting("k3", "estimator of the KL of a token", KL_ESTIMATORS, is_objective=True)
    logprob_temperature: str = setting(
        "sampling",
        "temperature of the policy that is trained, and of its reference, KL and entropy: that of sampling_config, as "
        "TRL, verl and MindSpeed-RL have it, or 1",
        ("sampling", "1"),
    )
    kl_in_reward: bool = setting(
        False, "subtract beta * KL from the reward of every token, not from the loss", is_objective=True
    )
    kl_unbiased_gradient: bool = setting(
        False,
        "multiply the KL in the loss (k1, k3) by the policy's ratio: then its gradient is that of the KL",
        is_objective=True,
    )
    kl_ctrl: KlControl = field(default_factory=KlControl)
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    loss: str = setting("ppo", "policy loss", LOSS_NAMES, is_objective=True)
    ratio_to: str = setting(
        "step",
        "where a step has several updates, the policy that the loss's ratio is taken to: the one before the step, or "
        "that of the update itself (the ratio is 1 then, and nothing is clipped)",
        ("step", "update"),
    )
    entropy_coeff: float = setting(
        0.0, "weight of the entropy bonus, averaged as the loss is", bounds=NOT_NEGATIVE, is_objective=True
    )
    rollout_correction: str = setting(
        "token_truncate",
        "what policy / sampling distribution is taken of, and what happens to ratios out of bounds: they are cut off, "
        "or their tokens are left out",
        CORRECTIONS,
    )
    rollout_is_cap: float = setting(
        0.0,
        "every token's policy loss is multiplied by policy / sampling distribution, at most this; 0: off; 2.0 is usual",
        bounds=NOT_NEGATIVE,
    )
    rollout_is_floor: float = setting(
        0.0, "the masks of rollout_correction leave out ratios below this too", bounds=NOT_NEGATIVE
    )
    advantage: str = setting(
        "grpo",
        "advantage estimator; gae: from the values of a critic (critic_config)",
        (*ADVANTAGE_NAMES, GAE),
        is_objective=True,
    )
    gamma: float = setting(1.0, "gae: discount of what is paid a token later", bounds=AT_MOST_ONE, is_objective=True)
    lam: float = setting(
        0.95,
        "gae: how much of what comes later is taken from rewards, not from the critic: 0 the next token, 1 all",
        bounds=AT_MOST_ONE,
        is_objective=True,
    )
    advantage_whiten: bool = setting(
        True, "gae: advantages have mean 0 and deviation 1 over the step's tokens", is_objective=True
    )
    cliprange_value: float = setting(
        0.2,
        "gae: a value's error counts as if the value had moved by at most this since the step began; 0: no limit",
        bounds=NOT_NEGATIVE,
        is_objective=True,
    )
    credit: str = setting(
        "episode",
        "what a token of an episode of several turns is credited with: episode: the whole reward; turn: what its turn "
        "and those after it were paid, compared with the same turn of the group",
        ("episode", "turn"),
    )
    turn_discount: float = setting(
        1.0, "credit=turn: what a turn's reward is multiplied by for every turn before it", bounds=SHARE
    )
    loss_aggregation: str = setting(
        "token_mean", "how per-token losses are averaged", AGGREGATION_NAMES, is_objective=True
    )
    dynamic_sampling: DynamicSampling = field(default_factory=DynamicSampling)
    overlong: Overlong = field(default_factory=Overlong)
