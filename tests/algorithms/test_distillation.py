"""What a teacher adds to advantages and loss: by hand, and against TRL 1.16 (tests/peers/trl_distillation.json)."""

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from algorithms.three_completions import both_modes
from mindspore import Tensor, mutable, ops

from mindrlhf_lite.algorithms.distillation import Distillation, distil, reverse_kl
from mindrlhf_lite.algorithms.losses import ClipOptions, ppo

FIXTURE = json.loads((Path(__file__).parents[1] / "peers/trl_distillation.json").read_text())
NUMBERS = {name: np.array(values) for name, values in FIXTURE["numbers"].items()}
FORMS = ("advantage", "loss")


def test_values_by_hand():
    """log p of student, of the one that generated, of teacher: -1, -1.5, -3: e^0.5 * 2; the others have ratio 1."""
    divergence = both_modes(reverse_kl, [-1.0, -2.0, -0.5], [-1.5, -2.0, -0.5], [-3.0, -1.0, -0.5])
    np.testing.assert_allclose(divergence, [3.2974425, -1.0, 0.0], rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_added(form):
    def added(number):
        def of(logprobs, frozen, teacher):
            tokens = {"logprobs": logprobs, "frozen_logprobs": frozen, "teacher": teacher}
            tokens["advantages"] = ops.zeros_like(logprobs) + 0.25
            return distil(tokens, Distillation(0.5, form))[number]

        return both_modes(of, [-1.0, -2.0], [-1.5, -2.0], [-3.0, -1.0])

    # an advantage gains 0.5 * (teacher - the one that generated); a loss 0.5 * the divergence
    advantages, losses = ([-0.5, 0.75], [0, 0]) if form == "advantage" else ([0.25, 0.25], [1.6487213, -0.5])
    np.testing.assert_allclose(added(0), advantages, rtol=1e-6)
    np.testing.assert_allclose(added(1), losses, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(added(2), [3.2974425, -1.0], rtol=1e-6)


def of_logits(logits, tokens):
    """float64 [N], at the fixture's temperature; gradients flow through it."""
    scaled = logits / FIXTURE["temperature"]
    logprobs = scaled - ops.logsumexp(scaled, -1, True)
    return ops.gather_elements(logprobs, 1, Tensor(tokens[:, None], ms.int32)).reshape(-1)


@pytest.mark.parametrize(
    ("form", "case"), [("advantage", "on_policy"), ("loss", "on_policy"), ("advantage", "off_policy")]
)
def test_loss_of_drawn_tokens_is_that_of_trl(form, case):
    """TRL's -log p * sg(log teacher - log rollout); where the rollout is another policy's, ours has the ratio to it."""
    mask = NUMBERS["mask"]
    expected, tokens = FIXTURE["sampled"][case], NUMBERS["tokens"][mask]
    teacher = of_logits(Tensor(NUMBERS["teacher"][mask]), tokens)
    drawn = of_logits(Tensor(NUMBERS["drawn"][mask]), tokens)
    nothing = {"advantages": ops.zeros_like(teacher), "teacher": teacher}

    def total(logits, others):
        logprobs = of_logits(logits, tokens)
        current = ops.stop_gradient(logprobs)
        frozen = current if case == "on_policy" else drawn
        features = {"logprobs": logprobs, "frozen_logprobs": frozen, "teacher": others["teacher"]}
        features["advantages"] = others["advantages"]
        features["advantages"], added, _ = distil(features, Distillation(1.0, form))
        loss = ppo(features, ClipOptions(1.0, 1e9))[0] + added
        if case == "off_policy":  # TRL has no ratio to the rollout
            loss = loss / ops.exp(current - drawn)
        return loss.mean()

    logits = Tensor(NUMBERS["student"][mask])
    value, gradient = ms.value_and_grad(total)(logits, mutable(nothing))
    whole = np.array(expected["gradient"])
    assert not whole[~mask].any()
    np.testing.assert_allclose(gradient.asnumpy(), whole[mask], rtol=1e-6, atol=1e-9)
    rollout = of_logits(logits, tokens) if case == "on_policy" else drawn
    assert float(value) == pytest.approx(float((rollout - teacher).mean()), rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_the_mean_over_draws_is_the_divergence_of_the_whole_vocabulary(form):
    """Value and gradient, as GKD has them: of every token, as often as the student draws it."""
    student, teacher = (NUMBERS[name][0, 0] for name in ("student", "teacher"))
    every, expected = np.arange(len(student)), FIXTURE["whole"]
    drawn = ops.stop_gradient(ops.exp(of_logits(Tensor(np.tile(student, (len(every), 1))), every)))
    log_teacher = of_logits(Tensor(np.tile(teacher, (len(every), 1))), every)

    def mean(row):
        logprobs = of_logits(ops.tile(row[None], (len(every), 1)), every)
        frozen = ops.stop_gradient(logprobs)
        tokens = {"logprobs": logprobs, "frozen_logprobs": frozen, "teacher": log_teacher}
        tokens["advantages"] = ops.zeros_like(frozen)
        advantages, added, divergence = distil(tokens, Distillation(1.0, form))
        tokens["advantages"] = advantages
        return (drawn * (ppo(tokens, ClipOptions())[0] + added)).sum(), (drawn * divergence).sum()

    (value, divergence), gradient = ms.value_and_grad(mean, has_aux=True)(Tensor(student))
    np.testing.assert_allclose([float(value), float(divergence)], expected["loss"], rtol=1e-6)
    np.testing.assert_allclose(gradient.asnumpy(), expected["gradient"], rtol=1e-6, atol=1e-9)
