"""Losses, gradients and advantages of this project equal those of TRL's own code, to 1e-6.

tests/peers/trl_losses.json holds what TRL 1.16 answered (tests/peers/trl_losses.py, run by hand in its environment).
"""

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, mutable

from mindrlhf_lite.algorithms.advantage import ADVANTAGES, GroupRewards
from mindrlhf_lite.algorithms.aggregation import AGGREGATIONS, BatchTotals
from mindrlhf_lite.algorithms.kl import kl_of_tokens
from mindrlhf_lite.algorithms.losses import LOSSES, options_of
from mindrlhf_lite.algorithms.ratios import importance_ratio
from mindrlhf_lite.config.sections.rl import RlConfig

FIXTURE = json.loads((Path(__file__).parents[1] / "peers/trl_losses.json").read_text())
# TRL's name -> (loss, aggregation) here
HERE = {
    "grpo": ("ppo", "sequence_mean"),
    "bnpo": ("ppo", "token_mean"),
    "dr_grpo": ("ppo", "constant"),
    "dapo": ("ppo", "token_mean"),
    "cispo": ("cispo", "token_mean"),
    "sapo": ("sapo", "sequence_mean"),
    "gspo": ("gspo", "sequence_mean"),
    "luspo": ("gspo", "sequence_sum"),
    "dual_clip": ("ppo", "sequence_mean"),
    "kl": ("ppo", "sequence_mean"),
    "kl_unbiased": ("ppo", "sequence_mean"),
    "importance_weights": ("ppo", "sequence_mean"),
}


def flat(values, mask):
    """The counted tokens of [sequences, longest], in float64."""
    return np.array(values, np.float64)[mask]


def test_every_case_is_compared():
    assert FIXTURE["results"].keys() == HERE.keys()
    assert FIXTURE["versions"]["trl"].startswith("1.16")


@pytest.mark.parametrize(("name", "scale"), [("grpo", "group"), ("grpo_batch_std", "batch"), ("dr_grpo", "none")])
def test_advantages(name, scale):
    """TRL adds 1e-4 to a standard deviation, this project 1e-6."""
    rewards = np.array(FIXTURE["rewards"]).reshape(-1, 4)
    found = ADVANTAGES[name]([GroupRewards(own, [np.zeros(1)] * 4, [np.ones(1)] * 4) for own in rewards])
    deviation = {"group": rewards.std(1, ddof=1, keepdims=True), "batch": rewards.std(ddof=1), "none": np.inf}[scale]
    expected = np.array(FIXTURE["advantages"][scale]).reshape(-1, 4)
    is_mixed = rewards.std(1) > 0  # in a group of equal rewards both are zero
    scaled = expected * (1 if scale == "none" else (deviation + 1e-4) / (deviation + 1e-6))
    np.testing.assert_allclose(np.array(found)[is_mixed, :, 0], scaled[is_mixed], rtol=1e-6, atol=1e-6)
    assert not np.array(found)[~is_mixed].any() and not expected[~is_mixed].any()


@pytest.mark.parametrize("case", HERE)
def test_loss_and_gradient(case):
    numbers, expected = FIXTURE["numbers"], FIXTURE["results"][case]
    changes = expected["changes"]
    mask = np.array(numbers["mask"], bool)
    lengths = mask.sum(1)
    name, aggregation = HERE[case]
    totals = BatchTotals(int(lengths.sum()), len(lengths), FIXTURE["max_tokens"])
    per_sequence = [AGGREGATIONS[aggregation](int(length), totals) for length in lengths]
    tokens = {
        "frozen_logprobs": flat(numbers["old"], mask),
        "advantages": np.repeat(numbers["advantages"], lengths),
        "mask": np.ones(lengths.sum()),
        "inverse_lengths": np.repeat(1 / lengths, lengths),
        "reference": flat(numbers["reference"], mask),
        "corrections": flat(numbers["weights"], mask) if changes.get("use_vllm") else np.ones(lengths.sum()),
        "weight": np.repeat(per_sequence, lengths),
    }
    given = mutable(
        {
            **{key: Tensor(values) for key, values in tokens.items()},
            "sequences": Tensor(np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)),
        }
    )
    # TRL has no lower bound for CISPO
    low = 1.0 if name == "cispo" else FIXTURE["epsilon_low"]
    settings = RlConfig(epsilon_low=low, epsilon_high=FIXTURE["epsilon_high"], dual_clip=changes.get("delta", 0.0))
    options = options_of(name, settings)
    loss_of, beta, is_unbiased = LOSSES[name], changes.get("beta", 0.0), changes.get("use_bias_correction_kl", False)

    def total(logprobs, others):
        features = {"logprobs": logprobs}
        for key, values in others.items():
            features[key] = values
        loss = loss_of(features, options)[0] * others["corrections"]
        if beta > 0:
            kl = kl_of_tokens(logprobs, others["reference"], "k3")
            if is_unbiased:
                kl = kl * importance_ratio(logprobs, others["frozen_logprobs"])
            loss = loss + beta * kl
        return (loss * others["weight"]).sum()

    logprobs = Tensor(flat(numbers["logprobs"], mask))
    assert float(total(logprobs, given).asnumpy()) == pytest.approx(expected["loss"], rel=1e-6)
    found = ms.grad(total)(logprobs, given).asnumpy()
    np.testing.assert_allclose(found, flat(expected["gradient"], mask), rtol=1e-6, atol=1e-9)
