"""Running sequences through the actor's or reference's pipeline stages; with one stage, just the one graph.

A stage keeps the inputs of the micro-batches that are under way and computes its activations again in the backward pass, so a
graph never outlives its call. Activations and their gradients travel outside graphs, between two ranks at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from mindspore import ParameterTuple, Tensor, jit, nn, ops, value_and_grad

from mindrlhf_lite.models.qwen2 import Qwen2
from mindrlhf_lite.parallel.collectives import transfer
from mindrlhf_lite.parallel.mesh import RoleMesh
from mindrlhf_lite.parallel.schedule import Work, one_forward_one_backward
from mindrlhf_lite.trainer.batches import MicroBatch

_NO_INPUT = Tensor(np.zeros((1, 1), np.float32))  # what the first stage gets instead of activations


def receive_from(mesh: RoleMesh, stage_offset: int, like: tuple[int, ...]) -> Tensor:
    """A tensor from the neighbouring stage: -1 the one before, +1 the one after."""
    x = Tensor(np.zeros(like, np.float32))
    axis = mesh.previous if stage_offset < 0 else mesh.next
    assert axis is not None
    transfer(x, axis, 0 if stage_offset < 0 else 1)
    return x


def send_to(mesh: RoleMesh, stage_offset: int, x: Tensor) -> None:
    axis = mesh.previous if stage_offset < 0 else mesh.next
    assert axis is not None
    transfer(x, axis, 1 if stage_offset < 0 else 0)


def stream_shape(model: Qwen2, batch: MicroBatch) -> tuple[int, int]:
    """Shape of the residual stream that crosses a stage border on this rank."""
    rows, length = batch.token_ids.shape
    return rows * length // (model.tensor_degree if model.is_sequence_split else 1), model.config.hidden_size


class StageForward(nn.Cell):
    """One stage, jitted."""

    def __init__(self, model: Qwen2):
        super().__init__(auto_prefix=False)
        self.model = model

    @jit
    def construct(self, x: Tensor, token_ids: Tensor) -> Tensor:
        return self.model.run_stage(x, token_ids)


class _StageTimesGradient(nn.Cell):
    """A scalar whose gradient is the stage's vector-Jacobian product with `gradient`."""

    def __init__(self, model: Qwen2):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, x: Tensor, token_ids: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        product = self.model.run_stage(x, token_ids) * gradient
        return product.reshape(-1).sum(), ops.zeros_like(product[0, 0])


class AccumulateGradients(nn.Cell):
    """Adds one micro-batch's gradients to the accumulators.

    Args:
        loss: returns (scalar, auxiliary outputs ...); its first argument is the stage's input.
        is_first_stage: whether no gradient of the input is wanted.
    """

    def __init__(self, loss: nn.Cell, weights: ParameterTuple, accumulators: ParameterTuple, is_first_stage: bool):
        super().__init__(auto_prefix=False)
        self.accumulators, self.is_first_stage = accumulators, is_first_stage
        self.loss_and_gradients = value_and_grad(loss, None if is_first_stage else 0, weights, has_aux=True)

    @jit
    def construct(self, *arrays: Tensor) -> tuple:
        """Returns (gradient of the input, or a stand-in; the loss's auxiliary outputs ...)."""
        outputs, gradients = self.loss_and_gradients(*arrays)
        if self.is_first_stage:
            input_gradient, weight_gradients = outputs[0], gradients
        else:
            input_gradient, weight_gradients = gradients
        # from the last layer to the first, as the backward pass computes them: the additions run in this order, and none keeps a gradient waiting
        for index in range(len(self.accumulators) - 1, -1, -1):
            ops.assign_add(self.accumulators[index], weight_gradients[index])
        return (input_gradient, *outputs[1:])


class StagedGradients:
    """Gradients of a whole update on this rank, by 1F1B over the stages of its copy of the model.

    Args:
        model: this stage.
        loss: cell over (stage input, arrays of a micro-batch ...); computed on the last stage.
        as_arrays: a micro-batch as the loss's arrays, token ids first.
    """

    def __init__(self, model: Qwen2, loss: nn.Cell, accumulators: ParameterTuple, as_arrays: Callable[[MicroBatch], tuple[Tensor, ...]]):
        self.model, self.mesh, self.as_arrays = model, model.mesh, as_arrays
        self._forward = StageForward(model)
        computed = loss if self.mesh.is_last_stage else _StageTimesGradient(model)
        self.accumulate = AccumulateGradients(computed, model.parameters_in_order, accumulators, self.mesh.is_first_stage)

    def run(self, batches: Sequence[MicroBatch]) -> list[tuple[Tensor, ...]]:
        """Accumulates over all micro-batches. Returns the loss's auxiliary outputs of each on the last stage, nothing elsewhere."""
        mesh, inputs, outputs, gradients, results = self.mesh, {}, {}, {}, []
        arrays = {}
        for action in one_forward_one_backward(mesh.at.stage, mesh.dims.pipeline, len(batches)):
            index, batch = action.microbatch, batches[action.microbatch]
            if index not in arrays:
                arrays[index] = self.as_arrays(batch)
                inputs[index] = _NO_INPUT
            if action.work is Work.RECEIVE_INPUT:
                inputs[index] = receive_from(mesh, -1, stream_shape(self.model, batch))
            elif action.work is Work.FORWARD:
                outputs[index] = self._forward(inputs[index], arrays[index][0])
            elif action.work is Work.SEND_OUTPUT:
                send_to(mesh, 1, outputs.pop(index))
            elif action.work is Work.RECEIVE_GRADIENT:
                gradients[index] = receive_from(mesh, 1, stream_shape(self.model, batch))
            elif action.work is Work.BACKWARD:
                if mesh.is_last_stage:
                    input_gradient, *auxiliary = self.accumulate(inputs.pop(index), *arrays.pop(index))
                    results.append(tuple(auxiliary))
                else:
                    input_gradient, _ = self.accumulate(inputs.pop(index), arrays.pop(index)[0], gradients.pop(index))
                if not mesh.is_first_stage:
                    gradients[index] = input_gradient
            else:
                send_to(mesh, -1, gradients.pop(index))
        return results


def run_stages(model: Qwen2, forward: StageForward, batch: MicroBatch, last: Callable[[Tensor, Tensor], Tensor]) -> Tensor | None:
    """One forward pass through all stages: `last(stage input, token_ids)` on the last stage, whose result only it returns."""
    mesh, token_ids = model.mesh, Tensor(batch.token_ids)
    x = _NO_INPUT if mesh.is_first_stage else receive_from(mesh, -1, stream_shape(model, batch))
    if mesh.is_last_stage:
        return last(x, token_ids)
    send_to(mesh, 1, forward(x, token_ids))
    return None
