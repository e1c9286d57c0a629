"""What a user writes: an environment that the policy acts in, one instance an episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mindrlhf_lite.types import FinishReason

Messages = Sequence[Mapping[str, str]]  # {"role": .., "content": ..}, as chat templates take them
Observation = str | Messages  # text as it is, or messages for the chat template


class EnvironmentFailure(Exception):
    """What a tool or an environment raises where not the policy is to blame: a service that does not answer."""


@dataclass(frozen=True)
class Task:
    """A row of the data.

    Example: Task(index=0, prompt="What is 123*456?", gold="56088", row=1)
    """

    index: int  # position in the data file, from 0
    prompt: str  # as converted
    gold: str
    row: int = 0
    source: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ToolCall:
    """A call as it stands in the policy's text.

    Example: ToolCall("calculator", {"expression": "2*3"}); ToolCall("", problem="no JSON: ..")
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""  # why it cannot be read


@dataclass(frozen=True)
class Action:
    """What the policy wrote in a turn."""

    text: str
    calls: tuple[ToolCall, ...] = ()  # in environment_config.call_format
    finish_reason: FinishReason = FinishReason.STOP  # LENGTH: it was cut off


@dataclass(frozen=True)
class Step:
    """What the environment answers.

    Example: Step("higher\\n"); Step([{"role": "tool", "content": "6"}]); Step(reward=1.0, done=True)
    """

    messages: Observation = ""  # what the policy reads next; nothing where the episode is over
    reward: float = 0.0
    done: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)  # JSON values; "solved": whether the task is


class Environment:
    """One episode of one task. What it does is a function of its task, its seed and the actions: then runs can be
    resumed and repeated bit for bit.

    Its constructor takes environment_config.arguments by name.
    """

    def reset(self, task: Task, seed: int) -> Observation | None:
        """What the policy reads first, in place of the row's prompt; None: the prompt as it is. The same in all
        episodes of a task, whose group is compared: the seed is for what happens later.
        """
        return None

    def step(self, action: Action) -> Step:
        """Raises: whatever it raises is a failure of the environment: the completion is left out. A wrong action of the
        policy is answered, or paid.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Called once, also after a failure; not where the process had to be killed."""
