"""Models by the CPU's own operators against the plain form: losses, gradients, updates, completions."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import TINY, random_weights
from train_batch import train_batch

from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.learner.policy_loss import Objective, PolicyLoss
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.precision import FLOAT32, Precision
from mindrlhf_lite.native.library import library, set_up
from mindrlhf_lite.roles.build import kernels_of_run
from mindrlhf_lite.rollout.native import NativeEngine
from mindrlhf_lite.scoring.scorer import LogprobScorer
from mindrlhf_lite.scoring.stages import Keeps
from mindrlhf_lite.types import GenerateRequest, SamplingParams

pytestmark = pytest.mark.skipif(not library().path, reason=f"no native kernels: {library().why_not}")
KINDS = {
    "qwen2, untied": (TINY, Keeps.ALL),
    "qwen3, head of 24, recomputed": (
        replace(TINY, model_type="qwen3", head_dim=24, tie_word_embeddings=True),
        Keeps.INPUTS,
    ),
}


@pytest.fixture(scope="module")
def native():
    set_up(num_threads=2)
    return Precision.here("float32", is_native=True)


@pytest.mark.parametrize(("config", "keeps"), KINDS.values(), ids=KINDS)
def test_losses_gradients_and_updates(native, config, keeps):
    found = {}
    for precision in (FLOAT32, native):
        model = Decoder(config, random_weights(config), True, 128, precision=precision)
        loss = PolicyLoss(model, Objective(entropy_coeff=0.01, temperature=0.8))
        trained = TrainedModel(model, loss, AdamW(model, AdamWOptions(weight_decay=0.1, eps=1e-5)), keeps)
        statistics, logprobs = trained.accumulate([train_batch()])
        gradients = {name: each.asnumpy().copy() for name, each in trained.optimizer.accumulators.items()}
        norm = trained.optimizer.step(0.01)
        found[precision] = (statistics, np.concatenate(logprobs[0]), gradients, norm, model.weights_as_numpy())
        assert not any(each.asnumpy().any() for each in trained.optimizer.accumulators.values())
    (statistics, logprobs, gradients, norm, weights), ours = found.values()
    own, updated = ours[2], ours[4]
    assert ours[3] == pytest.approx(norm, rel=1e-5) and ours[0] == pytest.approx(statistics, rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(ours[1], logprobs, atol=2e-5)
    for name, expected in gradients.items():
        np.testing.assert_allclose(own[name], expected, atol=1e-5 * np.abs(expected).max(), err_msg=name)
        np.testing.assert_allclose(updated[name], weights[name], atol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def engines(native):
    made = (Decoder(TINY, random_weights(TINY), False, 96, precision=each) for each in (FLOAT32, native))
    return [NativeEngine(model, 64, 96) for model in made]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 0.7, "min_tokens": 3, "stop_token_ids": (5, 9)},
        {"temperature": 0.7, "reports_tempered_policy": True},
        {"top_k": 5, "repetition_penalty": 1.2},
    ],
)
def test_completions_are_those_of_the_plain_form(engines, options):
    rng = np.random.default_rng(1)
    prompts = [tuple(int(token) for token in rng.integers(0, 97, length)) for length in (5, 17, 1, 40)]
    requests = [GenerateRequest(prompt, 3, (number,)) for number, prompt in enumerate(prompts)]
    plain, ours = (engine.generate(requests, SamplingParams(16, **options)) for engine in engines)
    for expected, completion in zip(sum(plain, []), sum(ours, []), strict=True):
        assert completion.token_ids == expected.token_ids
        np.testing.assert_allclose(completion.logprobs, expected.logprobs, atol=2e-5)
        np.testing.assert_allclose(completion.engine_logprobs, expected.engine_logprobs, atol=2e-5)


def test_alone_or_in_company_the_tokens_are_the_same(engines):
    rng = np.random.default_rng(2)
    prompts = [tuple(int(token) for token in rng.integers(0, 97, length)) for length in rng.integers(1, 40, 70)]
    requests = [GenerateRequest(prompt, 1, (number,)) for number, prompt in enumerate(prompts)]
    engine = engines[1]
    together = engine.generate(requests, SamplingParams(20))
    for number in (0, 33, 69):
        ((alone,),), (among,) = engine.generate([requests[number]], SamplingParams(20)), together[number]
        assert alone.token_ids == among.token_ids and np.array_equal(alone.logprobs, among.logprobs)


def test_products_in_bfloat16_are_near(native):
    model = Decoder(TINY, random_weights(TINY), False, 128, precision=native)
    exact = np.concatenate(LogprobScorer(model).score(train_batch()))
    set_up("bfloat16", num_threads=2)
    low = np.concatenate(LogprobScorer(model).score(train_batch()))
    set_up("float32", num_threads=2)
    assert np.array_equal(np.concatenate(LogprobScorer(model).score(train_batch())), exact)
    assert np.abs(low - exact).max() < 0.2  # equal where the processor cannot


def test_which_kernels_a_run_has():
    def of(**settings):
        return kernels_of_run(build_config({f"{key.replace('__', '.')}": value for key, value in settings.items()}))

    assert of().startswith(f"native, {library().isa}, ") and of().endswith("products in float32")
    assert of(context__native_kernels="off") == "MindSpore's (context.native_kernels=off)"
    assert of(actor_config__compute_dtype="float16") == "MindSpore's (native ones are for float32)"
    assert of(generate_config__compute_dtype="float16").endswith("; rollout: MindSpore's")
    assert of(context__device_target="Ascend") == ""
