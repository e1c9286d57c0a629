"""The operators of whole blocks against numpy in float64: a decoding step's, and a training layer's with gradients."""

import numpy as np
import pytest
from native import float64_layer
from native.called import F, needs_compiler, normal, outputs_of, slope

pytestmark = needs_compiler
NONE = np.zeros(1, F)  # in the place of an adapter, and of a sum
EPS, SHAPES = 1e-5, [(40, 4, 2, 32), (23, 3, 1, 8), (576, 6, 2, 64), (56, 2, 2, 24)]


def block_weights(width, heads, pairs, size, extra):
    weights = {"norm": 1 + 0.1 * normal(width), "o": normal(width, heads * size) / 8}
    for name, count in zip("qkv", (heads, pairs, pairs)):
        weights[name] = normal(count * size, width, seed=ord(name)) / width**0.5
        if extra == "biases":
            weights[name + "_bias"] = normal(count * size, seed=ord(name))
        elif extra == "norms" and name != "v":
            weights[name + "_norm"] = 1 + 0.1 * normal(size, seed=ord(name))
    return weights


def listed(weights, *names):
    return [weights.get(name, np.zeros(1, F)) for name in names]


def tables(count, size):
    angle = np.random.default_rng(1).uniform(0, 6, (count, size // 2))
    return [np.tile(f(angle), 2).astype(F) for f in (np.cos, np.sin)]


def columns(library, rows):
    slots = -(-len(rows) // 16) * 16
    return outputs_of(library, "columns", (rows,), [(rows.shape[1], slots)])[0]


def rows_of(column_array, count):
    """Of panels of at most 64 slots."""
    features, slots = column_array.shape
    flat, found = column_array.reshape(-1), []
    for first in range(0, slots, 64):
        width = min(64, slots - first)
        found.append(flat[first * features : (first + width) * features].reshape(features, width).T)
    return np.concatenate(found)[:count]


@pytest.mark.parametrize("count", [1, 16, 70])
@pytest.mark.parametrize("width", [16, 23, 80])
def test_columns_are_rows_turned(library, count, width):
    rows = normal(count, width)
    assert np.array_equal(rows_of(columns(library, rows), count), rows)


@pytest.mark.parametrize("extra", ["biases", "norms", "neither"])
@pytest.mark.parametrize(("width", "heads", "pairs", "size"), SHAPES)
def test_attention_step(library, width, heads, pairs, size, extra):
    slots, length, scale = 70, 40, size**-0.5
    x, weights, (cos, sin) = normal(slots, width), block_weights(width, heads, pairs, size, extra), tables(slots, size)
    positions = np.random.default_rng(2).integers(0, length, slots).astype(np.int32)
    caches = [normal(slots * pairs * length, size, seed=n) for n in (20, 21)]
    q, k, v = float64_layer.queries_keys_values(x.astype(np.float64), weights, cos, sin, EPS, scale)
    written = [cache.astype(np.float64).reshape(slots, pairs, length, size) for cache in caches]
    attended = np.zeros((slots, heads, size))
    for b, position in enumerate(positions):
        written[0][b, :, position], written[1][b, :, position] = k[b], v[b]
        for h in range(heads):
            keys, values = (cache[b, h // (heads // pairs), : position + 1] for cache in written)
            shares = np.exp(keys @ q[b, h] - (keys @ q[b, h]).max())
            attended[b, h] = shares / shares.sum() @ values
    added = attended.reshape(slots, -1) @ weights["o"].astype(np.float64).T
    own = listed(weights, "norm", *"qkvo", "q_bias", "k_bias", "v_bias", "q_norm", "k_norm")

    def step(chosen, threads, adds_stream):
        used = [cache.reshape(slots, -1)[chosen].reshape(-1, size).copy() for cache in caches]
        numbers = np.array([EPS, scale, adds_stream, 0], F)
        streams = [columns(library, each[chosen].copy()) for each in (x, cos, sin)]
        inputs = (streams[0], *own, *streams[1:], positions[chosen], *used, numbers, *[NONE] * 8)
        (out,) = outputs_of(library, "attention_step", inputs, [streams[0].shape], threads=threads)
        return rows_of(out, len(chosen)), used

    everyone = np.arange(slots)
    for adds_stream in (0, 1):
        out, used = step(everyone, 1, adds_stream)
        np.testing.assert_allclose(out, added + adds_stream * x, atol=3e-5 * np.abs(added).max())
        for cache, wanted in zip(used, written):
            np.testing.assert_allclose(cache.reshape(wanted.shape), wanted, atol=2e-5 * np.abs(wanted).max())
    assert np.array_equal(out, step(everyone, 3, 1)[0])
    some = np.array([69, 3, 11])  # neither company nor place changes a bit
    assert np.array_equal(out[some], step(some, 2, 1)[0])


@pytest.mark.parametrize(("heads", "pairs", "size"), [(4, 2, 32), (3, 1, 8), (2, 2, 24)])
def test_attention_behind_what_slots_hold(library, heads, pairs, size):
    """Two chunks of different slots, of five and two tokens, and padding."""
    slots, length = 3, 20
    of_tokens = np.array([2] * 5 + [0] * 2 + [1], np.int32)
    positions = np.array([7, 8, 9, 10, 11, 0, 1, -1], np.int32)
    q, k, v = (normal(8, count * size, seed=seed) for count, seed in ((heads, 1), (pairs, 2), (pairs, 3)))
    caches = [normal(slots * pairs * length, size, seed=n) for n in (20, 21)]
    written = [cache.reshape(slots, pairs, length, size).astype(np.float64) for cache in caches]
    for cache, new in zip(written, (k, v)):
        for row in range(7):
            cache[of_tokens[row], :, positions[row]] = new[row].reshape(pairs, size)
    expected = np.zeros((8, heads, size))
    for row in range(7):
        for h in range(heads):
            keys, values = (cache[of_tokens[row], h // (heads // pairs), : positions[row] + 1] for cache in written)
            scores = keys @ q[row].astype(np.float64).reshape(heads, size)[h]
            shares = np.exp(scores - scores.max())
            expected[row, h] = shares / shares.sum() @ values
    found = []
    for threads in (1, 3):
        used = [cache.copy() for cache in caches]
        inputs = (q, k, v, of_tokens, positions, *used, np.array([length], F))
        found.append(outputs_of(library, "attention_behind", inputs, [q.shape], threads=threads)[0])
        np.testing.assert_allclose(found[-1].reshape(expected.shape), expected, atol=1e-5)
        for cache, wanted in zip(used, written):
            np.testing.assert_array_equal(cache.reshape(wanted.shape), wanted.astype(F))
    assert np.array_equal(*found)


@pytest.mark.parametrize(("width", "inner"), [(40, 50), (64, 176), (23, 7)])
def test_mlp_and_head_steps(library, width, inner):
    slots, vocabulary = 70, 101
    x, weights = normal(slots, width), {"norm": 1 + 0.1 * normal(width)}
    for name, shape in (("gate", (inner, width)), ("up", (inner, width)), ("down", (width, inner))):
        weights[name] = normal(*shape, seed=ord(name[0])) / width**0.5
    head = normal(vocabulary, width)
    expected = float64_layer.mlp(x.astype(np.float64), weights, EPS)
    logits = float64_layer.norm(x.astype(np.float64), weights["norm"], EPS) @ head.T
    found = []
    for chosen, threads in ((np.arange(slots), 1), (np.arange(slots), 3), (np.array([66, 1]), 2)):
        stream, own = columns(library, x[chosen].copy()), listed(weights, "norm", "gate", "up", "down")
        for adds_stream in (0, 1):
            inputs = (stream, *own, np.array([EPS, adds_stream, 0], F), *[NONE] * 6)
            (out,) = outputs_of(library, "mlp_step", inputs, [stream.shape], threads=threads)
            wanted = expected[chosen] - (1 - adds_stream) * x[chosen]
            np.testing.assert_allclose(rows_of(out, len(chosen)), wanted, atol=3e-5 * np.abs(expected).max())
        inputs = (stream, weights["norm"], head, np.full(1, EPS, F), np.zeros(len(chosen), F))
        (drawn,) = outputs_of(library, "head_step", inputs, [(len(chosen), vocabulary)], threads=threads)
        np.testing.assert_allclose(drawn, logits[chosen], atol=2e-5 * np.abs(logits).max())
        found.append((rows_of(out, len(chosen)), drawn))
    for one, three, two in zip(*found):
        assert np.array_equal(one, three) and np.array_equal(one[[66, 1]], two)


def gradients_agree(function, arrays, gradients):
    """Slopes of a scalar function of named float64 arrays along random directions."""
    for name, gradient in gradients.items():
        direction = normal(*gradient.shape, seed=5).astype(np.float64)
        wanted = slope(lambda y, name=name: function({**arrays, name: y}), arrays[name].astype(np.float64), direction)
        assert (gradient.astype(np.float64) * direction).sum() == pytest.approx(wanted, rel=2e-3, abs=2e-2), name


@pytest.mark.parametrize("extra", ["biases", "norms", "neither"])
@pytest.mark.parametrize(("width", "heads", "pairs", "size"), SHAPES)
def test_attention_of_a_layer(library, width, heads, pairs, size, extra):
    tokens, scale = 70, size**-0.5
    x, weights, (cos, sin) = (
        normal(tokens, width),
        block_weights(width, heads, pairs, size, extra),
        tables(tokens, size),
    )
    numbers, none = np.array([EPS, scale, 0], F), NONE
    has_norms = extra == "norms"
    sizes = [(tokens, n * size) for n in (heads, pairs, pairs)]
    forward = (x, *listed(weights, "norm", *"qkv", "q_bias", "k_bias", "v_bias", "q_norm", "k_norm"), cos, sin, numbers)
    found = outputs_of(library, "attention_in", (*forward, *[none] * 6), sizes + sizes[:2] * has_norms)
    expected = float64_layer.queries_keys_values(x.astype(np.float64), weights, cos, sin, EPS, scale)
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours, theirs.reshape(tokens, -1), atol=2e-5 * np.abs(theirs).max())
    outer, elsewhere = [normal(*shape, seed=7) for shape in sizes], normal(tokens, width, seed=8)

    def value(arrays):
        parts = float64_layer.queries_keys_values(arrays["x"], arrays, cos, sin, EPS, scale)
        products = sum((part.reshape(tokens, -1) * each).sum() for part, each in zip(parts, outer))
        return products + (arrays["x"] * elsewhere).sum()

    names = ["norm", *"qkv", "q_bias", "k_bias", "v_bias", "q_norm", "k_norm"]
    sums = {name: np.ones_like(weights[name]) for name in names if name in weights}
    given = [sums.get(name, none) for name in names]
    backward = (*forward[:5], *forward[8:], *(found[3:] or (none, none)), *outer, elsewhere, *given, *[none] * 12)
    (dx,) = outputs_of(library, "attention_in_gradient", backward, [x.shape])
    gradients_agree(value, {**weights, "x": x}, {"x": dx, **{name: each - 1 for name, each in sums.items()}})
    out = outputs_of(library, "attention_out", (outer[0], weights["o"], x, none, none, none), [x.shape])[0]
    np.testing.assert_allclose(out, x + outer[0] @ weights["o"].T, atol=1e-4)
    total = np.ones_like(weights["o"])
    inputs = (elsewhere, outer[0], weights["o"], total, *[none] * 5)
    (dattended,) = outputs_of(library, "attention_out_gradient", inputs, [sizes[0]])
    np.testing.assert_allclose(dattended, elsewhere @ weights["o"], atol=1e-4)
    np.testing.assert_allclose(total - 1, elsewhere.T @ outer[0], atol=1e-4)
    assert np.array_equal(none, np.zeros(1, F))  # what is not trained has no sum


@pytest.mark.parametrize(("width", "inner"), [(40, 50), (64, 176), (23, 7)])
def test_mlp_of_a_layer(library, width, inner):
    tokens = 70
    x, weights, dout = normal(tokens, width), {"norm": 1 + 0.1 * normal(width)}, normal(tokens, width, seed=9)
    for name, shape in (("gate", (inner, width)), ("up", (inner, width)), ("down", (width, inner))):
        weights[name] = normal(*shape, seed=ord(name[0])) / width**0.5
    numbers, shapes = np.array([EPS, 0], F), [(tokens, inner)] * 2
    inputs = (x, *listed(weights, "norm", "gate", "up"), numbers, *[NONE] * 4)
    gate, up = outputs_of(library, "mlp_in", inputs, shapes)
    out = outputs_of(library, "mlp_out", (gate, up, weights["down"], x, NONE, NONE, numbers), [x.shape])[0]
    expected = float64_layer.mlp(x.astype(np.float64), weights, EPS)
    np.testing.assert_allclose(out, expected, atol=2e-5 * np.abs(expected).max())
    sums = {name: np.ones_like(each) for name, each in weights.items()}
    inputs = (x, *listed(weights, "norm", "gate", "up", "down"), numbers, gate, up, dout, *sums.values())
    inputs = (*inputs, *[NONE] * 12)
    (dx,) = outputs_of(library, "mlp_gradient", inputs, [x.shape])
    gradients = {"x": dx, **{name: each - 1 for name, each in sums.items()}}
    gradients_agree(lambda a: (float64_layer.mlp(a["x"], a, EPS) * dout).sum(), {**weights, "x": x}, gradients)
