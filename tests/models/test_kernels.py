"""The plain form of every kernel against numpy in float64; the fused one, compiled for Ascend, takes and gives the
same shapes.
"""

import shutil
import sys

import numpy as np
import pytest
from helpers import ROOT
from helpers import run as run_command

from mindrlhf_lite.acceptance.kernel_cases import (
    EPS,
    HEAD_DIM,
    HEADS,
    KEYS,
    KV_HEADS,
    LENGTHS,
    POSITIONS,
    PROMPTS,
    SEGMENTS,
    USED,
    compared,
    inputs,
    run,
)
from mindrlhf_lite.ascend.stand_ins import environment
from mindrlhf_lite.models.attention import GroupedQueryAttention
from mindrlhf_lite.models.kernels import FUSED_KERNELS, PLAIN, kernels_of
from mindrlhf_lite.models.precision import FLOAT32, Precision
from mindrlhf_lite.models.span_attention import SpanAttention, attentions_of

NAMES = list(inputs())


def softmax(scores):
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def expected(name, x):
    """By definition, float64, a head and a token at a time where that is clearest."""
    x = [each.astype(np.float64) if each.dtype == np.float32 else each for each in x]
    if name == "norm":
        return x[0] / np.sqrt((x[0] ** 2).mean(-1, keepdims=True) + EPS) * x[1]
    if name == "rotary":
        half = HEAD_DIM // 2
        turned = np.concatenate([-x[0][..., half:], x[0][..., :half]], -1)
        return x[0] * x[1] + turned * x[2]
    if name == "gate":
        return x[0] / (1 + np.exp(-x[0])) * x[1]
    group = HEADS // KV_HEADS
    if name == "causal_attention":
        rows = []
        for batch, length in ((b, t) for b in range(3) for t in range(8)):
            heads = []
            for head in range(HEADS):
                key, value = (each[batch, head // group, : length + 1] for each in x[1:3])
                heads.append(softmax(x[0][batch, head, length] @ key.T) @ value)
            rows.append(np.concatenate(heads))
        return np.stack(rows)
    if name == "decode":
        keys, values = (each.reshape(3, KV_HEADS, 8, HEAD_DIM).copy() for each in x[3:])
        for slot, last in enumerate(LENGTHS - 1):
            keys[slot, :, last], values[slot, :, last] = (each.reshape(3, KV_HEADS, -1)[slot] for each in x[1:3])
        heads = [
            softmax(x[0][slot, head, 0] @ keys[slot, head // group, :count].T) @ values[slot, head // group, :count]
            for slot, count in enumerate(LENGTHS)
            for head in range(HEADS)
        ]
        return np.stack(heads).reshape(3, -1)
    blocks, width = len(KEYS), len(SEGMENTS) // len(KEYS)
    keys, values = (each.reshape(blocks, KV_HEADS, width, HEAD_DIM) for each in x[1:3])
    found = np.zeros((blocks, HEADS, width, HEAD_DIM))
    for block in range(blocks):
        for place in range(width):
            token = block * width + place
            seen = [int(k) for k in KEYS[block][: USED[block]] if sees(token, int(k))]
            for head in range(HEADS):
                own = [(k // width, head // group, k % width) for k in seen]
                if own:
                    key, value = (np.stack([each[at] for at in own]) for each in (keys, values))
                    found[block, head, place] = softmax(x[0][block, head, place] @ key.T) @ value
    return found


def counted(name, x):
    """The sum of the results, without padding's."""
    result = expected(name, x)
    if name == "packed_attention":
        result[1, :, 6:] = 0
    return result.sum()


def sees(token, key):
    is_own = SEGMENTS[key] == SEGMENTS[token] or SEGMENTS[key] == PROMPTS[token]
    return is_own and POSITIONS[key] <= POSITIONS[token]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_plain_form_is_what_it_says(name, dtype):
    arrays, near = inputs()[name], 2e-6 if dtype == "float32" else 6e-3
    precision = FLOAT32 if dtype == "float32" else Precision.here(dtype)
    (result, *_), gradients = run(name, arrays, PLAIN, precision)
    wanted = expected(name, arrays)
    if name == "packed_attention":  # what padding sees means nothing
        result, wanted = (each.reshape(2, HEADS, 8, HEAD_DIM)[1, :, :6] for each in (result.asnumpy(), wanted))
    else:
        result = result.asnumpy()
    np.testing.assert_allclose(result.astype(np.float64), wanted, atol=near * np.abs(wanted).max())
    if dtype == "float32":  # of the sum of the results, by differences
        rng = np.random.default_rng(1)
        for place, gradient in enumerate(gradients):
            direction, step = rng.standard_normal(arrays[place].shape), 1e-4
            moved = [
                [a + sign * step * direction if i == place else a.astype(a.dtype) for i, a in enumerate(arrays)]
                for sign in (1.0, -1.0)
            ]
            moved = [[a.astype(np.float64) if a.dtype != np.int32 else a for a in each] for each in moved]
            slope = (counted(name, moved[0]) - counted(name, moved[1])) / (2 * step)
            own = float((gradient.asnumpy().astype(np.float64) * direction).sum())
            assert own == pytest.approx(slope, rel=1e-3, abs=1e-3), place


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc and binutils for CANN's stand-ins")
def test_the_fused_form_takes_and_gives_the_same(tmp_path):
    command = [sys.executable, "-m", "mindrlhf_lite.acceptance.checks", "fused_kernels", "Ascend", tmp_path / "out.npz"]
    variables = environment(0, 1)
    variables["PYTHONPATH"] = f"{ROOT}:{variables.get('PYTHONPATH', '')}"
    result = run_command(command, cwd=tmp_path, timeout=300, **variables)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    fused = {name: list(values.shape) for name, values in np.load(tmp_path / "out.npz").items()}
    for name, arrays in inputs().items():
        results, gradients = run(name, arrays, PLAIN, Precision.here("float16"))
        for place, each in enumerate(compared(name, results, gradients)):
            assert fused.pop(f"{name}/{place}") == list(each.shape), (name, place)
    assert not fused


def test_which_form_is_used():
    assert kernels_of(FLOAT32, 64) is PLAIN and kernels_of(Precision.here("bfloat16", is_fused=True), 64) is PLAIN
    on_ascend = Precision("bfloat16", "bfloat16", has_fused_kernels=True)
    assert kernels_of(on_ascend, 64) is FUSED_KERNELS
    odd = kernels_of(on_ascend, 24)
    assert odd.packed_attention is PLAIN.packed_attention and odd.norm is FUSED_KERNELS.norm
    assert attentions_of(on_ascend, 64)["grouped_query"] is SpanAttention
    assert attentions_of(on_ascend, 24)["grouped_query"] is GroupedQueryAttention
