"""Asks transformers' models for sequence classification for their scores, on small models that
tests/models/test_score_head.py makes again from the same seed.

Run by hand, in an environment of its own (it needs torch and transformers, no MindSpore):
    python tests/peers/hf_scores.py tests/peers/hf_scores.json
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

CLASSES = {
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForSequenceClassification),
    "llama": (transformers.LlamaConfig, transformers.LlamaForSequenceClassification),
}
SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "pad_token_id": 0,
    "num_labels": 1,
}
LENGTHS = (20, 9, 30)


def weights_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Every parameter random, in the order of names."""
    rng, found = np.random.default_rng(0), {}
    for name, shape in sorted(shapes.items()):
        values = rng.standard_normal(shape).astype(np.float32)
        found[name] = 1 + 0.1 * values if "norm" in name else values * np.float32(1.2 / np.sqrt(shape[-1]))
    return found


def sequences() -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(1, 97, length).tolist() for length in LENGTHS]


def ask(kind: str) -> dict:
    config_class, model_class = CLASSES[kind]
    model = model_class(config_class(**SHAPE)).eval()
    weights = weights_of({name: tuple(value.shape) for name, value in model.state_dict().items()})
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    longest = max(LENGTHS)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in sequences()])
    with torch.no_grad():
        scores = model(ids, attention_mask=(ids != 0).long()).logits[:, 0]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads((Path(folder) / "config.json").read_text())
    return {"scores": scores.tolist(), "config": config, "names": sorted(weights)}


if __name__ == "__main__":
    found = {"transformers": transformers.__version__, "lengths": LENGTHS, **{kind: ask(kind) for kind in CLASSES}}
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")
