"""The advantages of a completion's tokens beside their texts, for people who read completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from mindrlhf_lite.types import Completion

Piece = list[str | float]  # [text, advantage]
_HALF = "\N{REPLACEMENT CHARACTER}"  # what a part of a character decodes to


def token_advantages(
    completion: Completion, advantages: np.ndarray, decode: Callable[[Sequence[int]], str]
) -> list[list[Piece]]:
    """Pieces of text with one advantage each, by turn (one, without an environment); empty where all that the policy
    wrote has the same advantage. Example: [[["3+5", 0.5], ["=9", -0.25]]]

    Args: advantages: float32 [len(completion.token_ids)].
    """
    written = np.ones(len(advantages), bool) if completion.written is None else completion.written
    if len(np.unique(advantages[written])) < 2:
        return []
    turns = [(0, len(advantages))]
    if completion.episode is not None:
        turns = [(turn.start, turn.end) for turn in completion.episode.turns]
    return [_pieces(completion.token_ids[start:end], advantages[start:end], decode) for start, end in turns]


def _pieces(ids: Sequence[int], advantages: np.ndarray, decode: Callable[[Sequence[int]], str]) -> list[Piece]:
    """Neighbours of the same advantage are one piece, and so are the tokens of one character: these have their mean."""
    pieces: list[Piece] = []
    start = end = 0
    for _, same in groupby(advantages.tolist()):
        end += len(list(same))
        text = decode(ids[start:end])
        if text.endswith(_HALF) and end < len(ids):
            continue
        if text:
            mean = advantages[start:end].mean()
            pieces.append([text, float(str(np.float32(mean)))])
        start = end
    return pieces
