"""Prompts of a conversation, and text that streams without cutting characters."""

import numpy as np
import pytest
from helpers import TINY, random_weights

from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.inference.chat import Conversation, StreamedText, answer
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.rollout.native import NativeEngine
from mindrlhf_lite.types import SamplingParams


class Words:
    """A tokenizer of characters, with what Conversation asks of one."""

    def __init__(self, has_chat_template: bool = False):
        self.has_chat_template = has_chat_template

    def encode(self, text):
        return [1] if text == "<|im_start|>" else [2 + ord(character) % 90 for character in text]

    def decode(self, ids):
        return "".join(chr(32 + token % 90) for token in ids)

    def apply_chat_template(self, messages):
        return "|".join(f"{message['role']}:{message['content']}" for message in messages) + "|"


def test_streamed_text_never_cuts_a_character():
    """Bytes of "é=ü" one at a time: nothing is written before a character is whole, and together it is the text."""
    parts, data = [], "é=ü".encode()
    stream = StreamedText(lambda ids: bytes(ids).decode(errors="replace"), parts.append)
    for byte in data:
        stream.append(byte)
    assert parts == ["é", "=", "ü"] and stream.finish() == "é=ü" and parts == ["é", "=", "ü"]
    cut = StreamedText(lambda ids: bytes(ids).decode(errors="replace"), parts.append)
    cut.append(data[0])
    assert cut.finish() == "\ufffd" and parts[-1] == "\ufffd"  # the model stopped in the middle of one


def test_prompts_hold_the_turns_before():
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "7+8"},
    ]
    chatml = Conversation(Words(), "be kind", turns=list(turns))
    assert chatml.prompt() == (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes?<|im_end|>\n"
        "<|im_start|>user\n7+8<|im_end|>\n<|im_start|>assistant\n"
    )
    assert Conversation(Words(True), "", turns=list(turns)).prompt() == "user:hi|assistant:yes?|user:7+8|"


def test_the_oldest_turns_are_forgotten_when_there_is_no_room():
    engine = NativeEngine(Decoder(TINY, random_weights(TINY), False, 64), 1, 64)
    conversation, written = Conversation(Words(True)), []
    for number in range(6):
        answer(
            conversation, f"question {number}", engine, SamplingParams(8, temperature=0.0), (number,), written.append
        )
        assert conversation.turns[-2]["content"] == f"question {number}" and len(conversation.turns[-1]["content"]) == 8
    # a question and its answer take 34 of the 56 tokens that answers leave, the next question 16
    assert "".join(written).count("[no room: 1 of the oldest turns forgotten]") == 4 and len(conversation.turns) == 4
    with pytest.raises(ValueError, match="1 to 56 fit"):
        answer(conversation, "x" * 60, engine, SamplingParams(8, temperature=0.0), (9,), written.append)
    assert len(conversation.turns) == 4


def test_tokens_stream_in_the_order_they_are_returned():
    from mindrlhf_lite.types import GenerateRequest

    engine, seen = NativeEngine(Decoder(TINY, random_weights(TINY), False, 64), 2, 64), {}
    requests = [GenerateRequest((3, 4, 5), 2, (0, 0)), GenerateRequest((7,), 1, (0, 1))]
    groups = engine.generate(
        requests,
        SamplingParams(9),
        on_token=lambda request, sample, token: seen.setdefault((request, sample), []).append(token),
    )
    assert {key: tuple(tokens) for key, tokens in seen.items()} == {
        (request, sample): completion.token_ids
        for request, group in enumerate(groups)
        for sample, completion in enumerate(group)
    }


def test_a_real_tokenizer(quickstart_model):
    tokenizer = Tokenizer(str(quickstart_model))
    conversation = Conversation(tokenizer, turns=[{"role": "user", "content": "1+1="}])
    assert conversation.remembers and conversation.prompt().startswith("<|im_start|>user\n1+1=<|im_end|>")
    assert np.all(np.array(tokenizer.encode(conversation.prompt())) >= 0)
