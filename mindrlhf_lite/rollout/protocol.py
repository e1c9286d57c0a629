"""What the trainer needs of a rollout engine; any engine behind it can generate.

Ordering contract: weights are written in place between calls of `generate`, never during one, and `weights_changed` is
called after. The next `generate` samples from the new weights only. With tensor
parallelism all tensor ranks call `generate` with the same requests and get the same completions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from mindspore import Parameter

from mindrlhf_lite.turns import Restart
from mindrlhf_lite.types import Completion, FinishReason, GenerateRequest, SamplingParams

Next = Sequence[int] | Restart
OnFinished = Callable[[int], None]  # called with the number of completions that just finished


class Turns(Protocol):
    """What happens between the turns of completions, while others decode on. Tensor ranks each have one, and see the
    same.
    """

    max_turn_tokens: int  # after which a turn is over without a stop token; 0: no limit of its own

    def begin(self, request: int, sample: int) -> None:
        """A completion is about to be generated."""
        ...

    def turn_is_over(
        self, request: int, sample: int, token_ids: Sequence[int], reason: FinishReason, room: int
    ) -> None:
        """Args: token_ids: of the completion so far; room: tokens that it may still have."""
        ...

    def take(self, waits: bool) -> list[tuple[int, int, Next]]:
        """(request, sample, what comes next) of those whose turn is over and that were answered since: tokens that the
        policy reads, fewer than there was room; none, where the completion is over; or a new prompt that it goes on
        behind, shorter than the cache.

        Args: waits: until there is something new, perhaps of no completion: everything else waits too.
        """
        ...


class RolloutEngine(Protocol):
    """Generates completions for prompts."""

    def generate(
        self,
        requests: Sequence[GenerateRequest],
        sampling: SamplingParams,
        progress: OnFinished | None = None,
        *,
        turns: Turns | None = None,
    ) -> list[list[Completion]]:
        """`num_samples` completions for every request, in request order. With `turns`, what it answers is read, and
        counts as tokens, but is not `written`; min_tokens is of every turn.

        Raises:
            ValueError: a prompt that leaves no room for a completion.
        """
        ...

    def named_weights(self) -> dict[str, Parameter]:
        """The engine's own parameters on this rank, by buffer name, to be written in place."""
        ...

    def weights_changed(self) -> None:
        """Forgets what was computed from the old weights, and writes `own_weights` anew."""
        ...

    @property
    def own_weights(self) -> list[Parameter]:
        """A copy of the weights in a layout of the engine's own, which it computes with; none where that is
        `named_weights`.
        """
        ...

    @property
    def cache_parameters(self) -> list[Parameter]:
        """The KV cache, whose contents mean nothing between calls of `generate`."""
        ...
