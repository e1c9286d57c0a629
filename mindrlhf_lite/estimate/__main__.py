"""Writes the strategies of model_configs/*.yaml anew, and prints the rows of the table in docs/ascend.md.

python -m mindrlhf_lite.estimate [MODEL_CONFIG ...]      from the project's folder; a minute or two a model
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mindrlhf_lite.config.load import read_yaml
from mindrlhf_lite.config.model_file import read_model_file
from mindrlhf_lite.estimate.proposals import GROUP, Proposal, propose
from mindrlhf_lite.files.text_file import read_text, say, write_text
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import count_parameters

DEVICES = (8, 16, 64)
BASE, FOLDER = Path("examples/qwen_grpo/grpo_config.yaml"), Path("model_configs")
_SECTIONS = ("rl_config", "actor_config", "ref_config", "generate_config")


def strategies_text(proposals: dict[int, Proposal]) -> str:
    lines = ["strategies:"]
    for devices, proposal in proposals.items():
        if not proposal.fits:
            lines.append(
                f"  # more than 80 % of {devices} devices of 64 GiB, which leaves little room: {proposal.gib:.0f} GiB"
            )
        lines.append(f"  {devices}:")
        for section in _SECTIONS:
            lines += _section_lines(section, proposal.settings)
    return "\n".join(lines) + "\n"


def _section_lines(section: str, settings: dict[str, Any]) -> list[str]:
    own = {key.removeprefix(f"{section}."): value for key, value in settings.items() if key.startswith(f"{section}.")}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in own.items():
        head, _, tail = key.rpartition(".")
        nested.setdefault(head, {})[tail] = value
    if list(nested) == [""]:
        return [f"    {section}: {_flow(own)}"]
    nested = {head: values for head, values in nested.items() if values != {"opt_offload": False}}
    lines = [f"    {section}:", *(f"      {key}: {_scalar(value)}" for key, value in nested.pop("", {}).items())]
    return lines + [f"      {head}: {_flow(values)}" for head, values in nested.items()]


def _flow(values: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {_scalar(value)}" for key, value in values.items()) + "}"


def _scalar(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _degrees(settings: dict[str, Any], section: str) -> str:
    data, tensor = (settings[f"{section}.parallel_config.{degree}_parallel"] for degree in ("data", "model"))
    return f"dp{data} tp{tensor}"


def row(name: str, shape: ModelConfig, devices: int, proposal: Proposal) -> str:
    """Of the table: what the shipped strategy of a model is on so many devices."""
    settings = proposal.settings
    actor, rollout = (_degrees(settings, section) for section in ("actor_config", "generate_config"))
    stages = settings["actor_config.parallel_config.pipeline_stage"]
    actor += f" pp{stages}" * (stages > 1)
    copies = settings["generate_config.parallel_config.data_parallel"]
    slots = min(settings["generate_config.max_num_seqs"], settings["rl_config.chunk_size"] * GROUP // copies)
    with_ = [
        word
        for word, is_on in (
            ("recompute", settings["actor_config.recompute_config.recompute"]),
            ("swap", settings["rl_config.swap"]),
            ("opt_offload", settings["actor_config.optimizer.opt_offload"]),
        )
        if is_on
    ]
    seconds = f"{proposal.seconds:.0f} s" if proposal.fits else "does not fit"
    size = f"{count_parameters(shape) / 1e9:.1f}B"
    completions = settings["rl_config.chunk_size"] * GROUP
    return (
        f"| {name} ({size}) | {devices} | {actor} | {rollout} | {slots} | {', '.join(with_) or '-'} | "
        f"{proposal.gib:.0f} GiB | {completions} | {seconds} |"
    )


def main(paths: list[Path]) -> None:
    base = read_yaml(str(BASE))
    for path in paths:
        shape = read_model_file(str(path)).shape
        proposals = {devices: propose(base, shape, devices) for devices in DEVICES}
        text = read_text(path)
        write_text(path, text[: text.index("strategies:")] + strategies_text(proposals))
        for devices, proposal in proposals.items():
            say(row(path.stem, shape, devices, proposal))


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]] or sorted(FOLDER.glob("*.yaml")))
