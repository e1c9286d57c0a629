"""A conversation in the terminal: prompts are made of the turns so far, answers appear as their tokens are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mindrlhf_lite.data.templates import Template
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.episodes.messages import Answer
from mindrlhf_lite.episodes.play import Play, Stage
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rollout.native import NativeEngine
from mindrlhf_lite.types import GenerateRequest, Prompt, SamplingParams

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
    tools: Sequence[Mapping[str, Any]] = ()  # JSON schemas, which the chat template shows the model

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
            if self.tools:
                return self.tokenizer.apply_chat_template(messages, tools=self.tools)
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
    stage: Stage | None = None,
) -> None:
    """Adds the question and the model's answer to the conversation, writing the answer piece by piece. Oldest turns are
    forgotten when there is no room for `sampling.max_tokens`.

    Args: stage: where the model's calls of tools are answered; None: they are text.

    Raises:
        ValueError: the question alone leaves no room.
    """
    before, room = list(conversation.turns), engine.cache_length - sampling.max_tokens
    conversation.turns.append({"role": "user", "content": question})
    ids = conversation.tokenizer.encode(conversation.prompt())
    while len(ids) > room and (later := _second_question(conversation.turns)) and conversation.remembers:
        del conversation.turns[:later]
        ids = conversation.tokenizer.encode(conversation.prompt())
    if not 0 < len(ids) <= room:
        conversation.turns = before
        raise UserError(f"the prompt has {len(ids)} tokens; 1 to {room} fit beside --max_tokens={sampling.max_tokens}")
    if forgotten := _questions(before) + 1 - _questions(conversation.turns):
        write(f"[no room: {forgotten} of the oldest turns forgotten]\n")
    spoken = _Spoken(conversation.tokenizer, write)
    if stage is None:
        engine.generate([GenerateRequest(tuple(ids), 1, seed)], sampling, on_token=spoken.append)
    else:
        play = Play(stage, [Prompt(0, tuple(ids), question, "", 0)], [seed], spoken.hear)
        ((completion,),) = engine.generate(play.requests(1), sampling, on_token=spoken.append, turns=play)
        episode = play.ended((0, 0), completion).episode
        if episode is not None and episode.failure:
            write(f"\n[{episode.failure}]\n")
    conversation.turns += spoken.finish()


def _questions(turns: Sequence[Mapping[str, str]]) -> int:
    return sum(turn["role"] == "user" for turn in turns)


def _second_question(turns: Sequence[Mapping[str, str]]) -> int:
    """Where it stands; 0: there is one only."""
    return next((place for place, turn in enumerate(turns) if place and turn["role"] == "user"), 0)


class _Spoken:
    """What is said in answer to a question, written as it comes: the model's words, and tools' answers in brackets."""

    def __init__(self, tokenizer: Tokenizer, write: Callable[[str], None]):
        self._tokenizer, self._write = tokenizer, write
        self._stream = StreamedText(tokenizer.decode, write)
        self._turns: list[dict[str, str]] = []

    def append(self, request: int, sample: int, token: int) -> None:
        self._stream.append(token)

    def hear(self, answer: Answer) -> None:
        if not answer.observation:
            return
        self.finish()
        if isinstance(answer.observation, str):
            raise UserError("--chat: tools answer in messages; leave out answers_as=text")
        for message in answer.observation:
            self._turns.append(message)
            self._write(f"\n[{message['content']}]")
        self._write("\n")

    def finish(self) -> list[dict[str, str]]:
        """All turns so far."""
        if self._stream.token_ids:
            self._turns.append({"role": "assistant", "content": self._stream.finish()})
        self._stream = StreamedText(self._tokenizer.decode, self._write)
        return self._turns
