"""What the stand-alone tools share: a model folder to an engine or a scorer, rows of prompts, on one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
from mindrlhf_lite.commands.progress import Progress
from mindrlhf_lite.data.tokenizer import Tokenizer, stop_token_ids
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.json_file import parse_json
from mindrlhf_lite.files.text_file import check_is_text, read_text
from mindrlhf_lite.models.hf_weights import load_weights
from mindrlhf_lite.models.peft_folder import beside
from mindrlhf_lite.native.library import set_up
from mindrlhf_lite.parallel.layout import whole_box
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import parameter_specs
from mindrlhf_lite.types import TrainSequence

if TYPE_CHECKING:
    from mindrlhf_lite.models.decoder import Decoder


@dataclass(frozen=True)
class ModelFolder:
    """A Hugging Face folder, loaded."""

    config: ModelConfig
    weights: dict[str, np.ndarray]
    tokenizer: Tokenizer
    stop_token_ids: tuple[int, ...]

    def decoder(self, max_length: int) -> Decoder:
        """A frozen model of it, with native kernels where there are any. Call it after the Mesh is there."""
        from mindrlhf_lite.models.decoder import Decoder
        from mindrlhf_lite.models.precision import Precision

        set_up()
        precision = Precision.here("float32", is_native=True)
        return Decoder(self.config, self.weights, False, max_length, precision=precision)


def load_model_folder(path: str, adapter: str | None = None) -> ModelFolder:
    """Args: adapter: folder of adapters that peft, or a run, saved; they are merged into the weights.

    Raises:
        UserError: a model that writes no text, adapters of another model.
    """
    config, tokenizer = ModelConfig.from_dir(path), Tokenizer(path)
    if config.has_score:
        raise UserError(f"{path}: a reward model, which writes no text; give a language model")
    weights = load_weights(path, config) if adapter is None else _merged_weights(path, config, adapter)
    return ModelFolder(config, weights, tokenizer, stop_token_ids(path, tokenizer))


def _merged_weights(path: str, config: ModelConfig, adapter: str) -> dict[str, np.ndarray]:
    _, reader = beside(path, config, adapter)
    return {spec.name: reader.read(spec.name, whole_box(spec.shape)) for spec in parameter_specs(config)}


def read_rows(path: str) -> list[dict[str, Any]]:
    """The JSON objects of a .jsonl file.

    Raises:
        ValueError: names file and line of the first row that is not one.
    """
    if not Path(path).is_file():
        raise UserError(f"--input {path}: no such file")
    rows = []
    # splitlines() would also cut at U+2028 inside texts
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: a JSON object is needed, not {type(row).__name__}")
        rows.append(row)
    if not rows:
        raise UserError(f"--input {path}: it has no rows")
    return rows


def ids_of(row: dict[str, Any], kind: str, tokenizer: Tokenizer, where: str, vocab_size: int) -> list[int]:
    """row["prompt_ids"] as it is, or row["prompt"] tokenized (kind "prompt"; "completion" likewise).

    Raises:
        ValueError: neither is there, it is empty, or an id lies outside the vocabulary.
    """
    ids = row.get(f"{kind}_ids")
    if ids is None:
        if not isinstance(row.get(kind), str):
            raise UserError(f"{where}: needs {kind!r} (text) or '{kind}_ids' (list of token ids)")
        check_is_text(row[kind], f"{where}: {kind}")
        ids = tokenizer.encode(row[kind]) if kind == "prompt" else tokenizer.encode_continuation(row[kind])
    if (
        not isinstance(ids, list)
        or not ids
        or not all(isinstance(token, int) and 0 <= token < vocab_size for token in ids)
    ):
        raise UserError(f"{where}: {kind} must be at least one token id in 0..{vocab_size - 1}")
    return ids


def as_train_sequences(rows: Sequence[dict[str, Any]], source: str, folder: ModelFolder) -> list[TrainSequence]:
    """Rows {prompt, completion} or {prompt_ids, completion_ids} as sequences to score."""
    sequences = []
    for number, row in enumerate(rows, 1):
        where = f"{source}: row {number}"
        prompt = ids_of(row, "prompt", folder.tokenizer, where, folder.config.vocab_size)
        completion = ids_of(row, "completion", folder.tokenizer, where, folder.config.vocab_size)
        if len(prompt) + len(completion) > folder.config.max_position_embeddings:
            raise UserError(
                f"{where}: {len(prompt) + len(completion)} tokens, over the model's "
                f"max_position_embeddings={folder.config.max_position_embeddings}"
            )
        sequences.append(TrainSequence.of(np.array(prompt + completion, np.int32), len(prompt)))
    return sequences


def score_sequences(sequences: Sequence[TrainSequence], folder: ModelFolder, rows_at_once: int) -> list[np.ndarray]:
    """Logprobs of every sequence's completion tokens, float32, in order; shows a progress bar."""
    from mindrlhf_lite.scoring.batches import make_microbatch, pack
    from mindrlhf_lite.scoring.scorer import LogprobScorer
    from mindrlhf_lite.shapes.streams import StreamShapes

    longest = max(len(sequence.token_ids) for sequence in sequences)
    shapes = StreamShapes(rows_at_once * longest, longest)
    scorer = LogprobScorer(folder.decoder(longest))
    results: list[np.ndarray] = [np.empty(0, np.float32)] * len(sequences)
    with Progress(len(sequences), "row", "scoring") as progress:
        for indices in pack(sequences, shapes):
            chosen = [sequences[index] for index in indices]
            batch = make_microbatch(chosen, shapes, token_mean, BatchTotals(1, 1, 1))
            for index, logprobs in zip(indices, scorer.score(batch), strict=True):
                results[index] = logprobs
            progress.update(len(indices))
    return results
