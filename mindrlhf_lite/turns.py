"""What an environment made of a completion: its turns, and how they ended. Without an environment there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class EpisodeEnd(str, Enum):
    """Why an episode ended."""

    DONE = "done"  # the environment said so
    TURNS = "turns"  # after max_turns
    LENGTH = "length"  # no room: for another token, or for what the environment answered
    FAILURE = "failure"  # of the environment: infrastructure, not the policy


@dataclass(frozen=True)
class Restart:
    """From one token of a completion on, its conversation as the chat template renders it then stands in the place of
    all that was before: a training sample of its own, of the same completion.

    Example: Restart(9, (1, 40, 41)): tokens 9 and later were written behind the prompt 1, 40, 41
    """

    start: int  # place among the completion's tokens
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True)
class Turn:
    """What the policy wrote in one turn, and what it was paid.

    Example: Turn(0, 9, num_calls=1), then an answer of 12 tokens, then Turn(21, 30, reward=1.0)
    """

    start: int  # place of its first token among the completion's
    end: int  # place behind its last one
    reward: float = 0.0
    num_calls: int = 0  # of tools
    num_malformed: int = 0  # of them: could not be read, named no tool, or had wrong arguments


@dataclass(frozen=True)
class Episode:
    """Example: Episode((Turn(0, 9), Turn(21, 30, 1.0)), EpisodeEnd.DONE, "It is 12.", is_solved=True)"""

    turns: tuple[Turn, ...]
    end: EpisodeEnd
    answer: str = ""  # text of the last turn: what verifiers judge
    texts: tuple[str, ...] = ()  # of the turns, and between them of what was answered
    is_solved: bool | None = None  # as the environment says; None: it does not
    failure: str = ""  # what went wrong with the environment
    info: Mapping[str, Any] = field(default_factory=dict)  # of its last step: JSON values
    environment_s: float = 0.0  # seconds that its steps took

    @property
    def has_failed(self) -> bool:
        """Whether its environment has: then it is nobody's fault, and does not count."""
        return self.end is EpisodeEnd.FAILURE

    @property
    def segments(self) -> list[dict[str, Any]]:
        """The conversation as one reads it."""
        return [{"written": place % 2 == 0, "text": text} for place, text in enumerate(self.texts)]

    @property
    def reward(self) -> float:
        """What the environment paid in all."""
        return sum(turn.reward for turn in self.turns)
