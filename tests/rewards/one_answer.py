"""The score of one answer."""

from mindrlhf_lite.rewards.verifiers import BUILT_IN
from mindrlhf_lite.types import CompletionView


def score(name, text, gold, **view):
    return BUILT_IN[name].score(CompletionView(text, **view), gold)
