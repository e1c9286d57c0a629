"""Checkpoints of a run: folders step_N, each complete or not there at all.

Every rank that holds something writes its own file. A checkpoint is written under a temporary name, flushed to disk,
and renamed last; a kill at any moment leaves the older ones as they were. manifest.json holds the size and SHA-256 of
every file, checked before anything is loaded.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mindrlhf_lite.commands.resume_hint import steps_in
from mindrlhf_lite.files.durable import flush, make_folder, place, remove
from mindrlhf_lite.files.json_file import read_json
from mindrlhf_lite.files.text_file import write_text
from mindrlhf_lite.models.ckpt_format import write_ckpt
from mindrlhf_lite.models.open_tensors import open_tensor_file
from mindrlhf_lite.models.safetensors_format import write_safetensors
from mindrlhf_lite.models.tensor_files import TensorToWrite
from mindrlhf_lite.parallel.layout import whole_box

_STATE, _MANIFEST = "state.json", "manifest.json"
_RANK_FILE = re.compile(r"rank_[0-9]{5,}\.[a-z]+")
Gather = Callable[[Any], list[Any]]  # every rank's value, in rank order, on all ranks


FORMATS = ("safetensors", "ckpt")


def rank_file(rank: int, format: str = "safetensors") -> str:
    """Example: rank_file(3) == "rank_00003.safetensors" """
    return f"rank_{rank:05d}.{format}"


def find_rank_file(folder: Path, rank: int) -> Path:
    """That of a rank, in whatever format it was written; the first format's name where there is none."""
    paths = [folder / rank_file(rank, format) for format in FORMATS]
    return next((path for path in paths if path.is_file()), paths[0])


@dataclass(frozen=True)
class Checkpoint:
    """What one rank saves: the common state and its own tensors, none if another rank holds the same.

    Example: Checkpoint(step=40, state={"sampler": {...}}, tensors={"weight/model.norm.weight": ...})
    """

    step: int
    state: dict[str, Any]
    tensors: dict[str, np.ndarray]  # float32; may be the program's own memory: they are written, not copied
    # writes what belongs to it besides, into the folder that it is given
    write_more: Callable[[Path], None] = lambda folder: None


@dataclass(frozen=True)
class SavedCheckpoint:
    """A whole checkpoint on disk."""

    step: int
    state: dict[str, Any]
    folder: Path

    def tensors(self, rank: int) -> dict[str, np.ndarray]:
        """All tensors of one rank's file."""
        file = open_tensor_file(find_rank_file(self.folder, rank))
        return {name: file.read(name, whole_box(entry.shape)) for name, entry in file.entries.items()}


def _is_below(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\0" not in name


def _alone(value: Any) -> list[Any]:
    return [value]


def _to_write(name: str, values: np.ndarray) -> TensorToWrite:
    return TensorToWrite(name, "F32", values.shape, lambda start, stop: values[start:stop])


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def together(gather: Gather, is_mine: bool, work: Callable[[], Any]) -> list[Any]:
    """Does `work` where it is mine and waits for the others; an error of any rank is raised on all."""
    result: Any = None
    error: Exception | None = None
    try:
        result = work() if is_mine else None
    except Exception as caught:  # whatever it is, the others must not wait for ever
        error = caught
    everyone = gather((result, None if error is None else str(error)))
    if error is not None:
        raise error
    if failed := [f"rank {other}: {message}" for other, (_, message) in enumerate(everyone) if message]:
        raise OSError("; ".join(failed))
    return [value for value, _ in everyone]


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: holds step_N folders; created when the first is saved.
        keep: newest checkpoints that `save` leaves.
        format: of the files of tensors, of FORMATS; any is read.
    """

    def __init__(self, folder: str | Path, keep: int, format: str = "safetensors"):
        self.folder, self.keep, self.format = Path(folder), keep, format

    def steps(self) -> list[int]:
        """Steps of the checkpoints there, newest first."""
        return steps_in(self.folder)

    def newest_before(self, step: int | None) -> set[int]:
        """The newest checkpoint from before a step, if there is one and a step is given."""
        return set([older for older in self.steps() if step is not None and older < step][:1])

    def save(
        self, checkpoint: Checkpoint, rank: int = 0, gather: Gather = _alone, spared: Collection[int] = ()
    ) -> Path:
        """Writes step_N, then removes all but the newest `keep` and those of the steps `spared`. Every rank calls it;
        the folder must be one that all ranks see.

        Raises:
            OSError: on every rank, if the disk of any is full or not writable; older checkpoints are untouched, and the
                new one is whole or not there.
        """
        final, scratch = self.folder / f"step_{checkpoint.step}", self.folder / f".step_{checkpoint.step}.tmp"
        try:
            together(gather, rank == 0, lambda: self._clear(scratch))
            files = together(gather, True, lambda: self._write_tensors(checkpoint, scratch, final, rank))
            written = [file for file in files if file]
            together(gather, rank == 0, lambda: self._finish(checkpoint, scratch, final, written, spared))
        finally:
            if rank == 0:
                shutil.rmtree(scratch, ignore_errors=True)
        return final

    def _clear(self, scratch: Path) -> None:
        make_folder(self.folder)
        for leftover in self.folder.glob(".step_*"):
            shutil.rmtree(leftover, ignore_errors=True)
        scratch.mkdir()

    def _write_tensors(
        self, checkpoint: Checkpoint, scratch: Path, final: Path, rank: int
    ) -> tuple[str, int, str] | None:
        """(name, bytes, SHA-256) of this rank's file, if it has any tensors."""
        if not checkpoint.tensors:
            return None
        path, write = scratch / rank_file(rank, self.format), write_ckpt if self.format == "ckpt" else write_safetensors
        try:
            write(path, [_to_write(*tensor) for tensor in checkpoint.tensors.items()])
        except OSError as error:
            raise OSError(f"cannot write checkpoint {final}: {error}") from None
        flush(path)
        return path.name, path.stat().st_size, _sha256(path)

    def _finish(
        self,
        checkpoint: Checkpoint,
        scratch: Path,
        final: Path,
        files: list[tuple[str, int, str]],
        spared: Collection[int],
    ) -> None:
        write_text(scratch / _STATE, json.dumps({"step": checkpoint.step, **checkpoint.state}, indent=1))
        checkpoint.write_more(scratch)
        known = {name for name, _, _ in files}
        others = [path for path in sorted(scratch.rglob("*")) if path.is_file() and path.name not in known]
        files = [*files, *((str(path.relative_to(scratch)), path.stat().st_size, _sha256(path)) for path in others)]
        manifest = {"files": {name: {"bytes": size, "sha256": digest} for name, size, digest in files}}
        write_text(scratch / _MANIFEST, json.dumps(manifest, indent=1))
        place(scratch, final)
        for step in [older for older in self.steps() if older < checkpoint.step][self.keep - 1 :]:
            if step not in spared:
                remove(self.folder / f"step_{step}")

    def problem(self, step: int) -> str | None:
        """Why checkpoint `step` cannot be used, naming the file; None if it is whole."""
        folder = self.folder / f"step_{step}"
        try:
            files = read_json(folder / _MANIFEST)["files"]
            known = {name: (int(values["bytes"]), str(values["sha256"])) for name, values in files.items()}
        except (OSError, ArithmeticError, ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{folder / _MANIFEST} cannot be read ({error!r})"
        if missing := {_STATE} - known.keys():
            return f"{folder / _MANIFEST} does not name {', '.join(missing)}"
        if not any(_RANK_FILE.fullmatch(name) for name in known):
            return f"{folder / _MANIFEST} names no file of tensors"
        if outside := [name for name in known if not _is_below(name)]:
            return f"{folder / _MANIFEST} names {outside[0]!r}, which is no file below it"
        for name, (size, digest) in known.items():
            path = folder / name
            try:
                if not path.is_file():
                    return f"{path} is missing"
                if path.stat().st_size != size:
                    return f"{path} has {path.stat().st_size} bytes, {size} were written"
                if _sha256(path) != digest:
                    return f"{path} was changed or damaged (its SHA-256 differs)"
            except OSError as error:
                return f"{path} cannot be read ({error})"
        try:
            read_json(folder / _STATE)
        except ValueError as error:  # with sums that fit: somebody else wrote it
            return str(error)
        return None

    def load_newest(self) -> tuple[SavedCheckpoint | None, list[str]]:
        """The newest whole checkpoint, or None; and one line for every damaged one that was passed over."""
        damaged: list[str] = []
        for step in self.steps():
            problem = self.problem(step)
            if problem is None:
                folder = self.folder / f"step_{step}"
                return SavedCheckpoint(step, read_json(folder / _STATE), folder), damaged
            damaged.append(f"checkpoint step_{step} is damaged: {problem}")
        return None, damaged


def prefixed(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{"a": x} -> {"prefix/a": x}"""
    return {f"{prefix}/{name}": value for name, value in tensors.items()}
