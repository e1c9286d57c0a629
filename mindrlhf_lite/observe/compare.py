"""Two dumps of the same run side by side: where they part first."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.json_file import parse_json
from mindrlhf_lite.files.text_file import read_text
from mindrlhf_lite.observe.dump import ACTIVATION, GRADIENT, KEY_DATA, LOGPROBS, WEIGHT
from mindrlhf_lite.observe.run_files import check_is_regular

_ORDER = (KEY_DATA, WEIGHT, ACTIVATION, LOGPROBS, GRADIENT)
Key = tuple[str, str, str]  # stage, name, part


@dataclass(frozen=True)
class Entry:
    """A whole tensor's statistics. `checksums`: CRC-32 of its shares, by where they lie; they are comparable where two
    dumps cut the tensor alike.
    """

    count: int
    sum: float
    square: float
    smallest: float
    largest: float
    checksums: tuple[tuple[str, int], ...]

    def difference(self, other: Entry) -> float:
        """0 for the same bits; else the largest relative difference of norm, sum, minimum and maximum; infinity where
        the sizes differ. A sum is compared with the largest that a tensor of this norm can have.
        """
        if self.count != other.count:
            return math.inf
        if self.checksums == other.checksums:
            return 0.0
        norms = math.sqrt(self.square), math.sqrt(other.square)
        size, extreme = (
            max(norms),
            max(abs(each) for entry in (self, other) for each in (entry.smallest, entry.largest)),
        )
        if not math.isfinite(size):
            return math.inf
        return max(
            _share(abs(norms[0] - norms[1]), size),
            _share(abs(self.sum - other.sum), size * math.sqrt(self.count)),
            _share(abs(self.smallest - other.smallest), extreme),
            _share(abs(self.largest - other.largest), extreme),
        )


def _share(difference: float, whole: float) -> float:
    return difference / whole if whole else 0.0


def _total(values: Iterable[float]) -> float:
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # too large together, or infinities of both signs
        return math.nan


def entry_of(lines: Iterable[Mapping[str, Any]]) -> Entry:
    """Of all shares of one tensor; of those that lie at one place, one counts.

    Raises:
        ValueError: copies differ.
    """
    places: dict[str, Mapping[str, Any]] = {}
    for line in lines:
        place = json.dumps(line.get("box"))
        if places.setdefault(place, line)["crc32"] != line["crc32"]:
            raise UserError(f"ranks hold different copies of {line['name']} {line['part']} at {place}")
    shares = list(places.values())
    return Entry(
        sum(share["count"] for share in shares),
        _total(share["sum"] for share in shares),
        _total(share["square"] for share in shares),
        min(share["min"] for share in shares),
        max(share["max"] for share in shares),
        tuple(sorted((place, share["crc32"]) for place, share in places.items())),
    )


def entries_of(lines: Iterable[Mapping[str, Any]]) -> dict[Key, Entry]:
    """Whole tensors, in the order in which a step needs them, whatever ranks they lay on."""
    shares: dict[Key, list[Mapping[str, Any]]] = {}
    for line in lines:
        shares.setdefault((line["stage"], line["name"], line["part"]), []).append(line)
    ordered = sorted(shares, key=lambda key: _ORDER.index(key[1] if key[1] == LOGPROBS else key[0]))
    return {key: entry_of(shares[key]) for key in ordered}


def steps_of(folder: Path) -> list[int]:
    """Steps of a dump.

    Raises:
        ValueError: there are none.
    """
    steps = sorted(int(path.name[5:]) for path in folder.glob("step_*") if path.name[5:].isdigit())
    if not steps:
        raise UserError(f"{folder}: no step_N folders; msprobe_config.msprobe: true makes a run write them")
    return steps


def read_step(folder: Path, step: int) -> list[dict[str, Any]]:
    """The lines of all ranks. Of ranks with pipeline stages, the first stages' come first."""
    lines = []
    for path in sorted((folder / f"step_{step:06d}").glob("rank_*.jsonl")):
        check_is_regular(path)
        try:
            lines += [_checked(parse_json(line)) for line in read_text(path).splitlines()]
        except (ValueError, OSError) as error:
            raise UserError(f"{path}: not a dump ({error})") from None
    return lines


_NUMBERS = ("sum", "square", "min", "max")  # NaN and infinite where a run has diverged
_LARGEST = 1 << 63


def _checked(line: Any) -> dict[str, Any]:
    """Raises ValueError unless a line has what `Dumps` writes."""
    is_whole = (
        isinstance(line, dict)
        and all(isinstance(line.get(key), str) for key in ("stage", "name", "part"))
        and (line["stage"] in _ORDER or line["name"] == LOGPROBS)
        and all(_is_whole_number(line.get(key)) for key in ("count", "crc32"))
        and all(isinstance(line.get(key), float) or _is_whole_number(line.get(key)) for key in _NUMBERS)
        and not line["square"] < 0
    )
    if not is_whole:
        raise ValueError(f"stage, name, part, count, crc32, {', '.join(_NUMBERS)} are needed, not {str(line)[:60]}")
    return line


def _is_whole_number(value: Any) -> bool:
    return isinstance(value, int) and abs(value) < _LARGEST


@dataclass(frozen=True)
class Difference:
    """Of one tensor in one step; `value` as of `Entry.difference`, infinity where one dump lacks it."""

    step: int
    key: Key
    value: float
    note: str = ""

    def __str__(self) -> str:
        stage, name, part = self.key
        what = self.note or ("same bits" if self.value == 0 else f"differs by {self.value:.2e}")
        return f"step {self.step}, {stage} {name}{f' ({part})' if part else ''}: {what}"


def compare(first: Mapping[Key, Entry], second: Mapping[Key, Entry], step: int) -> Iterator[Difference]:
    """Every tensor of the first dump, in its order. What the second has no such stage of is left out, and key data that
    it lacks.
    """
    stages = {stage for stage, _, _ in second} - {KEY_DATA}
    for key, entry in first.items():
        if key in second:
            value = entry.difference(second[key])
            note = "other sizes" if entry.count != second[key].count else ""
            yield Difference(step, key, value, note)
        elif key[0] in stages:
            yield Difference(step, key, math.inf, "only in the first")
