"""Several turns in vLLM: each is a request of its own, with the native engine's tokens."""

import numpy as np
import pytest
from episodes.scripted_turns import ScriptedTurns
from helpers import TINY, random_weights

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.hf_weights import save_hf_model
from mindrlhf_lite.rollout.native import NativeEngine
from mindrlhf_lite.types import GenerateRequest, SamplingParams

pytest.importorskip("vllm", reason="needs vLLM: bash build.sh --vllm")
from mindrlhf_lite.rollout.vllm.engine import VllmEngine, VllmOptions

LENGTH, STOPS = 64, (3, 4, 5)


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_hf_model(folder, TINY, random_weights(TINY), None, None)
    model = Decoder(TINY, random_weights(TINY), False, LENGTH)
    return VllmEngine(model, str(folder), VllmOptions(LENGTH, 8, 64)), NativeEngine(model, 8, LENGTH)


def requests():
    rng = np.random.default_rng(0)
    prompts = (tuple(int(t) for t in rng.integers(6, 97, rng.integers(1, 20))) for _ in range(12))
    return [GenerateRequest(prompt, 2, (0, 5, index)) for index, prompt in enumerate(prompts)]


PENALTIES = {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.3, "min_tokens": 2}


@pytest.mark.parametrize(
    ("delay", "more", "begins_again"),
    [
        (0.0, {"temperature": 0.0}, False),
        (0.01, {"temperature": 0.9}, False),
        (0.0, {"temperature": 0.9, **PENALTIES}, False),  # of all that the policy wrote, in earlier turns too
        (0.01, {"temperature": 0.9, **PENALTIES}, True),
    ],
)
def test_tokens_equal_the_native_engines(engines, delay, more, begins_again):
    vllm, native = engines
    sampling = SamplingParams(40, stop_token_ids=STOPS, **more)
    kind = {"begins_again": begins_again}
    turns = ScriptedTurns(delay=lambda r, s, t: delay * ((r + s + t) % 3), **kind)
    late = vllm.generate(requests(), sampling, turns=turns)
    for group, other in zip(late, native.generate(requests(), sampling, turns=ScriptedTurns(**kind)), strict=True):
        for mine, theirs in zip(group, other, strict=True):
            assert mine.token_ids == theirs.token_ids and mine.finish_reason is theirs.finish_reason
            assert mine.restarts == theirs.restarts
            np.testing.assert_array_equal(mine.written, theirs.written)
            np.testing.assert_allclose(mine.engine_logprobs, theirs.engine_logprobs, atol=1e-4)


def test_what_does_not_fit_is_not_read(engines):
    vllm, native = engines
    sampling = SamplingParams(16, temperature=0, stop_token_ids=STOPS)
    found = [engine.generate(requests(), sampling, turns=ScriptedTurns(turns=9)) for engine in (vllm, native)]
    for group, other in zip(*found, strict=True):
        assert [each.token_ids for each in group] == [each.token_ids for each in other]
        assert all((len(each.token_ids) <= 16 and each.written is None) or each.written[-1] for each in group)
