"""One of two ranks of the collectives tests: values and gradients against whole arrays in float64 numpy."""

import os
import pickle
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindspore import Tensor, jit, nn, ops

from mindrlhf_lite.files.wire import to_bytes
from mindrlhf_lite.models.logprobs import TokenLogprobs
from mindrlhf_lite.parallel.collectives import (
    GatherRows,
    MaxOverAxis,
    ReduceScatterRows,
    SumOverAxis,
    cut_tokens,
    enter_tensor_parallel,
    leave_tensor_parallel,
    transfer,
)
from mindrlhf_lite.parallel.mesh import Mesh, _gather_words, gather_objects
from mindrlhf_lite.parallel.signing import ForgedMessage

TOKENS, WIDTH, INNER, VOCABULARY = 6, 8, 10, 31
RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


X, UP, DOWN, UPSTREAM = random(TOKENS, WIDTH), random(INNER, WIDTH), random(INNER, WIDTH), random(TOKENS, WIDTH)


def half(array, index):
    rows = len(array) // 2
    return array[index * rows : (index + 1) * rows]


def gradients(cell, count, *arrays):
    """(value, gradients of the first `count` arguments) of a cell in a graph."""
    compute = ops.value_and_grad(cell, tuple(range(count)))

    @jit
    def graph(*tensors):
        return compute(*tensors)

    value, found = graph(*map(Tensor, arrays))
    return value.asnumpy(), [gradient.asnumpy() for gradient in (found if count > 1 else (found,))]


def close(found, expected, what):
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5, err_msg=what)


class Block(nn.Cell):
    """sum(upstream * leave((enter(x) up^T)^2 down)): column-split, something nonlinear, row-split."""

    def __init__(self, axis, is_sequence_split):
        super().__init__(auto_prefix=False)
        self.enter, self.leave = (
            enter_tensor_parallel(axis, is_sequence_split),
            leave_tensor_parallel(axis, is_sequence_split),
        )

    def construct(self, x, up, down, upstream):
        inner = ops.matmul(self.enter(x), up.T)
        return (self.leave(ops.matmul(inner * inner, down)) * upstream).sum()


class Cut(nn.Cell):
    def __init__(self, axis):
        super().__init__(auto_prefix=False)
        self.cut = cut_tokens(axis, True)

    def construct(self, x, upstream):
        cut = self.cut(x)
        return (cut * cut * upstream).sum()


class Head(nn.Cell):
    def __init__(self, axis, chunk_rows):
        super().__init__(auto_prefix=False)
        self.enter = enter_tensor_parallel(axis, False)
        self.logprobs = TokenLogprobs(VOCABULARY, axis, chunk_rows * 16)

    def construct(self, hidden, weight, labels, upstream):
        return (self.logprobs(self.enter(hidden), weight, labels)[0] * upstream).sum()


class Forward(nn.Cell):
    def __init__(self, cell):
        super().__init__(auto_prefix=False)
        self.cell = cell

    @jit
    def construct(self, *arrays):
        return self.cell(*arrays)


def check_block(axis):
    inner = X.astype(np.float64) @ UP.T
    value = ((inner**2 @ DOWN) * UPSTREAM).sum()
    dinner = 2 * inner * (UPSTREAM @ DOWN.T)
    dx, dup, ddown = dinner @ UP, dinner.T @ X, (inner**2).T @ UPSTREAM
    mine = axis.index
    for is_split in (False, True):
        x, upstream = (half(X, mine), half(UPSTREAM, mine)) if is_split else (X, UPSTREAM)
        found, (found_dx, found_dup, found_ddown) = gradients(
            Block(axis, is_split), 3, x, half(UP, mine), half(DOWN, mine), upstream
        )
        total = sum(gather_objects(axis, found, np.ndarray)) if is_split else found
        close(total, value, f"block, {is_split=}")
        close(found_dx, half(dx, mine) if is_split else dx, f"d input, {is_split=}")
        close(found_dup, half(dup, mine), f"d column-split weight, {is_split=}")
        close(found_ddown, half(ddown, mine), f"d row-split weight, {is_split=}")


def check_cut(axis):
    _, (dx,) = gradients(Cut(axis), 1, X, half(UPSTREAM, axis.index))
    close(dx, 2 * X * UPSTREAM, "d cut tokens: whole on every rank")


def check_head(axis):
    """31 rows on two ranks: the 32nd is padding, filled with something that must not matter."""
    weight, labels, upstream = (
        random(VOCABULARY, WIDTH),
        RNG.integers(0, VOCABULARY, TOKENS).astype(np.int32),
        random(TOKENS),
    )
    labels[:3] = 0, 15, 16  # first and last row of a rank
    padded = np.concatenate([weight, np.full((1, WIDTH), 7, np.float32)])
    logits = X.astype(np.float64) @ weight.T
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    dlogits = (np.eye(VOCABULARY)[labels] - p) * upstream[:, None]
    dweight = np.concatenate([dlogits.T @ X, np.zeros((1, WIDTH))])
    for chunk_rows in (4, 100):
        head = Head(axis, chunk_rows)
        logprobs, entropy, _, _ = (
            t.asnumpy() for t in Forward(head.logprobs)(*map(Tensor, (X, half(padded, axis.index), labels)))
        )
        close(logprobs, np.log(p)[np.arange(TOKENS), labels], "logprobs")
        close(entropy, -(p * np.log(p)).sum(-1), "entropy")
        _, (dhidden, found_dweight) = gradients(head, 2, X, half(padded, axis.index), labels, upstream)
        close(dhidden, dlogits @ weight, "d hidden: whole on every rank")
        close(found_dweight, half(dweight, axis.index), "d head rows")


def check_values(axis):
    """Without gradients, and exact: adding zeros changes nothing."""
    mine, every = random(2, 4, 3), []
    every = gather_objects(axis, mine[axis.index], np.ndarray)
    assert (np.stack(every) == mine).all()
    assert (Forward(GatherRows(axis))(Tensor(mine[axis.index])).asnumpy() == np.concatenate(every)).all()
    assert (
        Forward(ReduceScatterRows(axis))(Tensor(mine[axis.index])).asnumpy() == half(mine[0] + mine[1], axis.index)
    ).all()
    assert (Forward(MaxOverAxis(axis))(Tensor(mine[axis.index][0])).asnumpy() == mine[:, 0].max(0)).all()
    shapes = [(3,), (2, 5), (1,), (4, 4)]
    tensors = [[random(*shape) for shape in shapes] for _ in range(2)]
    for bucket_bytes in (4, 50, 1 << 20):
        sums = Forward(_OfTuple(SumOverAxis(axis, shapes, bucket_bytes)))(*map(Tensor, tensors[axis.index]))
        for found, first, second in zip(sums, *tensors, strict=True):
            assert (found.asnumpy() == first + second).all()
    for source in (0, 1):
        x = Tensor(mine[axis.index].copy())
        transfer(x, axis, source)
        assert (x.asnumpy() == mine[source]).all()
    assert gather_objects(axis, "x" * (1 + 1000 * axis.index)) == ["x", "x" * 1001]


class _Bomb:
    """Unpickled, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, (sys.argv[1],)


def check_forgeries(axis):
    """What arrives in a message's place, and no rank of the job has signed, is refused, and does nothing."""
    old = axis.signer.sign(axis.group, to_bytes("old"))
    for forged in (b"\0" * 65536, pickle.dumps(_Bomb()), old):
        if axis.index == 1:
            say_unsigned(axis, len(forged), forged)
        else:
            assert "rank 1 is not signed with this job's key" in what_is_refused(axis)
    for length in (0, -1, 2**31 - 1):
        if axis.index == 1:
            say_unsigned(axis, length)
        else:
            assert str(length) in what_is_refused(axis)
    assert gather_objects(axis, axis.index) == [0, 1]


def say_unsigned(axis, length, data=None):
    """Takes part in a gathering with any bytes; None: none, as the length is refused."""
    axis.signer.sign(axis.group, b"")  # the signer counts what the rank would have said
    axis.meet()
    lengths = _gather_words(axis, np.array([length], np.int32))
    if data is not None:
        padded = np.zeros(-(-int(max(lengths)) // 4) * 4, np.uint8)
        padded[: len(data)] = np.frombuffer(data, np.uint8)
        _gather_words(axis, padded.view(np.int32))


def what_is_refused(axis):
    try:
        gather_objects(axis, "data")
    except ForgedMessage as error:
        return str(error)
    raise AssertionError("a forged message was taken")


class _OfTuple(nn.Cell):
    def __init__(self, cell):
        super().__init__(auto_prefix=False)
        self.cell = cell

    def construct(self, *tensors):
        return self.cell(tensors)


def main():
    axis = Mesh().world
    check_block(axis)
    check_cut(axis)
    check_head(axis)
    check_values(axis)
    check_forgeries(axis)
    assert not Path(sys.argv[1]).exists()


if __name__ == "__main__":
    main()
