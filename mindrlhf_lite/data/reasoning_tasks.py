"""Rows of reasoning-gym's generated tasks (PyPI, an extra): its questions and answers, and what its own scorers need.

A question belongs to one split by its text, whatever the seed: reasoning-gym itself has no splits. Its seeds overlap
(item i of seed s is item 0 of seed s + i), so each seed has a stream of its own here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mindrlhf_lite.data.sources import BadRow, Question, as_question, dataset_type
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.reasoning import ENTRY, packed, reasoning_gym

LEVEL = "level"  # the column of a row's difficulty
ANY = "(any that is right)"  # in the place of a gold answer
_EXAMPLES = ("example_correct_answer", "example_answer", "possible_answer")
_HELD_OUT = 5  # one question of so many is held out
_TRIES = 1000  # questions in a row that are not new: then there are no others


def settings_of(task: str, level: int | None) -> dict[str, Any]:
    """Of reasoning-gym's dataset: its own; or, with a level, what its own curriculum says of that level: every
    attribute at it, or at its highest one.

    Raises:
        UserError: there is no such task, or it has no curriculum.
    """
    factory = reasoning_gym().factory
    if task not in factory.DATASETS:
        raise UserError(f"--task {task}: reasoning-gym has {', '.join(sorted(factory.DATASETS))}")
    if level is None:
        return {}
    if not factory.has_curriculum(task):
        raise UserError(f"--levels: {task} has none in reasoning-gym; leave them out")
    curriculum = factory.create_curriculum(task)
    for name, attribute in curriculum.attributes.items():
        curriculum.set_attr_level(name, min(level, len(attribute.levels) - 1))
    made = vars(curriculum.generate_configuration())
    return {name: value for name, value in made.items() if name not in ("seed", "size") and _is_json(value)}


def _is_json(value: Any) -> bool:
    try:
        return bool(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return False


@dataclass(frozen=True)
class Mixture:
    """`count` rows in all, shared by weight. Example: Mixture(["countdown", "gcd"], [2.0, 1.0], 5000, seed=0)"""

    tasks: Sequence[str]
    weights: Sequence[float] | None  # None: all alike
    count: int
    seed: int = 0
    split: str = "train"
    levels: Sequence[int] = ()  # of reasoning-gym's own curricula

    def rows(self) -> list[tuple[str, Iterator[dict[str, Any]]]]:
        """(task, its rows) of every task."""
        weights = self.weights or [1.0] * len(self.tasks)
        ends = np.rint(np.cumsum(weights) / np.sum(weights) * self.count).astype(int)
        counts = np.diff(ends, prepend=0).tolist()
        if min(counts) < 1:
            raise UserError(
                f"--rows {self.count}: too few for {len(self.tasks)} tasks with weights {' '.join(map(str, weights))}"
            )
        more = (self.seed, self.split, self.levels)
        return [(task, task_rows(task, own, *more)) for task, own in zip(self.tasks, counts, strict=True)]


def questions_of(mixture: Mixture, keep: Sequence[str] = ()) -> list[list[Question | BadRow]]:
    """Of every task. Args: keep: more of a row's fields, for verifiers."""
    kind = dataset_type("reasoning_gym", {}, (*keep, *([LEVEL] if mixture.levels else [])))
    return [[as_question(row, each, kind, task) for row, each in enumerate(rows, 1)] for task, rows in mixture.rows()]


def task_rows(
    task: str, count: int, seed: int, split: str = "train", levels: Sequence[int] = ()
) -> Iterator[dict[str, Any]]:
    """`count` different questions, as equally of the levels as can be, one after the other.

    Raises:
        UserError: the task has not so many, or cannot be made.
    """
    wanted = [level if levels else None for level in (levels or (0,))]
    shares = [len(range(place, count, len(wanted))) for place in range(len(wanted))]
    rows = [list(_of_level(task, share, seed, split, level)) for share, level in zip(shares, wanted, strict=True)]
    for number in range(count):
        yield rows[number % len(wanted)][number // len(wanted)]


def _of_level(task: str, count: int, seed: int, split: str, level: int | None) -> Iterator[dict[str, Any]]:
    settings, seen, last = settings_of(task, level), set[str](), 0
    stream = [seed, level or 0, *task.encode()]
    first = int(np.random.SeedSequence(stream).generate_state(1, np.uint32)[0] >> 2)
    dataset = _made(task, first, _TRIES * (count + 1), settings)
    for number in range(len(dataset)):
        if len(seen) == count:
            return
        if number - last > _TRIES:
            break
        try:
            entry = dict(dataset[number])
        except Exception as error:  # a generator may give up on a seed
            if not seen and number >= 10:
                raise UserError(f"--task {task}: {type(error).__name__}: {' '.join(str(error).split())}") from None
            continue
        question = str(entry["question"]).strip()
        if question in seen or (split_of(question) != split):
            continue
        seen.add(question)
        last = number
        more = {} if level is None else {LEVEL: level}
        kept = {"task": task, "settings": settings, "entry": packed(entry)}
        yield {"question": question, "answer": _gold_of(entry), "task": task, ENTRY: kept, **more}
    if len(seen) < count:
        of_level = "" if level is None else f" at level {level}"
        raise UserError(
            f"--rows: {task}{of_level} has {len(seen)} different questions of the {split} split; ask for fewer"
        )


def _gold_of(entry: dict[str, Any]) -> str:
    """The answer; of a task with many right ones, one of them; `ANY` where reasoning-gym gives none."""
    metadata = entry["metadata"]
    found = [entry["answer"], *(metadata.get(name) for name in _EXAMPLES)]
    for value in found:
        if isinstance(value, dict):
            return json.dumps(value)
        if isinstance(value, str) and value.strip():
            return value
    return ANY


def split_of(question: str) -> str:
    """Example: split_of("What is 3+5?") in ("train", "held_out")"""
    return "train" if hashlib.sha256(question.encode()).digest()[0] % _HELD_OUT else "held_out"


def _made(task: str, seed: int, size: int, settings: dict[str, Any]) -> Any:
    try:
        return reasoning_gym().create_dataset(task, seed=seed, size=size, **settings)
    except Exception as error:  # of a package or a file that it needs
        raise UserError(f"--task {task}: {type(error).__name__}: {' '.join(str(error).split())}") from None
