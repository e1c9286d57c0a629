"""Rotary embedding tables, and Llama 3.1's stretched frequencies."""

from __future__ import annotations

import numpy as np

from mindrlhf_lite.shapes.model_config import ModelConfig, RopeScaling


def rotary_tables(config: ModelConfig, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(cos, sin), each float32 [length, head_dim], in the half-split layout (RoFormer, arXiv:2104.09864, as Hugging
    Face lays it out).
    """
    inverse_frequency = 1.0 / (
        config.rope_theta ** (np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim)
    )
    if config.rope_scaling is not None:
        inverse_frequency = stretched(inverse_frequency, config.rope_scaling)
    angles = np.arange(length, dtype=np.float64)[:, None] * inverse_frequency[None]
    angles = np.concatenate([angles, angles], -1)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def stretched(inverse_frequency: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Llama 3.1's frequencies (arXiv:2407.21783; as Hugging Face's rope_type "llama3"): turns over the original context
    decide, many keep a frequency, few divide it by `factor`, between them it goes from one to the other linearly in the
    number of turns.
    """
    turns = scaling.original_max_position_embeddings * inverse_frequency / (2 * np.pi)
    kept = np.clip((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0, 1.0)
    return inverse_frequency * (kept + (1 - kept) / scaling.factor)
