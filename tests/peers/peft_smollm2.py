"""Adapters on a pretrained model, SmolLM2-135M-Instruct, by peft and torch in float64, for tests/adapters.

    python tests/peers/peft_smollm2.py MODEL > tests/peers/peft_smollm2.json

Needs torch, transformers and peft; the versions go into the file. MODEL: of examples/smollm2/get_model.sh. Of every
gradient it keeps the norm and the products with a few random directions (`summary_of`).
"""

import json
import sys

import numpy as np

RANK, ALPHA, DIRECTIONS = 16, 32.0, 4
TEXT = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "Altogether she sold 48 + 24 = 72 clips. 他在一月卖了七十二个。\n\treturn {x: x ** 2 for x in range(10)}"
)


def adapters_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Random float32 values of A and B by name."""
    rng = np.random.default_rng(5)
    return {name: np.float32(0.02) * rng.standard_normal(shapes[name]).astype(np.float32) for name in sorted(shapes)}


def summary_of(gradients: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """[norm, products with random directions] of each, in float64."""
    rng, found = np.random.default_rng(9), {}
    for name in sorted(gradients):
        flat = gradients[name].astype(np.float64).ravel()
        found[name] = [float(np.linalg.norm(flat)), *(rng.standard_normal((DIRECTIONS, flat.size)) @ flat).tolist()]
    return found


def by_peft(folder: str) -> dict:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, lora, autocast_adapter_dtype=False).double()
    trained = {
        name.removeprefix("base_model.model.").replace(".default", ""): parameter
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad
    }
    for name, values in adapters_of({name: tuple(each.shape) for name, each in trained.items()}).items():
        trained[name].data.copy_(torch.tensor(values.astype(np.float64)))
    ids = AutoTokenizer.from_pretrained(folder)(TEXT, add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([ids])
    logprobs = torch.log_softmax(adapted(tokens).logits[0, :-1], -1)[torch.arange(len(ids) - 1), tokens[0, 1:]]
    loss = -logprobs.mean()
    loss.backward()
    return {
        "ids": ids,
        "logprobs": logprobs.detach().numpy().round(9).tolist(),
        "loss": loss.item(),
        "gradients": summary_of({name: each.grad.numpy() for name, each in trained.items()}),
    }


if __name__ == "__main__":
    import peft
    import torch
    import transformers

    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
    json.dump({"versions": versions, **by_peft(sys.argv[1])}, sys.stdout)
    sys.stdout.write("\n")
