"""reward_config: verifiers, their processes, what is added to their rewards."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindrlhf_lite.config.sections.judge import JudgeConfig
from mindrlhf_lite.config.sections.reward_model import RewardModelRole
from mindrlhf_lite.config.setting import FREE, NOT_NEGATIVE, POSITIVE, setting


@dataclass(frozen=True)
class RewardConfig:
    verifier_function: list[str] = setting(
        ["qwen_accuracy_reward", "format_reward"],
        "verifiers: built-in names, or functions of your own: FILE.py:function, or a dotted path",
    )
    verifier_weight: list[float] = setting([1.0, 1.0], "weight of each verifier")
    verifier_timeout_s: float = setting(
        10.0, "seconds a verifier may take for one completion", bounds=POSITIVE, unit="s", resume=FREE
    )
    on_failure: str = setting(
        "minimum",
        "a completion on which a verifier fails: minimum gives it the verifier's worst score, leave_out takes it "
        "out of its group",
        ("minimum", "leave_out"),
    )
    shaping_function: str = setting(
        "",
        "a function of your own (FILE.py:function), (reward, completion) -> reward, that has the last word; it sees "
        "text, num_tokens and finish_reason",
    )
    missing_eos_penalty: float = setting(
        0.0, "subtracted from the reward of a completion that max_tokens cut off", bounds=NOT_NEGATIVE, unit="reward"
    )
    num_workers: int = setting(
        0, "processes of a rank that run verifiers; 0: its share of this host's cores", bounds=NOT_NEGATIVE, resume=FREE
    )
    reward_model: RewardModelRole = field(default_factory=RewardModelRole)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
