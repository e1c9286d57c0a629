"""Whether weights and moments are sound: finite, and no larger than a model's can be.

A ruined model is never saved, exported or called done; the checkpoints from before stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from mindrlhf_lite.parallel.mesh import Mesh, gather_objects

_BLOCK = 1 << 16  # numbers looked at together: they fit the cache


class RuinedModel(Exception):
    """The trained weights are beyond repair, and nothing was written of them."""


def magnitude(values: np.ndarray) -> float:
    """The largest absolute value, 0 of none; infinity where one is infinite or NaN. Nothing is copied.

    Without their sign, the bits of floats are in the order of their values: first numbers, then infinity, then NaN.

    Example: magnitude(np.float32([0.5, -3.0])) == 3.0
    """
    flat = values.reshape(-1).view(f"u{values.itemsize}")
    no_sign = flat.dtype.type((1 << (8 * values.itemsize - 1)) - 1)
    largest = max((int((flat[i : i + _BLOCK] & no_sign).max()) for i in range(0, flat.size, _BLOCK)), default=0)
    number = float(np.array([largest], flat.dtype).view(values.dtype)[0])
    return number if math.isfinite(number) else math.inf


def largest_of(arrays: Iterable[np.ndarray]) -> float:
    """`magnitude` of all of them together."""
    return max(map(magnitude, arrays), default=0.0)


def is_sound(largest: float, limit: float) -> bool:
    """Whether a largest absolute weight is finite and, where there is a limit (not 0), within it."""
    return math.isfinite(largest) and (not limit or largest <= limit)


def problem_of(weights: Mapping[str, np.ndarray], moments: Mapping[str, np.ndarray], limit: float) -> str:
    """What is wrong with the first tensor that is not sound, or "". Args: limit: of weights; 0: none.

    Example: "model.norm.weight reaches 1e+38, over monitor_config.health.max_weight=10000"
    """
    for name, values in weights.items():
        if not is_sound(largest := magnitude(values), limit):
            return f"{name} {_in_words(largest, limit)}"
    return next((f"{name} {_in_words(math.inf, 0)}" for name, own in moments.items() if magnitude(own) == math.inf), "")


def _in_words(largest: float, limit: float) -> str:
    if not math.isfinite(largest):
        return "is not finite (NaN or infinity)"
    return f"reaches {largest:.6g}, over monitor_config.health.max_weight={limit:g}"


def largest_in_words(largest: float, limit: float) -> str:
    """As `problem_of`, of a model whose largest absolute weight is not sound."""
    return f"a weight {_in_words(largest, limit)}"


def ruined(problem: str) -> RuinedModel:
    """The error to raise. Args: problem: of `problem_of`."""
    return RuinedModel(
        f"the trained model is ruined: {problem}; it was not saved. The same settings lead there again: start a new "
        "run with a lower actor_config.lr_schedule.lr (docs/reliability.md, Health)"
    )


def refuse_ruined(mesh: Mesh, found: str) -> None:
    """Raises RuinedModel on every rank where any has `found` something. Every rank calls it."""
    problems = [f"{problem} (rank {rank})" for rank, problem in enumerate(gather_objects(mesh.world, found)) if problem]
    if problems:
        raise ruined(problems[0])
