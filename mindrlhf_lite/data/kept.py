"""What a conversion has found out, kept beside its output where bad rows ended it: the next run over the same rows, as
with --skip_bad_rows, goes on from there. Only work of some seconds is kept; a file that does not fit is not read.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from mindrlhf_lite import __version__
from mindrlhf_lite.data.convert import Converter
from mindrlhf_lite.data.sources import BadRow, Question
from mindrlhf_lite.files.text_file import say
from mindrlhf_lite.types import Prompt

WORTH_KEEPING_S = 5.0
_SYSTEMS = ("", "Be brief.")


@dataclass(frozen=True)
class Kept:
    """Of every question, in order: what is wrong with it, and, where that came so far, its prompt."""

    problems: list[BadRow | None]
    results: list[Prompt | BadRow] | None = None


class Keeper:
    """Keeps, and finds again, what a conversion into `output` found out; without an output nothing is."""

    def __init__(self, output: str | None, converter: Converter, questions: Sequence[Question]):
        self.path = kept_path(output) if output else None
        self._converter, self._questions, self._start = converter, questions, time.perf_counter()

    @cached_property
    def key(self) -> str:
        return key_of(self._converter, self._questions)

    def take_up(self) -> Kept | None:
        found = take_up(self.path, self.key) if self.path and self.path.is_file() else None
        if found is not None:
            say(f"going on from {self.path}")
        return found

    def keep(self, found: Kept) -> str:
        """A line about where it is; empty where it was no work, or there is no room."""
        if self.path is None or time.perf_counter() - self._start < WORTH_KEEPING_S:
            return ""
        try:
            keep(self.path, self.key, found)
        except OSError:  # what is wrong with the rows is to be said all the same
            self.path.unlink(missing_ok=True)
            return ""
        return f"what was found out is kept in {self.path}: the next conversion of the same rows goes on from there"


def kept_path(output: str | Path) -> Path:
    return Path(output).with_name(f".{Path(output).name}.checked.npz")


def key_of(converter: Converter, questions: Sequence[Question]) -> str:
    """SHA-256 of all that results depend on: settings, tokenizer, template, rows, version."""
    rendered = [converter.template.render("1+1?", system) for system in _SYSTEMS]
    digest = hashlib.sha256(repr((__version__, converter.settings, rendered)).encode())
    digest.update(converter.tokenizer.fingerprint().encode())
    for question in questions:
        digest.update(repr(astuple(question)).encode())
    return digest.hexdigest()


def keep(path: Path, key: str, kept: Kept) -> None:
    """Writes the file; one that is there gives way."""
    results = kept.results or []
    ids = [np.array(result.ids if isinstance(result, Prompt) else (), np.int32) for result in results]
    texts = {
        "key": key,
        "problems": [problem and astuple(problem) for problem in kept.problems],
        "results": None if kept.results is None else [_without_ids(result) for result in results],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(
            file,
            texts=np.frombuffer(json.dumps(texts).encode(), np.uint8),
            ids=np.concatenate([*ids, np.empty(0, np.int32)]),
            lengths=np.array([len(row) for row in ids], np.int64),
        )


def _without_ids(result: Prompt | BadRow) -> list:
    if isinstance(result, BadRow):
        return ["bad", *astuple(result)]
    return ["prompt", result.text, result.gold, result.row, result.source, dict(result.columns)]


def take_up(path: Path, key: str) -> Kept | None:
    """What the file keeps for this key; None where there is none, or it is another conversion's."""
    try:
        with np.load(path) as arrays:
            texts = json.loads(arrays["texts"].tobytes())
            ids, ends = arrays["ids"], np.cumsum(arrays["lengths"])
        return _as_kept(texts, np.split(ids, ends)[: len(ends)]) if texts["key"] == key else None
    except (OSError, ValueError, LookupError, TypeError, BadZipFile):  # cut short, or not ours: the work is done again
        return None


def _as_kept(texts: dict, ids: list[np.ndarray]) -> Kept:
    problems = [problem and BadRow(*problem) for problem in texts["problems"]]
    if texts["results"] is None:
        return Kept(problems)
    results: list[Prompt | BadRow] = []
    for (kind, *values), row in zip(texts["results"], ids, strict=True):
        if kind == "bad":
            results.append(BadRow(*values))
        else:
            text, gold, number, source, columns = values
            results.append(Prompt(0, tuple(map(int, row)), text, gold, number, source, columns))
    return Kept(problems, results)
