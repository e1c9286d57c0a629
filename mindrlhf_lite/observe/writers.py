"""Files of a run, written by rank 0: metrics.jsonl, completions, TensorBoard, summary.json."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_lite.files.durable import flush
from mindrlhf_lite.files.text_file import open_to_write
from mindrlhf_lite.observe.run_files import read_metrics
from mindrlhf_lite.observe.tensorboard import TensorBoard
from mindrlhf_lite.observe.token_advantages import token_advantages
from mindrlhf_lite.turns import Episode
from mindrlhf_lite.types import ScoredGroup, StepMetrics, TrainSequence


def write_atomically(path: Path, text: str) -> None:
    """Writes beside the file, then renames: readers see the old or the new content, never half of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open_to_write(temporary) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        flush(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None


def short(value: float | np.floating) -> float:
    """A number that was computed in float32, without the digits that float32 does not have: 0.3, not
    0.30000001192092896.
    """
    return float(str(np.float32(value)))


class MetricsWriter:
    """metrics.jsonl and, if asked, TensorBoard with the same keys.

    Args:
        tensorboard: folder of TensorBoard's files; None: none are written.
        last_step: rows after this step are dropped: a resumed run writes them again; 0: all of them, the first
            evaluation's too.
    """

    def __init__(self, output_dir: Path, tensorboard: Path | None, last_step: int, queue_size: int = 10):
        output_dir.mkdir(parents=True, exist_ok=True)
        path = output_dir / "metrics.jsonl"
        kept = [row for row in read_metrics(path) if row["step"] <= last_step] if last_step else []
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = open_to_write(path, "a")
        self._tensorboard = TensorBoard(tensorboard, last_step + 1, queue_size) if tensorboard is not None else None

    def write(self, metrics: StepMetrics) -> None:
        self._file.write(json.dumps(metrics.as_row()) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())  # a checkpoint that is on disk must not outlive the rows before it
        if self._tensorboard is not None:
            self._tensorboard.write(metrics.step, metrics.values)

    def close(self) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


def written_values(sequence: TrainSequence) -> np.ndarray:
    """The advantages of the tokens that the policy wrote."""
    return sequence.advantages if sequence.written is None else sequence.advantages[sequence.written]


def episode_row(episode: Episode) -> dict[str, Any]:
    """What a completion of several turns has besides."""
    return {
        "segments": episode.segments,
        "turns": [asdict(turn) for turn in episode.turns],
        "end": episode.end.value,
        **({} if episode.is_solved is None else {"solved": episode.is_solved}),
        **({"failure": episode.failure} if episode.failure else {}),
    }


def completion_rows(
    groups: Iterable[ScoredGroup],
    sequences: Iterable[TrainSequence],
    decode: Callable[[Sequence[int]], str],
) -> list[dict[str, Any]]:
    """One object a completion, as completions/step_N.jsonl holds them.

    Args: sequences: of the completions, in order; decode: the tokenizer's.
    """
    rows = []
    trained = iter(sequences)
    for scored in groups:
        prompt = scored.group.prompt
        for index, (completion, text) in enumerate(zip(scored.group.completions, scored.group.texts, strict=True)):
            sequence = next(trained)
            by_token = token_advantages(completion, sequence.advantages, decode)
            rows.append(
                {
                    "prompt": prompt.text,
                    "completion": text,
                    "gold": prompt.gold,
                    "reward": short(scored.rewards[index]),
                    "rewards": {name: scores[index].value for name, scores in scored.scores.items()},
                    "outcome": scored.outcomes[index].value,
                    "advantage": short(written_values(sequence).mean()),
                    "tokens": completion.num_written,
                    "counted_tokens": sequence.num_counted,
                    "finish_reason": completion.finish_reason.value,
                    "group": prompt.index,
                    "row": prompt.row,
                    **({} if completion.episode is None else episode_row(completion.episode)),
                    **({"token_advantages": by_token} if by_token else {}),
                    **({"samples": 1 + len(completion.restarts)} if completion.restarts else {}),
                }
            )
    return rows


def write_completions(folder: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """FOLDER/NAME.jsonl"""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
