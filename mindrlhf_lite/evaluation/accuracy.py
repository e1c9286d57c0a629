"""Accuracy on held-out prompts: generate k completions each, verify, count.

Accuracy is the mean over questions of the share of right completions; its 95 % interval treats questions as the
independent units (intervals.py). Two models are compared on the same questions, question by question, as one verifier
judged both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.evaluation.intervals import clustered_interval, difference_interval, wilson_interval
from mindrlhf_lite.rewards.reward_function import RewardFunction
from mindrlhf_lite.turns import Episode
from mindrlhf_lite.types import CompletionView, FinishReason, RolloutGroup

EVALUATION_STREAM = 1_000_003  # keeps evaluation's random streams apart from training's


@dataclass(frozen=True)
class Evaluation:
    """Example: Evaluation(num_questions=200, num_samples=1, accuracy=0.85, low=0.794, high=0.893, pass_at={1: 0.85},
    verifier="qwen_accuracy_reward")
    """

    num_questions: int
    num_samples: int
    accuracy: float
    low: float  # of the 95 % interval
    high: float
    pass_at: dict[int, float]
    verifier: str = ""  # that judged the completions; empty: not known

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Evaluation:
        """Of what `as_dict` gave."""
        low, high = values["interval_95"]
        pass_at = {int(k): value for k, value in values["pass_at"].items()}
        return Evaluation(
            values["num_questions"],
            values["num_samples"],
            values["accuracy"],
            low,
            high,
            pass_at,
            values.get("verifier", ""),
        )

    def as_dict(self) -> dict:
        return {
            "num_questions": self.num_questions,
            "num_samples": self.num_samples,
            "accuracy": self.accuracy,
            "interval_95": [self.low, self.high],
            "pass_at": {str(k): value for k, value in self.pass_at.items()},
            **({"verifier": self.verifier} if self.verifier else {}),
        }


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the unbiased estimator of "one of k is right" (Codex, arXiv:2107.03374, eq. 1)."""
    if not 0 <= num_correct <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(
            f"pass_at_k({num_samples}, {num_correct}, {k}): needs 0 <= correct <= samples and 1 <= k <= samples"
        )
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def summarise(correct: np.ndarray, verifier: str = "") -> Evaluation:
    """Args: correct bool [questions, samples], as `verifier` found them."""
    questions, samples = correct.shape
    shares = correct.mean(1)
    accuracy = float(shares.mean())
    if samples == 1:
        low, high = wilson_interval(int(correct.sum()), questions)
    else:
        low, high = clustered_interval(shares, samples)
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k < samples] + [samples]
    pass_at = {k: float(np.mean([pass_at_k(samples, int(row.sum()), k) for row in correct])) for k in ks}
    return Evaluation(questions, samples, accuracy, low, high, pass_at, verifier)


def by_source(correct: np.ndarray, sources: Sequence[str], verifier: str = "") -> dict[str, Evaluation]:
    """Evaluations of the questions of every source, in order of first appearance."""
    return {
        source: summarise(correct[[index for index, other in enumerate(sources) if other == source]], verifier)
        for source in dict.fromkeys(sources)
    }


@dataclass(frozen=True)
class Comparison:
    """Example: Comparison(difference=0.05, low=0.01, high=0.09, better=14, worse=4, p_value=0.031, test="exact
    McNemar")
    """

    difference: float  # accuracy of the second minus the first
    low: float  # of its 95 % interval
    high: float
    better: int  # questions that the second answers right more often
    worse: int
    p_value: float
    test: str

    def as_dict(self) -> dict:
        return asdict(self)


def compare(first: np.ndarray, second: np.ndarray) -> Comparison:
    """A paired test of two models on the same questions: McNemar's exact test for one completion a question, else a
    permutation test that flips the signs of the questions' differences (10,000 flips, seed 0). The interval is
    `difference_interval`.

    Args:
        first: correct bool [questions, samples].
        second: likewise; the number of samples may differ.
    """
    from scipy import stats

    differences = second.mean(1) - first.mean(1)
    better, worse, mean = int((differences > 0).sum()), int((differences < 0).sum()), float(differences.mean())
    low, high = difference_interval(first.mean(1), second.mean(1), first.shape[1], second.shape[1])
    if first.shape[1] == second.shape[1] == 1:
        test, p_value = "exact McNemar", stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    else:
        flips = stats.permutation_test(
            (differences,),
            lambda x, axis: x.mean(axis),
            permutation_type="samples",
            n_resamples=9999,
            rng=np.random.default_rng(0),
        )
        test, p_value = "paired permutation", flips.pvalue
    return Comparison(mean, low, high, better, worse, float(p_value), test)


def question_rows(groups: Sequence[RolloutGroup], reward: RewardFunction) -> list[dict[str, Any]]:
    """An object a question, as completions/eval_N.jsonl and tools/evaluate.py hold them, judged by `reward.judge`."""
    views = [view for group in groups for view in group.views]
    golds = [group.prompt.gold for group in groups for _ in group.texts]
    group_size = len(groups[0].texts) if groups else 1
    correct = np.array(reward.judged_correct(views, golds, group_size), bool).reshape(len(groups), -1)
    return [
        {
            "index": group.prompt.index,
            "source": group.prompt.source,
            "prompt": group.prompt.text,
            "gold": group.prompt.gold,
            "verifier": reward.judge,
            **({"columns": dict(group.prompt.columns)} if group.prompt.columns else {}),
            "completions": [
                {
                    "text": text,
                    "tokens": completion.num_written,
                    "finish_reason": completion.finish_reason.value,
                    "correct": bool(is_right) and not completion.has_failed,
                    **(_of_episode(completion.episode) if completion.episode is not None else {}),
                }
                for text, completion, is_right in zip(group.texts, group.completions, row, strict=True)
            ],
        }
        for group, row in zip(groups, correct, strict=True)
    ]


def _of_episode(episode: Episode) -> dict[str, Any]:
    """What a completion of several turns has besides: its last turn is what was judged."""
    failure = {"failure": episode.failure} if episode.failure else {}
    return {"answer": episode.answer, "segments": episode.segments, "end": episode.end.value, **failure}


def correctness(rows: Sequence[Mapping[str, Any]], source: str) -> np.ndarray:
    """bool [questions, samples] of `question_rows`.

    Raises:
        ValueError: questions with different numbers of completions.
    """
    outcomes = [[completion["correct"] for completion in row["completions"]] for row in rows]
    if len({len(row) for row in outcomes}) > 1:
        raise UserError(f"{source}: its questions have different numbers of completions")
    return np.array(outcomes, bool)


def verifier_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """The verifier that judged all of `question_rows`; empty where they do not say, or not the same."""
    names = {str(row.get("verifier", "")) for row in rows}
    return names.pop() if len(names) == 1 else ""


def judged_differently(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> int:
    """How many texts that two sets of `question_rows` share, of the same question, are right in one and wrong in the
    other: as many as there are where the same model was judged by two verifiers.
    """
    verdicts = dict(_verdicts(first))
    return sum(verdicts.get(text, is_right) != is_right for text, is_right in _verdicts(second))


def _verdicts(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[tuple[str, str, str], bool]]:
    """((prompt, gold, text), whether it is right) of every completion whose text is known."""
    for row in rows:
        for completion in row["completions"]:
            if "text" in completion:
                yield (row["prompt"], row["gold"], completion["text"]), completion["correct"]


def rejudged(rows: Sequence[Mapping[str, Any]], reward: RewardFunction) -> list[dict[str, Any]]:
    """`question_rows` with the verdicts of `reward.judge` on the texts that they hold."""
    views = [
        CompletionView(
            completion.get("answer", completion["text"]),
            completion.get("tokens", 0),
            FinishReason(completion.get("finish_reason", FinishReason.STOP.value)),
            row["prompt"],
            row["source"],
            row.get("columns", {}),
        )
        for row in rows
        for completion in row["completions"]
    ]
    golds, size = [row["gold"] for row in rows for _ in row["completions"]], len(rows[0]["completions"]) if rows else 1
    verdicts = iter(reward.judged_correct(views, golds, size))
    return [
        {
            **row,
            "verifier": reward.judge,
            "completions": [{**completion, "correct": next(verdicts)} for completion in row["completions"]],
        }
        for row in rows
    ]
