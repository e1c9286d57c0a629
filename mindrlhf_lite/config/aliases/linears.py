"""Megatron's names of linears that have adapters, by peft's."""

from __future__ import annotations

_FUSED = {
    "linear_qkv": ["q_proj", "k_proj", "v_proj"],
    "linear_proj": ["o_proj"],
    "linear_fc1": ["gate_proj", "up_proj"],
    "linear_fc2": ["down_proj"],
}


def peft_names(given: str | list[str]) -> list[str]:
    """Example: peft_names(["linear_proj", "linear_fc2"]) == ["o_proj", "down_proj"]; other names stay."""
    names = given.replace(",", " ").split() if isinstance(given, str) else given
    return [each for name in names for each in _FUSED.get(name, [name])]
