"""Adapters on a pretrained model, SmolLM2-135M-Instruct: logprobs, loss and gradients are peft's."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from adapters.test_adapted_models import FORMS, LINEARS, precision_of
from peers.peft_smollm2 import ALPHA, RANK, adapters_of, summary_of

from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.learner.supervised_loss import SupervisedLoss
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.hf_weights import load_weights
from mindrlhf_lite.scoring.batches import make_microbatch
from mindrlhf_lite.shapes.adapters import Adapters, is_adapter
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import parameter_specs
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.types import TrainSequence

PEFT = json.loads((Path(__file__).parents[1] / "peers/peft_smollm2.json").read_text(encoding="utf-8"))
pytestmark = pytest.mark.full


@pytest.mark.parametrize("form", FORMS)
def test_logprobs_loss_and_gradients_are_peft_s(smollm2, form):
    base = ModelConfig.from_dir(smollm2)
    config = replace(base, adapters=Adapters(RANK, ALPHA, LINEARS))
    own = adapters_of({spec.name: spec.shape for spec in parameter_specs(config) if is_adapter(spec.name)})
    model = Decoder(config, load_weights(smollm2, base) | own, True, 128, precision=precision_of(form))
    trained = TrainedModel(model, SupervisedLoss(model), AdamW(model, AdamWOptions()))
    ids = np.array(PEFT["ids"], np.int32)
    batch = make_microbatch(
        [TrainSequence.of(ids, 1)], StreamShapes(128, 128), token_mean, BatchTotals(len(ids) - 1, 1, len(ids) - 1)
    )
    statistics, logprobs = trained.accumulate([batch])
    assert statistics["loss"] == pytest.approx(PEFT["loss"], rel=1e-5)
    np.testing.assert_allclose(logprobs[0][0], PEFT["logprobs"], atol=1e-4)
    found = summary_of({name: each.asnumpy() for name, each in trained.optimizer.accumulators.items()})
    assert found.keys() == PEFT["gradients"].keys() and len(found) == 2 * 7 * base.num_hidden_layers
    worst = max(
        np.abs(np.array(found[name]) - expected).max() / expected[0] for name, expected in PEFT["gradients"].items()
    )
    print(f"{form}: gradients differ by {worst:.1e} of their norms at most")
    assert worst < 5e-4  # peft in float32 differs from peft in float64 by 5.0e-4
