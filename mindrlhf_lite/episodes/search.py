"""The tool `search`: passages of a folder of text files, ranked by BM25 (rank_bm25, an extra).

The folder is read once, by the process that environments are forked from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.own_functions import places

_SUFFIXES = (".txt", ".md")
_PASSAGE = 1000  # characters, about
_MOST_RESULTS = 10
# a word; of scripts that write none, a character
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


class Library:
    """Args: folder: of .txt and .md files, also below it.

    Raises:
        UserError: there is none, it has no text, or rank_bm25 is not installed.
    """

    def __init__(self, folder: str):
        try:
            from rank_bm25 import BM25Okapi
        except ImportError:
            raise UserError("rank_bm25 is not installed: pip install 'mindrlhf_lite[search]'") from None
        root = next((path for place in places() if (path := Path(place, folder)).is_dir()), None)
        if root is None:
            raise UserError(f"search: there is no folder {folder!r}")
        files = sorted(path for path in root.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
        self._passages = [
            (str(path.relative_to(root)), passage)
            for path in files
            for passage in passages_of(path.read_text(encoding="utf-8", errors="replace"))
        ]
        words = [words_of(f"{name} {passage}") for name, passage in self._passages]
        if not any(words):
            raise UserError(f"search: {folder!r} has no text in {' or '.join(_SUFFIXES)} files")
        self._words, self._ranking = list(map(frozenset, words)), BM25Okapi(words)

    def search(self, query: str, num_results: int) -> str:
        asked = words_of(query)
        found = [number for number, words in enumerate(self._words) if words.intersection(asked)]
        scores = self._ranking.get_scores(asked)
        best = sorted(found, key=lambda number: (-np.round(scores[number], 9), number))
        shown = [self._passages[number] for number in best[: min(max(num_results, 1), _MOST_RESULTS)]]
        return "\n\n".join(f"[{name}] {passage}" for name, passage in shown) or "nothing was found"


def words_of(text: str) -> list[str]:
    """Example: words_of("The Nile's") == ["the", "nile", "s"]"""
    return _WORD.findall(text.lower())


def passages_of(text: str) -> Iterator[str]:
    """Paragraphs, short ones together, long ones cut."""
    held = ""
    for paragraph in filter(None, map(str.strip, re.split(r"\n\s*\n", text))):
        if held and len(held) + len(paragraph) > _PASSAGE:
            yield held
            held = ""
        held = f"{held}\n{paragraph}" if held else paragraph
        while len(held) > 2 * _PASSAGE:
            yield held[:_PASSAGE]
            held = held[_PASSAGE:]
    if held:
        yield held


_library: Library | None = None  # of this process


def open_library(folder: str) -> None:
    """What `search` searches from now on."""
    global _library
    _library = Library(folder)


def search(query: str, num_results: int = 3) -> str:
    """Searches documents for passages that hold the words of a query, the best first.

    Args:
        query: the words to look for.
        num_results: passages to return, at most 10.
    """
    assert _library is not None  # opened by whoever makes the tools
    return _library.search(query, num_results)
