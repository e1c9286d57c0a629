"""What both forms of every kernel are given: shapes, masks, grouped heads, padding, packed prompts that are shared."""

from __future__ import annotations

from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, jit, mutable, nn, ops

from mindrlhf_lite.models.flash_attention import flash_spans
from mindrlhf_lite.models.kernels import Kernels
from mindrlhf_lite.models.packed_attention import MASKED, key_rows, visibility_mask
from mindrlhf_lite.models.precision import Precision
from mindrlhf_lite.rollout.native_graphs import cache_views

HEADS, KV_HEADS, HEAD_DIM, EPS = 4, 2, 16, 1e-6
# a stream of two blocks of 8: a prompt of 3 with completions of 4 and 2, a prompt of 2 with one of 3, padding
SEGMENTS = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 4, -1, -1], np.int32)
PROMPTS = np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 3, 3, 3, 3, -1, -1], np.int32)
POSITIONS = np.array([0, 1, 2, 3, 4, 5, 6, 3, 4, 0, 1, 2, 3, 4, 0, 0], np.int32)
KEYS = np.array([[*range(8), 0, 0], [0, 1, 2, 7, *range(8, 14)]], np.int32)
USED = np.array([8, 10], np.int32)
LENGTHS = np.array([1, 5, 8], np.int64)  # tokens in each slot of a cache of 8, the newest among them


def inputs() -> dict[str, tuple[np.ndarray, ...]]:
    """Arguments of every kernel, float32 (and int32 rows)."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    angles = np.arange(8)[:, None] * np.tile(1.0 / 100.0 ** (np.arange(8) / 8), 2)[None]
    tables = tuple(table[None, None].astype(np.float32) for table in (np.cos(angles), np.sin(angles)))
    causal = np.where(np.tril(np.ones((8, 8), bool)), np.float32(0), np.float32(MASKED))[None]
    blocks, width = KEYS.shape[0], len(SEGMENTS) // KEYS.shape[0]
    stream = (normal(blocks, HEADS, width, HEAD_DIM), *(normal(16 * KV_HEADS, HEAD_DIM) for _ in range(2)))
    packed = (key_rows(KEYS, width, KV_HEADS), visibility_mask(POSITIONS, SEGMENTS, PROMPTS, KEYS, USED))
    return {
        "norm": (normal(6, 32), normal(32)),
        "rotary": (normal(3, HEADS, 8, HEAD_DIM), *tables),
        "gate": (normal(6, 48), normal(6, 48)),
        "causal_attention": (
            normal(3, HEADS, 8, HEAD_DIM),
            *(normal(3, KV_HEADS, 8, HEAD_DIM) for _ in range(2)),
            causal,
        ),
        "packed_attention": (*stream, *packed),
        # query, key and value of the newest tokens; caches with leftovers where nothing was written yet
        "decode": (
            normal(3, HEADS, 1, HEAD_DIM),
            *(normal(3 * KV_HEADS, HEAD_DIM) for _ in range(2)),
            *(normal(3 * KV_HEADS * 8, HEAD_DIM) for _ in range(2)),
        ),
    }


class _First(nn.Cell):
    """A kernel's first result: what a gradient is taken of."""

    def __init__(self, kernel: nn.Cell):
        super().__init__(auto_prefix=False)
        self.kernel = kernel

    def construct(self, *arguments: Tensor) -> Tensor:
        result = self.kernel(*arguments)
        return result[0] if isinstance(result, tuple) else result


def as_tensors(name: str, arrays: tuple[np.ndarray, ...], dtype: Any) -> Any:
    """Tables and masks stay float32, rows int32, whatever the compute type is."""
    kept = {"rotary": (1, 2), "causal_attention": (3,), "packed_attention": (3, 4)}.get(name, ())
    return mutable(
        tuple(Tensor(array) if place in kept else Tensor(array, dtype) for place, array in enumerate(arrays))
    )


class _OverSpans(nn.Cell):
    """Packed attention over spans with what that over blocks takes and gives. Args: spans: of `flash_spans`."""

    def __init__(self, kernel: nn.Cell, spans: tuple):
        super().__init__(auto_prefix=False)
        self.kernel, self.places = kernel, Tensor(spans[0])
        self.query_ends, self.key_ends = map(Tensor, spans[1:])

    def _by_token(self, x: Tensor) -> Tensor:
        """[blocks, heads, W, D], or [blocks * heads * W, D], -> [T, heads, D]"""
        blocks = x.reshape(len(KEYS), -1, len(SEGMENTS) // len(KEYS), HEAD_DIM)
        return blocks.transpose(0, 2, 1, 3).reshape(len(SEGMENTS), -1, HEAD_DIM)

    def construct(self, query: Tensor, key: Tensor, value: Tensor, rows: Tensor, mask: Tensor, *known: Tensor) -> tuple:
        stream = (self._by_token(query), self._by_token(key), self._by_token(value), self.places)
        if len(known) > 0:
            known = (self._by_token(known[0]), *known[1:])
        attended, *others = self.kernel(*stream, self.query_ends, self.key_ends, *known)
        blocks = attended.reshape(len(KEYS), -1, attended.shape[1], HEAD_DIM).transpose(0, 2, 1, 3)
        return (blocks, *others)


def _packed(kernels: Kernels, precision: Precision, is_known: bool) -> nn.Cell:
    kernel = (kernels.known_attention if is_known else kernels.packed_attention)(precision, HEADS)
    if not kernels.attends_to_spans:
        return kernel
    return _OverSpans(kernel, flash_spans(SEGMENTS, PROMPTS, slice(0, len(SEGMENTS))))


def _decode(arrays: tuple[np.ndarray, ...], kernels: Kernels, precision: Precision) -> tuple[Tensor, ...]:
    """(what was attended to, both caches) after the newest tokens' keys and values were written."""
    query, key, value, *old = as_tensors("decode", arrays, precision.activations)
    caches = [Parameter(each, name=f"cache_{place}", requires_grad=False) for place, each in enumerate(old)]
    read = cache_views(caches, 3, KV_HEADS)
    mask = np.where(np.arange(8) < LENGTHS[:, None, None], np.float32(0), np.float32(MASKED))
    places = np.arange(3 * KV_HEADS) * 8 + np.repeat(LENGTHS - 1, KV_HEADS)
    write, attend = kernels.written_rows(), kernels.decode_attention(precision, HEADS, KV_HEADS)

    @jit
    def step(new: tuple, read: tuple, rest: tuple, lengths: Any, *caches: Parameter) -> Tensor:
        keys = ops.depend(read[0], write(caches[0], rest[0], new[1]))
        values = ops.depend(read[1], write(caches[1], rest[0], new[2]))
        return attend(new[0], keys, values, rest[1], lengths)

    lengths = Tensor(LENGTHS) if attend.takes_lengths else ()
    rest = mutable((Tensor(places.astype(np.int32)), Tensor(mask)))
    return (step(mutable((query, key, value)), mutable(read), rest, lengths, *caches), *caches)


def compared(name: str, results: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What of `run`'s results is the same in every form: attention for training keeps others of its own."""
    return (*(results if name == "decode" else results[:1]), *gradients)


def run(
    name: str, arrays: tuple[np.ndarray, ...], kernels: Kernels, precision: Precision
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """(all results of a kernel, gradients of its first result's sum over the arguments that take one)."""
    if name == "decode":
        return _decode(arrays, kernels, precision), ()
    tensors = as_tensors(name, arrays, precision.activations)
    cells = {
        "norm": lambda: kernels.norm(precision, EPS),
        "rotary": lambda: kernels.rotary(precision),
        "gate": lambda: kernels.gate(precision),
        "causal_attention": lambda: kernels.causal_attention(precision),
        "packed_attention": lambda: _packed(kernels, precision, is_known=False),
    }
    kernel = cells[name]()

    @jit
    def forward(arguments: tuple) -> Any:
        return kernel(*arguments)

    results = forward(tensors)
    results = results if isinstance(results, tuple) else (results,)
    differentiated, arguments = kernel, tensors
    if name == "packed_attention":
        differentiated, arguments = _packed(kernels, precision, is_known=True), mutable((*tensors, *results))
    product, first = ops.GradOperation(get_all=True, sens_param=True), _First(differentiated)

    @jit
    def backward(arguments: tuple, sens: Tensor) -> tuple:
        return product(first)(*arguments, sens)

    sens = np.ones(results[0].shape, np.float32)
    if name == "packed_attention":  # padding, which sees nothing
        sens[1, :, 6:] = 0
    gradients = backward(arguments, Tensor(sens, results[0].dtype))
    count = {"norm": 2, "rotary": 1, "gate": 2}.get(name, 3)
    return results, gradients[:count]
