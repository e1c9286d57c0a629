"""Every C++ operator against numpy, on shapes that nothing divides, for every kind of processor that this one can be;
and the same bits whatever the number of threads.
"""

import os
import shutil
import subprocess
import sys

import mindspore  # noqa: F401  # its oneDNN
import numpy as np
import pytest
from native.called import ISAS, F, needs_compiler, normal, outputs_of, slope

from mindrlhf_lite.models.native_attention import spans_of
from mindrlhf_lite.native import build
from mindrlhf_lite.native.library import ISA_VARIABLE

pytestmark = needs_compiler


def check(library, name, inputs, expected, types=None, tolerance=2e-5, is_large=False):
    """With one thread near numpy's, and with three the same bits, but for large products, whose sums oneDNN divides."""
    shapes = [np.shape(each) for each in expected]
    found = outputs_of(library, name, [x.copy() for x in inputs], shapes, types)
    for ours, theirs in zip(found, expected, strict=True):
        scale = max(1e-3, float(np.abs(theirs).max(initial=0)))
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale, err_msg=name)
    again = outputs_of(library, name, [x.copy() for x in inputs], shapes, types, threads=3)
    for ours, theirs in zip(found, again, strict=True):
        assert is_large or np.array_equal(ours, theirs), name
    return found


@pytest.mark.parametrize("tokens", [1, 37, 200])
def test_products(library, tokens):
    x, weight, dy = normal(tokens, 23), normal(31, 23), normal(tokens, 31)
    check(library, "product", (x, weight), [x @ weight.T])
    check(library, "product_input_gradient", (dy, weight), [dy @ weight])
    check(library, "product_weight_gradient", (dy, x), [dy.T @ x])


@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_of_a_product_does_not_depend_on_the_others(library, threads):
    """oneDNN's own on AVX2 do: what is left of tiles of six rows is added up in another order."""
    x, weight = normal(300, 64), normal(48, 64)
    whole = outputs_of(library, "product", [x, weight], [(300, 48)], threads=threads)[0]
    for tokens in (*range(1, 20), 96, 128, 147, 148, 160, 175, 256):
        found = outputs_of(library, "product", [x[:tokens].copy(), weight], [(tokens, 48)], threads=threads)[0]
        assert np.array_equal(found, whole[:tokens]), tokens


@pytest.mark.parametrize("width", [16, 23, 576])
def test_norm(library, width):
    x, weight, dy, eps = normal(150, width), 1 + 0.1 * normal(width), normal(150, width, seed=1), np.full(1, 1e-5, F)

    def norm(values, gains):
        return values / np.sqrt((values * values).mean(1, keepdims=True) + 1e-5) * gains

    check(library, "rms_norm", (x, weight, eps), [norm(x, weight)])
    scale = 1 / np.sqrt((x * x).mean(1, keepdims=True) + 1e-5)
    along = (dy * weight * x).sum(1, keepdims=True)
    dx = dy * weight * scale - x * scale**3 * along / width
    found = check(library, "rms_norm_gradient", (x, weight, eps, dy), [dx, (dy * x * scale).sum(0)])
    direction = normal(150, width, seed=2).astype(np.float64)
    wanted = slope(lambda v: (norm(v, weight.astype(np.float64)) * dy).sum(), x.astype(np.float64), direction)
    assert (found[0] * direction).sum() == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("head", [8, 32, 80])
def test_rotary(library, head):
    x, angle = normal(29, 3 * head), normal(29, head // 2)
    cos, sin = (np.tile(f(angle), 2).astype(F) for f in (np.cos, np.sin))
    heads = x.reshape(29, 3, head)
    half = np.concatenate([-heads[..., head // 2 :], heads[..., : head // 2]], -1)
    turned = (heads * cos[:, None] + half * sin[:, None]).reshape(29, -1)
    check(library, "rotary", (x, cos, sin, np.ones(1, F)), [turned])
    check(library, "rotary", (turned, cos, sin, -np.ones(1, F)), [x])


def test_gate(library):
    gate, up, dy = 4 * normal(19, 21), normal(19, 21, seed=1), normal(19, 21, seed=2)
    gate[0, :4] = (-200, -90, 90, 200)
    share = 1 / (1 + np.exp(-gate.astype(np.float64)))
    check(library, "gated", (gate, up), [gate * share * up])
    check(library, "gated_gradient", (gate, up, dy), [dy * up * share * (1 + gate * (1 - share)), dy * gate * share])


# a prompt with completions, one without a prompt of its own, padding, and a stretch longer than a tile
SEGMENTS = np.array([0] * 21 + [1] * 50 + [2] * 7 + [3] * 5 + [4] * 3 + [-1] * 6, np.int32)
PROMPTS = np.array([0] * 21 + [0] * 50 + [0] * 7 + [3] * 5 + [3] * 3 + [-1] * 6, np.int32)


def seen_keys():
    """[T, T]: which keys each token may see."""
    tokens = np.arange(len(SEGMENTS))
    own = (SEGMENTS[:, None] == SEGMENTS) | (PROMPTS[:, None] == SEGMENTS)
    return own & (tokens[:, None] >= tokens) & (SEGMENTS[:, None] >= 0)


def attention(q, k, v, size):
    """In float64; what no key is seen of is 0."""
    tokens, heads, pairs = len(q), q.shape[1] // size, k.shape[1] // size
    q, k, v = (x.astype(np.float64).reshape(tokens, -1, size).transpose(1, 0, 2) for x in (q, k, v))
    k, v = (np.repeat(x, heads // pairs, 0) for x in (k, v))
    scores = np.where(seen_keys(), q @ k.transpose(0, 2, 1), -np.inf)
    log_sums = np.logaddexp.reduce(scores, -1)
    shares = np.where(np.isfinite(log_sums)[..., None], np.exp(scores - np.nan_to_num(log_sums)[..., None]), 0)
    return (shares @ v).transpose(1, 0, 2).reshape(tokens, -1), np.where(np.isfinite(log_sums), log_sums, 0).T.copy()


@pytest.mark.parametrize(("heads", "pairs", "size"), [(4, 2, 32), (3, 1, 8), (2, 2, 80)])
def test_packed_attention(library, heads, pairs, size):
    tokens, spans = len(SEGMENTS), spans_of(SEGMENTS, PROMPTS)
    seen = seen_keys()
    for t, (first, end, own, last) in enumerate(spans):
        assert [*range(first, end), *range(own, last)] == np.flatnonzero(seen[t]).tolist()
    q, k, v = (normal(tokens, n * size, seed=n) / size**0.25 for n in (heads, pairs, pairs + 7))
    v = v[:, : pairs * size].copy()
    head, dout = np.zeros(size, F), normal(tokens, heads * size, seed=9)
    out, log_sums = attention(q, k, v, size)
    check(library, "packed_attention", (q, k, v, spans, head), [out, log_sums])
    inputs = (q, k, v, spans, head, out.astype(F), log_sums.astype(F), dout)
    shapes = [q.shape, k.shape, v.shape]
    found = outputs_of(library, "packed_attention_gradient", inputs, shapes)
    for place, gradient in enumerate(found):
        direction = normal(*gradient.shape, seed=place)

        def value(x, place=place):
            return (attention(*(x if n == place else (q, k, v)[n] for n in range(3)), size)[0] * dout).sum()

        wanted = slope(value, (q, k, v)[place].astype(np.float64), direction.astype(np.float64))
        assert (gradient.astype(np.float64) * direction).sum() == pytest.approx(wanted, rel=2e-3, abs=1e-3)
    for ours, theirs in zip(found, outputs_of(library, "packed_attention_gradient", inputs, shapes, threads=3)):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("count", [5, 300, 1000])
def test_drawn_tokens_follow_the_inverse_cdf(library, count):
    rows = 64
    logits, uniform = 3 * normal(rows, count), np.random.default_rng(1).random(rows).astype(F)
    uniform[:3] = (0, 1 - 2**-24, 1)
    forbids, bias = (np.arange(rows) % 3 == 0).astype(F), np.zeros(count, F)
    bias[[1, 3]] = -1e9
    for temperature, is_policy in ((1.0, 0), (0.5, 0), (0.5, 1)):
        numbers = np.array([1 / temperature, 0, is_policy], F)
        allowed = logits.astype(np.float64) / temperature + forbids[:, None] * bias
        shares = np.exp(allowed - allowed.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        types = [np.int32, F, F]
        inputs = (logits, uniform, forbids, bias, numbers)
        token, logprob, policy = outputs_of(library, "draw", inputs, [(rows,)] * 3, types, threads=2)
        sums = shares.cumsum(1)
        at = np.arange(rows)
        assert (shares[at, token] > 0).all()
        before, after = sums[at, token] - shares[at, token], sums[at, token]
        assert (before <= uniform + 1e-6).all() and (after >= np.minimum(uniform, 1 - 2**-23) - 1e-6).all()
        np.testing.assert_allclose(logprob, np.log(shares[at, token]), atol=2e-5)
        own = logits.astype(np.float64) / (temperature if is_policy else 1)
        np.testing.assert_allclose(policy, own[at, token] - np.logaddexp.reduce(own, 1), atol=2e-5)
    greedy = outputs_of(library, "draw", (*inputs[:4], np.array([1, 1, 0], F)), [(rows,)] * 3, types)[0]
    assert np.array_equal(greedy, (logits + forbids[:, None] * bias).argmax(1))


def test_broken_logits_give_no_finite_logprob(library):
    logits = normal(2, 50)
    logits[0, 7], logits[1, 9] = np.nan, np.inf
    inputs = (logits, np.full(2, 0.5, F), np.zeros(2, F), np.zeros(50, F), np.array([1, 0, 0], F))
    assert not np.isfinite(outputs_of(library, "draw", inputs, [(2,)] * 3, [np.int32, F, F])[2]).any()


@pytest.mark.parametrize(("tokens", "vocabulary", "padding"), [(30, 101, 0), (7, 40, 3), (40, 1 << 19, 0)])
def test_head(library, tokens, vocabulary, padding):
    width, inverse, real = 9, 1.25, vocabulary - padding
    hidden, weight = normal(tokens, width), normal(vocabulary, width)
    labels = np.random.default_rng(0).integers(0, real, tokens).astype(np.int32)
    labels[0] = -4  # of another rank
    numbers = np.array([inverse, real], F)
    logits = hidden.astype(np.float64) @ weight.T.astype(np.float64)[:, :real] * inverse
    most, at = logits.max(1), np.arange(tokens)
    shifted = logits - most[:, None]
    total = np.exp(shifted).sum(1)
    chosen = np.where(labels >= 0, shifted[at, labels], 0)
    sums = [most, total, (np.exp(shifted) * shifted).sum(1), chosen]
    check(library, "token_sums", (hidden, weight, labels, numbers), sums)
    log_sum, entropy = most + np.log(total), np.log(total) - sums[2] / total
    for dentropy in (np.zeros(tokens), normal(tokens, seed=4)):
        dlogprob, p = normal(tokens, seed=3).astype(np.float64), np.exp(logits - log_sum[:, None])
        dlogits = -p * (dlogprob[:, None] + (logits - log_sum[:, None] + entropy[:, None]) * dentropy[:, None])
        dlogits[at[1:], labels[1:]] += dlogprob[1:]
        dweight = np.zeros((vocabulary, width))
        dweight[:real] = inverse * dlogits.T @ hidden
        given = [x.astype(F) for x in (log_sum, entropy, dlogprob, dentropy)]
        expected = [inverse * dlogits @ weight[:real], dweight]
        inputs = (hidden, weight, labels, numbers, *given)
        check(library, "token_sums_gradient", inputs, expected, tolerance=2e-4, is_large=vocabulary > 1000)


def test_optimizer(library):
    shapes = ((40, 30), (17,), (300, 200))
    state = [[normal(*shape, seed=n) for n in range(4)] for shape in shapes]
    for each in state:
        each[2] = np.abs(each[2])
    state[2][3] = normal(900, 200, seed=5)  # three data ranks have rows of it, and this is the second
    square = sum((each[3].astype(np.float64) ** 2).sum() for each in state)
    check(library, "sum_of_squares", [each[3] for each in state], [np.array([square])])
    rate, beta1, beta2, eps, decay, scale = 1e-2, 0.9, 0.95, 1e-8, 0.1, 0.5
    numbers = np.array([rate, beta1, beta2, eps, decay, scale, 1, 1, 0, 1], F)
    arrays = [array.copy() for each in state for array in each]
    outputs_of(library, "adamw", [numbers, *arrays], [(1,)], threads=2)
    for place, (weight, first, second, gradient) in enumerate(state):
        g = (gradient[300:600] if place == 2 else gradient).astype(np.float64) * scale
        m, v = beta1 * first + (1 - beta1) * g, beta2 * second + (1 - beta2) * g * g
        expected = weight - rate * (m / (np.sqrt(v) + eps) + (decay * weight if place != 1 else 0))
        for ours, wanted in zip(arrays[4 * place : 4 * place + 3], (expected, m, v)):
            np.testing.assert_allclose(ours, wanted, rtol=2e-5, atol=2e-6)
        assert not arrays[4 * place + 3].any()


def test_a_forked_child_has_threads_of_its_own(library):
    x, weight = normal(64, 64), normal(64, 64, seed=1)
    outputs_of(library, "product", (x, weight), [(64, 64)], threads=3)
    child = os.fork()
    if child == 0:
        (found,) = outputs_of(library, "product", (x, weight), [(64, 64)], threads=3)
        os._exit(not np.allclose(found, x @ weight.T, atol=1e-3))
    assert os.waitpid(child, 0)[1] == 0


def test_where_nothing_is_built_the_reason_is_said(tmp_path):
    left_out = shutil.ignore_patterns("built", "__pycache__")
    shutil.copytree(build.FOLDER.parent, tmp_path / "mindrlhf_lite", ignore=left_out)
    code = "import mindspore; from mindrlhf_lite.native.library import library; print(library())"

    def said(**variables):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), **variables}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
        ).stdout

    assert "not built (python -m mindrlhf_lite.native.build)" in said()
    assert "none for this processor (riscv)" in said(**{ISA_VARIABLE: "riscv"})
    build_it = [sys.executable, "-m", "mindrlhf_lite.native.build", "--isa", ISAS[0]]
    failed = subprocess.run(
        build_it, cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "CXX": "false"}, capture_output=True, text=True
    )
    assert failed.returncode == 1 and "error: native operators: false failed" in failed.stderr
    assert "Traceback" not in failed.stderr
