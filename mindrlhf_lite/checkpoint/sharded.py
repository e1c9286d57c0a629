"""Tensors that lie in several ranks' files, read as boxes of the whole, whatever strategy they were saved under."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindrlhf_lite.checkpoint.store import find_rank_file
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.models.open_tensors import open_tensor_file
from mindrlhf_lite.models.tensor_files import TensorFile
from mindrlhf_lite.parallel.layout import Box, Strategy
from mindrlhf_lite.reshard.plan import holdings, intersect, volume
from mindrlhf_lite.shapes.model_config import ModelConfig


@dataclass(frozen=True)
class _Place:
    file: str
    key: str
    box: Box
    offset: int


class ShardedReader:
    """Boxes of tensors from per-rank files, safetensors or .ckpt.

    Args:
        folder: holds rank_NNNNN.safetensors.
        strategy: that the files were written under.
        prefix: of the keys, e.g. "weight/" or "optimizer/adam_m.".
    """

    def __init__(self, folder: str | Path, config: ModelConfig, strategy: Strategy, prefix: str):
        self.folder = Path(folder)
        self._places: dict[str, list[_Place]] = {}
        self._files: dict[str, TensorFile] = {}
        for tensor, held in holdings(config, strategy).items():
            by_box: dict[Box, _Place] = {}
            for h in held:
                by_box.setdefault(
                    h.part.box,
                    _Place(
                        find_rank_file(self.folder, int(h.ranks[0])).name,
                        prefix + h.buffer.name,
                        h.part.box,
                        h.part.offset,
                    ),
                )
            self._places[tensor] = list(by_box.values())

    def read(self, tensor: str, box: Box) -> np.ndarray:
        """Values of a box, float32, from as many files as it lies in.

        Raises:
            ValueError: a file or a tensor in it is missing.
        """
        result = np.empty([stop - start for start, stop in box], np.float32)
        filled = 0
        for place in self._places[tensor]:
            common = intersect(box, place.box)
            if not volume(common):
                continue
            file = self._open(place)
            at = [(start - begin, stop - begin) for (start, stop), (begin, _) in zip(common, place.box)]
            at[0] = at[0][0] + place.offset, at[0][1] + place.offset
            values = file.read(place.key, tuple(at))
            result[tuple(slice(start - begin, stop - begin) for (start, stop), (begin, _) in zip(common, box))] = values
            filled += volume(common)
        if filled != volume(box):
            raise UserError(f"{self.folder}: {tensor} is there in part only ({filled} of {volume(box)} numbers)")
        return result

    def dtype(self, tensor: str) -> str:
        """F32, F16 or BF16: what it is stored as."""
        place = self._places[tensor][0]
        return self._open(place).entries[place.key].dtype

    def _open(self, place: _Place) -> TensorFile:
        path = self.folder / place.file
        if place.file not in self._files:
            if not path.is_file():
                raise UserError(f"{path} is missing: it holds {place.key}")
            self._files[place.file] = open_tensor_file(path)
        if place.key not in self._files[place.file].entries:
            raise UserError(
                f"{path}: no tensor {place.key}; was it saved under another strategy, or is it one of "
                "actor_config.frozen? Those are not in checkpoints, but in OUTPUT/hf"
            )
        return self._files[place.file]
