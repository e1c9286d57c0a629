"""Rejection sampling: which of a question's completions become supervised rows, and how many did not and why.

What scores them is a `RewardFunction`: verifiers in processes, and whatever else it is given beside them (`elsewhere`:
a judge on a server, a reward model).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mindrlhf_lite.rewards.reward_function import FAILURES, RewardFunction
from mindrlhf_lite.types import FinishReason, Outcome, Prompt, RolloutGroup

FORMS, CHOICES = ("prompt", "messages"), ("correct", "best")


@dataclass(frozen=True)
class Choice:
    """Example: Choice("correct", 2): at most two right completions of a question, those with the highest rewards."""

    keep: str = "correct"  # of CHOICES: best takes what scores highest, right or not
    most: int = 1  # of a question
    least_reward: float = -float("inf")
    keeps_truncated: bool = False


@dataclass
class Counts:
    """Of completions, but for the first and last two."""

    questions: int = 0
    completions: int = 0
    truncated: int = 0  # left out, as each of the following
    failed: int = 0  # a verifier failed
    wrong: int = 0
    below_least_reward: int = 0
    duplicates: int = 0  # of a better one, or an earlier one, of their question
    beyond_most: int = 0
    kept: int = 0
    questions_kept: int = 0
    rewards: list[float] = field(default_factory=list)  # of the kept ones
    best_below: float = -float("inf")  # the highest reward below the least

    def as_dict(self) -> dict[str, Any]:
        counted = {name: value for name, value in vars(self).items() if name not in ("rewards", "best_below")}
        return {**counted, "mean_reward_kept": float(np.mean(self.rewards)) if self.rewards else None}

    def in_words(self) -> str:
        left_out = ("truncated", "failed", "wrong", "below_least_reward", "duplicates", "beyond_most")
        reasons = ", ".join(f"{value} {name.replace('_', ' ')}" for name in left_out if (value := getattr(self, name)))
        return (
            f"kept {self.kept} of {self.completions} completions, of {self.questions_kept} of {self.questions} "
            f"questions{f'; left out: {reasons}' if reasons else ''}"
        )


def choose(
    groups: Sequence[RolloutGroup], reward: RewardFunction, choice: Choice, form: str
) -> tuple[list[dict], Counts]:
    """(a supervised row a kept completion, in the order of the questions; how many were kept). Args: form: of FORMS."""
    size = len(groups[0].texts)
    views = [view for group in groups for view in group.views]
    scores = reward.score(views, [group.prompt.gold for group in groups for _ in group.texts], size)
    rewards, outcomes = reward.rewards(scores), reward.outcomes(scores)
    rows, counts = [], Counts(len(groups), len(views))
    for number, group in enumerate(groups):
        own = slice(number * size, (number + 1) * size)
        kept = _kept(group, rewards[own], outcomes[own], choice, counts)
        counts.questions_kept += bool(kept)
        for place in kept:
            value = float(rewards[own][place])
            counts.rewards.append(value)
            rows.append({**_row(group.prompt, group.texts[place], form), "reward": round(value, 6)})
    counts.kept = len(rows)
    return rows, counts


def _kept(
    group: RolloutGroup, rewards: np.ndarray, outcomes: Sequence[Outcome], choice: Choice, counts: Counts
) -> list[int]:
    """Places of a question's completions that are kept, the best first."""
    found: list[int] = []
    reasons, seen = Counter[str](), set[str]()
    for place in sorted(range(len(rewards)), key=lambda index: (-rewards[index], index)):
        if outcomes[place] in FAILURES:
            reason = "failed"
        elif group.completions[place].finish_reason is FinishReason.LENGTH and not choice.keeps_truncated:
            reason = "truncated"
        elif choice.keep == "correct" and outcomes[place] is not Outcome.CORRECT:
            reason = "wrong"
        elif rewards[place] < choice.least_reward:
            reason, counts.best_below = "below_least_reward", max(counts.best_below, float(rewards[place]))
        elif group.texts[place].strip() in seen:
            reason = "duplicates"
        else:
            seen.add(group.texts[place].strip())
            reason = "beyond_most" if len(found) == choice.most else ""
            if not reason:
                found.append(place)
        reasons[reason] += 1
    for reason, count in reasons.items():
        if reason:
            setattr(counts, reason, getattr(counts, reason) + count)
    return found


def _row(prompt: Prompt, text: str, form: str) -> dict[str, Any]:
    if form == "messages":
        said = [{"role": "user", "content": prompt.text}, {"role": "assistant", "content": text}]
        return {"messages": said, "source": prompt.source, "row": prompt.row}
    return {"prompt": prompt.text, "response": text, "source": prompt.source, "row": prompt.row}
