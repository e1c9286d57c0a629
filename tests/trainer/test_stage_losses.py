"""Losses of the runs on rows, and their gradients, are those of TRL 1.16 (tests/peers/trl_stages.py asked it)."""

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, mutable

from mindrlhf_lite.algorithms.preferences import PREFERENCES, PreferenceOptions, bradley_terry, log_sigmoid
from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.learner.supervised_loss import SupervisedLoss
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import parameter_specs
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.trainer.learning_rate import LearningRate
from mindrlhf_lite.trainer.supervised import SupervisedTrainer
from mindrlhf_lite.types import TrainSequence

FIXTURE = json.loads((Path(__file__).parents[1] / "peers/trl_stages.json").read_text())
GIVEN = FIXTURE["options"]
CASES = {
    "dpo": ("dpo", {}),
    "dpo_smoothed": ("dpo", {"label_smoothing": GIVEN["smoothing"]}),
    "ipo": ("ipo", {}),
    "simpo": ("simpo", {"simpo_margin": GIVEN["gamma"]}),
    "simpo_smoothed": ("simpo", {"simpo_margin": GIVEN["gamma"], "label_smoothing": GIVEN["smoothing"]}),
    "kto": ("kto", dict(zip(("desirable_weight", "undesirable_weight"), GIVEN["weights"], strict=True))),
}


def pairs():
    """What a loss is given: sums over tokens, in float64."""
    numbers = {name: np.array(values) for name, values in FIXTURE["numbers"].items()}
    sums = {"": numbers["logprobs"].sum(1), "reference_": numbers["reference"].sum(1)}
    found = {}
    for prefix, values in sums.items():
        found[f"{prefix}chosen"], found[f"{prefix}rejected"] = np.split(values, 2)
    found["chosen_tokens"], found["rejected_tokens"] = np.split(numbers["mask"].sum(1), 2)
    ratios = (numbers["kl_logprobs"] - numbers["kl_reference"]).sum(1)
    assert ratios.mean() > 0  # or the divergence would be clipped, and say nothing
    return found | {"divergence": ratios.mean()}


def test_every_case_is_compared():
    assert FIXTURE["pairs"].keys() == CASES.keys() and FIXTURE["versions"]["trl"].startswith("1.16")
    assert {name for name, _ in CASES.values()} == PREFERENCES.keys()


@pytest.mark.parametrize("case", CASES)
def test_pairs(case):
    name, changes = CASES[case]
    options, numbers = PreferenceOptions(beta=GIVEN["beta"], **changes), pairs()
    others = mutable({key: Tensor(values) for key, values in numbers.items() if key not in ("chosen", "rejected")})

    def total(chosen, rejected, others):
        given = {"chosen": chosen, "rejected": rejected}
        for key, values in others.items():
            given[key] = values
        return PREFERENCES[name](given, options)[0].mean()

    arguments = (Tensor(numbers["chosen"]), Tensor(numbers["rejected"]), others)
    loss, gradients = ms.value_and_grad(total, (0, 1))(*arguments)
    expected = FIXTURE["pairs"][case]
    assert float(loss.asnumpy()) == pytest.approx(expected["loss"], rel=1e-6)
    found = np.concatenate([each.asnumpy() for each in gradients])
    np.testing.assert_allclose(found, expected["gradient"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("case", FIXTURE["rewards"])
def test_rewards(case):
    chosen, rejected = map(Tensor, np.split(np.array(case["scores"]), 2))

    def total(chosen, rejected):
        return bradley_terry(chosen, rejected, Tensor(np.array(case["margins"])), case["center"]).mean()

    loss, gradients = ms.value_and_grad(total, (0, 1))(chosen, rejected)
    assert float(loss.asnumpy()) == pytest.approx(case["loss"], rel=1e-6)
    found = np.concatenate([each.asnumpy() for each in gradients])
    np.testing.assert_allclose(found, case["gradient"], rtol=1e-6, atol=1e-9)


def test_the_gradient_is_right_where_pairs_start():
    x = Tensor(np.array([0.0, -300.0, 300.0], np.float32))
    np.testing.assert_allclose(log_sigmoid(x).asnumpy(), [-np.log(2), -300, 0], rtol=1e-6, atol=1e-30)

    def total(x):
        return log_sigmoid(x).sum()

    np.testing.assert_allclose(ms.grad(total)(x).asnumpy(), [0.5, 1, 0], atol=1e-7)


def supervised_model():
    """As tests/peers/hf_scores.py makes it."""
    shape = ModelConfig(97, 32, 48, 2, 4, 2, 0, 1e-6, 10000.0, 64, False)
    rng, weights = np.random.default_rng(0), {}
    for spec in sorted(parameter_specs(shape), key=lambda spec: spec.name):
        values = rng.standard_normal(spec.shape).astype(np.float32)
        is_norm = "norm" in spec.name
        weights[spec.name] = 1 + 0.1 * values if is_norm else values * np.float32(1.2 / np.sqrt(spec.shape[-1]))
    model = Decoder(shape, weights, True, 64)
    return TrainedModel(model, SupervisedLoss(model), AdamW(model, AdamWOptions(max_grad_norm=0.0)))


def supervised_sequences():
    found = []
    for row in FIXTURE["supervised"]["rows"]:
        ids, counted = np.array(row["input_ids"], np.int32), np.array(row["completion_mask"], np.float32)
        start = int(counted.argmax())
        mask = counted[start:]
        found.append(TrainSequence(ids, start, np.zeros_like(mask), mask))
    return found


def test_supervised_loss_and_gradients():
    expected, trained = FIXTURE["supervised"], supervised_model()
    assert expected["transformers"] == pytest.approx(expected["loss"], rel=1e-6)
    seen = {}

    def keep(batches, lr):  # in the place of the update, which would zero them
        statistics, _ = trained.accumulate(batches)
        seen.update({name: each.asnumpy().copy() for name, each in trained.optimizer.accumulators.items()})
        return statistics, 0.0

    trainer = SupervisedTrainer(trained, StreamShapes(32, 32), LearningRate.constant(1.0), update=keep)
    loss = trainer.step(supervised_sequences()).statistics["loss"]  # in three micro-batches
    assert loss == pytest.approx(expected["loss"], rel=1e-6)
    assert seen.keys() == expected["gradients"].keys()
    for name, gradient in seen.items():
        random = np.random.default_rng(len(name)).standard_normal(gradient.shape)
        found = [np.linalg.norm(gradient), (gradient * random).sum()]
        np.testing.assert_allclose(found, expected["gradients"][name], rtol=1e-5, atol=1e-6, err_msg=name)
