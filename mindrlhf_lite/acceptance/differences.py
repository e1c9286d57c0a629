"""How far the arrays that a check made on a device are from those that it made on CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def load_arrays(path: Path) -> dict[str, Any]:
    return dict(np.load(path))


def difference(ours: Any, theirs: Any) -> float:
    """The largest, relative to the largest number; infinite where whole numbers differ, or any is not a number."""
    if not np.issubdtype(theirs.dtype, np.floating):
        return 0.0 if (ours == theirs).all() else float("inf")
    apart = float(np.abs(ours - theirs).max() / max(float(np.abs(theirs).max()), 1e-12))
    return apart if np.isfinite(apart) else float("inf")
