"""Dynamic loss scaling: gradients of float16 would round to zero, or overflow (arXiv:1710.03740)."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class LossScale:
    """What the loss is multiplied by, so that the gradients fit into float16; they are divided by it again in float32.

    An update whose gradients overflow is left out and the scale divided by `factor`; after `window` updates in a row
    that went well it is multiplied by it. Example: LossScale(65536.0, 2.0, 1000)
    """

    value: float = 1.0
    factor: float = 2.0
    window: int = 0  # 0: the scale stays, and an overflow is an error
    in_a_row: int = 0
    overflows: int = 0

    @property
    def is_dynamic(self) -> bool:
        return self.window > 0

    def overflowed(self) -> None:
        """
        Raises:
            FloatingPointError: the scale has nowhere to go.
        """
        if self.value <= 1.0:
            raise FloatingPointError(
                f"gradients overflow float16 at a loss scale of {self.value:g} too ({self.overflows} updates left out "
                "before); the run cannot go on: use compute_dtype bfloat16 or float32"
            )
        self.value, self.in_a_row, self.overflows = max(1.0, self.value / self.factor), 0, self.overflows + 1

    def went_well(self) -> None:
        self.in_a_row += 1
        if self.is_dynamic and self.in_a_row == self.window:
            self.value, self.in_a_row = self.value * self.factor, 0

    def state(self) -> dict[str, float]:
        """As a checkpoint keeps it."""
        return {name: value for name, value in asdict(self).items() if name in ("value", "in_a_row", "overflows")}

    def restore(self, state: dict[str, float]) -> None:
        """What `state` returned; {}: of a run without one, nothing changes."""
        self.value = float(state.get("value", self.value))
        self.in_a_row, self.overflows = int(state.get("in_a_row", 0)), int(state.get("overflows", 0))
