"""What a completion's length adds to its reward, and which completions do not count."""

from __future__ import annotations


def overlong_punishment(length: int, max_tokens: int, buffer: int, penalty: float) -> float:
    """0 up to max_tokens - buffer tokens, then falling in a straight line to -penalty at max_tokens: DAPO's soft
    overlong punishment (arXiv:2503.14476, eq. 13).

    Args: length: tokens of the completion; buffer: of the last tokens in which it is punished; 0: never.
    """
    if not buffer:
        return 0.0
    return -penalty * min(1.0, max(0, length - (max_tokens - buffer)) / buffer)
