"""Logprobs and entropy of chosen tokens from hidden states, without a [tokens, vocab] array.

The head is computed in chunks of tokens, each at most `CHUNK_ELEMENTS` logits; the backward pass recomputes every chunk.
A batch that fits in one chunk keeps its probabilities instead, which saves one matrix product.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops

CHUNK_ELEMENTS = 1 << 24  # logits held at a time: 64 MiB of float32

_linear = ops.MatMul(transpose_b=True)
_matmul = ops.MatMul()
_matmul_ta = ops.MatMul(transpose_a=True)
_log_softmax = ops.LogSoftmax(-1)
_gather_d = ops.GatherD()
_mean = ops.ReduceMean(keep_dims=True)
_concat = ops.Concat(0)


def _one_hot(labels: Tensor, vocab_size: int) -> Tensor:
    return ops.one_hot(labels, vocab_size)


def _chunk(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    log_probabilities = _log_softmax(_linear(hidden, weight))
    probabilities = ops.exp(log_probabilities)
    entropy = _mean(probabilities * log_probabilities, -1) * (-weight.shape[0])
    return _gather_d(log_probabilities, 1, labels.reshape(-1, 1)).reshape(-1), entropy.reshape(-1), probabilities


class TokenLogprobs(nn.Cell):
    """log p(label | hidden) with p = softmax(hidden weight^T), and the entropy of p (a metric: no gradient flows through it).

    Args:
        vocab_size: V.
        chunk_elements: logits held at a time.
    """

    def __init__(self, vocab_size: int, chunk_elements: int = CHUNK_ELEMENTS):
        super().__init__(auto_prefix=False)
        self.rows_per_chunk = max(1, chunk_elements // vocab_size)

    def construct(self, hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Args: hidden [N, H]; weight [V, H]; labels [N] int32. Returns (logprobs [N], entropy [N], kept probabilities or an empty stand-in)."""
        count, rows = hidden.shape[0], self.rows_per_chunk
        if count <= rows:
            return _chunk(hidden, weight, labels)
        logprobs: tuple = ()
        entropies: tuple = ()
        for start in range(0, count, rows):
            logprob, entropy, _ = _chunk(hidden[start : start + rows], weight, labels[start : start + rows])
            logprobs += (logprob,)
            entropies += (entropy,)
        return _concat(logprobs), _concat(entropies), ops.zeros((1, 1), hidden.dtype)

    def bprop(self, hidden: Tensor, weight: Tensor, labels: Tensor, out: tuple, gradients: tuple) -> tuple[Tensor, Tensor, Tensor]:
        """d logp / d logits = onehot(label) - p, a chunk at a time."""
        dlogprobs = gradients[0].reshape(-1, 1)
        count, rows = hidden.shape[0], self.rows_per_chunk
        if count <= rows:
            dlogits = (_one_hot(labels, weight.shape[0]) - out[2]) * dlogprobs
            return _matmul(dlogits, weight), _matmul_ta(dlogits, hidden), ops.zeros_like(labels)
        dhidden: tuple = ()
        dweight = ops.zeros_like(weight)
        for start in range(0, count, rows):
            part = hidden[start : start + rows]
            probabilities = ops.exp(_log_softmax(_linear(part, weight)))
            dlogits = (_one_hot(labels[start : start + rows], weight.shape[0]) - probabilities) * dlogprobs[start : start + rows]
            dhidden += (_matmul(dlogits, weight),)
            dweight = dweight + _matmul_ta(dlogits, part)
        return _concat(dhidden), dweight, ops.zeros_like(labels)
