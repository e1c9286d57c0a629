"""What vLLM on Ascend reports, and what is made of it: the part that needs no device."""

from dataclasses import dataclass

import numpy as np
import pytest

from mindrlhf_lite.rollout.vllm.ascend import completion_of
from mindrlhf_lite.trainer.statistics import rollout_metrics
from mindrlhf_lite.types import FinishReason, Outcome, Prompt, RolloutGroup, SamplingParams, ScoredGroup


@dataclass
class Reported:
    """vLLM's Logprob, and its CompletionOutput."""

    logprob: float = 0.0
    token_ids: tuple = ()
    logprobs: tuple = ()


def output(*logprobs):
    entries = tuple({7 + place: Reported(logprob)} for place, logprob in enumerate(logprobs))
    return Reported(token_ids=tuple(range(7, 7 + len(logprobs))), logprobs=entries)


def metrics_of(completion):
    group = RolloutGroup(Prompt(0, (1,), "a", "b", 1), [completion], ["c"])
    ones = np.ones(1, np.float32)
    return rollout_metrics([ScoredGroup(group, {}, ones, ones, [Outcome.WRONG], np.ones(1, bool))])


def test_drawn_from_the_policy_its_logprobs_are_those_of_the_draw():
    completion = completion_of(output(-0.5, -0.25), SamplingParams(4, stop_token_ids=(8,)))
    assert completion.token_ids == (7, 8) and completion.finish_reason is FinishReason.STOP
    np.testing.assert_array_equal(completion.logprobs, completion.engine_logprobs)
    assert metrics_of(completion)["rollout/sampling_gap_mean"] == 0


@pytest.mark.parametrize(
    "more", [{"temperature": 0.8}, {"top_p": 0.8}, {"top_k": 20}, {"repetition_penalty": 1.05}, {"min_tokens": 2}]
)
def test_else_they_are_not_known(more):
    completion = completion_of(output(-0.5), SamplingParams(4, **more))
    assert completion.logprobs is None and completion.engine_logprobs.tolist() == [-0.5]
    assert "rollout/sampling_gap_mean" not in metrics_of(completion)
