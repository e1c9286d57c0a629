"""The backward pass through the layers of a pipeline stage, and a whole update by 1F1B over the stages.

The backward graph of a layer takes the weights as arguments, as the forward one does, and computes again what the
forward pass did not keep (arXiv:1604.06174; arXiv:2205.05198, sec. 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mindspore import Parameter, ParameterTuple, Tensor, jit, mutable, nn, ops, value_and_grad

from mindrlhf_lite.learner.loss import Loss
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.decoder_layer import DecoderLayer
from mindrlhf_lite.models.native_layer import NativeLayer
from mindrlhf_lite.models.precision import full
from mindrlhf_lite.native import operators
from mindrlhf_lite.native.layer_operators import ABSENT
from mindrlhf_lite.parallel.compiled import CompiledCell
from mindrlhf_lite.parallel.layout import EMBEDDING
from mindrlhf_lite.parallel.pipeline_schedule import Work, one_forward_one_backward
from mindrlhf_lite.reshard.transports import is_on_host
from mindrlhf_lite.scoring.batches import MicroBatch
from mindrlhf_lite.scoring.stages import Keeps, StageLayers, Tape, own_tokens, receive_from, send_to


class _LayerAgain(nn.Cell):
    def __init__(self, layer: DecoderLayer):
        super().__init__(auto_prefix=False)
        self.layer = layer

    def construct(self, x: Tensor, weights: tuple, attention: tuple, known: tuple) -> Tensor:
        output, _ = self.layer.run(x, weights, attention, known)
        return output


class _LayerBackward(CompiledCell):
    """Args: trained: places of the weights whose gradients are wanted."""

    def __init__(self, layer: DecoderLayer, trained: tuple[int, ...]):
        super().__init__()
        self.layer, self.again, self.trained = layer, _LayerAgain(layer), trained
        self.product = ops.GradOperation(get_all=True, sens_param=True)

    @jit
    def construct(self, x: Tensor, weights: tuple, attention: tuple, kept: tuple, gradient: Tensor) -> tuple:
        """Args: kept: of the forward pass; what is missing runs again. Returns (gradient of x, gradients of the trained
        weights, float32 ...).
        """
        return self.gradients_of(x, weights, attention, kept, gradient)

    def gradients_of(self, x: Tensor, weights: tuple, attention: tuple, kept: tuple, gradient: Tensor) -> tuple:
        own: tuple = ()
        found, of_weights = self.found(x, weights, attention, kept, gradient)
        for place in self.trained:
            own += (full(of_weights[place]),)
        return (found, *own)

    def found(self, x: Tensor, weights: tuple, attention: tuple, kept: tuple, gradient: Tensor) -> tuple:
        """(gradient of x, those of all weights), of the types of the products."""
        known = kept
        if len(kept) <= self.layer.num_products:
            known = self.layer.run(x, weights, attention, kept)[1]
        gradients = self.product(self.again)(x, weights, attention, known, gradient)
        return gradients[0], gradients[1]


class _NativeLayerBackward(CompiledCell):
    """Args: trained: places of the weights whose gradients are wanted."""

    def __init__(self, layer: NativeLayer, trained: tuple[int, ...]):
        super().__init__()
        self.layer = layer
        numbers = {place: number for number, place in enumerate(trained)}
        self.numbers = tuple(numbers.get(place, -1) for place in range(len(layer.weights)))

    @jit
    def construct(
        self, x: Tensor, weights: tuple, attention: tuple, kept: tuple, gradient: Tensor, sums: tuple
    ) -> Tensor:
        """Adds the gradients of the weights to `sums`, and returns that of x."""
        by_place: tuple = ()
        for number in self.numbers:
            by_place += (ABSENT if number < 0 else sums[number],)
        return self.layer.backward(x, weights, attention, kept, gradient, by_place)


class _AddingLayerBackward(_LayerBackward):
    """`_LayerBackward` that adds the weights' gradients to their sums itself: an operator called by itself takes longer
    than the work of a small layer.
    """

    def __init__(self, layer: DecoderLayer, trained: tuple[int, ...]):
        super().__init__(layer, trained)
        self.add_to = operators.AddTo()

    @jit
    def construct(
        self, x: Tensor, weights: tuple, attention: tuple, kept: tuple, gradient: Tensor, sums: tuple
    ) -> Tensor:
        """Returns the gradient of x."""
        found = self.gradients_of(x, weights, attention, kept, gradient)
        return ops.depend(found[0], self.add_to(sums, found[1:]))


class _InPlaceLayerBackward(_LayerBackward):
    """`_LayerBackward` that adds each weight's gradient, of the product's type, to its float32 sum by one kernel of
    Ascend's: no float32 copy of it is made. Not run here.
    """

    @jit
    def construct(
        self, x: Tensor, weights: tuple, attention: tuple, kept: tuple, gradient: Tensor, sums: tuple
    ) -> Tensor:
        """Returns the gradient of x."""
        found, of_weights = self.found(x, weights, attention, kept, gradient)
        for number, place in enumerate(self.trained):
            found = ops.depend(found, sums[number].add_(of_weights[place]))
        return found


_Backward = _LayerBackward | _NativeLayerBackward


_ADDING = (_NativeLayerBackward, _AddingLayerBackward, _InPlaceLayerBackward)  # to the sums themselves


def _backward_of(layer: DecoderLayer, trained: tuple[int, ...]) -> _Backward:
    if isinstance(layer, NativeLayer):
        return _NativeLayerBackward(layer, trained)
    if trained and not is_on_host():
        return _InPlaceLayerBackward(layer, trained)
    adds_up = layer.precision.has_native_kernels and trained
    return (_AddingLayerBackward if adds_up else _LayerBackward)(layer, trained)


class _Placed(nn.Cell):
    def __init__(self, model: Decoder):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, embedded: Tensor, token_ids: Tensor) -> Tensor:
        return self.model.placed(embedded, token_ids)


class _EmbeddingGradient(CompiledCell):
    """Adds the embedding's gradient to its accumulator, row by row in place: nothing as large as the vocabulary is
    made beside it.
    """

    def __init__(self, model: Decoder, accumulator: Any):
        super().__init__()
        self.model, self.placed, self.accumulator = model, _Placed(model), accumulator
        self.product, self.add_rows = ops.GradOperation(sens_param=True), ops.ScatterAdd(use_locking=True)

    @jit
    def construct(self, token_ids: Tensor, gradient: Tensor) -> Tensor:
        rows = self.model.rows_of(token_ids)
        embedded = ops.gather(self.model.embedding, rows, 0)
        own = full(self.product(self.placed)(embedded, token_ids, gradient))
        return ops.depend(gradient[0, 0], self.add_rows(self.accumulator, rows, own))


class _LossGradients(CompiledCell):
    """Adds the gradients of what follows the last layer to their accumulators.

    Args:
        loss: returns (scalar, auxiliary outputs ...); its first argument is the residual stream.
    """

    def __init__(self, loss: nn.Cell, weights: ParameterTuple, accumulators: ParameterTuple, is_native: bool):
        super().__init__()
        self.accumulators, self.add_to = accumulators, operators.AddTo() if is_native else None
        self.loss_and_gradients = value_and_grad(loss, 0, weights, has_aux=True)

    @jit
    def construct(self, *arrays: Tensor) -> tuple:
        """Returns (gradient of the residual stream; the loss's auxiliary outputs ...)."""
        outputs, (input_gradient, weight_gradients) = self.loss_and_gradients(*arrays)
        if self.add_to is not None:
            return (ops.depend(input_gradient, self.add_to(self.accumulators, weight_gradients)), *outputs[1:])
        for accumulator, gradient in zip(self.accumulators, weight_gradients):
            ops.assign_add(accumulator, full(gradient))
        return (input_gradient, *outputs[1:])


class _LossOfFrozenWeights(CompiledCell):
    """`_LossGradients` where none of the loss's weights is trained."""

    def __init__(self, loss: nn.Cell):
        super().__init__()
        self.loss_and_gradient = value_and_grad(loss, 0, None, has_aux=True)

    @jit
    def construct(self, *arrays: Tensor) -> tuple:
        outputs, input_gradient = self.loss_and_gradient(*arrays)
        return (input_gradient, *outputs[1:])


class StagedGradients:
    """Gradients of a whole update on this rank, by 1F1B over the stages of its copy of the model.

    Args:
        layers: of this stage.
        loss: for the last stage.
        sums: accumulators of the trained parameters, by name; the others get no gradient.
        keeps: what of the layers the forward pass keeps; the backward pass computes the rest again.
        alike: gradients of these layers under another loss: their graphs serve here too.
    """

    def __init__(
        self,
        layers: StageLayers,
        loss: Loss,
        sums: Mapping[str, Parameter],
        keeps: Keeps = Keeps.ALL,
        alike: StagedGradients | None = None,
    ):
        model = layers.model
        self.model, self.mesh, self.loss, self.keeps = model, model.mesh, loss, keeps
        self._layers = layers
        self._graphs: dict[tuple[tuple[str, str], tuple[int, ...]], _Backward] = alike._graphs if alike else {}
        self._sums_of_layers = [[sums[w.name] for w in layer.weights if w.name in sums] for layer in model.layers]
        self._backward = []
        for layer in model.layers:
            trained = tuple(place for place, weight in enumerate(layer.weights) if weight.name in sums)
            if (layer.kind, trained) not in self._graphs:
                self._graphs[layer.kind, trained] = _backward_of(layer, trained)
            self._backward.append(self._graphs[layer.kind, trained])
        self._add_embedding_gradient: _EmbeddingGradient | None = None
        if self.mesh.is_first_stage and EMBEDDING in sums:
            self._add_embedding_gradient = _EmbeddingGradient(model, sums[EMBEDDING])
        if self.mesh.is_last_stage:
            names = [name for name in loss.weight_names if name in sums]
            weights = ParameterTuple([model.named_weights()[name] for name in names])
            accumulators = ParameterTuple([sums[name] for name in names])
            is_native = model.precision.has_native_kernels
            self._loss = _LossGradients(loss, weights, accumulators, is_native) if names else _LossOfFrozenWeights(loss)

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
                    gradients[index], *auxiliary = self._loss(stream, *self.loss.inputs_of(batch))
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
        stage = zip(self.model.layers, self._backward, self._sums_of_layers, strict=True)
        for layer, backward, sums in reversed(list(stage)):
            inputs = (tape.inputs.pop(), mutable(tuple(layer.weights)), tape.attention, tape.kept.pop(), gradient)
            if isinstance(backward, _ADDING):
                gradient = backward(*inputs, mutable(tuple(sums)))
                continue
            gradient, *own = backward(*inputs)
            for accumulator, part in zip(sums, own, strict=True):
                ops.assign_add(accumulator, part)
        if self._add_embedding_gradient is not None:
            self._add_embedding_gradient(own_tokens(self.model, batch), gradient)
        return gradient
