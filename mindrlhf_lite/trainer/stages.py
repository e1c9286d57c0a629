"""Running packed sequences through the layers of a pipeline stage, forward and backward; with one stage, all of them.

One graph serves every layer of a shape: the weights are its arguments. What a layer's backward pass needs of its
forward pass is kept as tensors between graphs. With recomputation it is only the layer's input, or all but attention's
results, and the backward graph computes the rest again (arXiv:1604.06174; arXiv:2205.05198, sec. 5). Activations and
their gradients travel outside graphs, between two ranks at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from mindspore import ParameterTuple, Tensor, jit, mutable, nn, ops, value_and_grad

from mindrlhf_lite.models.decoder import NUM_PRODUCTS, Decoder, DecoderLayer
from mindrlhf_lite.models.precision import full
from mindrlhf_lite.models.zeros import zeros
from mindrlhf_lite.parallel.collectives import transfer
from mindrlhf_lite.parallel.layout import EMBEDDING, FINAL_NORM, HEAD
from mindrlhf_lite.parallel.mesh import RoleMesh
from mindrlhf_lite.parallel.schedule import Work, one_forward_one_backward
from mindrlhf_lite.trainer.batches import MicroBatch


def receive_from(model: Decoder, stage_offset: int, batch: MicroBatch) -> Tensor:
    """The residual stream, or its gradient, from the neighbouring stage: -1 the one before, +1 the one after."""
    mesh, x = model.mesh, zeros(stream_shape(model, batch), model.precision.activations)
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
    parts = model.mesh.dims.context * (model.tensor_degree if model.is_sequence_split else 1)
    return len(batch.token_ids) // parts, model.config.hidden_size


def own_tokens(model: Decoder, batch: MicroBatch) -> Tensor:
    """The token ids that this rank computes."""
    return Tensor(batch.token_ids[model.own_part(len(batch.token_ids))])


def attention_tensors(model: Decoder, batch: MicroBatch) -> tuple[Tensor, ...]:
    """What the layers take of a micro-batch besides activations and weights."""
    arrays = (batch.position_ids, batch.segments, batch.prompts, batch.keys, batch.used_keys)
    return mutable(tuple(Tensor(array) for array in model.attention_inputs(*arrays)))  # else constants of the graph


class _EmbeddingForward(nn.Cell):
    def __init__(self, model: Decoder):
        super().__init__(auto_prefix=False)
        self.model = model

    @jit
    def construct(self, token_ids: Tensor) -> Tensor:
        return self.model.embed(token_ids)


class _LayerForward(nn.Cell):
    def __init__(self, layer: DecoderLayer):
        super().__init__(auto_prefix=False)
        self.layer = layer

    @jit
    def construct(self, x: Tensor, weights: tuple, attention: tuple) -> tuple:
        """Returns (output, what the backward pass needs ...)."""
        output, kept = self.layer.run(x, weights, attention)
        return (output, *kept)


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


class Keeps(Enum):
    """What a forward pass keeps of every layer; the values: how many results of its run, besides its input."""

    INPUTS = 0
    PRODUCTS = NUM_PRODUCTS
    ALL = 100

    @staticmethod
    def of(recompute: bool, select_recompute: bool) -> Keeps:
        return Keeps.INPUTS if recompute else Keeps.PRODUCTS if select_recompute else Keeps.ALL


@dataclass
class Tape:
    """What the backward pass of a micro-batch needs, layer by layer."""

    attention: tuple[Tensor, ...]
    inputs: list[Tensor] = field(default_factory=list)
    kept: list[tuple[Tensor, ...]] = field(default_factory=list)


class StageLayers:
    """The layers of this rank's stage, by graphs that all of them share.

    Args:
        alike: layers of another model of this shape, in this layout: their graph serves here too.
    """

    def __init__(self, model: Decoder, alike: StageLayers | None = None):
        self.model = model
        self.observer: Callable[[MicroBatch, str, Tensor], None] | None = None  # is shown every layer's output
        self._embed = _EmbeddingForward(model) if model.is_first_stage else None
        self._layer: _LayerForward = alike._layer if alike else _LayerForward(model.layers[0])

    def forward(self, x: Tensor | None, batch: MicroBatch, tapes: bool = False, keeps: Keeps = Keeps.INPUTS) -> tuple:
        """Args: x: what the stage before sent; None on the first one; tapes: whether a backward pass follows; keeps:
        what of the layers for it.

        Returns: (the residual stream after this stage's layers, the tape).
        """
        tape = Tape(attention_tensors(self.model, batch))
        stream = self._embed(own_tokens(self.model, batch)) if self._embed else x
        if self._embed and self.observer:
            self.observer(batch, "model.embed_tokens", stream)
        for number, layer in enumerate(self.model.layers, self.model.first_layer):
            output, *kept = self._layer(stream, mutable(tuple(layer.weights)), tape.attention)
            if tapes:
                tape.inputs.append(stream)
                tape.kept.append(mutable(tuple(kept[: keeps.value])) if keeps.value else ())
            stream = output
            if self.observer:
                self.observer(batch, f"model.layers.{number}", stream)
            del output, kept  # or they would live beside those of the next layer
        return stream, tape


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


def run_stages(layers: StageLayers, batch: MicroBatch) -> Tensor | None:
    """One forward pass through all stages: the residual stream after the last layer, on the last stage only."""
    model, mesh = layers.model, layers.model.mesh
    x = None if mesh.is_first_stage else receive_from(model, -1, batch)
    stream, _ = layers.forward(x, batch)
    if mesh.is_last_stage:
        return stream
    send_to(mesh, 1, stream)
    return None
