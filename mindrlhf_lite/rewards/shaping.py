"""What is added to the verifiers' rewards: punishment of long completions, and a user's own last word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mindrlhf_lite.algorithms.overlong import overlong_punishment
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.own_functions import find_function
from mindrlhf_lite.rewards.sizes import LARGEST_REWARD, is_usable
from mindrlhf_lite.types import CompletionView, FinishReason


def find_shaping(name: str) -> Callable[[float, CompletionView], float] | None:
    """The function that a name stands for (see `own_functions`); None for an empty one.

    Raises:
        ValueError: it cannot be found or imported.
    """
    if not name:
        return None
    return find_function(name, "shaping function")


@dataclass(frozen=True)
class RewardShaping:
    """Example: RewardShaping(max_tokens=64, overlong_buffer=16, overlong_penalty=1.0)"""

    max_tokens: int
    overlong_buffer: int = 0  # tokens
    overlong_penalty: float = 1.0
    missing_eos_penalty: float = 0.0
    function: str = ""  # dotted path

    def shaped(self, rewards: np.ndarray, completions: Sequence[CompletionView]) -> np.ndarray:
        """float32 rewards, one a completion.

        Raises:
            UserError: the user's function fails, or returns no finite number; or a reward is too large to be trained
                on.
        """
        function, shaped = find_shaping(self.function), []
        for reward, completion in zip(rewards.tolist(), completions, strict=True):
            length = completion.num_tokens + completion.num_read  # what is near its limit
            reward += overlong_punishment(length, self.max_tokens, self.overlong_buffer, self.overlong_penalty)
            if completion.finish_reason is FinishReason.LENGTH:
                reward -= self.missing_eos_penalty
            result = reward if function is None else self._own(function, reward, completion)
            if not is_usable(result):
                raise UserError(self._too_large(reward, result))
            shaped.append(result)
        return np.array(shaped, np.float32)

    def _too_large(self, reward: float, result: float) -> str:
        """Args: reward: with what length took from it; result: with the function's last word."""
        who, advice = "rl_config.overlong.penalty, reward_config.missing_eos_penalty", "lower them"
        if is_usable(reward):
            who, advice = f"reward_config.shaping_function={self.function}", "divide what it returns"
        return (
            f"{who}: a completion's reward is {result:g} with it, and rewards above {LARGEST_REWARD:g} overflow in "
            f"training; {advice}"
        )

    def _own(
        self, function: Callable[[float, CompletionView], float], reward: float, completion: CompletionView
    ) -> float:
        try:
            result = float(function(reward, completion))
        except Exception as error:  # a user's function may fail in any way
            raise UserError(
                f"reward_config.shaping_function={self.function}: {type(error).__name__}: {error}, on a completion of "
                f"{completion.num_tokens} tokens with reward {reward:g}"
            ) from None
        if not np.isfinite(result):
            raise UserError(f"reward_config.shaping_function={self.function}: returned {result} for reward {reward:g}")
        return result
