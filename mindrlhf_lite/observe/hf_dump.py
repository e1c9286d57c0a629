"""What Hugging Face's model computes of a dump's completions, as lines of a dump. Needs torch, which the tests' extra
installs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.models.peft_folder import beside
from mindrlhf_lite.observe.dump import ACTIVATION, KEY_DATA, LOGPROBS, WEIGHT, statistics
from mindrlhf_lite.parallel.layout import whole_box
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import parameter_specs


def hf_lines(folder: str, lines: Sequence[Mapping[str, Any]], adapter: str | None = None) -> list[dict[str, Any]]:
    """Weights of the model in `folder`, its activations at the places that predict the completions of `lines`, and
    their logprobs, in float32. Args: adapter: folder of adapters beside it.

    Raises:
        ValueError: torch is not installed, or the lines hold no completions.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError:
        raise UserError("--hf needs torch: bash build.sh --test") from None
    completions = [line for line in lines if (line["stage"], line["name"]) == (KEY_DATA, "token_ids")]
    if not completions:
        raise UserError("the dump holds no completions: msprobe_config.key_data_dump makes it so")
    model = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    found: list[dict[str, Any]] = []

    def add(stage: str, name: str, part: str, values: np.ndarray, **more: Any) -> None:
        found.append({"stage": stage, "name": name, "part": part, **statistics(values), **more})

    for name, tensor in model.named_parameters():
        add(WEIGHT, name, "", tensor.detach().numpy(), box=[[0, extent] for extent in tensor.shape])
    if adapter is not None:
        for name, values in _adapters_merged_into(folder, adapter, add).items():
            model.get_parameter(name).data.copy_(torch.from_numpy(values))
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            outputs[name] = (output[0] if isinstance(output, tuple) else output).detach()

        return hook

    model.model.embed_tokens.register_forward_hook(keep("model.embed_tokens"))
    for number, layer in enumerate(model.model.layers):
        layer.register_forward_hook(keep(f"model.layers.{number}"))
    for line in completions:
        ids, prompt_length = torch.tensor([line["values"]]), line["prompt_length"]
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[0, prompt_length - 1 : -1] / line.get("temperature", 1.0)
        logprobs = torch.log_softmax(logits, -1).gather(1, ids[0, prompt_length:, None])[:, 0].numpy()
        for name, output in outputs.items():
            rows = output.reshape(ids.shape[1], -1)[prompt_length - 1 : -1].numpy()
            add(ACTIVATION, name, line["part"], rows, box=[0, len(rows)])
        add(KEY_DATA, LOGPROBS, line["part"], logprobs)
    return found


def _adapters_merged_into(folder: str, adapter: str, add: Any) -> dict[str, np.ndarray]:
    """The weights that adapters change, whole, by name; the adapters themselves become lines."""
    config = ModelConfig.from_dir(folder)
    adapters, reader = beside(folder, config, adapter)
    for spec in parameter_specs(adapters.shape.moved):
        box = whole_box(spec.shape)
        add(WEIGHT, spec.name, "", adapters.read(spec.name, box), box=[list(each) for each in box])
    shapes = {spec.name: spec.shape for spec in parameter_specs(config)}
    return {name: reader.read(name, whole_box(shapes[name])) for name in reader.names}
