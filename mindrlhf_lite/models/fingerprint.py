"""What a model folder holds, as a short text: two folders of the same weights have the same, wherever they lie, however
many files they are in, and in whichever type they are stored.

Small tensors are read whole, of large ones some rows: enough to tell a fine-tuned model from its base, and quick for a
model of any size.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mindrlhf_lite.models.hf_weights import WeightReader
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import parameter_specs

_WHOLE, _ROWS = 1 << 16, 8  # values; rows of what is larger


def model_fingerprint(folder: str | Path) -> str:
    """SHA-256 of shape and sampled weights.

    Raises:
        ValueError: no model that can be read is there.
    """
    config = ModelConfig.from_dir(folder)
    reader = WeightReader(folder, config)
    left_out = ("adapters",) if config.has_score else ("adapters", "has_score")  # as before there were score heads
    shape = {name: value for name, value in asdict(config).items() if name not in left_out}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    for spec in sorted(parameter_specs(config), key=lambda spec: spec.name):
        digest.update(f"{spec.name} {spec.shape}".encode())
        for first, last in _rows(spec.shape):
            box = ((first, last), *((0, extent) for extent in spec.shape[1:]))
            digest.update(np.ascontiguousarray(reader.read(spec.name, box)).tobytes())
    return digest.hexdigest()


def _rows(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    if int(np.prod(shape, dtype=np.int64)) <= _WHOLE:
        return [(0, shape[0])]
    return [(row, row + 1) for row in sorted({int(row) for row in np.linspace(0, shape[0] - 1, _ROWS)})]
