"""What is known of a setting, where it stands: its default, words, choices, bounds and unit; whether it belongs to the
objective, which a preset replaces as a whole; whether a resumed run may change it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Resume(Enum):
    """What a resumed run may do with a setting."""

    EXACT = "must keep"  # it would change the run's numbers
    ROUNDING = "may change, and with it the order of additions"
    FREE = "may change"  # where things go, how often, how long


FREE, ROUNDING = Resume.FREE, Resume.ROUNDING


@dataclass(frozen=True)
class Bounds:
    """What a number must be. Example: POSITIVE.holds(0) is False"""

    text: str
    holds: Callable[[float], bool]


POSITIVE = Bounds("must be positive", lambda value: value > 0)
NOT_NEGATIVE = Bounds("must not be negative", lambda value: value >= 0)
AT_MOST_ONE = Bounds("must lie in [0, 1]", lambda value: 0 <= value <= 1)
SHARE = Bounds("must lie in (0, 1]", lambda value: 0 < value <= 1)
PORT_OR_NONE = Bounds("must lie in [0, 65535]", lambda value: 0 <= value <= 65535)
BELOW_ONE = Bounds("must lie in [0, 1)", lambda value: 0 <= value < 1)

FLOAT_TYPES = ("float32", "bfloat16", "float16")
FLOAT_TYPES_OR_EMPTY = ("", *FLOAT_TYPES)


@dataclass(frozen=True)
class Facts:
    """Of a setting."""

    help: str
    choices: tuple[str, ...]
    bounds: Bounds | None
    unit: str
    resume: Resume
    is_objective: bool


def setting(
    default: Any,
    help: str,
    choices: tuple[str, ...] = (),
    bounds: Bounds | None = None,
    unit: str = "",
    resume: Resume = Resume.EXACT,
    is_objective: bool = False,
) -> Any:
    """A dataclass field that carries what is known of it."""
    metadata = {"facts": Facts(help, choices, bounds, unit, resume, is_objective)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)
