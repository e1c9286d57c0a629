"""A configuration of another toolkit as one of ours."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from mindrlhf_lite.config.aliases.tables import AliasRow, find_row, table
from mindrlhf_lite.config.dotted import by_dotted_key
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.errors import short_repr

_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "list": ((list, str), "a list"),
    "str": ((str,), "text"),
}


@dataclass
class Translation:
    """`values`: ours, by full dotted key; `remarks`: what changed its name or number; `accepted`: what changes nothing;
    `missing`: what has no counterpart; `problems`: what must be changed first; `num_same`: keys that stay as they are.
    """

    toolkit: str
    values: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    num_same: int = 0
    assumed: set[str] = field(default_factory=set)  # keys that are not given
    worked: dict[str, tuple[Any, AliasRow]] = field(default_factory=dict)  # given ones that are worked out
    origins: dict[str, str] = field(default_factory=dict)  # of ours, the key that the file has for it

    def take(self, key: str, value: Any, row: AliasRow) -> None:
        """A setting by its row; those that are worked out from several are left to the toolkit's own module."""
        if row.kind in ("same", "to"):
            translated = row.translated(value)
            self.values[row.ours] = translated
            if row.ours != key:
                self.origins[row.ours] = key
            if row.ours == key and translated == value:
                self.num_same += 1
            else:
                self.remark(key, value, f"{row.ours}: {_text(translated)}", row.note)
        elif row.kind == "accept" or (row.kind != "work" and row.allows(value)):
            self.accepted.append(f"{key}: {_text(value)}: {row.text}")
        elif row.kind == "lacks":
            self.missing.append(f"{key}: {_text(value)}: {row.text}")
        elif row.kind == "refuse":
            self.problems.append(f"{key}={short_repr(value)}: {row.text}")

    def work_out(self, key: str, value: Any, row: AliasRow, left: dict[str, Any]) -> None:
        """Puts a setting that is to be worked out into `left`, if its type is right."""
        wanted = row.type or (type(row.default).__name__ if row.has_default and row.default is not None else "")
        types, name = _TYPES.get(wanted, ((object,), ""))
        if (
            value is None
            or not isinstance(value, types)
            or (isinstance(value, bool) and bool not in types and types != (object,))
        ):
            if value is not None or wanted:
                self.problems.append(f"{key}={short_repr(value)}: {name or 'a value'} is needed")
            return
        left[row.full_key] = value
        self.worked[key] = (value, row)

    def finish(self) -> None:
        """Adds a remark on what was worked out and is in no list yet."""
        said = [*self.remarks, *self.accepted, *self.missing, *self.problems]
        for key, (value, row) in self.worked.items():
            if not any(line.startswith((f"{key}:", f"{key}=")) for line in said):
                self.remark(key, value, row.text)

    def remark(self, key: str, value: Any, ours: str, note: str = "") -> None:
        self.remarks.append(f"{key}: {_text(value)} -> {ours}" + (f" ({note})" if note else ""))

    def summary(self) -> str:
        """One line."""
        return (
            f"read as a configuration of {self.toolkit}: {self.num_same} settings as they are, {len(self.remarks)} "
            f"translated, {len(self.accepted)} without effect here, {len(self.missing)} without a counterpart "
            "(tools/migrate_config.py FILE lists them)"
        )


def _text(value: Any) -> str:
    return "''" if value == "" else str(value).lower() if isinstance(value, bool) else str(value)


def assume_defaults(
    translation: Translation, given: dict[str, Any], left: dict[str, Any], left_out: tuple[str, ...] = ()
) -> None:
    """Fills in what the toolkit assumes of settings that are not given. Args: left: those that are to be worked out;
    left_out: sections of the table.
    """
    for key, row in table(translation.toolkit).items():
        if not row.has_default or row.section in left_out or key in given:
            continue
        if row.kind == "work":
            left[key] = row.default
            translation.assumed.add(key)
        else:
            if row.ours not in translation.values:
                translation.values[row.ours] = row.translated(row.default)
                translation.origins[row.ours] = f"{key}, which is {_text(row.default)} where it is not given"


def take_all(translation: Translation, values: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Takes what the table says of every setting. Returns those that are to be worked out. A key that only this toolkit
    has is taken as it is; one that nobody has stays in `values`, to be reported.
    """
    left: dict[str, Any] = {}
    for key, value in values.items():
        row = find_row(translation.toolkit, key)
        if row is None:
            translation.values[key] = value
            translation.num_same += key in known
        elif row.kind == "work":
            translation.work_out(key, value, row, left)
        else:
            translation.take(key, value, row)
    return left


def defaults_of_ours() -> dict[str, Any]:
    """Every setting of this toolkit at its default."""
    return by_dotted_key(asdict(Config()))


class Worked:
    """Fills in a translation what is made of several settings. Args: left: those settings."""

    def __init__(self, translation: Translation, left: dict[str, Any]):
        self.translation, self.left = translation, left
        self.ours, self.assumed = translation.values, translation.assumed

    def get(self, key: str, default: Any = None) -> Any:
        value = self.left.get(key)
        return default if value is None else value

    def set(self, key: str, value: Any, source: str, note: str = "") -> None:
        """Ours, and of which of their settings it is said to come, if that is given."""
        self.ours[key] = value
        if source in self.left and source not in self.assumed:
            name = self.name_of(source)
            self.translation.origins[key] = name
            self.translation.remark(name, self.left[source], f"{key}: {value}", note)

    def name_of(self, source: str) -> str:
        """As their files have it."""
        return source
