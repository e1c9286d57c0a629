"""Dumps of a run for tools/compare_dumps.py: statistics and checksums of named tensors, JSON lines, one file a step and
rank.

A line is one rank's share of a tensor, in the order in which a step computes:

    {"stage": "activation", "name": "model.layers.3", "part": "completion 2", "count": 320, "sum": ..., "square": ...,
     "min": ..., "max": ..., "crc32": ..., "box": [0, 5]}

Shares add up: however a tensor lies on the ranks, the sums of its shares' count, sum and square are the tensor's. So
dumps of different layouts compare. `box` says where a share lies in its tensor: equal boxes are copies, of which one
counts. Activations are those at the places that predict a completion's tokens, which no packing changes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.observe.host import git_commit, versions
from mindrlhf_lite.observe.writers import write_atomically
from mindrlhf_lite.parallel.layout import Buffer, part_view
from mindrlhf_lite.parallel.mesh import Mesh
from mindrlhf_lite.types import TrainSequence

KEY_DATA, WEIGHT, ACTIVATION, GRADIENT = "key data", "weight", "activation", "gradient"
LOGPROBS = "logprobs"  # of key data: the policy's, as the update computes them
_PIECE = 1 << 20
_OF_SEQUENCES = ("advantages", "mask", "reference_logprobs", "frozen_logprobs", "sampling_logprobs")


def statistics(values: np.ndarray) -> dict[str, float | int]:
    """count, sum, square (sum of squares), min, max, and CRC-32, of an array that is not empty."""
    flat, total, square, checksum = np.ascontiguousarray(values).reshape(-1), 0.0, 0.0, 0
    for start in range(0, flat.size, _PIECE):  # in pieces: the float64 copy of a large tensor is twice as large
        piece = flat[start : start + _PIECE]
        wide = piece.astype(np.float64)
        total, square = total + float(wide.sum()), square + float(wide @ wide)
        checksum = zlib.crc32(piece.tobytes(), checksum)
    extremes = {"min": float(flat.min()), "max": float(flat.max())}
    return {"count": flat.size, "sum": total, "square": square, **extremes, "crc32": checksum}


def step_file(folder: Path, step: int, rank: int) -> Path:
    """Example: step_file(Path("dump"), 2, 0) == Path("dump/step_000002/rank_00000.jsonl")"""
    return folder / f"step_{step:06d}" / f"rank_{rank:05d}.jsonl"


class Dumps:
    """What this rank dumps; nothing where msprobe_config.msprobe is off, or outside of `step`.

    Example:
        with dumps.step(2):
            dumps.key_data(sequences, rewards)
            dumps.weights(buffers, arrays)
            dumps.activation("model.layers.0", {0: rows, 1: rows}, 4)
    """

    def __init__(self, config: Config, mesh: Mesh):
        self.config, self.mesh = config.msprobe_config, mesh
        self._folder = Path(config.msprobe_config.dump_path or f"{config.rl_config.output_dir}/dump")
        self._lines: list[str] | None = None
        self._temperature = config.policy_temperature
        if self.config.msprobe and self.config.configurations_dump and mesh.is_main:
            self._folder.mkdir(parents=True, exist_ok=True)
            facts: dict[str, Any] = {"config": asdict(config), "versions": versions(), "git_commit": git_commit()}
            facts["world_size"] = mesh.world_size
            write_atomically(self._folder / "configurations.json", json.dumps(facts, indent=1) + "\n")

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """What is dumped within goes into the step's file."""
        is_on = self.config.msprobe and (not self.config.dump_steps or step in self.config.dump_steps)
        self._lines = [] if is_on else None
        try:
            yield
        finally:  # of a step that failed too
            lines, self._lines = self._lines, None
            if lines is not None:
                path = step_file(self._folder, step, self.mesh.rank)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, "".join(line + "\n" for line in lines))

    @property
    def has_tensors(self) -> bool:
        """Whether activations, gradients and weights are wanted now."""
        return self._lines is not None and self.config.tensor_dump

    def _add(self, stage: str, name: str, part: str, array: np.ndarray, **more: Any) -> None:
        if self._lines is not None and array.size:
            self._lines.append(json.dumps({"stage": stage, "name": name, "part": part, **statistics(array), **more}))

    def key_data(self, sequences: Sequence[TrainSequence], rewards: np.ndarray | None = None) -> None:
        """Of the whole step, which every rank holds: the first writes it. Args: rewards: of every sequence."""
        if self._lines is None or not self.config.key_data_dump or not self.mesh.is_main:
            return
        for index, sequence in enumerate(sequences[: self.config.dump_sequences]):
            if sequence.restarts:  # no one text that a model could be run on
                continue
            more = {
                "values": sequence.token_ids.tolist(),
                "prompt_length": sequence.prompt_length,
                "temperature": self._temperature,  # of the logprobs
            }
            self._add(KEY_DATA, "token_ids", completion(index), sequence.token_ids, **more)
        self._add(KEY_DATA, "all token_ids", "", np.concatenate([each.token_ids for each in sequences]))
        if rewards is not None:
            self._add(KEY_DATA, "rewards", "", rewards)
        for name in _OF_SEQUENCES:
            found = [values for each in sequences if (values := getattr(each, name)) is not None]
            self._add(KEY_DATA, name, "", np.concatenate([*found, np.zeros(0, np.float32)]))

    def logprobs(self, by_sequence: Mapping[int, np.ndarray]) -> None:
        """The policy's, by number of the completion in the step; each from one rank."""
        if self.config.key_data_dump:
            for index, values in by_sequence.items():
                if index < self.config.dump_sequences:
                    self._add(KEY_DATA, LOGPROBS, completion(index), values)

    def weights(self, buffers: Sequence[Buffer], arrays: Mapping[str, np.ndarray]) -> None:
        """This rank's share of the actor's, before the step's first update."""
        self._tensors(WEIGHT, buffers, arrays)

    def gradients(self, buffers: Sequence[Buffer], arrays: Mapping[str, np.ndarray]) -> None:
        """Of the step's first update, summed over ranks, before clipping. Args: arrays: by the weights' names."""
        self._tensors(GRADIENT, buffers, arrays)

    def _tensors(self, stage: str, buffers: Sequence[Buffer], arrays: Mapping[str, np.ndarray]) -> None:
        for buffer in buffers:
            for part in buffer.parts:
                self._add(stage, part.tensor, "", part_view(arrays[buffer.name], part), box=part.box)

    def activation(self, name: str, rows: Mapping[int, np.ndarray], first: Mapping[int, int]) -> None:
        """Args: rows: those of this rank's tokens that predict a completion's, by its number in the step; first: which
        of them the first row is.
        """
        for index, values in rows.items():
            self._add(ACTIVATION, name, completion(index), values, box=[first[index], first[index] + len(values)])


def completion(index: int) -> str:
    """What a completion's share is called."""
    return f"completion {index}"
