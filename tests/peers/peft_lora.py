"""Logits, loss and gradients of adapters by peft and torch, for tests/adapters.

    python tests/peers/peft_lora.py > tests/peers/peft_lora.json

Needs torch, transformers and peft; the versions go into the file. It computes in float64. Weights and tokens are
numpy's random numbers, made alike by both sides: `tensors_of` and `TOKENS`.
"""

import json
import sys

import numpy as np

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
CASES = {
    "qwen2 all-linear": {"model_type": "qwen2", "rank": 2, "alpha": 6.0, "rslora": False, "targets": "all-linear"},
    "qwen3 some, rslora": {
        "model_type": "qwen3",
        "rank": 3,
        "alpha": 4.0,
        "rslora": True,
        "targets": ["q_proj", "v_proj", "down_proj"],
    },
    "llama attention": {
        "model_type": "llama",
        "rank": 5,
        "alpha": 5.0,
        "rslora": False,
        "targets": ["k_proj", "o_proj"],
    },
}
TOKENS = np.random.default_rng(7).integers(0, SHAPE["vocab_size"], (2, 11))


def tensors_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Random float32 values of tensors by name, B's too; norms near 1."""
    rng = np.random.default_rng(11)
    found = {}
    for name in sorted(shapes):
        values = rng.standard_normal(shapes[name]).astype(np.float32)
        found[name] = 1 + np.float32(0.1) * values if "norm" in name else np.float32(0.15) * values
    return found


def case_by_peft(case: dict) -> dict:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(case["model_type"], **SHAPE)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").double()
    lora = LoraConfig(
        r=case["rank"],
        lora_alpha=case["alpha"],
        use_rslora=case["rslora"],
        target_modules=case["targets"],
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, lora, autocast_adapter_dtype=False).double()

    def name_of(name: str) -> str:
        return name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".default", "")

    parameters = {name_of(name): parameter for name, parameter in adapted.named_parameters()}
    for name, values in tensors_of({n: tuple(p.shape) for n, p in parameters.items()}).items():
        parameters[name].data.copy_(torch.tensor(values.astype(float)))
    tokens = torch.tensor(TOKENS)
    logits = adapted(tokens).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, SHAPE["vocab_size"]), tokens[:, 1:].reshape(-1))
    loss.backward()
    gradients = {n: p.grad.numpy() for n, p in parameters.items() if p.requires_grad}
    return {
        "logits": logits.detach().numpy().astype(float).round(7).tolist(),
        "loss": loss.item(),
        "gradients": {n: g.astype(float).round(10).tolist() for n, g in gradients.items()},
    }


if __name__ == "__main__":
    import peft
    import torch
    import transformers

    torch.set_num_threads(1)
    found = {name: case_by_peft(case) for name, case in CASES.items()}
    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
    json.dump({"versions": versions, "cases": found}, sys.stdout)
    sys.stdout.write("\n")
