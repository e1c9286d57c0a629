"""Parallel degrees of a role and where a rank stands in them; pure numbers, no process group.

Ranks are numbered with the tensor axis fastest, then data, then pipeline: rank = (stage * data + data_index) * tensor +
tensor_index. Tensor-parallel ranks, which talk most, are neighbours. Data ranks hold the same weights; `context` of
them in a row also share their sequences, each computing its part of the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ParallelDims:
    """Parallel degrees of one role. Example: ParallelDims(copies=4, tensor=2, pipeline=1, context=2)"""

    copies: int  # of the weights: data-parallel ranks, times `context`
    tensor: int = 1
    pipeline: int = 1
    context: int = 1  # of `copies`, those that share a sequence's tokens; it divides `copies`

    @property
    def shares(self) -> int:
        """Shares that sequences are divided into, data_parallel in the settings: one for `context` copies."""
        return self.copies // self.context

    @property
    def size(self) -> int:
        return self.copies * self.tensor * self.pipeline

    def problem(self, world_size: int) -> str | None:
        """What is wrong with these degrees on `world_size` ranks, or None."""
        if min(self.copies, self.tensor, self.pipeline, self.context) < 1:
            return "every parallel degree must be at least 1"
        if self.size != world_size:
            context = f" x context_parallel {self.context}" if self.context > 1 else ""
            return (
                f"data_parallel {self.shares} x model_parallel {self.tensor} x pipeline_stage {self.pipeline}{context} "
                f"= {self.size}, but {world_size} rank(s) are running (msrun --worker_num)"
            )
        return None

    def coordinates(self, rank: int) -> Coordinates:
        rest, tensor = divmod(rank, self.tensor)
        stage, data = divmod(rest, self.copies)
        return Coordinates(data, tensor, stage)

    def rank(self, data: int, tensor: int, stage: int) -> int:
        return (stage * self.copies + data) * self.tensor + tensor

    def describe(self) -> str:
        context = f",cp={self.context}" if self.context > 1 else ""
        return f"dp={self.shares},tp={self.tensor},pp={self.pipeline}{context}"


@dataclass(frozen=True)
class Coordinates:
    """A rank's place. Example: ParallelDims(1, 2, 2).coordinates(3) == Coordinates(data=0, tensor=1, stage=1)"""

    data: int
    tensor: int
    stage: int
