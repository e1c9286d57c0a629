"""What a reward model reads of completions: the policy's tokens, or by a template texts in tokens of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.errors import UserError, short_repr
from mindrlhf_lite.rewards.model_template import CHAT, filled, question_of
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.trainer.annotation import as_sequences
from mindrlhf_lite.types import Prompt, ScoredGroup, TrainSequence

Reader = Callable[[Sequence[ScoredGroup]], list[TrainSequence]]  # one sequence a completion, in group order


def reader_of(config: Config, first: Prompt) -> Reader:
    """Args: first: row of the data, with which a template is tried.

    Raises:
        UserError: the data lacks a column, or the reward model's folder a tokenizer or a chat template that works.
    """
    model = config.reward_config.reward_model
    if not model.template:
        return as_sequences
    tokenizer, given = Tokenizer(model.load), f"reward_config.reward_model.template={short_repr(model.template)}"
    if model.template.startswith(CHAT) and not tokenizer.has_chat_template:
        raise UserError(f"{given}: {model.load} has no chat template; write the text, with {{completion}}")
    shape = ModelConfig.from_dir(model.load)
    if tokenizer.num_ordinary > shape.vocab_size:
        raise UserError(
            f"{given}: the tokenizer of {model.load} has {tokenizer.num_ordinary} tokens, its model {shape.vocab_size}"
        )
    texts = RewardTexts(model.template, tokenizer, config.rl_config.seq_length)
    texts.text(first, first.gold)
    return texts.sequences


class RewardTexts:
    """Args: template: of reward_config.reward_model; longest: tokens, of which the last ones are read."""

    def __init__(self, template: str, tokenizer: Tokenizer, longest: int):
        self._template, self._tokenizer, self._longest = template, tokenizer, longest

    def sequences(self, groups: Sequence[ScoredGroup]) -> list[TrainSequence]:
        """One a completion, in group order; what begins alike in a group is its prompt."""
        found = []
        for scored in groups:
            group = scored.group
            ids = self._tokenizer.encode_batch([self.text(group.prompt, text) for text in group.texts])
            ids = [[0] * (2 - len(each)) + each[-self._longest :] for each in ids]  # two tokens, also of no text
            shared = max(1, _shared(ids))
            found += [TrainSequence.of(np.array(each, np.int32), shared) for each in ids]
        return found

    def text(self, prompt: Prompt, completion: str) -> str:
        """Raises UserError where the data lacks a column, or the chat template fails."""
        if not self._template.startswith(CHAT):
            return filled(self._template, prompt, completion)
        question = {"role": "user", "content": question_of(self._template, prompt)}
        messages = [question, {"role": "assistant", "content": completion}]
        return self._tokenizer.apply_chat_template(messages, begins_answer=False)


def _shared(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens with which all begin, one less than the shortest has at most.

    Example: _shared([[1, 2, 3], [1, 2, 4, 5]]) == 2
    """
    most = min(map(len, sequences)) - 1
    first = sequences[0]
    return next((place for place in range(most) if any(each[place] != first[place] for each in sequences)), most)
