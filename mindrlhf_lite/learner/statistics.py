"""What one rank's updates of a step counted, and the metrics of all ranks'. Keys and formulas: docs/metrics.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


def merged_statistics(mine: dict[str, float], others: dict[str, float]) -> dict[str, float]:
    """Of two sets of tokens together: maxima of names that end in _max, sums of all other names."""
    merged = dict(mine)
    for name, value in others.items():
        merged[name] = max(mine.get(name, value), value) if name.endswith("_max") else mine.get(name, 0.0) + value
    return merged


@dataclass
class UpdateCounts:
    """What one rank's updates of a step summed up to."""

    statistics: dict[str, float] = field(
        default_factory=dict
    )  # of `TrainedModel.accumulate`; none before the last stage
    num_tokens: int = 0  # counted completion tokens trained, all updates
    grad_norm: float = 0.0  # before clipping, mean of the updates
    num_overflows: int = 0  # updates left out because their gradients overflowed
    loss_scale: float = 0.0  # after the last update; 0: there is none
    lr: float = 0.0  # of the last update
    num_computed: int = 0  # tokens of all micro-batches' streams
    num_padding: int = 0  # of them
    num_skipped: int = 0  # sequences left out because their gradient is zero, all updates
    num_graphs: int = 0  # shapes of micro-batches since the process began
    largest_weight: float = 0.0  # absolute, after the last update; infinity where one is not finite
    logprob_diff_sum: float = 0.0  # of |trainer - rollout| policy logprobs, first update of every sequence only
    logprob_diff_max: float = 0.0
    num_diff_tokens: int = 0
    # of r = trainer's policy / sampling distribution, the same tokens
    ratio_sum: float = 0.0
    ratio_square_sum: float = 0.0
    ratio_max: float = 0.0
    k3_sum: float = 0.0  # of r - 1 - log r: the divergence of the two

    def compare(
        self,
        logprobs: np.ndarray,
        engine_logprobs: np.ndarray | None,
        sampling: np.ndarray | None,
        written: np.ndarray | None = None,
    ) -> None:
        """Adds a sequence.

        Args: logprobs: the trainer's; engine_logprobs: the rollout engine's, both of the policy, or None where it
        reports none; sampling: under what was sampled from; written: which tokens the policy wrote, None: all. All [C].
        """
        if engine_logprobs is None:
            return
        if written is not None:
            logprobs, engine_logprobs = logprobs[written], engine_logprobs[written]
            sampling = None if sampling is None else sampling[written]
        difference = np.abs(logprobs - engine_logprobs)
        self.logprob_diff_sum += float(difference.sum())
        self.logprob_diff_max = max(self.logprob_diff_max, float(difference.max()))
        self.num_diff_tokens += len(difference)
        if sampling is not None:
            log_ratio = np.clip(np.asarray(logprobs, np.float64) - sampling, -20.0, 20.0)
            ratio = np.exp(log_ratio)
            self.ratio_sum += float(ratio.sum())
            self.ratio_square_sum += float((ratio * ratio).sum())
            self.ratio_max = max(self.ratio_max, float(ratio.max()))
            self.k3_sum += float((ratio - 1.0 - log_ratio).sum())


def update_metrics(ranks: Sequence[UpdateCounts], num_updates: int) -> dict[str, float]:
    """Losses are means over the step's updates; entropy and what has a metric's name already, such as policy/clip_low,
    means over trained tokens.
    """
    # with nothing to train, all is zero
    total: dict[str, float] = dict.fromkeys(("loss", "policy", "kl", "entropy"), 0.0)
    for counts in ranks:
        total = merged_statistics(total, counts.statistics)
    tokens = max(1, sum(counts.num_tokens for counts in ranks))
    compared = max(1, sum(counts.num_diff_tokens for counts in ranks))
    ratios, squares = sum(counts.ratio_sum for counts in ranks), sum(counts.ratio_square_sum for counts in ranks)
    return {
        **{name: value / tokens for name, value in total.items() if "/" in name},
        "loss/total": total["loss"] / num_updates,
        "loss/policy": total["policy"] / num_updates,
        "loss/kl": total["kl"] / num_updates,
        "policy/entropy": total["entropy"] / tokens,
        "policy/ratio_max": total.get("ratio_max", 1.0),
        "policy/grad_norm": ranks[0].grad_norm,
        "policy/lr": ranks[0].lr,
        **_loss_scale_metrics(ranks[0]),
        "batch/padding_share": sum(counts.num_padding for counts in ranks)
        / max(1, sum(counts.num_computed for counts in ranks)),
        "batch/skipped_sequences": float(sum(counts.num_skipped for counts in ranks)),
        "graphs/compiled": float(max(counts.num_graphs for counts in ranks)),
        "health/max_weight": max(counts.largest_weight for counts in ranks),
        "rollout/logprob_diff_mean": sum(counts.logprob_diff_sum for counts in ranks) / compared,
        "rollout/logprob_diff_max": max(counts.logprob_diff_max for counts in ranks),
        "rollout/k3": sum(counts.k3_sum for counts in ranks) / compared,
        "rollout/effective_samples": ratios * ratios / (compared * squares) if squares else 1.0,
        "rollout/ratio_max": max(counts.ratio_max for counts in ranks),
    }


def _loss_scale_metrics(counts: UpdateCounts) -> dict[str, float]:
    if not counts.loss_scale:
        return {}
    return {"policy/loss_scale": counts.loss_scale, "policy/overflows": float(counts.num_overflows)}
