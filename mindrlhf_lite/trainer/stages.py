"""Running sequences through the actor's or reference's pipeline stages; with one stage, just the one graph.

A stage keeps the inputs of the micro-batches that are under way and computes its activations again in the backward
pass, so a graph never outlives its call. Activations and their gradients travel outside graphs, between two ranks at a
time.

With recomputation a stage is cut into segments of about sqrt(layers) layers each (arXiv:1604.06174): their inputs are
kept, and the activations of one segment at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mindspore import ParameterTuple, Tensor, jit, mutable, nn, ops, value_and_grad

from mindrlhf_lite.models.decoder import Decoder
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


def stream_shape(model: Decoder, batch: MicroBatch) -> tuple[int, int]:
    """Shape of the residual stream that crosses a stage border on this rank."""
    return len(batch.token_ids) // (model.tensor_degree if model.is_sequence_split else 1), model.config.hidden_size


def packed_tensors(batch: MicroBatch) -> tuple[Tensor, ...]:
    """The sequences of a micro-batch as `Decoder.run_layers` takes them."""
    arrays = (batch.token_ids, batch.position_ids, batch.segments, batch.prompts, batch.keys, batch.used_keys)
    return mutable(tuple(Tensor(array) for array in arrays))  # else the arrays are constants of the graph


class StageForward(nn.Cell):
    """One stage, or layers start..stop-1 of it, jitted."""

    def __init__(self, model: Decoder, start: int = 0, stop: int = 0):
        super().__init__(auto_prefix=False)
        self.model, self.start, self.stop = model, start, stop or model.num_layers

    @jit
    def construct(self, x: Tensor, packed: tuple) -> Tensor:
        return self.model.run_layers(x, packed, self.start, self.stop)


class _LayersTimesGradient(nn.Cell):
    """A scalar whose gradient is the vector-Jacobian product of layers start..stop-1 with `gradient`."""

    def __init__(self, model: Decoder, start: int, stop: int):
        super().__init__(auto_prefix=False)
        self.model, self.start, self.stop = model, start, stop

    def construct(self, x: Tensor, packed: tuple, gradient: Tensor) -> tuple[Tensor, Tensor]:
        product = self.model.run_layers(x, packed, self.start, self.stop) * gradient
        return product.reshape(-1).sum(), ops.zeros_like(product[0, 0])


class AccumulateGradients(nn.Cell):
    """Adds one micro-batch's gradients to the accumulators.

    Args:
        loss: returns (scalar, auxiliary outputs ...); its first argument is the input of the first layer.
        is_first: whether these are the model's first layers, so that no gradient of the input is wanted.
    """

    def __init__(self, loss: nn.Cell, weights: ParameterTuple, accumulators: ParameterTuple, is_first: bool):
        super().__init__(auto_prefix=False)
        self.accumulators, self.is_first = accumulators, is_first
        self.loss_and_gradients = value_and_grad(loss, None if is_first else 0, weights, has_aux=True)

    @jit
    def construct(self, *arrays: Tensor) -> tuple:
        """Returns (gradient of the input, or a stand-in; the loss's auxiliary outputs ...)."""
        outputs, gradients = self.loss_and_gradients(*arrays)
        if self.is_first:
            input_gradient, weight_gradients = outputs[0], gradients
        else:
            input_gradient, weight_gradients = gradients
        # from the last layer to the first, as the backward pass computes them: the additions run in this order, and
        # none keeps a gradient waiting
        for index in range(len(self.accumulators) - 1, -1, -1):
            ops.assign_add(self.accumulators[index], weight_gradients[index])
        return (input_gradient, *outputs[1:])


def segments(num_layers: int, recomputes: bool) -> list[tuple[int, int]]:
    """(first layer, end) of the parts of a stage whose activations are in memory together: one part, or about
    sqrt(num_layers) equal ones.
    """
    number = round(num_layers**0.5) if recomputes else 1
    borders = [num_layers * index // number for index in range(number + 1)]
    return list(zip(borders, borders[1:]))


class StagedGradients:
    """Gradients of a whole update on this rank, by 1F1B over the stages of its copy of the model.

    Args:
        model: this stage.
        loss_after: makes the cell over (input of a layer, arrays of a micro-batch ...) that runs this layer, the later
            ones and the loss; for the last stage.
        as_arrays: a micro-batch as the loss's arguments, the packed sequences first.
        recomputes: whether only a part of the stage's activations is in memory at a time.
    """

    def __init__(
        self,
        model: Decoder,
        loss_after: Callable[[int], nn.Cell],
        accumulators: ParameterTuple,
        as_arrays: Callable[[MicroBatch], tuple[Any, ...]],
        recomputes: bool = False,
    ):
        self.model, self.mesh, self.as_arrays = model, model.mesh, as_arrays
        self._forward = StageForward(model)
        parts = segments(model.num_layers, recomputes)
        self._part_forwards = [StageForward(model, start, stop) for start, stop in parts[:-1]]
        self._part_gradients = []
        for start, stop in parts:
            is_last = self.mesh.is_last_stage and stop == model.num_layers
            computed = loss_after(start) if is_last else _LayersTimesGradient(model, start, stop)
            places = model.weights_of_layers(start, stop)
            weights, sums = (
                ParameterTuple([group[place] for place in places])
                for group in (model.parameters_in_order, accumulators)
            )
            self._part_gradients.append(
                AccumulateGradients(computed, weights, sums, self.mesh.is_first_stage and start == 0)
            )

    def run(self, batches: Sequence[MicroBatch]) -> list[tuple[Tensor, ...]]:
        """Accumulates over all micro-batches. Returns the loss's auxiliary outputs of each on the last stage, nothing
        elsewhere.
        """
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
                input_gradient, auxiliary = self._accumulate(
                    inputs.pop(index), arrays.pop(index), gradients.pop(index, None)
                )
                if mesh.is_last_stage:
                    results.append(auxiliary)
                if not mesh.is_first_stage:
                    gradients[index] = input_gradient
            else:
                send_to(mesh, -1, gradients.pop(index))
        return results

    def _accumulate(
        self, x: Tensor, arrays: tuple[Any, ...], gradient: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Adds one micro-batch's gradients, the last part of the stage first. Returns (gradient of x, auxiliary outputs
        of the last part).
        """
        inputs = [x]
        for forward in self._part_forwards:
            inputs.append(forward(inputs[-1], arrays[0]))
        last = arrays if self.mesh.is_last_stage else (arrays[0], gradient)
        gradient, *auxiliary = self._part_gradients[-1](inputs.pop(), *last)
        for accumulate in reversed(self._part_gradients[:-1]):
            gradient, _ = accumulate(inputs.pop(), arrays[0], gradient)
        return gradient, tuple(auxiliary)


def run_stages(
    model: Decoder, forward: StageForward, batch: MicroBatch, last: Callable[[Tensor, tuple], Tensor]
) -> Tensor | None:
    """One forward pass through all stages: `last(stage input, packed sequences)` on the last stage, whose result only
    it returns.
    """
    mesh, packed = model.mesh, packed_tensors(batch)
    x = _NO_INPUT if mesh.is_first_stage else receive_from(mesh, -1, stream_shape(model, batch))
    if mesh.is_last_stage:
        return last(x, packed)
    send_to(mesh, 1, forward(x, packed))
    return None
