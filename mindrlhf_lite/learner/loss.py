"""What a loss is: a cell over the last layer's output, with the model's weights that it uses and what it counts."""

from __future__ import annotations

from typing import Protocol

from mindspore import Tensor

from mindrlhf_lite.scoring.batches import MicroBatch


class Loss(Protocol):
    """An nn.Cell. Policy losses: learner/policy_loss.py; the negative logprob of supervised training:
    learner/supervised_loss.py.
    """

    weight_names: tuple[str, ...]  # parameters that it uses, besides the layers'; () before the last stage
    statistics: tuple[str, ...]  # names of what it counts: sums over tokens, and maxima where they end in _max

    def inputs_of(self, batch: MicroBatch) -> tuple[Tensor, ...]:
        """A micro-batch as the arguments after the residual stream."""

    def construct(self, stream: Tensor, *arrays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Args: stream: the residual stream after the last layer. Returns (loss times the micro-batch's loss_scale,
        values of `statistics`, logprobs [N] of the micro-batch's slots).
        """
