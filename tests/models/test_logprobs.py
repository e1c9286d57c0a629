"""Chunked logprobs and entropy against numpy, forward and backward."""

import numpy as np
import pytest
from mindspore import Tensor, jit, ops

from mindrlhf_lite.models.logprobs import TokenLogprobs

N, H, V = 23, 8, 31


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
@pytest.mark.parametrize("rows_per_chunk", [7, 100])
def test_values_and_gradients(rows_per_chunk, temperature):
    """p = softmax(h W^T / T): d log p[y] / dh = (onehot(y) - p) W / T, and the entropy's is -p (log p + H) W / T."""
    rng = np.random.default_rng(0)
    hidden, weight = rng.standard_normal((N, H)).astype(np.float32), rng.standard_normal((V, H)).astype(np.float32)
    labels, upstream = rng.integers(0, V, N).astype(np.int32), rng.standard_normal(N).astype(np.float32)
    head = TokenLogprobs(V, chunk_elements=rows_per_chunk * V, has_entropy_gradient=True, temperature=temperature)

    @jit
    def forward(h, w):
        return head(h, w, Tensor(labels))

    def weighted(h, w):
        outputs = head(h, w, Tensor(labels))
        return (outputs[0] * Tensor(upstream) + 0.3 * outputs[1]).sum()

    gradient = ops.grad(weighted, (0, 1))

    @jit
    def backward(h, w):
        return gradient(h, w)

    logprobs, entropy, _, _ = (t.asnumpy() for t in forward(Tensor(hidden), Tensor(weight)))
    dhidden, dweight = (t.asnumpy() for t in backward(Tensor(hidden), Tensor(weight)))

    logits = hidden.astype(np.float64) @ weight.astype(np.float64).T / temperature
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(logprobs, np.log(p)[np.arange(N), labels], atol=1e-5)
    np.testing.assert_allclose(entropy, -(p * np.log(p)).sum(-1), atol=1e-5)
    surprise = np.log(p) - (p * np.log(p)).sum(-1, keepdims=True)
    dlogits = ((np.eye(V)[labels] - p) * upstream[:, None] - 0.3 * p * surprise) / temperature
    np.testing.assert_allclose(dhidden, dlogits @ weight, atol=1e-4)
    np.testing.assert_allclose(dweight, dlogits.T @ hidden, atol=1e-4)
