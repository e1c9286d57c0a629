"""The weights that vllm-mindspore keeps in a layout of its own, from this rank's share of the rollout model.

The first time, its own loader cuts them out of what looks like a safetensors file: they pass the host. Where each
tensor has gone is then looked up and compared bit for bit; from the second time on they are written there, on the
device. Compared with a loader that cuts as that one does; with vllm-mindspore itself not run here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Parameter

from mindrlhf_lite.parallel.layout import FUSED_PARAMETERS, Box, Buffer, Part, part_view, rows_of
from mindrlhf_lite.reshard.transports import Place, cut
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import parameter_specs
from mindrlhf_lite.swap.stores import move_to_device


@dataclass(frozen=True)
class OwnPart:
    """A tensor of which this rank holds a part, for a loader that cuts the same part out of it, as out of a slice of a
    safetensors file: nothing passes between ranks.
    """

    name: str
    shape: tuple[int, ...]
    box: Box
    values: np.ndarray  # of the box

    def __getitem__(self, region: slice | tuple[slice, ...]) -> np.ndarray:
        """Raises:
        RuntimeError: the loader wants what this rank does not hold.
        """
        given = region if isinstance(region, tuple) else (region,)
        wanted = (*given, *(slice(None) for _ in self.shape[len(given) :]))
        cut = []
        for (start, stop), part, extent in zip(self.box, wanted, self.shape, strict=True):
            first, last, _ = part.indices(extent)
            if not start <= first <= last <= stop:
                raise RuntimeError(
                    f"vllm-mindspore wants {first}:{last} of {self.name}, and this rank holds {start}:{stop}: it lays "
                    "the model out otherwise than generate_config.parallel_config"
                )
            cut.append(slice(first - start, last - start))
        return np.ascontiguousarray(self.values[tuple(cut)])


def own_parts(
    config: ModelConfig, weights: Mapping[str, Parameter], buffers: Sequence[Buffer], dtype: Any
) -> Iterator[tuple[str, OwnPart]]:
    """(Hugging Face name, this rank's part of the tensor) of every tensor, one at a time.

    Args: weights, buffers: this rank's share and its layout.
    """
    shapes = {spec.name: spec.shape for spec in parameter_specs(config)}
    for buffer in buffers:
        values = weights[buffer.name].asnumpy()
        for part in buffer.parts:
            own = part_view(values, part).astype(dtype)
            yield part.tensor, OwnPart(part.tensor, shapes[part.tensor], part.box, own)


def _fused_name(tensor: str) -> str:
    """What vllm-mindspore keeps a tensor in."""
    for name, owns in FUSED_PARAMETERS.items():
        for own in owns:
            if own in tensor:
                return tensor.replace(own, name)
    return tensor


def _region(part: Part) -> tuple[slice, ...]:
    """Of the part in its buffer."""
    return (rows_of(part), *(slice(0, stop - start) for start, stop in part.box[1:]))


class WeightCopy:
    """The weights of a model of vllm-mindspore's.

    Args: model: that model: `load_weights` fills it, `get_params_dict` has its parameters by name, fused linears under
    names of their own.
    """

    def __init__(self, model: Any, config: ModelConfig, buffers: Sequence[Buffer], dtype: Any):
        self._model, self._config, self._buffers, self._dtype = model, config, buffers, dtype
        loaded = {_fused_name(part.tensor) for buffer in buffers for part in buffer.parts}
        there = model.get_params_dict()
        if missing := sorted(loaded - there.keys()):
            raise RuntimeError(f"vllm-mindspore's model has no {missing[0]}, nor {len(missing) - 1} other parameters")
        self._there: dict[str, Parameter] = {name: there[name] for name in sorted(loaded)}
        self.parameters: list[Parameter] = list({id(each): each for each in self._there.values()}.values())
        self._places: list[tuple[str, tuple[slice, ...], Place]] | None = None  # buffer, region in it, where that goes

    def load(self, weights: Mapping[str, Parameter]) -> None:
        """Args: weights: this rank's share by buffer name."""
        if self._places:
            for name, region, place in self._places:
                place.write(cut(weights[name], region).astype(place.parameter.dtype))
            return
        self._model.load_weights(own_parts(self._config, weights, self._buffers, self._dtype))
        move_to_device(self.parameters)  # the loader left some on the host
        if self._places is None:
            self._places = self._found_places(weights)

    def _found_places(self, weights: Mapping[str, Parameter]) -> list[tuple[str, tuple[slice, ...], Place]]:
        """Where the loader has put every part; none if one of them is not where fused linears have it, which are their
        parts' rows in the order of FUSED_PARAMETERS.
        """
        order = [own for owns in FUSED_PARAMETERS.values() for own in owns]
        parts = [(buffer.name, part) for buffer in self._buffers for part in buffer.parts]
        parts.sort(key=lambda each: next((order.index(own) for own in order if own in each[1].tensor), 0))
        found, filled = [], dict.fromkeys(self._there, 0)
        for name, part in parts:
            own, region = _fused_name(part.tensor), _region(part)
            rows, parameter = region[0].stop - region[0].start, self._there[own]
            place = Place(parameter, (slice(filled[own], filled[own] + rows), *region[1:]))
            filled[own] += rows
            wanted = part_view(weights[name].asnumpy(), part).astype(self._dtype)
            fits = len(place.region) == parameter.ndim and filled[own] <= parameter.shape[0]
            if not fits or place.shape[1:] != parameter.shape[1:] or place.read().tobytes() != wanted.tobytes():
                return []
            found.append((name, region, place))
        return found
