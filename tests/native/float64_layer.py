"""The blocks of a layer in numpy, in float64."""

import numpy as np


def norm(x, gain, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * gain


def turned(x, cos, sin):
    """x [T, heads, D], tables [T, D], in the half-split layout."""
    half = x.shape[-1] // 2
    return x * cos[:, None] + np.concatenate([-x[..., half:], x[..., :half]], -1) * sin[:, None]


def queries_keys_values(x, weights, cos, sin, eps, scale):
    """[T, heads, D] each; weights by name; a bias or a norm that is not there is left out."""
    normed, found = norm(x, weights["norm"], eps), []
    for name in "qkv":
        y = normed @ weights[name].T + weights.get(name + "_bias", 0)
        y = y.reshape(len(x), -1, cos.shape[1])
        if name + "_norm" in weights:
            y = norm(y, weights[name + "_norm"], eps)
        found.append(y if name == "v" else turned(y, cos, sin))
    return found[0] * scale, found[1], found[2]


def mlp(x, weights, eps):
    normed = norm(x, weights["norm"], eps)
    gate, up = normed @ weights["gate"].T, normed @ weights["up"].T
    return x + (gate / (1 + np.exp(-gate)) * up) @ weights["down"].T
