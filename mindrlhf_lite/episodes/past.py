"""Chat templates that change the past: they leave out the thoughts of earlier answers, trim them, or end the last
answer in another way. What then becomes of an episode is environment_config.on_changed_past.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.episodes.bridge import Bridge
from mindrlhf_lite.episodes.environment import Observation
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import say
from mindrlhf_lite.rewards.final_answer import with_opened_thought

NEW_SAMPLE, REFUSE = "new_sample", "refuse"


@dataclass
class Conversation:
    """An episode's messages so far. `prompt`: text that the policy's last sample stands behind."""

    opening: Any
    prompt: str
    later: list[Any] = field(default_factory=list)
    has_text: bool = False  # besides messages


class ChangedPast:
    """What to do. Args: what: of environment_config.on_changed_past; told: roles whose notes the user has seen."""

    def __init__(self, what: str, bridge: Bridge, tokenizer: Tokenizer, told: Collection[str] = ()):
        self.what, self._bridge, self._tokenizer, self._told = what, bridge, tokenizer, set(told)

    def look(self, observation: Observation) -> None:
        """Says what the template does where messages of these roles follow, once.

        Raises:
            UserError: it changes the past, and the run is not to go on then.
        """
        if isinstance(observation, str):
            return
        for role in {message["role"] for message in observation} - self._told:
            self._told.add(role)
            for note in self._bridge.notes(role):
                if self.what == REFUSE:
                    raise UserError(refusal(note))
                say(f"note: {note}; {self.consequence}")

    @property
    def consequence(self) -> str:
        return "a new training sample begins there" if self.what == NEW_SAMPLE else "what was sampled is kept"

    def rendered(
        self, conversation: Conversation, said: str, observation: Observation, before: Sequence[int]
    ) -> tuple[int, ...] | None:
        """The prompt that the episode goes on behind; None: behind what was sampled, as nothing of it has changed, or
        is to change.

        Args: said: in the last turn; before: all ids up to where the policy writes again, if nothing changes.

        Raises:
            UserError: there is no conversation of messages that could be rendered.
        """
        if self.what != NEW_SAMPLE:
            return None
        if isinstance(observation, str):
            conversation.has_text = True
            return None
        if conversation.has_text or not isinstance(conversation.opening, list):
            raise UserError(
                f"environment_config.on_changed_past={NEW_SAMPLE}: the conversation cannot be rendered again: all of "
                "it has to be messages, those that the environment's reset() opens with included"
            )
        answer = {"role": "assistant", "content": with_opened_thought(said, conversation.prompt)}
        conversation.later += [answer, *observation]
        ids, text = self._bridge.opening([*conversation.opening, *conversation.later])
        if self._tokenizer.decode(ids) == self._tokenizer.decode(before):
            return None
        conversation.prompt = text
        return ids


def refusal(note: str) -> str:
    return f"environment_config.on_changed_past={REFUSE}: {note}; go_on keeps what was sampled"
