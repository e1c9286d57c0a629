"""Layers of two kinds in one model: another MLP is a class, and an entry of the table of blocks."""

from dataclasses import dataclass

import numpy as np
import pytest
from helpers import TINY, random_weights
from mindspore import Tensor, ops

from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.learner.supervised_loss import SupervisedLoss
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.models.block import Block
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.mlp import MLPS
from mindrlhf_lite.rollout.native import NativeEngine
from mindrlhf_lite.scoring.batches import make_microbatch
from mindrlhf_lite.scoring.scorer import LogprobScorer
from mindrlhf_lite.scoring.stages import Keeps
from mindrlhf_lite.shapes.layer_blocks import BLOCKS, BlockParameter, BlockShape
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import parameter_specs
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.types import GenerateRequest, SamplingParams, TrainSequence


class TanhMlp(Block):
    """down(tanh(up(x)))"""

    input_norm_name = "post_attention_layernorm.weight"
    num_products = 1

    def __init__(self, config, places, *shared):
        super().__init__(config, places, *shared)
        self.up, self.down = places["mlp.up_proj.weight"], places["mlp.down_proj.weight"]

    def run(self, x, weights, products=()):
        up = self.product(self.normed(x, weights), weights, self.up)
        if len(products) > 0:
            up = self.known(up, products[0])
        return self.product(ops.tanh(up), weights, self.down), (up,)


def tanh_rows(config):
    hidden, inner = config.hidden_size, config.intermediate_size
    return [
        BlockParameter("post_attention_layernorm.weight", (hidden,)),
        BlockParameter("mlp.up_proj.weight", (inner, hidden), 0, inner),
        BlockParameter("mlp.down_proj.weight", (hidden, inner), 1, inner),
    ]


@dataclass(frozen=True)
class MixedConfig(ModelConfig):
    def blocks_of(self, layer):
        return "grouped_query", "tanh" if layer % 2 else "gated"


MIXED = MixedConfig(**{**vars(TINY), "num_hidden_layers": 3})


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(
        BLOCKS, "tanh", BlockShape(tanh_rows, lambda config, tensor: config.intermediate_size // tensor)
    )
    monkeypatch.setitem(MLPS, "tanh", TanhMlp)


def sequences():
    rng = np.random.default_rng(0)
    return [TrainSequence.of(rng.integers(0, 97, length).astype(np.int32), 4) for length in (20, 9, 30)]


def batch_of(every):
    totals = BatchTotals(sum(each.completion_length for each in every), len(every), 60)
    return make_microbatch(every, StreamShapes(128, 64), token_mean, totals)


def test_its_parameters_are_those_of_its_kinds():
    names = [spec.name for spec in parameter_specs(MIXED)]
    assert [f"model.layers.{layer}.mlp.gate_proj.weight" in names for layer in range(3)] == [True, False, True]
    model = Decoder(MIXED, random_weights(MIXED), False, 64)
    assert set(model.layers_by_kind()) == {("grouped_query", "gated"), ("grouped_query", "tanh")}


def test_scoring_and_decoding_equal_the_whole_forward():
    model, every = Decoder(MIXED, random_weights(MIXED), False, 64), sequences()
    for sequence, found in zip(every, LogprobScorer(model).score(batch_of(every)), strict=True):
        logits = model(Tensor(sequence.token_ids[None])).asnumpy()[0].astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = logprobs[np.arange(3, len(sequence.token_ids) - 1), sequence.token_ids[4:]]
        np.testing.assert_allclose(found, expected, atol=1e-4)
    prompt = tuple(map(int, every[0].token_ids[:6]))
    (group,) = NativeEngine(model, 2, 64).generate([GenerateRequest(prompt)], SamplingParams(5, temperature=0))
    ids = list(prompt)
    for token in group[0].token_ids:
        assert token == int(model(Tensor(np.array([ids], np.int32))).asnumpy()[0, -1].argmax())
        ids.append(token)


def test_gradients_are_the_slope_of_the_loss_whatever_is_kept():
    def learner(keeps):
        model = Decoder(MIXED, weights, True, 64)
        return TrainedModel(model, SupervisedLoss(model), AdamW(model, AdamWOptions()), keeps)

    weights, rng, batch = random_weights(MIXED), np.random.default_rng(1), batch_of(sequences())
    found = {}
    for keeps in Keeps:
        one = learner(keeps)
        one.accumulate([batch])
        found[keeps] = {name: each.asnumpy().copy() for name, each in one.optimizer.accumulators.items()}
    gradients = found[Keeps.ALL]
    for other in found.values():
        for name, values in other.items():
            np.testing.assert_allclose(values, gradients[name], atol=1e-6, err_msg=name)
    way = {name: rng.standard_normal(each.shape).astype(np.float32) for name, each in weights.items()}
    for part in (".mlp.", ".self_attn.", "norm", "embed"):
        losses = []
        for sign in (1, -1):
            moved = {name: each + sign * 1e-3 * way[name] * (part in name) for name, each in weights.items()}
            one.optimizer.load_weights(moved)
            losses.append(one.accumulate([batch])[0]["loss"])
        slope = sum((gradients[name] * way[name]).sum() for name in weights if part in name)
        assert slope == pytest.approx((losses[0] - losses[1]) / 2e-3, rel=2e-2, abs=2e-3), part
