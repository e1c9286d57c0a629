"""What one step trains on, as a MindRecord file: a row a completion, with everything that an update takes of it.

Logprobs that a run does not have (no reference, one update only) are written as one NaN: an empty array cannot be.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mindrlhf_lite.data.rows import read_rows, text_of, write_rows
from mindrlhf_lite.data.seal import BrokenSeal, check_seal
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.turns import Restart
from mindrlhf_lite.types import ScoredGroup, TrainSequence

_ARRAYS = ("advantages", "mask", "reference_logprobs", "frozen_logprobs", "sampling_logprobs")
_OF_ROLE = "of_role_"  # and a name of `TrainSequence.of_roles`
_WHAT = "experience file"
_SCHEMA = {
    "token_ids": {"type": "int32", "shape": [-1]},
    "prompt_length": {"type": "int32"},
    **{name: {"type": "float32", "shape": [-1]} for name in (*_ARRAYS, "engine_logprobs", "written")},
    "restarts": {"type": "string"},  # JSON: [[start, prompt ids], ..]
    "reward": {"type": "float32"},
    "prompt": {"type": "string"},
    "completion": {"type": "string"},
    "gold": {"type": "string"},
    "outcome": {"type": "string"},
}


@dataclass(frozen=True)
class ExperienceHeader:
    """What the rows do not say. `prompts_digest`, `num_prompts`: of the training data; `settings`: the run's."""

    step: int
    kl_coefficient: float
    tokenizer_sha256: str
    prompts_digest: str
    num_prompts: int
    decay_steps: int
    settings: dict


@dataclass(frozen=True)
class StepExperience:
    """`engine_logprobs`: the rollout engine's, of every sequence; for comparison only."""

    header: ExperienceHeader
    sequences: list[TrainSequence]
    engine_logprobs: list[np.ndarray | None]


def experience_path(pattern: str, step: int) -> Path:
    """Example: experience_path("run/grpo.mindrecord", 3) == Path("run/grpo_000003.mindrecord")"""
    path = Path(pattern)
    return path.with_name(f"{path.stem}_{step:06d}{path.suffix or '.mindrecord'}")


def write_experience(
    path: Path, header: ExperienceHeader, groups: Sequence[ScoredGroup], sequences: Sequence[TrainSequence]
) -> None:
    """Args: sequences: of all completions, in the order of the groups."""
    trained = iter(sequences)
    rows = []
    for scored in groups:
        prompt = scored.group.prompt
        for index, (completion, text) in enumerate(zip(scored.group.completions, scored.group.texts, strict=True)):
            sequence = next(trained)
            rows.append(
                {
                    "token_ids": sequence.token_ids,
                    "prompt_length": sequence.prompt_length,
                    **{name: _filled(getattr(sequence, name)) for name in _ARRAYS},
                    **{f"{_OF_ROLE}{name}": values for name, values in sequence.of_roles.items()},
                    "engine_logprobs": _filled(completion.engine_logprobs),
                    "written": _filled(sequence.written),
                    "restarts": json.dumps([[each.start, each.prompt_ids] for each in sequence.restarts]),
                    "reward": float(scored.rewards[index]),
                    "prompt": prompt.text,
                    "completion": text,
                    "gold": prompt.gold,
                    "outcome": scored.outcomes[index].value,
                }
            )
    of_roles = {name: _SCHEMA["advantages"] for name in rows[0] if name.startswith(_OF_ROLE)}
    write_rows(path, {**_SCHEMA, **of_roles}, "experience", rows, asdict(header))


def _filled(values: np.ndarray | None) -> np.ndarray:
    return np.full(1, np.nan, np.float32) if values is None else np.asarray(values, np.float32)


def _read(values: np.ndarray) -> np.ndarray | None:
    return None if len(values) == 1 and np.isnan(values[0]) else np.array(values, np.float32)


def read_experience(path: str | Path) -> StepExperience:
    """Bit for bit what the step trained on.

    Raises:
        ValueError: the file is missing, damaged, or of another kind.
    """
    path = Path(path)
    header, sequences, engine_logprobs = _read_header(path), [], []
    for row in read_rows(path, _WHAT):
        arrays = {name: _read(row[name]) for name in _ARRAYS}
        written = _read(row["written"]) if "written" in row else None  # an older file: one turn each
        arrays["written"] = None if written is None else written > 0
        of_roles = {
            name.removeprefix(_OF_ROLE): np.array(row[name], np.float32) for name in row if name.startswith(_OF_ROLE)
        }
        restarts = json.loads(text_of(row["restarts"])) if "restarts" in row else []
        token_ids, length = np.array(row["token_ids"], np.int32), int(row["prompt_length"])
        again = tuple(Restart(start, tuple(prompt)) for start, prompt in restarts)
        sequences.append(
            TrainSequence(token_ids, length, restarts=again, of_roles=of_roles, **arrays)  # type: ignore[arg-type]
        )
        engine_logprobs.append(_read(row["engine_logprobs"]))
    return StepExperience(header, sequences, engine_logprobs)


def _read_header(path: Path) -> ExperienceHeader:
    if not path.is_file():
        raise UserError(f"{_WHAT} {path}: no such file; rl_config.save_data_file makes a run write them")
    try:
        return ExperienceHeader(**(check_seal(path) or {}))
    except BrokenSeal as error:
        raise UserError(f"{_WHAT} {path}: {error}") from None
    except TypeError:
        raise UserError(f"{_WHAT} {path}: not one that a run wrote (rl_config.save_data_file)") from None


def read_texts(path: str | Path) -> list[dict[str, str | float]]:
    """Prompt, completion, gold, outcome and reward of every row, to look at."""
    _read_header(Path(path))
    return [
        {
            **{name: text_of(row[name]) for name in ("prompt", "completion", "gold", "outcome")},
            "reward": float(row["reward"]),
        }
        for row in read_rows(Path(path), _WHAT)
    ]
