"""The backward pass through the layers of a pipeline stage, and a whole update by 1F1B over the stages.

The backward graph of a layer takes the weights as arguments, as the forward one does, and computes again what the
forward pass did not keep (arXiv:1604.06174; arXiv:2205.05198, sec. 5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mindspore import ParameterTuple, Tensor, jit, mutable, nn, ops, value_and_grad

from mindrlhf_lite.models.decoder import NUM_PRODUCTS, Decoder, DecoderLayer
from mindrlhf_lite.models.precision import full
from mindrlhf_lite.parallel.layout import EMBEDDING, FINAL_NORM, HEAD
from mindrlhf_lite.parallel.pipeline_schedule import Work, one_forward_one_backward
from mindrlhf_lite.scoring.batches import MicroBatch
from mindrlhf_lite.scoring.stages import Keeps, StageLayers, Tape, own_tokens, receive_from, send_to


class _LayerAgain(nn.Cell):
    def __init__(self, layer: DecoderLayer):
        super().__init__(auto_prefix=False)
        self.layer = layer

    def construct(self, x: Tensor, weights: tuple, attention: tuple, known: tuple) -> Tensor:
        output, _ = self.layer.run(x, weights, attention, known)
        return output


class _LayerBackward(nn.Cell):
    def __init__(self, layer: DecoderLayer):
        super().__init__(auto_prefix=False)
        self.layer, self.again = layer, _LayerAgain(layer)
        self.product = ops.GradOperation(get_all=True, sens_param=True)

    @jit
    def construct(self, x: Tensor, weights: tuple, attention: tuple, kept: tuple, gradient: Tensor) -> tuple:
        """Args: kept: of the forward pass; what is missing runs again. Returns (gradient of x, gradients of the
        weights, float32 ...).
        """
        known = kept
        if len(kept) <= NUM_PRODUCTS:
            known = self.layer.run(x, weights, attention, kept)[1]
        gradients = self.product(self.again)(x, weights, attention, known, gradient)
        own: tuple = ()
        for each in gradients[1]:
            own += (full(each),)
        return (gradients[0], *own)


class _Placed(nn.Cell):
    def __init__(self, model: Decoder):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, embedded: Tensor, token_ids: Tensor) -> Tensor:
        return self.model.placed(embedded, token_ids)


class _EmbeddingGradient(nn.Cell):
    """Adds the embedding's gradient to its accumulator, row by row in place: nothing as large as the vocabulary is
    made beside it.
    """

    def __init__(self, model: Decoder, accumulator: Any):
        super().__init__(auto_prefix=False)
        self.model, self.placed, self.accumulator = model, _Placed(model), accumulator
        self.product, self.add_rows = ops.GradOperation(sens_param=True), ops.ScatterAdd(use_locking=True)

    @jit
    def construct(self, token_ids: Tensor, gradient: Tensor) -> Tensor:
        rows = self.model.rows_of(token_ids)
        embedded = ops.gather(self.model.embedding, rows, 0)
        own = full(self.product(self.placed)(embedded, token_ids, gradient))
        return ops.depend(gradient[0, 0], self.add_rows(self.accumulator, rows, own))


class _LossGradients(nn.Cell):
    """Adds the gradients of what follows the last layer to their accumulators.

    Args:
        loss: returns (scalar, auxiliary outputs ...); its first argument is the residual stream.
    """

    def __init__(self, loss: nn.Cell, weights: ParameterTuple, accumulators: ParameterTuple):
        super().__init__(auto_prefix=False)
        self.accumulators = accumulators
        self.loss_and_gradients = value_and_grad(loss, 0, weights, has_aux=True)

    @jit
    def construct(self, *arrays: Tensor) -> tuple:
        """Returns (gradient of the residual stream; the loss's auxiliary outputs ...)."""
        outputs, (input_gradient, weight_gradients) = self.loss_and_gradients(*arrays)
        for accumulator, gradient in zip(self.accumulators, weight_gradients):
            ops.assign_add(accumulator, full(gradient))
        return (input_gradient, *outputs[1:])


class StagedGradients:
    """Gradients of a whole update on this rank, by 1F1B over the stages of its copy of the model.

    Args:
        layers: of this stage.
        loss: the cell over (residual stream after the last layer, arrays of a micro-batch ...); for the last stage.
        accumulators: of the model's parameters, in order.
        loss_inputs: a micro-batch as the loss's other arguments.
        keeps: what of the layers the forward pass keeps; the backward pass computes the rest again.
    """

    def __init__(
        self,
        layers: StageLayers,
        loss: nn.Cell,
        accumulators: ParameterTuple,
        loss_inputs: Callable[[MicroBatch], tuple[Tensor, ...]],
        keeps: Keeps = Keeps.ALL,
    ):
        model = layers.model
        self.model, self.mesh, self.loss_inputs, self.keeps = model, model.mesh, loss_inputs, keeps
        sums = {weight.name: sum_ for weight, sum_ in zip(model.parameters_in_order, accumulators, strict=True)}
        self._layers, self._backward = layers, _LayerBackward(model.layers[0])
        self._sums_of_layers = [[sums[weight.name] for weight in layer.weights] for layer in model.layers]
        if self.mesh.is_first_stage:
            self._add_embedding_gradient = _EmbeddingGradient(model, sums[EMBEDDING])
        if self.mesh.is_last_stage:
            names = (FINAL_NORM, HEAD if HEAD in sums else EMBEDDING)
            weights = ParameterTuple([model.named_weights()[name] for name in names])
            self._loss = _LossGradients(loss, weights, ParameterTuple([sums[name] for name in names]))

    def run(self, batches: Sequence[MicroBatch]) -> list[tuple[Tensor, ...]]:
        """Accumulates over all micro-batches. Returns the loss's auxiliary outputs of each on the last stage, nothing
        elsewhere.
        """
        mesh, results = self.mesh, []
        inputs: dict[int, Tensor] = {}
        outputs: dict[int, Tensor] = {}
        gradients: dict[int, Tensor] = {}
        tapes: dict[int, Tape] = {}
        for action in one_forward_one_backward(mesh.at.stage, mesh.dims.pipeline, len(batches)):
            index, batch = action.microbatch, batches[action.microbatch]
            if action.work is Work.RECEIVE_INPUT:
                inputs[index] = receive_from(self.model, -1, batch)
            elif action.work is Work.FORWARD:
                outputs[index], tapes[index] = self._forward(inputs.pop(index, None), batch)
            elif action.work is Work.SEND_OUTPUT:
                send_to(mesh, 1, outputs.pop(index))
            elif action.work is Work.RECEIVE_GRADIENT:
                gradients[index] = receive_from(self.model, 1, batch)
            elif action.work is Work.BACKWARD:
                if mesh.is_last_stage:
                    stream, tapes[index] = self._forward(inputs.pop(index, None), batch)
                    gradients[index], *auxiliary = self._loss(stream, *self.loss_inputs(batch))
                    results.append(tuple(auxiliary))
                input_gradient = self._accumulate(tapes.pop(index), batch, gradients.pop(index))
                if not mesh.is_first_stage:
                    gradients[index] = input_gradient
            else:
                send_to(mesh, -1, gradients.pop(index))
        return results

    def _forward(self, x: Tensor | None, batch: MicroBatch) -> tuple[Tensor, Tape]:
        return self._layers.forward(x, batch, tapes=True, keeps=self.keeps)

    def _accumulate(self, tape: Tape, batch: MicroBatch, gradient: Tensor) -> Tensor:
        """Adds the gradients of this stage's weights, and empties the tape. Returns that of the stage's input."""
        for layer, sums in zip(reversed(self.model.layers), reversed(self._sums_of_layers)):
            weights = mutable(tuple(layer.weights))
            gradient, *own = self._backward(tape.inputs.pop(), weights, tape.attention, tape.kept.pop(), gradient)
            for accumulator, part in zip(sums, own, strict=True):
                ops.assign_add(accumulator, part)
        if self.mesh.is_first_stage:
            self._add_embedding_gradient(own_tokens(self.model, batch), gradient)
        return gradient
