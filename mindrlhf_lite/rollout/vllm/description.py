"""What vLLM asks of a model class before it starts a worker: whether it is a text generation model. The worker builds
this project's own model.
"""

from __future__ import annotations

from typing import Any

from torch import nn


class DecoderDescription(nn.Module):
    """Has the methods by which vLLM recognises a text generation model; none is ever called."""

    def __init__(self, vllm_config: Any, prefix: str = ""):
        raise RuntimeError("a description only: the MindSpore worker builds the model")

    def get_input_embeddings(self, input_ids: Any) -> Any: ...

    def forward(
        self, input_ids: Any, positions: Any, intermediate_tensors: Any = None, inputs_embeds: Any = None
    ) -> Any: ...

    def compute_logits(self, hidden_states: Any) -> Any: ...
