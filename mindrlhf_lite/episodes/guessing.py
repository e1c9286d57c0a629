"""The guessing game: find a whole number from 1 to `highest`; every guess is answered with higher or lower."""

from __future__ import annotations

import re

from mindrlhf_lite.episodes.environment import Action, Environment, Step, Task
from mindrlhf_lite.errors import UserError

_NUMBER = re.compile(r"(?<!\d)\d{1,9}(?!\d)")


class GuessNumber(Environment):
    """The row's gold answer is the number. A guess is the first number of the policy's text; it is paid 1 when it is
    right.

    Args: highest: number that can be right; answers_as: "messages" of the user, or "text".
    """

    def __init__(self, highest: int = 64, answers_as: str = "messages"):
        if answers_as not in ("messages", "text"):
            raise UserError(f"answers_as={answers_as!r}: must be messages or text")
        self._highest, self._as_text = highest, answers_as == "text"

    def reset(self, task: Task, seed: int) -> None:
        self._number = int(task.gold)
        if not 1 <= self._number <= self._highest:
            raise ValueError(f"the gold answer {task.gold!r} is not in 1 to {self._highest}")

    def step(self, action: Action) -> Step:
        found = _NUMBER.search(action.text)
        if found is None:
            return self._said("number", solved=False)
        guess = int(found[0])
        if guess == self._number:
            return Step(reward=1.0, done=True, info={"solved": True})
        return self._said("higher" if guess < self._number else "lower", solved=False)

    def _said(self, text: str, solved: bool) -> Step:
        answer = f"{text}\n" if self._as_text else [{"role": "user", "content": text}]
        return Step(answer, info={"solved": solved})
