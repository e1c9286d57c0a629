"""The policy that is trained is the one that is sampled: its logits are divided by the sampling temperature, as TRL,
verl and MindSpeed-RL have it.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from mindrlhf_lite.algorithms.aggregation import BatchTotals, sequence_mean
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.sections.generate import GenerateConfig, SamplingConfig
from mindrlhf_lite.config.sections.rl import RlConfig
from mindrlhf_lite.inference.model_folder import load_model_folder
from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.learner.policy_loss import Objective, PolicyLoss
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.scoring.batches import make_microbatch
from mindrlhf_lite.scoring.scorer import LogprobScorer
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.types import SamplingParams, TrainSequence

TESTS = Path(__file__).parents[1]
SAMPLED = json.loads((TESTS / "peers/trl_losses.json").read_text())["sampled"]  # tests/peers/trl_losses.py


@pytest.fixture(scope="module")
def trl_step():
    """(model folder, micro-batch) of the step that TRL made at SAMPLED["temperature"]."""
    folder = load_model_folder(str(TESTS.parent / "examples/quickstart/model"))
    sequences = [
        TrainSequence.of(np.array(prompt + completion, np.int32), len(prompt), advantage)
        for prompt, completion, advantage in zip(
            SAMPLED["prompts"], SAMPLED["completions"], SAMPLED["advantages"], strict=True
        )
    ]
    tokens = sum(each.num_counted for each in sequences)
    shapes, totals = StreamShapes(256, 32), BatchTotals(tokens, len(sequences), 8)
    return folder, make_microbatch(sequences, shapes, sequence_mean, totals)


def test_logprobs_are_trls(trl_step):
    folder, batch = trl_step
    model = Decoder(folder.config, folder.weights, False, 32)
    found = LogprobScorer(model, temperature=SAMPLED["temperature"]).score(batch)
    for own, expected in zip(found, SAMPLED["logprobs"], strict=True):
        np.testing.assert_allclose(own, expected, atol=2e-5)
    untempered = LogprobScorer(model).score(batch)
    assert np.abs(np.concatenate(untempered) - np.concatenate(SAMPLED["logprobs"])).max() > 0.1


def test_loss_gradient_and_entropy_are_trls(trl_step):
    folder, batch = trl_step
    model = Decoder(folder.config, folder.weights, True, 32)
    actor = TrainedModel(
        model,
        PolicyLoss(model, Objective(temperature=SAMPLED["temperature"])),
        AdamW(model, AdamWOptions(max_grad_norm=0.0)),
    )
    statistics, _ = actor.accumulate([batch])
    entropy = np.concatenate(SAMPLED["entropy"])
    assert statistics["entropy"] / len(entropy) == pytest.approx(entropy.mean(), rel=1e-4)
    # on-policy the ratio is 1: the loss is minus the mean advantage, and all is in the gradient
    assert statistics["loss"] == pytest.approx(SAMPLED["loss"], abs=1e-5)
    gradient = next(each for each in actor.optimizer.gradients if each.name.endswith("model.norm.weight")).asnumpy()
    expected = np.array(SAMPLED["final_norm_gradient"])
    np.testing.assert_allclose(gradient, expected, atol=1e-4 * np.abs(expected).max())
    assert actor.optimizer.step(0.0) == pytest.approx(SAMPLED["grad_norm"], rel=1e-4)


def config(temperature, logprob_temperature="sampling"):
    sampling = SamplingConfig(temperature=temperature)
    return Config(
        RlConfig(logprob_temperature=logprob_temperature), generate_config=GenerateConfig(sampling_config=sampling)
    )


def test_which_policy_is_trained():
    assert config(0.7).policy_temperature == 0.7
    assert config(0.7, "1").policy_temperature == 1.0
    assert config(0.0).policy_temperature == 1.0  # refused elsewhere


@pytest.mark.parametrize(
    ("sampling", "is_off"),
    [
        (SamplingParams(8, temperature=0.7, reports_tempered_policy=True), False),
        (SamplingParams(8, temperature=0.7), True),
        (SamplingParams(8, temperature=0.7, top_p=0.9, reports_tempered_policy=True), True),
        (SamplingParams(8), False),
    ],
)
def test_a_temperature_alone_is_no_reason_for_a_correction(sampling, is_off):
    assert sampling.is_off_policy == is_off
