"""Checkpoints of a run: folders step_N, each complete or not there at all.

A checkpoint is written under a temporary name, flushed to disk, and renamed last; a kill at any moment leaves the older ones
as they were. manifest.json holds the size and SHA-256 of every file, checked before anything is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_STATE, _TENSORS, _MANIFEST = "state.json", "rank_00000.safetensors", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """Example: Checkpoint(step=40, state={"sampler": {...}}, tensors={"weight.model.norm.weight": ...})"""

    step: int
    state: dict[str, Any]
    tensors: dict[str, np.ndarray]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: holds step_N folders; created when the first is saved.
        keep: newest checkpoints that `save` leaves.
    """

    def __init__(self, folder: str | Path, keep: int):
        self.folder, self.keep = Path(folder), keep

    def steps(self) -> list[int]:
        """Steps of the checkpoints there, newest first."""
        names = (path.name for path in self.folder.glob("step_*"))
        return sorted((int(name[5:]) for name in names if name[5:].isdigit()), reverse=True)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Writes step_N, then removes all but the newest `keep`.

        Raises:
            OSError: the disk is full or not writable; older checkpoints are untouched and no part of the new one stays.
        """
        from safetensors.numpy import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(".step_*"):
            shutil.rmtree(leftover, ignore_errors=True)
        final, scratch = self.folder / f"step_{checkpoint.step}", self.folder / f".step_{checkpoint.step}.tmp"
        scratch.mkdir()
        try:
            try:
                save_file(checkpoint.tensors, scratch / _TENSORS)
            except Exception as error:  # the native writer reports a full disk as its own exception type
                raise OSError(f"cannot write checkpoint {final}: {error}") from None
            (scratch / _STATE).write_text(json.dumps({"step": checkpoint.step, **checkpoint.state}, indent=1))
            files = {name: {"bytes": (scratch / name).stat().st_size, "sha256": _sha256(scratch / name)} for name in (_TENSORS, _STATE)}
            (scratch / _MANIFEST).write_text(json.dumps({"files": files}, indent=1))
            for name in (_TENSORS, _STATE, _MANIFEST):
                _flush(scratch / name)
            if final.exists():
                shutil.rmtree(final)
            os.replace(scratch, final)
            _flush(self.folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        for step in [older for older in self.steps() if older < checkpoint.step][self.keep - 1 :]:
            shutil.rmtree(self.folder / f"step_{step}")
        return final

    def problem(self, step: int) -> str | None:
        """Why checkpoint `step` cannot be used, naming the file; None if it is whole."""
        folder = self.folder / f"step_{step}"
        try:
            files = json.loads((folder / _MANIFEST).read_text())["files"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"{folder / _MANIFEST} cannot be read ({error})"
        for name, expected in files.items():
            path = folder / name
            if not path.is_file():
                return f"{path} is missing"
            if path.stat().st_size != expected["bytes"]:
                return f"{path} has {path.stat().st_size} bytes, {expected['bytes']} were written"
            if _sha256(path) != expected["sha256"]:
                return f"{path} was changed or damaged (its SHA-256 differs)"
        return None

    def load_newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest whole checkpoint, or None; and one line for every damaged one that was passed over."""
        from safetensors.numpy import load_file

        damaged: list[str] = []
        for step in self.steps():
            problem = self.problem(step)
            if problem is None:
                folder = self.folder / f"step_{step}"
                return Checkpoint(step, json.loads((folder / _STATE).read_text()), load_file(folder / _TENSORS)), damaged
            damaged.append(f"checkpoint step_{step} is damaged: {problem}")
        return None, damaged


def prefixed(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{"a": x} -> {"prefix/a": x}"""
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def unprefixed(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `prefixed`, other entries left out."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(prefix + "/")}
