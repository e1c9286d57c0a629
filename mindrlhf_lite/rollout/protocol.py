"""What the trainer needs of a rollout engine; any engine behind it can generate.

Ordering contract: `generate` only while awake; `update_weights` between calls of `generate`, never during one. After
`update_weights` returns, the next `generate` samples from the new weights only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from mindspore import Tensor

from mindrlhf_lite.types import Completion, GenerateRequest, SamplingParams

Progress = Callable[[int], None]  # called with the number of completions that just finished


class RolloutEngine(Protocol):
    """Generates completions for prompts."""

    def generate(self, requests: Sequence[GenerateRequest], sampling: SamplingParams, progress: Progress | None = None) -> list[list[Completion]]:
        """`num_samples` completions for every request, in request order.

        Raises:
            ValueError: a prompt that leaves no room for a completion; RuntimeError: the engine sleeps.
        """
        ...

    def update_weights(self, weights: Mapping[str, Tensor]) -> int:
        """Copies every weight, by Hugging Face name, into the engine's in place. Returns the bytes copied."""
        ...

    def sleep(self) -> None:
        """Frees the KV cache; weights stay."""
        ...

    def wake(self) -> None:
        """Makes the engine ready to generate again."""
        ...
