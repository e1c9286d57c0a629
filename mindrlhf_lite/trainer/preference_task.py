"""Preferences: what a run on pairs does for dpo, ipo, simpo and kto."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from mindspore import Tensor

from mindrlhf_lite.algorithms.aggregation import sequence_sum
from mindrlhf_lite.algorithms.preferences import PREFERENCES, PreferenceOptions
from mindrlhf_lite.config.stages import PreferenceStageConfig, StageConfig
from mindrlhf_lite.data.supervised_rows import SupervisedRow
from mindrlhf_lite.learner.loss import Loss
from mindrlhf_lite.learner.preference_loss import PreferenceLoss
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.scoring.pairs import pack_pairs
from mindrlhf_lite.scoring.sequences import MicroBatcher
from mindrlhf_lite.trainer.reference_logprobs import kept_logprobs
from mindrlhf_lite.trainer.stage_task import Scoring, pair_evaluation, pair_metrics
from mindrlhf_lite.types import TrainSequence

Logprobs = Sequence[np.ndarray]


def mismatched(rows: Sequence[SupervisedRow]) -> list[TrainSequence]:
    """Each row's prompt with the chosen answer of the row before it, which says nothing of it: where the policy has
    moved from the reference on these, it has moved in general (KTO, arXiv:2402.01306, sec. 4.1).
    """
    found = []
    for row, other in zip(rows, [rows[-1], *rows[:-1]], strict=True):
        own, answer = row.sequences[0], other.sequences[0]
        ids = np.concatenate([own.token_ids[: own.prompt_length], answer.token_ids[answer.prompt_length :]])
        found.append(TrainSequence(ids.astype(np.int32), own.prompt_length, answer.advantages, answer.mask))
    return found


def _sum(logprobs: np.ndarray, sequence: TrainSequence) -> float:
    return float((logprobs.astype(np.float64) * sequence.mask).sum())


class PreferenceTask:
    """The reference's logprobs are computed once, before the first update, and kept with the run."""

    def __init__(self, config: StageConfig):
        assert isinstance(config, PreferenceStageConfig)
        self._config, wanted = config, config.preference_config
        self._options = PreferenceOptions(
            wanted.beta,
            wanted.label_smoothing,
            wanted.simpo_margin,
            wanted.desirable_weight,
            wanted.undesirable_weight,
        )
        self._is_kto = wanted.loss == "kto"
        self.batcher = MicroBatcher(sequence_sum, config.rl_config.packing, pack_pairs)
        self._rows: list[tuple[TrainSequence, ...]] = []
        self._held_out: list[TrainSequence] = []
        self._mismatched: list[TrainSequence] = []
        self._mismatched_held_out: list[TrainSequence] = []

    def loss(self, model: Decoder) -> Loss:
        return PreferenceLoss(model, self._config.preference_config.loss, self._options)

    def begin(
        self, scoring: Scoring, rows: Sequence[SupervisedRow], held_out: Sequence[SupervisedRow], digest: str
    ) -> list[str]:
        groups = [[each for row in of_file for each in row.sequences] for of_file in (rows, held_out)]
        groups += [mismatched(of_file) if self._is_kto and of_file else [] for of_file in (rows, held_out)]
        lines = []
        if self._config.needs_reference:
            groups, line = self._with_reference(scoring, groups, digest)
            lines.append(line)
        pairs, self._held_out, self._mismatched, self._mismatched_held_out = groups
        self._rows = [tuple(pairs[place : place + 2]) for place in range(0, len(pairs), 2)]
        return lines

    def _with_reference(
        self, scoring: Scoring, groups: list[list[TrainSequence]], digest: str
    ) -> tuple[list[list[TrainSequence]], str]:
        path = Path(self._config.rl_config.output_dir) / "reference_logprobs.npz"
        sequences = [each for group in groups for each in group]
        logprobs, line = kept_logprobs(path, self._config, scoring, sequences, digest)
        found = iter(logprobs)
        return [[replace(each, reference_logprobs=next(found)) for each in group] for group in groups], line

    def update(self, scoring: Scoring, indices: Sequence[int]) -> tuple[list[TrainSequence], float | None]:
        sequences = [sequence for index in indices for sequence in self._rows[index]]
        if not self._is_kto:
            return sequences, None
        return sequences, self._divergence(scoring, [self._mismatched[index] for index in indices])

    def _divergence(self, scoring: Scoring, sequences: Sequence[TrainSequence]) -> float:
        """Mean log ratio of answers to the reference, at least 0."""
        if not sequences:
            return 0.0
        logprobs = scoring.of_policy(sequences)
        pairs = zip(logprobs, sequences, strict=True)
        return max(0.0, float(np.mean([_sum(own - each.reference_logprobs, each) for own, each in pairs])))

    def metrics(self, statistics: dict[str, float]) -> dict[str, float]:
        return pair_metrics(statistics)

    def evaluate(self, scoring: Scoring) -> dict[str, float]:
        logprobs, pairs = scoring.of_policy(self._held_out), self._held_out
        sums = np.array([_sum(own, each) for own, each in zip(logprobs, pairs, strict=True)]).reshape(-1, 2)
        known = [each.reference_logprobs for each in pairs]
        reference = [0.0 if own is None else _sum(own, each) for own, each in zip(known, pairs, strict=True)]
        columns = {
            "": sums,
            "reference_": np.array(reference).reshape(-1, 2),
        }
        numbers = {f"{name}{of}": values[:, place] for name, values in columns.items() for place, of in _OF_PAIR}
        tokens = np.array([each.num_counted for each in pairs]).reshape(-1, 2)
        numbers |= {f"{of}_tokens": tokens[:, place] for place, of in _OF_PAIR}
        given = {name: Tensor(values.astype(np.float32)) for name, values in numbers.items()}
        given["divergence"] = Tensor(np.float32(self._divergence(scoring, self._mismatched_held_out)))
        found = PREFERENCES[self._config.preference_config.loss](given, self._options)
        return pair_evaluation(*(each.asnumpy() for each in found))


_OF_PAIR = ((0, "chosen"), (1, "rejected"))
