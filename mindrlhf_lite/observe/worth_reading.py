"""Completions of a run worth reading: best and worst, most improved, and those that seem to correct themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mindrlhf_lite.observe.runs import Run
from mindrlhf_lite.observe.self_correction import SelfCorrection, find_self_correction

_SHOWN = 3  # completions of a kind and run


@dataclass(frozen=True)
class Example:
    """A completion, with what is said above it; `mark` is highlighted."""

    heading: str
    prompt: str
    completion: str
    mark: SelfCorrection | None = None


def conversation(row: dict[str, Any]) -> str:
    """A completion as one reads it: in several turns, what was answered stands in brackets, a line of its own."""
    if "segments" not in row:
        return row["completion"] if "completion" in row else row["text"]
    parts = (each["text"] if each["written"] else f"[{each['text'].strip()}]" for each in row["segments"])
    return "\n".join(parts)


def _late(run: Run) -> list[tuple[int, dict[str, Any]]]:
    """(step, row) of the last quarter of the steps with completions."""
    steps = list(run.steps)
    return [(step, row) for step in steps[-max(1, len(steps) // 4) :] for row in run.steps[step]]


def best_and_worst(run: Run) -> tuple[list[Example], list[Example]]:
    """Of the last quarter of the steps: highest and lowest rewards, newest first, a question once."""

    def pick(order: Callable[[tuple[int, dict[str, Any]]], Any]) -> list[Example]:
        shown: dict[str, Example] = {}
        for step, row in sorted(_late(run), key=order):
            heading = (
                f"step {step}, reward {row['reward']:.3g}, {row['outcome']}, {row['tokens']} tokens, gold {row['gold']}"
            )
            shown.setdefault(row["prompt"], Example(heading, row["prompt"], conversation(row)))
            if len(shown) == _SHOWN:
                break
        return list(shown.values())

    return pick(lambda pair: (-pair[1]["reward"], -pair[0])), pick(lambda pair: (pair[1]["reward"], -pair[0]))


def most_improved(run: Run) -> list[tuple[Example, Example]]:
    """Questions that gained most, first and last answer: held-out ones between the first and the last evaluation, else
    those trained on more than once.
    """
    pairs: list[tuple[float, Example, Example]] = []
    if len(run.evaluations) > 1:
        first, last = min(run.evaluations), max(run.evaluations)
        before, after = run.evaluations[first], run.evaluations[last]
        later = {row["index"]: row for row in after}
        for row in before:
            if row["index"] in later:
                old, new = row["completions"], later[row["index"]]["completions"]
                gain = sum(c["correct"] for c in new) / len(new) - sum(c["correct"] for c in old) / len(old)
                texts = (
                    next((conversation(c) for c in old if not c["correct"]), ""),
                    next((conversation(c) for c in new if c["correct"]), ""),
                )
                heads = (f"before, evaluation at step {first}, gold {row['gold']}", f"after, evaluation at step {last}")
                pairs.append(
                    (gain, Example(heads[0], row["prompt"], texts[0]), Example(heads[1], row["prompt"], texts[1]))
                )
    else:
        seen: dict[str, list[tuple[int, list[dict[str, Any]]]]] = {}
        for step, rows in run.steps.items():
            for prompt in dict.fromkeys(row["prompt"] for row in rows):
                seen.setdefault(prompt, []).append((step, [row for row in rows if row["prompt"] == prompt]))
        for prompt, visits in seen.items():
            if len(visits) > 1:
                (first, old), (last, new) = visits[0], visits[-1]
                gain = sum(row["reward"] for row in new) / len(new) - sum(row["reward"] for row in old) / len(old)
                low, high = min(old, key=lambda row: row["reward"]), max(new, key=lambda row: row["reward"])
                heads = (
                    f"step {first}, reward {low['reward']:.3g}, gold {low['gold']}",
                    f"step {last}, reward {high['reward']:.3g}",
                )
                pairs.append(
                    (gain, Example(heads[0], prompt, conversation(low)), Example(heads[1], prompt, conversation(high)))
                )
    pairs = [pair for pair in sorted(pairs, key=lambda pair: -pair[0]) if pair[0] > 0]
    return [(old, new) for _, old, new in pairs[:_SHOWN]]


def self_corrections(run: Run) -> list[Example]:
    """Candidates of all steps: right answers first, newest first, a question once."""
    found = []
    for step, rows in run.steps.items():
        for row in rows:
            if (mark := find_self_correction(row["completion"])) is not None:
                found.append((row["outcome"] != "correct", -step, row, mark))
    shown: dict[str, Example] = {}
    for _, minus_step, row, mark in sorted(found, key=lambda entry: entry[:2]):
        heading = f"step {-minus_step}, {row['outcome']}, gold {row['gold']}; rule: {mark.rule}"
        shown.setdefault(row["prompt"], Example(heading, row["prompt"], row["completion"], mark))
        if len(shown) == 2 * _SHOWN:
            break
    return list(shown.values())
