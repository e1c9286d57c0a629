"""From the tokens so far and what an environment answers to the tokens in between. What the policy sampled is never
decoded and encoded again: it stays as it is, and only what follows it is made.

What follows is the tokenizer's own chat template's: a made-up conversation with the same new messages is rendered, and
the text behind its assistant's words is taken: the end of the turn, the messages, the beginning of the next answer. Of
the end of the turn the policy has sampled the stop token already; what comes after it (Qwen's newline) is put in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.episodes.environment import Messages, Observation
from mindrlhf_lite.errors import UserError

_QUESTION, _ANSWER = "first question 4711", "the words of 8093"
_THOUGHT = f"<think>\nwords of a thought\n</think>\n\n{_ANSWER}"


class Bridge:
    """Args: stops: tokens that end a turn; tools: JSON schemas, which the template shows the policy."""

    def __init__(self, tokenizer: Tokenizer, stops: Collection[int], tools: Sequence[Mapping[str, Any]] = ()):
        self._tokenizer, self._stops, self.tools = tokenizer, frozenset(stops), tools

    def opening(self, observation: Observation) -> tuple[tuple[int, ...], str]:
        """(ids, text) of a prompt."""
        text = observation
        if not isinstance(text, str):
            self._need_template()
            text = self._tokenizer.apply_chat_template(text, tools=self.tools)
        return tuple(self._tokenizer.encode(text)), text

    def extend(self, ids: Sequence[int], observation: Observation) -> tuple[int, ...]:
        """What comes behind `ids`, which end with what the policy wrote, up to where it writes again."""
        if isinstance(observation, str):
            return tuple(self._tokenizer.encode_continuation(observation))
        behind = self._tokenizer.encode_continuation(self._behind(observation, _ANSWER))
        has_stopped = bool(ids) and ids[-1] in self._stops
        return tuple(behind[1:] if has_stopped and behind and behind[0] in self._stops else behind)

    def _behind(self, messages: Messages, said: str) -> str:
        """What the template writes behind the assistant's words."""
        text = self._rendered(said, messages)
        if _ANSWER not in text:
            raise UserError("the chat template leaves out an earlier answer: no conversation can go on")
        return text[text.index(_ANSWER) + len(_ANSWER) :]

    def _rendered(self, said: str, messages: Messages, begins_answer: bool = True) -> str:
        self._need_template()
        conversation = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": said}, *messages]
        return self._tokenizer.apply_chat_template(conversation, tools=self.tools, begins_answer=begins_answer)

    def _need_template(self) -> None:
        if not self._tokenizer.has_chat_template:
            raise UserError(
                "the environment answers with messages, and the tokenizer has no chat template; let it answer with text"
            )

    def notes(self, role: str) -> list[str]:
        """What is odd about the chat template where messages of this role follow an answer. Each of them is why the
        tokens of an episode are not what transformers renders of the whole conversation.
        """
        new, found = [{"role": role, "content": "new words"}], []
        for said, what in ((_ANSWER, "an earlier answer"), (_THOUGHT, "the thoughts of an earlier answer")):
            last, later = (self._up_to_answer(said, more) for more in ([], new))
            if last != later:
                found.append(f"the chat template changes {what} when messages of role {role} follow")
        text = self._rendered(_ANSWER, new)
        cut = text.index(_ANSWER) + len(_ANSWER)
        whole, parts = self._tokenizer.encode(text), self._tokenizer.encode(text[:cut])
        if whole != parts + self._tokenizer.encode_continuation(text[cut:]):
            found.append("the tokenizer joins the end of an answer with what the chat template writes behind it")
        return found

    def _up_to_answer(self, said: str, more: Messages) -> str:
        text = self._rendered(said, more, begins_answer=bool(more))
        return text[: text.index(_ANSWER)]
