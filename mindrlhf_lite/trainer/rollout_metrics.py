"""Metrics of a step's completions and their rewards. Keys and formulas: docs/metrics.md."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindrlhf_lite.algorithms.advantage import has_no_signal
from mindrlhf_lite.observe.writers import short
from mindrlhf_lite.turns import Episode, EpisodeEnd
from mindrlhf_lite.types import FinishReason, Outcome, ScoredGroup


def rollout_metrics(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Rewards, outcomes and lengths of all groups of a step; shares are of all its completions."""
    completions = [completion for scored in groups for completion in scored.group.completions]
    # as they are written, without the noise of float32
    rewards = np.array([[short(reward) for reward in scored.rewards] for scored in groups])
    lengths = np.array([completion.num_written for completion in completions])
    outcomes = [outcome for scored in groups for outcome in scored.outcomes]
    gaps = [
        (each.engine_logprobs - each.logprobs)[slice(None) if each.written is None else each.written]
        for each in completions
        if each.logprobs is not None and each.engine_logprobs is not None
    ]
    metrics = {
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std()),
        "reward/max": float(rewards.max()),
        "reward/min": float(rewards.min()),
        "reward/zero_std_groups": float(sum(has_no_signal(group) for group in rewards)),
        "completion/mean_tokens": float(lengths.mean()),
        "completion/max_tokens": float(lengths.max()),
        "completion/min_tokens": float(lengths.min()),
        "completion/truncated": sum(completion.finish_reason is FinishReason.LENGTH for completion in completions)
        / len(lengths),
        "prompt/mean_tokens": float(np.mean([len(scored.group.prompt.ids) for scored in groups])),
    }
    if gaps:
        metrics["rollout/sampling_gap_mean"] = float(np.abs(np.concatenate(gaps)).mean())
    for name in groups[0].scores:
        values = np.array([score.value for scored in groups for score in scored.scores[name]])
        metrics[f"reward/{name}/mean"] = float(values.mean())
        metrics[f"reward/{name}/std"] = float(values.std())
        metrics[f"reward/{name}/max"] = float(values.max())
        metrics[f"reward/{name}/min"] = float(values.min())
    metrics |= _of_episodes([each.episode for each in completions if each.episode is not None])
    for outcome in Outcome:
        metrics[f"reward/outcome/{outcome.value}"] = outcomes.count(outcome) / len(outcomes)
    return metrics


def _of_episodes(episodes: Sequence[Episode]) -> dict[str, float]:
    """Of completions of several turns."""
    if not episodes:
        return {}
    turns = [turn for episode in episodes for turn in episode.turns]
    calls, malformed = sum(turn.num_calls for turn in turns), sum(turn.num_malformed for turn in turns)
    ends = [episode.end for episode in episodes]
    return {
        "episode/turns_mean": len(turns) / len(episodes),
        "episode/turns_max": float(max(len(episode.turns) for episode in episodes)),
        "episode/calls_mean": calls / len(episodes),
        "episode/malformed_calls": malformed / max(1, calls),
        "episode/reward_mean": sum(episode.reward for episode in episodes) / len(episodes),
        "episode/failures": float(ends.count(EpisodeEnd.FAILURE)),
        **{f"episode/end/{end.value}": ends.count(end) / len(ends) for end in EpisodeEnd},
        "time_s/environment": sum(episode.environment_s for episode in episodes),
    }
