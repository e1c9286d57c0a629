"""What `tools/migrate_config.py --table` prints: every key of a toolkit, and what becomes of it, with its reason."""

from __future__ import annotations

from mindrlhf_lite.config.aliases.tables import MINDRLHF, MINDSPEED_RL, VERL, AliasRow, table
from mindrlhf_lite.config.load import known_keys

LANGUAGES = ("en", "zh")
_TITLES = {
    "en": ("theirs", "ours", "what happens"),
    "zh": ("原配置键", "本工具", "处理"),
}
_KINDS = {
    "en": {
        "same": "the same",
        "to": "translated",
        "work": "worked out",
        "accept": "no effect",
        "lacks": "no counterpart",
        "refuse": "refused",
    },
    "zh": {
        "same": "相同",
        "to": "直接对应",
        "work": "换算",
        "accept": "无影响",
        "lacks": "无对应",
        "refuse": "拒绝",
    },
}
_UNLESS = {"en": "unless it is", "zh": "除非取值为"}
_SECTION_NOTES = {"flat": {"en": "(no section)", "zh": "(无分节)"}}


def key_tables(language: str) -> str:
    """All toolkits' tables in Markdown."""
    return "\n\n".join(f"### {toolkit}\n\n{_table(toolkit, language)}" for toolkit in (MINDRLHF, MINDSPEED_RL, VERL))


def _table(toolkit: str, language: str) -> str:
    lines = [f"| {' | '.join(_TITLES[language])} |", "|---|---|---|"]
    lines += [
        f"| {_theirs(row, language)} | {_ours(row)} | {_what(row, language)} |" for row in table(toolkit).values()
    ]
    return "\n".join(lines)


def _theirs(row: AliasRow, language: str) -> str:
    if row.section == "flat":
        return f"`{row.key}` {_SECTION_NOTES['flat'][language]}"
    if row.section == "megatron":
        return f"`megatron_training.{row.key}`"
    return f"`{row.full_key}`"


def _ours(row: AliasRow) -> str:
    return f"`{row.ours}`" if row.kind in ("same", "to") else ""


def _what(row: AliasRow, language: str) -> str:
    kind = _KINDS[language][row.kind]
    if language == "zh":
        text = row.zh
    elif row.kind == "same":
        text = known_keys()[row.ours].metadata["facts"].help
    else:
        text = row.note if row.kind == "to" else row.text
    if row.kind in ("lacks", "refuse") and row.only:
        text += f"; {_UNLESS[language]} " + ", ".join(f"`{_shown(value)}`" for value in row.only)
    if row.values and row.kind == "to":
        pairs = ", ".join(f"`{_shown(a)}` → `{_shown(b)}`" for a, b in row.values.items())
        text = f"{text}; {pairs}" if text else pairs
    return f"{kind}: {text}".replace("|", "\\|") if text else kind


def _shown(value: object) -> str:
    """A value as YAML has it."""
    if value is None or value == "":
        return "null" if value is None else "''"
    return str(value).lower() if isinstance(value, bool) else str(value)
