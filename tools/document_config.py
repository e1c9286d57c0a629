#!/usr/bin/env python3
"""Writes docs/config.md from mindrlhf_lite/config/sections, and the tables of docs/migration.md from
mindrlhf_lite/config/aliases/*.yaml. They are short: `tools/migrate_config.py --table` has a row a key, with its reason.

Examples:
  python tools/document_config.py
  python tools/document_config.py --check      exit code 1 if a file is not current
"""

import dataclasses
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mindrlhf_lite.commands.tool import run_tool, tool_parser
from mindrlhf_lite.config.aliases.tables import MINDRLHF, MINDSPEED_RL, AliasRow, table
from mindrlhf_lite.config.load import FLAGS, known_keys, setting_types
from mindrlhf_lite.files.text_file import read_text, say, write_text

_MARK = "<!-- keys -->"  # what follows it is written here


def document() -> str:
    lines = [
        "# Settings",
        "",
        "Every key of the YAML with its default, also as `--section.key=value` on the command line. Written by "
        "`tools/document_config.py`.",
    ]
    types, section = setting_types(), ""
    short = {key: flag for flag, key in FLAGS.items()}
    for key, entry in known_keys().items():
        if key.partition(".")[0] != section:
            section = key.partition(".")[0]
            lines += ["", f"## {section}", ""]
        default = entry.default_factory() if entry.default_factory is not dataclasses.MISSING else entry.default
        value = default if isinstance(default, str) else json.dumps(default)
        kind = f" ({types[key]})" if isinstance(default, list) else ""
        facts = entry.metadata["facts"]
        choices = f" ({', '.join(filter(None, facts.choices))})" if facts.choices else ""
        is_said = facts.unit.rstrip("s") in facts.help  # also where there is none
        unit = "" if is_said else f" ({facts.unit})"
        flag = f"; short: `--{short[key]}`" if key in short else ""
        lines.append(f"- `{key}={value}`{unit}{kind}: {facts.help}{choices}{flag}")
    return "\n".join(lines) + "\n"


def key_lists(toolkit: str) -> str:
    """What becomes of a toolkit's keys, in lists; those without effect are left out."""
    rows = list(table(toolkit).values())
    moved = [row for row in rows if row.kind == "to" and not _keeps_name(row)]
    return "\n".join(
        [
            f"### {toolkit}\n",
            "**The same key**:\n",
            *_by_section([row for row in rows if row.section != "flat" and (row.kind == "same" or _keeps_name(row))]),
            *(
                ["- no section (the oldest files): as in a section"]
                if any(row.section == "flat" for row in rows)
                else []
            ),
            "\n**Another key or value** (their key, ours):\n",
            *(f"- `{_their_key(row)}`: `{row.ours}`{_value_pairs(row)}" for row in moved),
            "\n**Worked out**:\n",
            *_by_reason([row for row in rows if row.kind == "work"]),
            "\n**Refused, or without a counterpart** (the values in brackets are accepted):\n",
            *_by_reason([row for row in rows if row.kind in ("refuse", "lacks")]),
        ]
    )


def _keeps_name(row: AliasRow) -> bool:
    """Whether it only has another default, or stands in a section here."""
    is_moved = row.section == "flat" and row.ours.rpartition(".")[2] == row.key
    return row.kind == "to" and not row.values and (row.ours == row.full_key or is_moved)


def _their_key(row: AliasRow) -> str:
    return f"megatron_training.{row.key}" if row.section == "megatron" else row.full_key


def _by_section(rows: list[AliasRow]) -> list[str]:
    """A line a section with the names in it."""
    names: dict[str, list[str]] = {}
    for row in rows:
        section, _, name = _their_key(row).rpartition(".")
        names.setdefault(section, []).append(f"`{name}`")
    return [f"- {f'`{section}`' if section else 'no section'}: {', '.join(found)}" for section, found in names.items()]


def _by_reason(rows: list[AliasRow]) -> list[str]:
    """A line a reason, with the keys that have it."""
    keys: dict[str, list[str]] = {}
    for row in rows:
        accepted = f" ({', '.join(f'`{_shown(value)}`' for value in row.only)})" if row.only else ""
        keys.setdefault(row.text, []).append(f"`{_their_key(row)}`{accepted}")
    return [f"- {', '.join(found)}: {reason}" for reason, found in keys.items()]


def _value_pairs(row: AliasRow) -> str:
    pairs = ", ".join(f"`{_shown(value)}` is `{_shown(ours)}`" for value, ours in (row.values or {}).items())
    return f"; {pairs}" if pairs else ""


def _shown(value: object) -> str:
    """A value as YAML has it."""
    if value is None or value == "":
        return "null" if value is None else "''"
    return str(value).lower() if isinstance(value, bool) else str(value)


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    args = parser.parse_args()
    texts = {ROOT / "docs" / "config.md": document()}
    path = ROOT / "docs" / "migration.md"
    tables = "\n\n".join(map(key_lists, (MINDRLHF, MINDSPEED_RL)))
    texts[path] = read_text(path).partition(_MARK)[0] + _MARK + "\n\n" + tables + "\n"
    for path, text in texts.items():
        if not args.check:
            write_text(path, text)
        elif not path.is_file() or read_text(path) != text:
            say(f"{path} is not current; run python tools/document_config.py")
            sys.exit(1)


if __name__ == "__main__":
    run_tool(main)
