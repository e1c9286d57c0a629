"""Logprobs and entropy of chosen tokens from hidden states, without a [tokens, vocab] array, at the temperature that
tokens are sampled at.

The head is computed in chunks of tokens, each at most `CHUNK_ELEMENTS` logits; the backward pass recomputes every
chunk. A batch that fits in one chunk keeps its probabilities instead, which saves one matrix product. Under tensor
parallelism every rank has the logits of its own rows of the vocabulary: maxima and sums are reduced over ranks.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.kernels import Product
from mindrlhf_lite.models.native_logprobs import NativeTokenLogprobs
from mindrlhf_lite.models.precision import FLOAT32, Precision, full, to_compute, weight_to_compute
from mindrlhf_lite.models.spread import spread
from mindrlhf_lite.parallel.collectives import MaxOverAxis, _sum_of, gather_tokens, join_tokens
from mindrlhf_lite.parallel.mesh import Axis

# logits held at a time, in several arrays: 32 MiB of float32; on a device 128, for every chunk is launched by itself
CHUNK_ELEMENTS = {"CPU": 1 << 23, "Ascend": 1 << 25}
PADDING_LOGIT = -1e9  # of vocabulary rows that are padding: exp of it is exactly 0 in float32

_matmul = ops.MatMul()
_matmul_ta = ops.MatMul(transpose_a=True)
_log_softmax = ops.LogSoftmax(-1)
_encode = ops.OneHot()
_gather_d = ops.GatherD()
_mean = ops.ReduceMean(keep_dims=True)
_TINY = 1e-37  # keeps the logarithm of a probability that is 0 finite
_max = ops.ReduceMax(keep_dims=True)
_concat = ops.Concat(0)


def padding_bias(vocab_size: int, rows: int, axis: Axis | None) -> Tensor | None:
    """Added to the logits of this rank's `rows` vocabulary rows, [1, rows]; None where none of any rank is padding."""
    ranks, index = (1, 0) if axis is None else (axis.size, axis.index)
    if rows * ranks == vocab_size:
        return None
    return Tensor(np.where(index * rows + np.arange(rows) < vocab_size, 0, PADDING_LOGIT).astype(np.float32)[None])


class TokenLogprobs(nn.Cell):
    """log p(label | hidden) with p = softmax(hidden weight^T), and the entropy of p.

    Args:
        vocab_size: V, without padding.
        axis: tensor-parallel ranks that share the vocabulary; rank i has rows [i R, (i + 1) R), R = ceil(V / ranks).
        chunk_elements: logits held at a time; 0: as CHUNK_ELEMENTS has it.
        has_entropy_gradient: whether gradients flow through the entropy; otherwise it is only a metric.
        precision: of hidden states, weight and products; all else is float32.
        is_trained: whether the weight takes gradients.
        temperature: logits are divided by it.
    """

    def __init__(
        self,
        vocab_size: int,
        axis: Axis | None = None,
        chunk_elements: int = 0,
        has_entropy_gradient: bool = False,
        precision: Precision = FLOAT32,
        is_trained: bool = True,
        temperature: float = 1.0,
    ):
        super().__init__(auto_prefix=False)
        self.inverse_temperature = 1.0 / temperature
        self.low, self.low_weight = to_compute(precision), weight_to_compute(precision, is_trained)
        self.product = Product(precision, is_trained)
        self.has_entropy_gradient, self.is_trained = has_entropy_gradient, is_trained
        self.is_split = axis is not None
        self.rows = -(-vocab_size // (1 if axis is None else axis.size))
        chunk_elements = chunk_elements or CHUNK_ELEMENTS[ms.get_context("device_target")]
        self.rows_per_chunk = max(1, chunk_elements // self.rows)
        self.first = 0 if axis is None else axis.index * self.rows
        self.bias: Any = padding_bias(vocab_size, self.rows, axis)
        self.max_over_ranks: Any = None if axis is None else MaxOverAxis(axis)
        self.sum_over_ranks = _sum_of(axis)
        self.on, self.off = Tensor(1.0, ms.float32), Tensor(0.0, ms.float32)

    def _logits(self, hidden: Tensor, weight: Tensor) -> Tensor:
        logits = full(self.product(hidden, weight))
        if self.inverse_temperature != 1.0:
            logits = logits * self.inverse_temperature
        return logits if self.bias is None else logits + spread(self.bias, logits.shape)

    def _one_hot(self, labels: Tensor) -> Tensor:
        if not self.is_split:
            return _encode(labels, self.rows, self.on, self.off)
        local, inside = self._local(labels)
        chosen = _encode(local, self.rows, self.on, self.off)
        return chosen * spread(inside, chosen.shape)

    def _local(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(labels as rows of this rank, clipped into it, [N]; whether they lie there, float [N, 1])."""
        local = labels - self.first
        inside = ops.logical_and(local >= 0, local < self.rows).astype(ms.float32).reshape(-1, 1)
        return ops.minimum(ops.maximum(local, 0), self.rows - 1), inside

    def _chunk(self, hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(logprobs [N], entropy [N], log Z [N, 1] where the vocabulary is split, probabilities [N, rows])."""
        logits = self._logits(hidden, weight)
        if not self.is_split:
            log_probabilities = _log_softmax(logits)
            probabilities = ops.exp(log_probabilities)
            entropy = _mean(probabilities * log_probabilities, -1) * (-self.rows)
            return (
                _gather_d(log_probabilities, 1, labels.reshape(-1, 1)).reshape(-1),
                entropy.reshape(-1),
                entropy,
                probabilities,
            )
        maximum = self.max_over_ranks(_max(logits, -1).reshape(-1)).reshape(-1, 1)
        shifted = logits - spread(maximum, logits.shape)
        exponentials = ops.exp(shifted)
        local, inside = self._local(labels)
        # ReduceMean times the width: a sum over the last dimension, in the form that is fast on CPU
        own = (
            _mean(exponentials, -1) * self.rows,
            _mean(exponentials * shifted, -1) * self.rows,
            _gather_d(shifted, 1, local.reshape(-1, 1)) * inside,
        )
        total, weighted, chosen = ops.split(self.sum_over_ranks(ops.concat(own, 1)), 1, 1)
        log_total = ops.log(total)
        return (
            (chosen - log_total).reshape(-1),
            (log_total - weighted / total).reshape(-1),
            maximum + log_total,
            exponentials / spread(total, exponentials.shape),
        )

    def construct(self, hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Args: hidden [N, H]; weight [rows, H]; labels [N] int32.

        Returns: (logprobs [N], entropy [N], and what the backward pass needs: log Z [N, 1], kept probabilities or an
        empty stand-in).
        """
        count, rows = hidden.shape[0], self.rows_per_chunk
        if count <= rows:
            return self._chunk(hidden, weight, labels)
        logprobs: tuple = ()
        entropies: tuple = ()
        normalisers: tuple = ()
        last = labels
        for start in range(0, count, rows):
            # one chunk after the other: Ascend begins with all matrix products, and holds what they give
            end = start + rows
            part, own_labels = ops.depend(hidden[start:end], last), ops.depend(labels[start:end], last)
            logprob, entropy, normaliser, _ = self._chunk(part, weight, own_labels)
            logprobs += (logprob,)
            entropies += (entropy,)
            normalisers += (normaliser,)
            last = logprob
        return _concat(logprobs), _concat(entropies), _concat(normalisers), ops.zeros((1, 1), ms.float32)

    def _dlogits(
        self, probabilities: Tensor, labels: Tensor, entropy: Tensor, dlogprobs: Tensor, dentropy: Tensor
    ) -> Tensor:
        shape = probabilities.shape
        dlogits = (self._one_hot(labels) - probabilities) * spread(dlogprobs.reshape(-1, 1), shape)
        if self.has_entropy_gradient:
            surprise = ops.log(probabilities + _TINY) + spread(entropy.reshape(-1, 1), shape)
            dlogits = dlogits - probabilities * surprise * spread(dentropy.reshape(-1, 1), shape)
        if self.inverse_temperature != 1.0:
            dlogits = dlogits * self.inverse_temperature
        return dlogits

    def bprop(
        self, hidden: Tensor, weight: Tensor, labels: Tensor, out: tuple, gradients: tuple
    ) -> tuple[Tensor, Tensor, Tensor]:
        """d logp / d logits = onehot(label) - p and d entropy / d logits = -p (log p + entropy), divided by the
        temperature, a chunk at a time. Of
        the hidden states' gradient every tensor rank returns its part.
        """
        count, rows = hidden.shape[0], self.rows_per_chunk
        if count <= rows:
            dlogits = self.low(self._dlogits(out[3], labels, out[1], gradients[0], gradients[1]))
            dhidden = self.low(_matmul(dlogits, self.low_weight(weight)))
            if not self.is_trained:
                return dhidden, ops.zeros_like(weight), ops.zeros_like(labels)
            return dhidden, self.low(_matmul_ta(dlogits, hidden)).astype(weight.dtype), ops.zeros_like(labels)
        if self.is_trained:
            return self._by_chunks(hidden, weight, labels, out, gradients)
        return self._by_chunks_of_frozen(hidden, weight, labels, out, gradients)

    def _dlogits_of(
        self, start: int, hidden: Tensor, weight: Tensor, labels: Tensor, out: tuple, gradients: tuple, last: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(gradient of a chunk's logits, its hidden states), after `last`."""
        end = start + self.rows_per_chunk
        part, own_labels = ops.depend(hidden[start:end], last), ops.depend(labels[start:end], last)
        dlogprobs, dentropy = ops.depend(gradients[0][start:end], last), ops.depend(gradients[1][start:end], last)
        logits = self._logits(part, weight)
        probabilities = (
            ops.exp(logits - spread(ops.depend(out[2][start:end], last), logits.shape))
            if self.is_split
            else ops.exp(_log_softmax(logits))
        )
        return self.low(self._dlogits(probabilities, own_labels, out[1][start:end], dlogprobs, dentropy)), part

    def _by_chunks(self, hidden: Tensor, weight: Tensor, labels: Tensor, out: tuple, gradients: tuple) -> tuple:
        dhidden: tuple = ()
        dweight: Any = None  # float32
        last = labels
        for start in range(0, hidden.shape[0], self.rows_per_chunk):
            dlogits, part = self._dlogits_of(start, hidden, weight, labels, out, gradients, last)
            dhidden += (self.low(_matmul(dlogits, self.low_weight(weight))),)
            # zeros to begin with would be a constant of the graph, as large
            own = full(self.low(_matmul_ta(dlogits, part)))
            dweight = own if dweight is None else dweight + own
            last = dweight
        return _concat(dhidden), dweight.astype(weight.dtype), ops.zeros_like(labels)

    def _by_chunks_of_frozen(
        self, hidden: Tensor, weight: Tensor, labels: Tensor, out: tuple, gradients: tuple
    ) -> tuple:
        dhidden: tuple = ()
        last = labels
        for start in range(0, hidden.shape[0], self.rows_per_chunk):
            dlogits, _ = self._dlogits_of(start, hidden, weight, labels, out, gradients, last)
            own = self.low(_matmul(dlogits, self.low_weight(weight)))
            dhidden += (own,)
            last = own
        return _concat(dhidden), ops.zeros_like(weight), ops.zeros_like(labels)


def names_of_ends(model: Decoder) -> tuple[str, ...]:
    """Names of the parameters that `SlotLogprobs` computes with; () before the last stage."""
    return () if model.final_norm is None or model.head is None else (model.final_norm.name, model.head.name)


class SlotLogprobs(nn.Cell):
    """Logprobs and entropy of a micro-batch's completion tokens, from what the last layer returned.

    Ranks that share a sequence's tokens compute the head for their part of the slots, and end up with all of them.

    Args: has_entropy_gradient, is_trained, temperature: as of `TokenLogprobs`.
    """

    def __init__(
        self, model: Decoder, has_entropy_gradient: bool = False, is_trained: bool = True, temperature: float = 1.0
    ):
        super().__init__(auto_prefix=False)
        mesh = model.mesh
        self.model, self.parts, self.index = model, mesh.dims.context, mesh.context_index
        size, axis, precision = model.config.vocab_size, mesh.tensor, model.precision
        takes_gradients = is_trained and model.head is not None and model.head.requires_grad
        self.token_logprobs: nn.Cell = (
            NativeTokenLogprobs(size, axis, has_entropy_gradient, takes_gradients, temperature)
            if precision.has_native_kernels
            else TokenLogprobs(size, axis, 0, has_entropy_gradient, precision, takes_gradients, temperature)
        )
        self.gather_hidden = gather_tokens(mesh.context)
        self.join_logprobs, self.join_entropy = join_tokens(mesh.context), join_tokens(mesh.context)

    def construct(self, stream: Tensor, predictors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Args: stream: this rank's tokens after the last layer; predictors, labels int32 [N]: of all slots. Returns
        (logprobs [N], entropy [N]).
        """
        hidden = self.gather_hidden(self.model.norm(stream))
        if self.parts > 1:
            count = predictors.shape[0] // self.parts
            start = self.index * count
            predictors, labels = predictors[start : start + count], labels[start : start + count]
        # unpacked into unused names, MindSpore warns of "side effect nodes eliminated by mistake"
        outputs = self.token_logprobs(ops.gather(hidden, predictors, 0), self.model.head, labels)
        return self.join_logprobs(outputs[0]), self.join_entropy(outputs[1])
