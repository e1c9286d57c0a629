"""The order in which a pipeline stage works: one forward, one backward (PipeDream-Flush, arXiv:2006.09503, as
Megatron-LM runs it).

Pure data, so that a test can prove for any number of stages and micro-batches that no order of blocking messages
deadlocks and that a stage never keeps more than (stages - stage) inputs. Both ends of a link pass their messages in the
same order: a stage receives backward i before it sends the forward that the warm-up is ahead by.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Work(Enum):
    """FORWARD needs the input received, BACKWARD the gradient received; the last stage computes its loss in
    BACKWARD.
    """

    RECEIVE_INPUT = "receive_input"
    FORWARD = "forward"
    SEND_OUTPUT = "send_output"
    RECEIVE_GRADIENT = "receive_gradient"
    BACKWARD = "backward"
    SEND_GRADIENT = "send_gradient"


@dataclass(frozen=True)
class Action:
    work: Work
    microbatch: int


def one_forward_one_backward(stage: int, num_stages: int, num_microbatches: int) -> list[Action]:
    """What `stage` does, in order."""
    is_first, is_last, actions = stage == 0, stage == num_stages - 1, []
    ahead = min(num_stages - 1 - stage, num_microbatches)  # forwards before the first backward

    def forward(index: int) -> None:
        if not is_first:
            actions.append(Action(Work.RECEIVE_INPUT, index))
        if not is_last:
            actions.append(Action(Work.FORWARD, index))

    def backward(index: int) -> None:
        actions.append(Action(Work.BACKWARD, index))
        if not is_first:
            actions.append(Action(Work.SEND_GRADIENT, index))

    for index in range(ahead):
        forward(index)
        actions.append(Action(Work.SEND_OUTPUT, index))
    for index in range(num_microbatches - ahead):
        forward(index + ahead)
        if not is_last:
            actions.append(Action(Work.RECEIVE_GRADIENT, index))
            actions.append(Action(Work.SEND_OUTPUT, index + ahead))
        backward(index)
    for index in range(num_microbatches - ahead, num_microbatches):
        actions.append(Action(Work.RECEIVE_GRADIENT, index))
        backward(index)
    return actions
