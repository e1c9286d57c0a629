"""The weight of the KL to the reference: fixed, or following the measured KL."""

from __future__ import annotations

from mindrlhf_lite.algorithms.kl import adapted_coefficient
from mindrlhf_lite.config.schema import Config


class KlCoefficient:
    """`value`: of the step that comes."""

    def __init__(self, config: Config):
        self.value, self._control = config.rl_config.beta, config.rl_config.kl_ctrl
        self._completions_per_step = config.completions_per_step

    @property
    def is_adaptive(self) -> bool:
        return self._control.type == "adaptive"

    def adapt(self, measured: float) -> None:
        """After a step. Args: measured: its mean KL of a token."""
        if self.is_adaptive:
            self.value = adapted_coefficient(
                self.value, measured, self._control.target, self._control.horizon, self._completions_per_step
            )
