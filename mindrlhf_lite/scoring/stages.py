"""Running packed sequences forward through the layers of a pipeline stage; with one stage, all of them.

One graph serves every layer of a kind: the weights are its arguments. What a layer's backward pass needs of its forward
pass is kept as tensors between graphs (`Keeps`). Activations travel outside graphs, between two ranks at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from mindspore import Tensor, jit, mutable

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.decoder_layer import DecoderLayer
from mindrlhf_lite.models.zeros import zeros
from mindrlhf_lite.parallel.collectives import transfer
from mindrlhf_lite.parallel.compiled import CompiledCell
from mindrlhf_lite.parallel.mesh import RoleMesh
from mindrlhf_lite.scoring.batches import MicroBatch


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
    inputs = model.attention_inputs(*arrays)  # tuples stay numbers of the host, where a kernel reads them
    return mutable(tuple(Tensor(each) if isinstance(each, np.ndarray) else each for each in inputs))  # else constants


class _EmbeddingForward(CompiledCell):
    def __init__(self, model: Decoder):
        super().__init__()
        self.model = model

    @jit
    def construct(self, token_ids: Tensor) -> Tensor:
        return self.model.embed(token_ids)


class _LayerForward(CompiledCell):
    def __init__(self, layer: DecoderLayer):
        super().__init__()
        self.layer = layer

    @jit
    def construct(self, x: Tensor, weights: tuple, attention: tuple) -> tuple:
        """Returns (output, what the backward pass needs ...)."""
        output, kept = self.layer.run(x, weights, attention)
        return (output, *kept)


class Keeps(Enum):
    """What a forward pass keeps of every layer, besides its input."""

    INPUTS = "nothing"
    PRODUCTS = "what its matrix products gave"
    ALL = "and what attention gave"

    @staticmethod
    def of(recompute: bool, select_recompute: bool) -> Keeps:
        return Keeps.INPUTS if recompute else Keeps.PRODUCTS if select_recompute else Keeps.ALL

    def of_run(self, layer: DecoderLayer, results: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Of the second result of the layer's run."""
        if self is Keeps.INPUTS:
            return ()
        return mutable(tuple(results if self is Keeps.ALL else results[: layer.num_products]))


@dataclass
class Tape:
    """What the backward pass of a micro-batch needs, layer by layer."""

    attention: tuple[Tensor, ...]
    inputs: list[Tensor] = field(default_factory=list)
    kept: list[tuple[Tensor, ...]] = field(default_factory=list)


class StageLayers:
    """The layers of this rank's stage, by graphs that all of a kind share.

    Args:
        alike: layers of another model of this shape, in this layout: their graphs serve here too.
    """

    def __init__(self, model: Decoder, alike: StageLayers | None = None):
        self.model = model
        self.observer: Callable[[MicroBatch, str, Tensor], None] | None = None  # is shown every layer's output
        self._embed = _EmbeddingForward(model) if model.is_first_stage else None
        self._graphs: dict[tuple[str, str], _LayerForward] = (
            alike._graphs if alike else {kind: _LayerForward(layer) for kind, layer in model.layers_by_kind().items()}
        )

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
            output, *kept = self._graphs[layer.kind](stream, mutable(tuple(layer.weights)), tape.attention)
            if tapes:
                tape.inputs.append(stream)
                tape.kept.append(keeps.of_run(layer, kept))
            stream = output
            if self.observer:
                self.observer(batch, f"model.layers.{number}", stream)
            del output, kept  # or they would live beside those of the next layer
        return stream, tape


def run_stages(layers: StageLayers, batch: MicroBatch) -> Tensor | None:
    """One forward pass through all stages: the residual stream after the last layer, on the last stage only."""
    model, mesh = layers.model, layers.model.mesh
    x = None if mesh.is_first_stage else receive_from(model, -1, batch)
    stream, _ = layers.forward(x, batch)
    if mesh.is_last_stage:
        return stream
    send_to(mesh, 1, stream)
    return None
