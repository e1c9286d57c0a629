"""preference_config: pairs of a chosen and a rejected answer, for python -m mindrlhf_lite.dpo and reward_model."""

from __future__ import annotations

from dataclasses import dataclass

from mindrlhf_lite.config.setting import NOT_NEGATIVE, POSITIVE, Bounds, setting

PREFERENCE_LOSSES = ("dpo", "ipo", "simpo", "kto")  # algorithms.preferences


@dataclass(frozen=True)
class PreferenceConfig:
    loss: str = setting("dpo", "dpo: loss of a pair", PREFERENCE_LOSSES)
    beta: float = setting(
        0.1, "dpo: weight of log ratios in rewards (ipo: tau; simpo: of mean logprobs, usually 2.0)", bounds=POSITIVE
    )
    label_smoothing: float = setting(
        0.0,
        "dpo, simpo: share of pairs that are taken to be labelled the wrong way round",
        bounds=Bounds("must lie in [0, 0.5)", lambda value: 0 <= value < 0.5),
    )
    simpo_margin: float = setting(
        0.5, "simpo: gamma, the reward by which a chosen answer should exceed", bounds=NOT_NEGATIVE
    )
    desirable_weight: float = setting(1.0, "kto: weight of chosen answers", bounds=NOT_NEGATIVE)
    undesirable_weight: float = setting(1.0, "kto: weight of rejected answers", bounds=NOT_NEGATIVE)
    center_rewards: float = setting(
        0.0,
        "reward_model: weight of the squared sum of a pair's scores, which keeps scores near 0",
        bounds=NOT_NEGATIVE,
    )
