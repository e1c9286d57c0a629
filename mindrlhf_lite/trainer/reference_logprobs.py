"""Logprobs under the model that training starts from: computed once, before the first update, and kept with the run, so
that no second model is in memory while it trains, and a resumed run has the same ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.durable import place
from mindrlhf_lite.parallel.mesh import gather_objects
from mindrlhf_lite.trainer.same_run import model_fingerprints
from mindrlhf_lite.trainer.stage_task import Scoring
from mindrlhf_lite.types import TrainSequence


def kept_logprobs(
    path: Path, config: Config, scoring: Scoring, sequences: Sequence[TrainSequence], digest: str
) -> tuple[list[np.ndarray], str]:
    """(float32 [C] of every sequence, a line for the console). Every rank calls it, before the first update.

    Args: path: the file that they are kept in; digest: of the rows.

    Raises:
        UserError: a resumed run, whose weights have moved, has no file of these rows.
    """
    mesh, lengths = scoring.mesh, [each.completion_length for each in sequences]
    digest = _with_models(digest, config) if mesh.is_main else ""
    kept = _read(path, digest, sum(lengths)) if mesh.is_main else None
    found = gather_objects(mesh.world, kept, np.ndarray | None)[0]
    if found is not None:
        return _cut(found, lengths), f"reference logprobs: those of {path}"
    if scoring.roles.actor.optimizer.updates_done:
        raise UserError(
            f"resume_training: {path} is missing, or of other rows: the reference's logprobs cannot be computed again "
            "from weights that have moved; bring the file back, or start a new run"
        )
    reference = scoring.roles.reference
    logprobs = scoring.of_policy(sequences) if reference is None else scoring.run("reference", reference, sequences)
    if mesh.is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}")
        np.savez(temporary, logprobs=np.concatenate(logprobs), digest=np.array(digest))
        place(temporary, path)
    return logprobs, f"reference logprobs of {len(sequences)} answers: computed once, kept in {path}"


def _with_models(digest: str, config: Config) -> str:
    """Of the rows, the reference, and what it computes in."""
    settings = asdict(config)
    types = [config.dtypes(role) for role in ("actor", "reference")]
    models = model_fingerprints(settings) if config.actor_config.load else {}  # of a plan there are none
    told = [digest, models, config.actor_config.lora.load, types]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _read(path: Path, digest: str, count: int) -> np.ndarray | None:
    """The numbers of a file of these rows, or None."""
    if not path.is_file():
        return None
    try:
        with np.load(path) as kept:
            logprobs = kept["logprobs"]
            return logprobs if str(kept["digest"]) == digest and logprobs.shape == (count,) else None
    except (OSError, ValueError, KeyError):  # damaged
        return None


def _cut(values: np.ndarray, lengths: Sequence[int]) -> list[np.ndarray]:
    return np.split(values, np.cumsum(lengths)[:-1])
