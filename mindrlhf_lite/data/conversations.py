"""A conversation, or a prompt and its answer, as pieces of text of which some count in the loss.

Every piece is tokenized by itself, as a prompt and what a model writes behind it are: the tokens of an answer are those
that the model could have written. Where a chat template changes what was said before (it strips earlier thinking), the
rest of the conversation is a sample of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mindrlhf_lite.data.messages import content_of, role_of
from mindrlhf_lite.data.templates import Template, as_chatml
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.types import TrainSequence


@dataclass(frozen=True)
class Piece:
    """Example: Piece("4<|im_end|>", is_answer=True)"""

    text: str
    is_answer: bool


Sample = list[Piece]  # the first one is a prompt


@dataclass(frozen=True)
class Renderer:
    """Args:
    template: of prompts that are texts.
    is_chatml: whether messages are rendered as ChatML, not by the tokenizer's own template.
    end: ids that end an answer; the first is put behind an answer that has none.
    """

    tokenizer: Tokenizer
    template: Template
    is_chatml: bool
    end: tuple[int, ...]

    def of_texts(self, prompt: str, answer: str) -> list[Sample]:
        return [[Piece(self.template.render(prompt, ""), False), Piece(answer, True)]]

    def of_messages(self, messages: Sequence[Mapping[str, Any]], first: int, only_last: bool) -> list[Sample]:
        """Args: first: number of the first message that may count; only_last: whether only the last answer counts.

        Raises:
            ValueError: no answer among them, or a template that does not take them.
        """
        said = [{"role": role_of(each), "content": content_of(each["content"])} for each in messages]
        answers = [place for place, each in enumerate(said) if each["role"] == "assistant" and place >= first]
        if not answers:
            raise ValueError("none of the messages is the assistant's")
        if answers[0] == 0:
            raise ValueError("the first message is the assistant's: nothing asks for it")
        samples: list[Sample] = []
        done = ""  # of the sample under way
        for place in answers[-1:] if only_last else answers:
            before, whole = self._rendered(said[:place], True), self._rendered(said[: place + 1], False)
            if not whole.startswith(before):
                raise ValueError("the chat template does not begin the answer where its prompt ends")
            if samples and before.startswith(done):
                samples[-1].append(Piece(before[len(done) :], False))
            else:
                samples.append([Piece(before, False)])
            samples[-1].append(Piece(whole[len(before) :], True))
            done = whole
        return samples

    def _rendered(self, messages: Sequence[Mapping[str, Any]], begins_answer: bool) -> str:
        if self.is_chatml:
            return as_chatml(messages) + ("<|im_start|>assistant\n" if begins_answer else "")
        if not self.tokenizer.has_chat_template:
            raise ValueError(
                "the tokenizer has no chat template for messages: set supervised_config.chat_template=chatml, or give "
                "prompt and completion"
            )
        return self.tokenizer.apply_chat_template(messages, begins_answer=begins_answer)

    def sequences(self, samples: Sequence[Sample]) -> list[TrainSequence]:
        """One a sample, in order."""
        if not samples:
            return []
        prompts = iter(self.tokenizer.encode_batch([sample[0].text for sample in samples]))
        rest = [piece.text for sample in samples for piece in sample[1:]]
        others = iter(self.tokenizer.encode_continuation_batch(rest) if rest else [])
        return [self._sequence(next(prompts), [(piece, next(others)) for piece in sample[1:]]) for sample in samples]

    def _sequence(self, prompt: list[int], pieces: Sequence[tuple[Piece, list[int]]]) -> TrainSequence:
        ids: list[int] = []
        mask: list[float] = []
        for number, (piece, own) in enumerate(pieces, 1):
            ends = [place for place, token in enumerate(own) if token in self.end]
            if piece.is_answer and not ends and number == len(pieces) and self.end:
                own, ends = [*own, self.end[0]], [len(own)]
            # what a template puts behind the end of an answer is not written by the model
            counted = (ends[-1] + 1 if ends else len(own)) if piece.is_answer else 0
            ids += own
            mask += [1.0] * counted + [0.0] * (len(own) - counted)
        while mask and not mask[-1]:  # nothing follows that would need it
            ids, mask = ids[:-1], mask[:-1]
        length = len(ids)
        tokens = np.array([*prompt, *ids], np.int32)
        return TrainSequence(tokens, len(prompt), np.zeros(length, np.float32), np.array(mask, np.float32))
