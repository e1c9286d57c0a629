"""From scored groups to training sequences: logprobs that stay fixed while the actor moves, and advantages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from mindrlhf_lite.algorithms.advantage import ADVANTAGES, GroupRewards
from mindrlhf_lite.algorithms.credit import TurnRewards, advantages_by_turn
from mindrlhf_lite.algorithms.kl import kl_for_reward
from mindrlhf_lite.algorithms.names import GAE, WITHOUT_GROUP
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.rewards.verifiers import ENVIRONMENT_REWARD
from mindrlhf_lite.roles.models import TrainedRoles
from mindrlhf_lite.scoring.scorer import LogprobScorer
from mindrlhf_lite.scoring.sequences import SequenceScoring
from mindrlhf_lite.scoring.values import ValueScorer
from mindrlhf_lite.trainer.valued_rewards import valued_advantages
from mindrlhf_lite.types import RETURNS, VALUES, FinishReason, ScoredGroup, TrainSequence

_ROUNDING = 1e-6  # of rewards, which are float32: a rest below it is none
POLICY = "policy"  # the actor before the first of several updates

Logprobs = dict[str, list[np.ndarray]]  # by role or POLICY: of every sequence [C]


class Annotator:
    """Every rank calls it, with all groups of the step.

    Args: around: of a role's name or POLICY: what is open while it scores.
    """

    def __init__(
        self,
        config: Config,
        roles: TrainedRoles,
        scoring: SequenceScoring,
        around: Callable[[str], AbstractContextManager[None]],
    ):
        self._config, self._roles, self._scoring, self._around = config, roles, scoring, around

    def annotate(self, groups: Sequence[ScoredGroup], kl_coefficient: float) -> tuple[list[TrainSequence], float]:
        """(one training sequence a completion, in group order; the mean KL of a token in the reward, 0 where it is not
        there).
        """
        sequences = as_sequences(groups, self._config.rl_config.overlong.filter)
        found = self.fixed_logprobs(sequences)
        penalties, mean_kl = self._penalties(groups, sequences, found.get("reference"))
        of_tokens = [-kl_coefficient * penalty for penalty in penalties]
        masks = [each.mask for each in sequences]
        rl = self._config.rl_config
        if self._config.has_teacher_alone:
            advantages = [each.advantages for each in sequences]
        elif rl.advantage == GAE:
            advantages, found[RETURNS] = valued_advantages(groups, found[VALUES], of_tokens, masks, self._config)
        elif rl.credit == "turn":
            advantages = advantages_of_turns(groups, of_tokens, masks, self._config)
        else:
            advantages = advantages_of(groups, of_tokens, masks, rl.advantage)
        return with_logprobs(sequences, found, advantages), mean_kl

    def fixed_logprobs(self, sequences: Sequence[TrainSequence]) -> Logprobs:
        """Under every frozen role, and the frozen policy where it is kept; and a critic's values."""
        scorers: dict[str, LogprobScorer | ValueScorer] = dict(self._roles.scorers)
        if self._roles.critic is not None:
            scorers[VALUES] = self._roles.critic.values
        if self._config.keeps_frozen_policy:
            scorers[POLICY] = self._roles.policy
        found = {}
        for name, scorer in scorers.items():
            with self._around(name):
                found[name] = self._scoring.score(name, scorer, sequences)
        return found

    def _penalties(
        self,
        groups: Sequence[ScoredGroup],
        sequences: Sequence[TrainSequence],
        reference: Sequence[np.ndarray] | None,
    ) -> tuple[list[np.ndarray], float]:
        """(the KL of every completion token that counts, its mean), where the KL is part of the reward; else 0."""
        rl, penalties, counted = self._config.rl_config, [np.zeros(each.completion_length) for each in sequences], 0
        if rl.kl_in_reward:
            assert reference is not None  # validated, as the engine's are below
            reported = [each.engine_logprobs for group in groups for each in group.group.completions]
            for index, (sequence, logprobs) in enumerate(zip(sequences, reported, strict=True)):
                assert logprobs is not None
                kl = kl_for_reward(logprobs, reference[index], rl.kl_estimator)
                penalties[index] = kl * sequence.mask
                counted += sequence.num_counted
        return penalties, float(sum(penalty.sum() for penalty in penalties)) / max(1, counted)


def with_logprobs(
    sequences: Sequence[TrainSequence],
    found: Mapping[str, Sequence[np.ndarray]],
    advantages: Sequence[np.ndarray] | None = None,
) -> list[TrainSequence]:
    """The sequences with what `Annotator.fixed_logprobs` found: of the reference and the frozen policy in fields of
    their own, of other roles by name. Args: advantages: of every sequence; None: as they are.
    """
    fields = {"reference": "reference_logprobs", POLICY: "frozen_logprobs"}
    others = [name for name in found if name not in fields]
    annotated = []
    for index, sequence in enumerate(sequences):
        own: dict[str, Any] = {field: found[name][index] for name, field in fields.items() if name in found}
        if advantages is not None:
            written = sequence.written
            own["advantages"] = advantages[index] if written is None else advantages[index] * np.float32(written)
        annotated.append(replace(sequence, **own, of_roles={name: found[name][index] for name in others}))
    return annotated


def advantages_of(
    groups: Sequence[ScoredGroup], of_tokens: Sequence[np.ndarray], masks: Sequence[np.ndarray], name: str
) -> list[np.ndarray]:
    """float32 [C] of every completion, in order: advantages among the kept ones of each group, 0 for the others; all 0
    where too few are left to compare.

    Args: of_tokens, masks: of each completion [C], what its tokens add to its reward, and 1 on those that count; name:
    of `ADVANTAGES`.
    """
    found = [np.zeros(len(tokens), np.float32) for tokens in of_tokens]
    starts = np.cumsum([0, *(len(group.rewards) for group in groups)])
    members = [start + np.flatnonzero(group.kept) for group, start in zip(groups, starts)]
    least = 1 if name in WITHOUT_GROUP else 2
    taught = [number for number, own in enumerate(members) if len(own) >= least]
    rewards = [
        GroupRewards(
            groups[number].rewards[groups[number].kept],
            [of_tokens[index] for index in members[number]],
            [masks[index] for index in members[number]],
        )
        for number in taught
    ]
    for number, advantages in zip(taught, ADVANTAGES[name](rewards) if rewards else [], strict=True):
        for index, own in zip(members[number], advantages, strict=True):
            found[index] = own
    return found


def advantages_of_turns(
    groups: Sequence[ScoredGroup], of_tokens: Sequence[np.ndarray], masks: Sequence[np.ndarray], config: Config
) -> list[np.ndarray]:
    """As `advantages_of`, with credit by turn. What the environment paid belongs to its turn, and the rest of a
    completion's reward (other verifiers, shaping) to its last one.
    """
    rl, reward = config.rl_config, config.reward_config
    weights = dict(zip(reward.verifier_function, reward.verifier_weight, strict=True))
    weight = weights.get(ENVIRONMENT_REWARD, 0.0)
    found, places, kept = [np.zeros(len(tokens), np.float32) for tokens in of_tokens], count(), []
    for scored in groups:
        own = []
        for index, completion in enumerate(scored.group.completions):
            place = next(places)
            if scored.kept[index] and completion.episode is not None:
                turns = completion.episode.turns
                rewards = np.array([weight * turn.reward for turn in turns])
                rest = float(scored.rewards[index]) - rewards.sum()
                if abs(rest) > _ROUNDING * (1.0 + np.abs(rewards).sum()):
                    rewards[-1] += rest
                spans = [(turn.start, turn.end) for turn in turns]
                own.append((place, TurnRewards(spans, rewards, of_tokens[place], masks[place])))
        kept.append(own)
    least = 1 if rl.advantage in WITHOUT_GROUP else 2
    by_turn = advantages_by_turn([[each for _, each in own] for own in kept], rl.advantage, rl.turn_discount, least)
    for own, advantages in zip(kept, by_turn, strict=True):
        for (place, _), values in zip(own, advantages, strict=True):
            found[place] = values
    return found


def as_sequences(groups: Sequence[ScoredGroup], leaves_out_overlong: bool = False) -> list[TrainSequence]:
    """One training sequence a completion, in group order, with advantages of 0. Tokens of completions that their group
    leaves out do not count, nor do those that the policy did not write.

    Args: leaves_out_overlong: nor do those of completions that were cut off.
    """
    sequences = []
    for scored in groups:
        for completion, is_kept in zip(scored.group.completions, scored.kept, strict=True):
            length = len(completion.token_ids)
            is_out = not is_kept or (leaves_out_overlong and completion.finish_reason is FinishReason.LENGTH)
            mask = np.full(length, 0.0 if is_out else 1.0, np.float32)
            if completion.written is not None:
                mask *= completion.written
            sequences.append(
                TrainSequence(
                    np.array(scored.group.prompt.ids + completion.token_ids, np.int32),
                    len(scored.group.prompt.ids),
                    np.zeros(length, np.float32),
                    mask,
                    sampling_logprobs=completion.logprobs,
                    written=completion.written,
                    restarts=completion.restarts,
                )
            )
    return sequences
