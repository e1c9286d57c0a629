"""Float32 masters below low-precision weights, and dynamic loss scaling."""

import math
from contextlib import contextmanager

import numpy as np
import pytest
from helpers import TINY, random_weights
from mindspore import Tensor, ops

from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.learner.loss_scale import LossScale
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.precision import FLOAT32, Precision

DTYPES = ["bfloat16", "float16"]


def optimizer_of(precision, loss_scale=None):
    weights = random_weights(TINY)
    optimizer = AdamW(Decoder(TINY, weights, True, 16, precision=precision), AdamWOptions(), loss_scale=loss_scale)
    optimizer.load_weights(weights)
    return optimizer


def set_gradients(optimizer, factor=1.0):
    rng = np.random.default_rng(5)
    for gradient in optimizer.gradients:
        values = rng.standard_normal(gradient.shape).astype(np.float32)
        ops.assign(gradient, Tensor(values * np.float32(factor)))


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.full)])
def test_updates_smaller_than_a_rounding_add_up(dtype):
    """Fifty updates of 1e-5 move weights of 1.0, whose neighbours in either type are 1e-3 away at least."""
    exact, low = optimizer_of(FLOAT32), optimizer_of(Precision.here(dtype))
    for optimizer in (exact, low):
        for _ in range(50):
            set_gradients(optimizer)
            optimizer.step(1e-5)
    expected, masters = exact.master_weights(), low.master_weights()
    for weight in low.weights:
        np.testing.assert_array_equal(masters[weight.name], expected[weight.name])
        stored = Precision.here(dtype).rounded(expected[weight.name])
        np.testing.assert_array_equal(weight.asnumpy(), stored)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert np.abs(expected[name] - random_weights(TINY)[name]).max() > 3e-4


def test_a_model_that_stores_float32_has_no_masters():
    for precision in (FLOAT32, Precision.here("float16", "float32")):
        optimizer = optimizer_of(precision)
        assert len(optimizer.parameters) == 2 * len(optimizer.weights)
    assert len(optimizer_of(Precision.here("float16")).parameters) == 3 * len(optimizer.weights)


def test_a_scaled_loss_gives_the_same_update():
    plain, scaled = optimizer_of(FLOAT32), optimizer_of(FLOAT32, LossScale(1024.0, 2.0, 100))
    set_gradients(plain)
    set_gradients(scaled, 1024.0)
    assert plain.step(1e-3) == scaled.step(1e-3)  # powers of two: exact
    for ours, theirs in zip(plain.weights, scaled.weights):
        np.testing.assert_array_equal(ours.asnumpy(), theirs.asnumpy())


def test_an_overflow_leaves_the_update_out_and_lowers_the_scale():
    optimizer = optimizer_of(Precision.here("float16"), LossScale(8.0, 2.0, 3))
    before, moments = optimizer.master_weights(), optimizer.state()
    before, moments = ({k: v.copy() for k, v in d.items()} for d in (before, moments))
    set_gradients(optimizer)
    ops.assign(optimizer.gradients[0], Tensor(np.full(optimizer.gradients[0].shape, np.inf, np.float32)))
    assert optimizer.step(1e-3) == math.inf
    assert (optimizer.loss_scale.value, optimizer.loss_scale.overflows, optimizer.updates_done) == (4.0, 1, 0)
    for name, values in optimizer.master_weights().items():
        np.testing.assert_array_equal(values, before[name])
    for name, values in optimizer.state().items():
        np.testing.assert_array_equal(values, moments[name])
    assert all(not gradient.asnumpy().any() for gradient in optimizer.gradients)
    for _ in range(3):
        set_gradients(optimizer, 4.0)
        assert math.isfinite(optimizer.step(1e-3))
    assert optimizer.loss_scale.value == 8.0 and optimizer.updates_done == 3


def test_the_scale_survives_a_checkpoint_and_does_not_sink_for_ever():
    scale = LossScale(4.0, 2.0, 1000)
    scale.went_well()
    other = LossScale(65536.0, 2.0, 1000)
    other.restore(scale.state())
    assert other == scale
    other.restore({})  # of a checkpoint without one
    assert other.value == 4.0
    other.overflowed()
    other.overflowed()
    with pytest.raises(FloatingPointError, match="loss scale of 1 too"):
        other.overflowed()


def test_without_a_scale_an_overflow_is_an_error():
    optimizer = optimizer_of(FLOAT32)
    ops.assign(optimizer.gradients[0], Tensor(np.full(optimizer.gradients[0].shape, np.inf, np.float32)))
    with pytest.raises(FloatingPointError, match="gradient norm is inf"):
        optimizer.step(1e-3)


def test_parts_give_the_same_bits():
    """Parts of a few kilobytes, one parameter each where that is larger, opened one after the other."""
    weights, opened = random_weights(TINY), []

    @contextmanager
    def around(part):
        opened.append(part)
        yield

    whole = optimizer_of(Precision.here("float16"))
    model = Decoder(TINY, weights, True, 16, precision=Precision.here("float16"))
    parts = AdamW(model, AdamWOptions(), part_bytes=20_000)
    assert len(parts.parts) > 3 and [i for part in parts.parts for i in part] == list(range(len(parts.weights)))
    for number in range(len(parts.parts)):
        parts.load_weights(weights, number)
    for _ in range(2):
        for optimizer in (whole, parts):
            set_gradients(optimizer)
        assert whole.step(1e-3) == parts.step(1e-3, around)
    assert opened == 2 * list(range(len(parts.parts)))
    for number in range(len(parts.parts)):
        for name, values in parts.master_weights(number).items():
            np.testing.assert_array_equal(values, whole.master_weights()[name])
