"""Models with adapters: against peft, against the same model with merged weights, in every form of the kernels."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY, random_weights
from peers.peft_lora import CASES, SHAPE, TOKENS, tensors_of
from train_batch import train_batch

from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.learner.policy_loss import Objective, PolicyLoss
from mindrlhf_lite.learner.supervised_loss import SupervisedLoss
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.peft_folder import MergedReader
from mindrlhf_lite.models.precision import FLOAT32, Precision
from mindrlhf_lite.native.library import library, set_up
from mindrlhf_lite.parallel.layout import box_reader, whole_box
from mindrlhf_lite.rollout.native import NativeEngine
from mindrlhf_lite.scoring.batches import make_microbatch
from mindrlhf_lite.scoring.stages import Keeps
from mindrlhf_lite.shapes.adapters import DOWN, UP, Adapters, adapter_name, is_adapter
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import parameter_specs
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.types import GenerateRequest, SamplingParams, TrainSequence

LINEARS = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
PEFT = json.loads((Path(__file__).parents[1] / "peers/peft_lora.json").read_text(encoding="utf-8"))
FORMS = ["plain", "native"]
KINDS = {
    "qwen2, all": (replace(TINY, adapters=Adapters(3, 6.0, LINEARS)), Keeps.ALL),
    "qwen3, some": (
        replace(
            TINY,
            model_type="qwen3",
            head_dim=24,
            tie_word_embeddings=True,
            adapters=Adapters(17, 4.0, ("down_proj", "q_proj", "up_proj"), True),
        ),
        Keeps.PRODUCTS,
    ),
    "llama, attention, recomputed": (
        replace(TINY, model_type="llama", adapters=Adapters(2, 5.0, ("k_proj", "o_proj", "v_proj"))),
        Keeps.INPUTS,
    ),
}


def precision_of(form):
    if form == "plain":
        return FLOAT32
    if not library().path:
        pytest.skip(f"no native kernels: {library().why_not}")
    set_up(num_threads=2)
    return Precision.here("float32", is_native=True)


def weights_of(config):
    """Adapters smaller than the weights, as they are."""
    small = np.float32(0.3)
    return {name: small * each if is_adapter(name) else each for name, each in random_weights(config).items()}


def merged_weights(config, weights):
    read = box_reader(weights)
    reader = MergedReader(read, read, config)
    return {spec.name: reader.read(spec.name, whole_box(spec.shape)) for spec in parameter_specs(config.base)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_gradients_are_peft_s(name, form):
    case, expected = CASES[name], PEFT["cases"][name]
    targets = LINEARS if case["targets"] == "all-linear" else tuple(sorted(case["targets"]))
    adapters = Adapters(case["rank"], case["alpha"], targets, case["rslora"])
    config = ModelConfig(**SHAPE, model_type=case["model_type"], adapters=adapters)
    weights = tensors_of({spec.name: spec.shape for spec in parameter_specs(config)})
    model = Decoder(config, weights, True, 64, precision=precision_of(form))
    if form == "plain":
        from mindspore import Tensor

        logits = model(Tensor(TOKENS.astype(np.int32))).asnumpy()
        np.testing.assert_allclose(logits, expected["logits"], atol=1e-5)
    trained = TrainedModel(model, SupervisedLoss(model), AdamW(model, AdamWOptions()))
    sequences = [TrainSequence.of(row.astype(np.int32), 1) for row in TOKENS]
    batch = make_microbatch(sequences, StreamShapes(64, 64), token_mean, BatchTotals(20, 2, 10))
    statistics, _ = trained.accumulate([batch])
    assert statistics["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    found = {name: each.asnumpy() for name, each in trained.optimizer.accumulators.items()}
    assert found.keys() == expected["gradients"].keys()
    for tensor, gradient in expected["gradients"].items():
        assert np.linalg.norm(found[tensor] - gradient) < 1e-5 * np.linalg.norm(gradient), tensor


def gradients_of(config, weights, precision, keeps=Keeps.ALL):
    model = Decoder(config, weights, True, 128, precision=precision)
    trained = TrainedModel(model, PolicyLoss(model, Objective(entropy_coeff=0.01)), AdamW(model, AdamWOptions()), keeps)
    statistics, logprobs = trained.accumulate([train_batch()])
    found = {name: each.asnumpy().copy() for name, each in trained.optimizer.accumulators.items()}
    return statistics, np.concatenate(logprobs[0]), found, trained


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("config", "keeps"), KINDS.values(), ids=KINDS)
def test_a_model_is_that_with_merged_weights(config, keeps, form):
    """And its gradients are those of the merged weights, taken through W + scale B A."""
    precision, weights, scale = precision_of(form), weights_of(config), config.adapters.scale
    statistics, logprobs, found, trained = gradients_of(config, weights, precision, keeps)
    expected, merged_logprobs, of_weights, _ = gradients_of(config.base, merged_weights(config, weights), FLOAT32)
    assert statistics == pytest.approx(expected, rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(logprobs, merged_logprobs, atol=3e-5)
    assert found.keys() == {spec.name for spec in parameter_specs(config.moved)} and len(found) > 10
    for name, gradient in of_weights.items():
        if (down := adapter_name(name, DOWN)) not in found:
            continue
        up = adapter_name(name, UP)
        pairs = ((down, scale * weights[up].T @ gradient), (up, scale * gradient @ weights[down].T))
        for adapter, value in pairs:
            assert np.linalg.norm(found[adapter] - value) < 3e-5 * np.linalg.norm(value), adapter
    trained.optimizer.step(0.1)
    for name, values in trained.model.weights_as_numpy().items():
        assert np.array_equal(values, weights[name]) != is_adapter(name), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("config", [config for config, _ in list(KINDS.values())[:2]], ids=list(KINDS)[:2])
def test_completions_are_those_of_merged_weights(config, form):
    weights, precision = weights_of(config), precision_of(form)
    merged = NativeEngine(Decoder(config.base, merged_weights(config, weights), False, 96), 20, 96)
    beside = NativeEngine(Decoder(config, weights, False, 96, precision=precision), 20, 96)
    rng = np.random.default_rng(1)
    prompts = [tuple(int(token) for token in rng.integers(0, 97, length)) for length in (5, 17, 1, 40, 9)]
    requests = [GenerateRequest(prompt, 5, (number,)) for number, prompt in enumerate(prompts)]
    theirs, ours = (engine.generate(requests, SamplingParams(16)) for engine in (merged, beside))
    for expected, completion in zip(sum(theirs, []), sum(ours, []), strict=True):
        assert completion.token_ids == expected.token_ids
        np.testing.assert_allclose(completion.logprobs, expected.logprobs, atol=3e-5)
    ((alone,),), (among, *_) = beside.generate([replace(requests[3], num_samples=1)], SamplingParams(16)), ours[3]
    assert alone.token_ids == among.token_ids and np.array_equal(alone.logprobs, among.logprobs)
