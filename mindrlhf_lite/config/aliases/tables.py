"""The tables of other toolkits' keys, a YAML each: messages and migration are made of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mindrlhf_lite.files.strict_yaml import load_yaml
from mindrlhf_lite.files.text_file import read_text

MINDRLHF, MINDSPEED_RL, VERL = "MindRLHF", "MindSpeed-RL", "verl"
_FILES = {MINDRLHF: "mindrlhf.yaml", MINDSPEED_RL: "mindspeed_rl.yaml", VERL: "verl.yaml"}
_KINDS = ("to", "work", "accept", "lacks", "refuse")
# keys that no configuration of this toolkit has, and most of theirs have
_MARKS = {
    VERL: ("actor_rollout_ref.", "algorithm.", "custom_reward_function.", "trainer.n_gpus_per_node"),
    # the shortest files have a model and Megatron's switches only
    MINDSPEED_RL: (
        *("megatron_training.", "actor_config.model", "actor_config.use_mcore_models"),
        *(f"rl_config.{name}" for name in ("actor_resource.", "reference_resource.", "reward_resource.")),
    ),
    MINDRLHF: (
        *(f"rl_config.{name}" for name in ("use_parallel", "parallel_mode", "sink_size", "align_type")),
        *(f"rl_config.{name}" for name in ("load_ckpt_format", "gen_experience_kwargs", "enable_reshard_optimizer")),
        *(f"rl_config.{name}" for name in ("enable_oldpolicy", "micro_batch_interleaved", "enable_compile_cache")),
        *("actor_config.offset", "ref_config.offset", "generate_config.hf_config_path"),
        *("align_type", "sink_size", "mind_dataset_dir", "is_shared_backbone"),
    ),
}


@dataclass(frozen=True)
class AliasRow:
    """What becomes of one key. `kind`: same, to, work, accept, lacks or refuse (mindrlhf.yaml says what they mean);
    `text`: our key, or the reason.
    """

    section: str
    key: str
    kind: str
    text: str = ""
    values: dict[Any, Any] | None = None
    only: list[Any] | None = None
    note: str = ""
    zh: str = ""
    default: Any = None
    type: str = ""  # of a value that is worked out, where it has no default
    has_default: bool = False

    @property
    def full_key(self) -> str:
        return self.key if self.section == "flat" else f"{self.section}.{self.key}"

    @property
    def ours(self) -> str:
        """Our key, of rows of the kinds same and to."""
        return self.full_key if self.kind == "same" else self.text.replace("*", self.key)

    def translated(self, value: Any) -> Any:
        """A value of theirs as one of ours."""
        for theirs, ours in (self.values or {}).items():
            if theirs == value and type(theirs) is type(value):
                return ours
        return value

    def allows(self, value: Any) -> bool:
        """Whether nothing is lost, or refused, where the key has this value."""
        return self.kind in ("same", "to", "work") or (
            self.kind == "accept" if self.only is None else any(_equal(value, each) for each in self.only)
        )


def _equal(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


@cache
def table(toolkit: str) -> dict[str, AliasRow]:
    """All rows of a toolkit, by full key."""
    values = load_yaml(read_text(Path(__file__).parent / _FILES[toolkit]))
    rows: dict[str, AliasRow] = {}
    for section, entries in values.items():
        for keys, entry in entries.items():
            for key in str(keys).split():
                row = _row(section, key, entry)
                rows[row.full_key] = row
    return rows


def _row(section: str, key: str, entry: Any) -> AliasRow:
    if entry == "same":
        return AliasRow(section, key, "same")
    (kind,) = (name for name in _KINDS if name in entry)
    more = {name: entry.get(name) for name in ("values", "only", "default")}
    return AliasRow(
        section,
        key,
        kind,
        entry[kind],
        note=entry.get("note", ""),
        zh=entry.get("zh", ""),
        type=entry.get("type", ""),
        has_default="default" in entry,
        **more,
    )


def toolkit_of(values: dict[str, Any]) -> str | None:
    """Whose configuration these settings are, by full dotted key; None: this toolkit's own."""
    for toolkit, marks in _MARKS.items():
        if any(key == mark or (mark.endswith(".") and key.startswith(mark)) for key in values for mark in marks):
            return toolkit
    return None


def find_row(toolkit: str, key: str) -> AliasRow | None:
    """The row of a key, or of the section around it, where that is one."""
    rows = table(toolkit)
    parts = key.split(".")
    return next((rows[name] for end in range(len(parts), 0, -1) if (name := ".".join(parts[:end])) in rows), None)
