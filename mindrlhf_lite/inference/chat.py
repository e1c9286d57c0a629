"""A conversation in the terminal: prompts are made of the turns so far, answers appear as their tokens are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mindrlhf_lite.data.templates import Template
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rollout.native import NativeEngine
from mindrlhf_lite.types import GenerateRequest, SamplingParams

_CHATML_START = "<|im_start|>"
_INCOMPLETE = "\ufffd"  # what a decoder gives for the first bytes of a character


class StreamedText:
    """Text of a growing list of tokens, given out in pieces that never cut a character.

    Example: stream = StreamedText(tokenizer.decode, print); stream.append(15)
    """

    def __init__(self, decode: Callable[[list[int]], str], write: Callable[[str], None]):
        self.decode, self.write = decode, write
        self.token_ids: list[int] = []
        self._written = 0

    def append(self, token: int) -> None:
        self.token_ids.append(token)
        text = self.decode(self.token_ids)
        if not text.endswith(_INCOMPLETE):
            self._give(text)

    def finish(self) -> str:
        """Gives out what is left; returns the whole text."""
        text = self.decode(self.token_ids)
        self._give(text)
        return text

    def _give(self, text: str) -> None:
        if len(text) > self._written:
            self.write(text[self._written :])
            self._written = len(text)


@dataclass
class Conversation:
    """Turns, and the prompt that they make.

    Args:
        template: renders every question alone, without the turns before it; None: the tokenizer's chat template, else
            ChatML where the tokenizer knows it, else the question as it is.
    """

    tokenizer: Tokenizer
    system: str = ""
    template: Template | None = None
    turns: list[dict[str, str]] = field(default_factory=list)

    @property
    def remembers(self) -> bool:
        """Whether a prompt holds the turns before it."""
        return self.template is None and (self.tokenizer.has_chat_template or self._knows_chatml)

    @property
    def _knows_chatml(self) -> bool:
        return len(self.tokenizer.encode(_CHATML_START)) == len(self.tokenizer.encode("")) + 1  # besides BOS

    def prompt(self) -> str:
        """The text that the model continues, after a user's turn."""
        question = self.turns[-1]["content"]
        if self.template is not None:
            return self.template.render(question, self.system)
        if not self.remembers:
            return question
        messages = ([{"role": "system", "content": self.system}] if self.system else []) + self.turns
        if self.tokenizer.has_chat_template:
            return self.tokenizer.apply_chat_template(messages)
        return (
            "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)
            + "<|im_start|>assistant\n"
        )


def answer(
    conversation: Conversation,
    question: str,
    engine: NativeEngine,
    sampling: SamplingParams,
    seed: tuple[int, ...],
    write: Callable[[str], None],
) -> None:
    """Adds the question and the model's answer to the conversation, writing the answer piece by piece. Oldest turns are
    forgotten when there is no room for `sampling.max_tokens`.

    Raises:
        ValueError: the question alone leaves no room.
    """
    before, room = list(conversation.turns), engine.cache_length - sampling.max_tokens
    conversation.turns.append({"role": "user", "content": question})
    ids = conversation.tokenizer.encode(conversation.prompt())
    while len(ids) > room and len(conversation.turns) > 2 and conversation.remembers:
        del conversation.turns[:2]
        ids = conversation.tokenizer.encode(conversation.prompt())
    if not 0 < len(ids) <= room:
        conversation.turns = before
        raise UserError(f"the prompt has {len(ids)} tokens; 1 to {room} fit beside --max_tokens={sampling.max_tokens}")
    if forgotten := (len(before) + 1 - len(conversation.turns)) // 2:
        write(f"[no room: {forgotten} of the oldest turns forgotten]\n")
    stream = StreamedText(conversation.tokenizer.decode, write)
    engine.generate(
        [GenerateRequest(tuple(ids), 1, seed)], sampling, on_token=lambda request, sample, token: stream.append(token)
    )
    conversation.turns.append({"role": "assistant", "content": stream.finish()})
