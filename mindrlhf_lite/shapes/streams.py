"""Shapes of packed micro-batches: streams of tokens, cut into blocks of queries that attend together."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

BLOCK = 32  # queries that attend together
_SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)  # of the budget: sizes of streams
_MAX_PADDING = 0.1  # of a stream that could be smaller
_SMALLEST = 128  # tokens of a stream: a smaller one would save less than its graphs cost


@dataclass(frozen=True)
class StreamShapes:
    """Which shapes micro-batches may have, so that few graphs are compiled.

    Example: StreamShapes(1024, longest=400): streams of 128, 256, 512, 768 or 1024 tokens, of which a block attends to
    64, 128, 256 or 448. Sizes that differ by less than a third from the largest number of keys are left out.
    """

    budget: int  # tokens of a full stream
    longest: int  # tokens of the longest sequence
    multiple: int = 1  # a rank's part of a stream can be divided by this (tensor ranks that split the tokens)
    parts: int = 1  # whole blocks that ranks share a stream in

    @property
    def streams(self) -> tuple[int, ...]:
        unit, full = lcm(BLOCK, self.multiple) * self.parts, max(self.budget, self.longest)
        sizes = {-int(-full * share // unit) * unit for share in _SHARES}
        return tuple(sorted(size for size in sizes if size >= min(_SMALLEST, max(sizes))))

    @property
    def keys(self) -> tuple[int, ...]:
        most = min((-(-self.longest // BLOCK) + 1) * BLOCK, self.streams[-1])  # where one ends, and others begin
        return (*(2**power * BLOCK for power in range(1, 20) if 3 * 2**power * BLOCK < 2 * most), most)

    def stream_for(self, tokens: int, at_least: int) -> int:
        """The stream to fill next where so many tokens are left: the smallest that holds them all; or, where that would
        be padding for more than a tenth, the largest that they fill.

        Args: at_least: tokens that it must hold.
        """
        smallest = next((stream for stream in self.streams if stream >= tokens), self.streams[-1])
        filled = [stream for stream in self.streams if at_least <= stream <= tokens]
        return filled[-1] if filled and smallest - tokens > _MAX_PADDING * smallest else smallest

    @property
    def num_graphs(self) -> int:
        """Of one role, at most."""
        return sum(len({min(keys, stream) for keys in self.keys}) for stream in self.streams)
