"""What an update shows to the dumps: weights before it, activations of the layers, gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from mindspore import Tensor

from mindrlhf_lite.learner.trained_model import Actor
from mindrlhf_lite.observe.dump import Dumps
from mindrlhf_lite.scoring.batches import MicroBatch


class UpdateDump:
    """Looks on while an actor makes the first update of a step."""

    def __init__(self, dumps: Dumps, actor: Actor):
        self.dumps, self.actor = dumps, actor
        self._places: dict[int, dict[int, np.ndarray]] = {}  # of a micro-batch: by completion, places in the stream

    @contextmanager
    def watching(self, batches: Sequence[tuple[Sequence[int], MicroBatch]]) -> Iterator[None]:
        """Args: batches: of the update, each with its completions' numbers in the step."""
        if not self.dumps.has_tensors:
            yield
            return
        limit, model, optimizer = self.dumps.config.dump_sequences, self.actor.model, self.actor.optimizer
        for indices, batch in batches:
            by_sequence = zip(indices, batch.split(batch.predictors), strict=True)
            self._places[id(batch)] = {index: places for index, places in by_sequence if index < limit}
        self.dumps.weights(model.buffers, model.weights_as_numpy())
        self.actor.layers.observer, optimizer.observer = self._activation, self._gradients
        try:
            yield
        finally:
            self.actor.layers.observer = optimizer.observer = None
            self._places = {}

    def _activation(self, batch: MicroBatch, name: str, stream: Tensor) -> None:
        model, mesh = self.actor.model, self.actor.mesh
        wanted = self._places.get(id(batch))
        if not wanted or (mesh.at.tensor and not model.is_sequence_split):  # tensor ranks hold copies
            return
        values, own = np.asarray(stream.asnumpy(), np.float32), model.own_part(len(batch.token_ids))
        first = own.start + (len(values) * mesh.at.tensor if model.is_sequence_split else 0)
        rows, starts = {}, {}
        for index, places in wanted.items():
            is_here = (places >= first) & (places < first + len(values))
            if is_here.any():
                rows[index], starts[index] = values[places[is_here] - first], int(np.flatnonzero(is_here)[0])
        self.dumps.activation(name, rows, starts)

    def _gradients(self) -> None:
        optimizer, scale = self.actor.optimizer, self.actor.optimizer.loss_scale.value
        arrays = {each.name.removeprefix("gradient."): each.asnumpy() / scale for each in optimizer.gradients}
        self.dumps.gradients(self.actor.model.buffers, arrays)
