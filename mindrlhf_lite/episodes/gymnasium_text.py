"""gymnasium's environments of text (PyPI, an extra): FrozenLake and Taxi, and others of few actions that draw
themselves in text.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from mindrlhf_lite.episodes.environment import Action, Environment, Messages, Step, Task
from mindrlhf_lite.errors import UserError

_ACTIONS = {
    "FrozenLake": ("left", "down", "right", "up"),
    "Taxi": ("south", "north", "east", "west", "pickup", "dropoff"),
    "CliffWalking": ("up", "right", "down", "left"),
}
_RULES = {
    "FrozenLake": "S is the start, F is ice, H is a hole that ends the game, G is the goal. You stand in the brackets.",
    "Taxi": "Fetch the passenger and bring them to the destination. R, G, Y and B are stops; walls are |.",
    "CliffWalking": "Walk from the start to T. C is a cliff. You are x.",
}
_HIGHLIGHT = re.compile(r"\x1b\[[\d;]*m(.*?)\x1b\[0m")


class GymnasiumText(Environment):
    """A game: the policy says a word for what it does, and reads what then is there. Where the row's gold answer is a
    whole number, it is the seed of the game, else the row's place in the data is.

    Args:
        id: of gymnasium's registry, such as FrozenLake-v1 or Taxi-v4.
        settings: of the game, as gymnasium takes them, such as {map_name: 8x8, is_slippery: false}.
        answers_as: "messages" of the user, or "text".
    """

    def __init__(self, id: str = "FrozenLake-v1", settings: dict[str, Any] | None = None, answers_as: str = "messages"):
        try:
            import gymnasium
        except ImportError:
            raise UserError("gymnasium is not installed: pip install 'mindrlhf_lite[gymnasium]'") from None
        if answers_as not in ("messages", "text"):
            raise UserError(f"answers_as={answers_as!r}: must be messages or text")
        try:
            self._game: Any = gymnasium.make(id, render_mode="ansi", **(settings or {}))
        except Exception as error:  # it has a kind of its own for each
            raise UserError(f"gymnasium: {id}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from None
        if not isinstance(self._game.action_space, gymnasium.spaces.Discrete):
            raise UserError(f"gymnasium: {id}: its actions are no words; write an Environment of your own around it")
        self._name, self._as_text = id.rpartition("/")[2].partition("-")[0], answers_as == "text"
        count = int(self._game.action_space.n)
        self._actions = _ACTIONS.get(self._name, tuple(map(str, range(count))))
        self._word = re.compile(rf"\b({'|'.join(self._actions)})\b", re.IGNORECASE)

    def reset(self, task: Task, seed: int) -> str | Messages:
        gold = task.gold.strip()
        self._game.reset(seed=int(gold) if gold.isascii() and gold.isdecimal() else task.index)
        # what is left to chance from now on is the completion's own
        self._game.unwrapped.np_random = np.random.default_rng(seed)
        words = f"Say one of: {', '.join(self._actions)}."
        return self._said("\n".join(filter(None, [task.prompt, _RULES.get(self._name, ""), words, self._shown()])))

    def step(self, action: Action) -> Step:
        found = self._word.search(action.text)
        if found is None:
            return Step(self._said(f"Say one of: {', '.join(self._actions)}."), info={"solved": False})
        number = self._actions.index(found[1].lower())
        _, reward, is_over, is_cut, _ = self._game.step(number)
        done = bool(is_over or is_cut)
        solved = bool(is_over and reward > 0)
        return Step("" if done else self._said(self._shown()), float(reward), done, {"solved": solved})

    def close(self) -> None:
        self._game.close()

    def _said(self, text: str) -> str | Messages:
        return f"{text}\n" if self._as_text else [{"role": "user", "content": text}]

    def _shown(self) -> str:
        """The game as text; what it shows by colour stands in brackets, or in words."""
        lines = _HIGHLIGHT.sub(r"[\1]", str(self._game.render())).strip().split("\n")
        text = "\n".join(line for line in lines if not re.fullmatch(r"\s*\(.*\)", line))  # the last action
        if self._name != "Taxi":
            return text
        row, column, passenger, goal = self._game.unwrapped.decode(self._game.unwrapped.s)
        names, places = "RGYB", self._game.unwrapped.locs
        where = "in the taxi" if passenger == len(names) else f"at {names[passenger]} {places[passenger]}"
        plain = re.sub(r"\[(.)\]", r"\1", text)
        aim = f"the destination {names[goal]} {places[goal]}"
        return f"{plain}\nThe taxi is at ({row}, {column}), the passenger {where}, {aim}."
