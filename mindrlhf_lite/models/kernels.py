"""What a decoder layer consists of, in three forms of one meaning.

The plain form is built of operators that every device has, and is what the tests compute with. The fused one is one
kernel of Ascend's each, for bfloat16 and float16: it keeps no attention probabilities and fewer float32 intermediates.
No Ascend was at hand: they are compiled by the dry run (docs/ascend.md), their values were not seen.
`context.fused_kernels: false` does without them. The native one is C++ for CPUs, in float32 (mindrlhf_lite/native);
`context.native_kernels: off` does without it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops.auto_generate import PromptFlashAttention

from mindrlhf_lite.models.flash_attention import FlashAttention, KnownFlashAttention
from mindrlhf_lite.models.host_numbers import HostNumbers
from mindrlhf_lite.models.native_cells import NativeGate, NativeNorm, NativeProduct
from mindrlhf_lite.models.packed_attention import KnownAttention, PackedAttention
from mindrlhf_lite.models.precision import Precision, full, to_compute, weight_to_compute
from mindrlhf_lite.models.spread import spread

_batch_matmul = ops.BatchMatMul()
_batch_matmul_tb = ops.BatchMatMul(transpose_b=True)
_softmax = ops.Softmax(-1)
_mean = ops.ReduceMean(keep_dims=True)
_rsqrt = ops.Rsqrt()
_halves = ops.Split(-1, 2)
_concat = ops.Concat(-1)
_ALL = 2147483647  # tokens before and after a query that it sees


class Product(nn.Cell):
    """x weight^T in the compute type."""

    def __init__(self, precision: Precision, is_trained: bool):
        super().__init__(auto_prefix=False)
        self.low, self.low_weight = to_compute(precision), weight_to_compute(precision, is_trained)
        self.linear = ops.MatMul(transpose_b=True)

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.low(self.linear(x, self.low_weight(weight)))


class Norm(nn.Cell):
    """x / rms(x) * weight over the last dimension of x [tokens, H] (arXiv:1910.07467), in float32."""

    def __init__(self, precision: Precision, eps: float):
        super().__init__(auto_prefix=False)
        self.low, self.eps = to_compute(precision), eps

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        x, weight = full(x), full(weight)
        normed = x * spread(_rsqrt(_mean(x * x, -1) + self.eps), x.shape)
        return self.low(normed * spread(weight.reshape(1, -1), x.shape))


class FusedNorm(nn.Cell):
    """`Norm` by one kernel."""

    def __init__(self, precision: Precision, eps: float):
        super().__init__(auto_prefix=False)
        self.low, self.eps = to_compute(precision), eps

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        return ops.rms_norm(x, self.low(weight), self.eps)[0]


class Rotary(nn.Cell):
    """Rotary embedding of x [B, heads, T, D] in the half-split layout, in float32; tables broadcastable to x."""

    def __init__(self, precision: Precision):
        super().__init__(auto_prefix=False)
        self.low = to_compute(precision)

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = full(x)
        first, second = _halves(x)
        turned = x * spread(cos, x.shape) + _concat((-second, first)) * spread(sin, x.shape)
        return self.low(turned)


class FusedRotary(nn.Cell):
    """`Rotary` by one kernel, in float32."""

    def __init__(self, precision: Precision):
        super().__init__(auto_prefix=False)
        self.low = to_compute(precision)

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return self.low(ops.rotary_position_embedding(full(x), cos, sin, 0))


class Gate(nn.Cell):
    """silu(gate) * up (arXiv:2002.05202), in float32; both [tokens, I]."""

    def __init__(self, precision: Precision):
        super().__init__(auto_prefix=False)
        self.low = to_compute(precision)

    def construct(self, gate: Tensor, up: Tensor) -> Tensor:
        return self.low(ops.silu(full(gate)) * full(up))


class FusedGate(nn.Cell):
    """`Gate` by one kernel."""

    def __init__(self, precision: Precision):
        super().__init__(auto_prefix=False)

    def construct(self, gate: Tensor, up: Tensor) -> Tensor:
        return ops.swiglu(_concat((gate, up)), -1)


class CausalAttention(nn.Cell):
    """Each token of query [B, heads, T, D], already scaled, attends to key and value [B, kv_heads, T, D] up to itself;
    mask float32 [1, T, T], MASKED where it does not. Returns [B * T, heads * D].
    """

    def __init__(self, precision: Precision):
        super().__init__(auto_prefix=False)
        self.low = to_compute(precision)

    def construct(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        batch, heads, length, head_dim = query.shape
        pairs = batch * key.shape[1]
        grouped = query.reshape(pairs, -1, head_dim)
        scores = self.low(_batch_matmul_tb(grouped, key.reshape(pairs, length, head_dim)))
        scores = full(scores.reshape(-1, length, length))
        scores = scores + spread(mask, scores.shape)
        probabilities = self.low(_softmax(scores.reshape(-1, length))).reshape(pairs, -1, length)
        attended = self.low(_batch_matmul(probabilities, value.reshape(pairs, length, head_dim)))
        return attended.reshape(batch, heads, length, head_dim).transpose(0, 2, 1, 3).reshape(batch * length, -1)


class FusedCausalAttention(nn.Cell):
    """`CausalAttention` by one kernel."""

    def __init__(self, precision: Precision):
        super().__init__(auto_prefix=False)

    def construct(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        batch, heads, length, _ = query.shape
        hidden = (mask < 0).reshape(1, 1, length, length)
        attended = ops.flash_attention_score(query, key, value, heads, attn_mask=hidden, input_layout="BNSD")
        return attended.transpose(0, 2, 1, 3).reshape(batch * length, -1)


class DecodeAttention(nn.Cell):
    """The newest token of every slot, query [slots, heads, 1, D], already scaled, attends to the slot's keys and values
    [slots, kv_heads, S, D] up to itself. Returns [slots, heads * D].

    This form computes with the whole cache, and masks.
    """

    takes_lengths = False

    def __init__(self, precision: Precision, num_heads: int, num_kv_heads: int):
        super().__init__(auto_prefix=False)
        self.low = to_compute(precision)

    def construct(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, lengths: tuple) -> Tensor:
        """Args: mask: float32 [slots, 1, S], MASKED beyond the newest token; lengths: ()."""
        slots, kv_heads, length, head_dim = keys.shape
        scores = full(self.low(_batch_matmul_tb(query.reshape(slots, kv_heads, -1, head_dim), keys)))
        scores = scores.reshape(slots, -1, length) + mask
        probabilities = self.low(_softmax(scores.reshape(-1, length))).reshape(slots, kv_heads, -1, length)
        return self.low(_batch_matmul(probabilities, values)).reshape(slots, -1)


class FusedDecodeAttention(nn.Cell):
    """`DecodeAttention` by one kernel, which reads no more of a slot's cache than is filled.

    The queries that share a head of keys are taken for as many tokens of one head. So the kernel for prompts serves,
    which takes lengths as numbers of the host. FusedInferAttentionScore, for single tokens, takes a tensor of them, and
    MindSpore 2.9 copies that to the host in every layer, once all that was started before is done.
    """

    takes_lengths = True

    def __init__(self, precision: Precision, num_heads: int, num_kv_heads: int):
        super().__init__(auto_prefix=False)
        self.numbers = HostNumbers()
        self.attend = PromptFlashAttention(
            num_heads=num_kv_heads,
            scale_value=1.0,
            next_tokens=_ALL,
            num_key_value_heads=num_kv_heads,
            input_layout="BNSD",
            inner_precise=0,  # float32 within, also for float16
        )

    def construct(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        """Args: lengths: int64 [slots], the newest token included."""
        slots, kv_heads, _, head_dim = keys.shape
        grouped = query.reshape(slots, kv_heads, -1, head_dim)
        return self.attend(grouped, keys, values, None, None, self.numbers(lengths)).reshape(slots, -1)


class WrittenRows(nn.Cell):
    """Writes rows [N, D] to places [N] of a cache [R, D], in place. Returns what a reader is to wait for."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.write = ops.ScatterUpdate()

    def construct(self, cache: Parameter, places: Tensor, rows: Tensor) -> Tensor:
        return self.write(cache, places, rows)


class FusedWrittenRows(nn.Cell):
    """`WrittenRows` by a kernel that Ascend starts faster than ScatterUpdate."""

    def construct(self, cache: Parameter, places: Tensor, rows: Tensor) -> Tensor:
        return cache.index_put_((places,), rows)


@dataclass(frozen=True)
class Kernels:
    """One form: the cell of each place. Native attention: models/native_attention.py. Packed attention of the fused
    form takes spans, not blocks.
    """

    product: type[nn.Cell]
    norm: type[nn.Cell]
    rotary: type[nn.Cell]
    gate: type[nn.Cell]
    causal_attention: type[nn.Cell]
    packed_attention: type[nn.Cell]
    known_attention: type[nn.Cell]  # packed attention whose results are known
    decode_attention: type[nn.Cell]
    written_rows: type[nn.Cell]

    @property
    def attends_to_spans(self) -> bool:
        """Whether packed attention takes what `flash_spans` gives."""
        return self.packed_attention is FlashAttention


PLAIN = Kernels(
    Product, Norm, Rotary, Gate, CausalAttention, PackedAttention, KnownAttention, DecodeAttention, WrittenRows
)
NATIVE = replace(PLAIN, product=NativeProduct, norm=NativeNorm, gate=NativeGate)
FUSED_KERNELS = Kernels(
    Product,
    FusedNorm,
    FusedRotary,
    FusedGate,
    FusedCausalAttention,
    FlashAttention,
    KnownFlashAttention,
    FusedDecodeAttention,
    FusedWrittenRows,
)


def kernels_of(precision: Precision, head_dim: int) -> Kernels:
    """The form for a model. The attention kernels take heads of a multiple of 16 numbers only."""
    if precision.has_native_kernels:
        return NATIVE
    if not precision.has_fused_kernels:
        return PLAIN
    if head_dim % 16:
        return replace(PLAIN, norm=FUSED_KERNELS.norm, rotary=FUSED_KERNELS.rotary, gate=FUSED_KERNELS.gate)
    return FUSED_KERNELS
