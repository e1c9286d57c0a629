"""The one table of a model's parameters: name, shape, how it is split, whether weight decay applies.

The checkpoint reader checks against it, the optimizer masks weight decay by it, and `parallel.layout` reads from it
which part of which parameter a rank holds. Names and shapes are Hugging Face's ([out, in] for linears).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache

import numpy as np

from mindrlhf_lite.shapes.adapters import DOWN, UP, Adapters, adapter_name
from mindrlhf_lite.shapes.layer_blocks import BLOCKS
from mindrlhf_lite.shapes.model_config import ModelConfig

FLOAT32_BYTES = 4
SCORE = "score.weight"  # of a head that gives one number


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter.

    Example: ParameterSpec("model.layers.0.self_attn.k_proj.weight", (128, 896), tensor_dim=0, layer=0, decays=True,
    units=2)
    """

    name: str
    shape: tuple[int, ...]
    tensor_dim: int | None  # the dimension that the tensor axis of the mesh splits; None: every rank holds the whole
    layer: int | None  # decoder layer, which the pipeline axis places; None: embedding, final norm, head
    decays: bool  # whether weight decay applies (never to norms and biases)
    # indivisible parts of tensor_dim (heads, columns), replicated over tensor ranks that outnumber them; 0: rows of a
    # vocabulary, padded to divide
    units: int = 0
    is_trained: bool = True  # else it has no gradient, no moment and no place in a checkpoint


def parameter_specs(config: ModelConfig, frozen: Sequence[str] = ()) -> list[ParameterSpec]:
    """All parameters of `config`'s decoder, in forward order.

    Args: frozen: names of those that are not trained; * stands for any text. Beside adapters all others are frozen,
    but a score head.
    """
    return list(_specs(config, tuple(frozen)))


@cache
def _specs(config: ModelConfig, frozen: tuple[str, ...]) -> list[ParameterSpec]:
    if config.adapters is not None:
        base = parameter_specs(config.base, ("*",))
        # a score head is new: it is trained whole, as peft's modules_to_save are
        base = [replace(spec, is_trained=spec.name == SCORE) for spec in base]
        specs = _with_adapters(base, config.adapters)
        return [spec for spec in specs if spec.is_trained or not config.adapters.is_alone]
    hidden = config.hidden_size
    specs = [ParameterSpec("model.embed_tokens.weight", (config.vocab_size, hidden), 0, None, True)]
    for layer in range(config.num_hidden_layers):
        rows = [row for kind in config.blocks_of(layer) for row in BLOCKS[kind].parameters(config)]
        specs += [
            ParameterSpec(f"model.layers.{layer}.{name}", shape, dim, layer, len(shape) > 1, units)
            for name, shape, dim, units in rows
        ]
    specs.append(ParameterSpec("model.norm.weight", (hidden,), None, None, False))
    if config.has_score:
        specs.append(ParameterSpec(SCORE, (1, hidden), None, None, True))
    elif not config.tie_word_embeddings:
        specs.append(ParameterSpec("lm_head.weight", (config.vocab_size, hidden), 0, None, True))
    is_frozen = [any(fnmatchcase(spec.name, pattern) for pattern in frozen) for spec in specs]
    return [replace(spec, is_trained=False) if frozen else spec for spec, frozen in zip(specs, is_frozen, strict=True)]


def _with_adapters(specs: list[ParameterSpec], adapters: Adapters) -> list[ParameterSpec]:
    """Each adapted linear's A and B after its weight. A has the columns of its rank, B the rows."""
    found = []
    for spec in specs:
        found.append(spec)
        if spec.layer is None or spec.name.split(".")[-2] not in adapters.targets or len(spec.shape) != 2:
            continue
        rows, columns = spec.shape
        of_rows, of_columns = ((0, spec.units), (None, 1)) if spec.tensor_dim == 0 else ((None, 1), (1, spec.units))
        for part, shape, (dim, units) in (
            (DOWN, (adapters.rank, columns), of_columns),
            (UP, (rows, adapters.rank), of_rows),
        ):
            found.append(ParameterSpec(adapter_name(spec.name, part), shape, dim, spec.layer, True, units))
    return found


@cache
def count_parameters(config: ModelConfig) -> int:
    """Number of weights, tied ones once."""
    total = 0
    for spec in parameter_specs(config):
        size = 1
        for extent in spec.shape:
            size *= extent
        total += size
    return total


def initial_weights(config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """Random float32 weights: matrices from N(0, 0.02), norms 1, biases 0; a function of (config, seed)."""
    rng = np.random.default_rng(seed)
    weights = {}
    for spec in parameter_specs(config):
        if spec.decays:
            weights[spec.name] = rng.standard_normal(spec.shape, np.float32) * np.float32(0.02)
        else:
            weights[spec.name] = np.full(spec.shape, 0.0 if spec.name.endswith("bias") else 1.0, np.float32)
    return weights
