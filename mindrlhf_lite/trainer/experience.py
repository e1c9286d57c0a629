"""From prompts to training sequences: generate, score, shape, advantages.

Generation and rewards work on this rank's share; then all ranks hold the whole step's groups in one order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mindrlhf_lite.algorithms.advantage import ADVANTAGES, GroupRewards
from mindrlhf_lite.algorithms.kl import kl_for_reward
from mindrlhf_lite.algorithms.names import WITHOUT_GROUP
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.prompt_sampler import PromptSampler
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.rewards.reward_function import FAILURES, RewardFunction
from mindrlhf_lite.rewards.shaping import RewardShaping
from mindrlhf_lite.roles.build import Roles
from mindrlhf_lite.rollout.groups import generate_groups
from mindrlhf_lite.types import FinishReason, Prompt, RolloutGroup, SamplingParams, ScoredGroup, TrainSequence


class Experience:
    """A step's groups of completions, and what they teach; every rank calls it."""

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        roles: Roles,
        tokenizer: Tokenizer,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        reward: RewardFunction,
    ):
        self.config, self.mesh, self.roles, self.tokenizer = config, mesh, roles, tokenizer
        self.prompts, self.sampling, self.reward = prompts, sampling, reward
        max_tokens, overlong = config.generate_config.sampling_config.max_tokens, config.rl_config.overlong
        self.shaping = RewardShaping(
            max_tokens,
            overlong.buffer_tokens(max_tokens),
            overlong.penalty,
            config.reward_config.missing_eos_penalty,
            config.reward_config.shaping_function,
        )

    def generate(
        self, step: int, sampler: PromptSampler, num_chunks: int, attempt: int, drawn: Counter[int]
    ) -> dict[int, RolloutGroup]:
        """The groups that this rank goes on with, by their place among those drawn now. Tensor ranks complete the same
        prompts and share them after.

        Args: drawn: how often the step has drawn a prompt so far; a prompt that comes again has other random numbers.
        """
        rl, mesh, groups = self.config.rl_config, self.roles.rollout_mesh, {}
        for chunk in range(num_chunks):
            indices = sampler.take(rl.chunk_size)
            repeats = []
            for index in indices:
                repeats.append(drawn[index])
                drawn[index] += 1
            places = share_of_rank(range(rl.chunk_size), mesh.at.data, mesh.dims.data)
            prompts = [self.prompts[indices[place]] for place in places]
            seeds = [(rl.seed, step, prompt.index) for prompt in prompts]
            again = [(attempt, repeats[place]) if attempt or repeats[place] else () for place in places]
            completed = generate_groups(
                self.roles.rollout,
                self.tokenizer,
                prompts,
                rl.num_generations,
                self.sampling,
                [(*seed, *more) for seed, more in zip(seeds, again, strict=True)],
            )
            for number in share_of_rank(range(len(places)), mesh.at.tensor, mesh.dims.tensor):
                groups[chunk * rl.chunk_size + places[number]] = completed[number]
        return groups

    def score(self, groups: dict[int, RolloutGroup]) -> list[ScoredGroup]:
        """All groups with their rewards, on every rank, in the order of the prompts."""
        leaves_out = self.config.reward_config.on_failure == "leave_out"
        own = score_groups(list(groups.values()), self.reward, self.shaping, leaves_out)
        shares = gather_objects(self.mesh.world, list(zip(groups, own, strict=True)), list[tuple[int, ScoredGroup]])
        return [scored for _, scored in sorted((pair for share in shares for pair in share), key=lambda pair: pair[0])]

    def sequences(self, groups: Sequence[ScoredGroup]) -> list[TrainSequence]:
        """One training sequence a completion, in group order, without advantages yet."""
        return as_sequences(groups, self.config.rl_config.overlong.filter)

    def with_advantages(
        self, groups: Sequence[ScoredGroup], sequences: Sequence[TrainSequence], kl_coefficient: float
    ) -> tuple[list[TrainSequence], float]:
        """(the sequences with advantages, the mean KL of a token in the reward: 0 where it is not there)."""
        rl, penalties, counted = self.config.rl_config, [np.zeros(each.completion_length) for each in sequences], 0
        if rl.kl_in_reward:
            generated = [each.engine_logprobs for group in groups for each in group.group.completions]
            for index, (sequence, logprobs) in enumerate(zip(sequences, generated, strict=True)):
                assert sequence.reference_logprobs is not None and logprobs is not None  # validated
                kl = kl_for_reward(logprobs, sequence.reference_logprobs, rl.kl_estimator)
                penalties[index] = kl * sequence.mask
                counted += sequence.num_counted
        mean_kl = float(sum(penalty.sum() for penalty in penalties)) / max(1, counted)
        of_tokens = [-kl_coefficient * penalty for penalty in penalties]
        masks = [each.mask for each in sequences]
        advantages = advantages_of(groups, of_tokens, masks, rl.advantage)
        return [replace(each, advantages=own) for each, own in zip(sequences, advantages, strict=True)], mean_kl


def share_of_rank(items: Sequence[int], rank: int, num_ranks: int) -> list[int]:
    """Every `num_ranks`-th item: then an update's first k global prompts are the first k / num_ranks of every rank."""
    return list(items[rank::num_ranks])


def score_groups(
    groups: Sequence[RolloutGroup], reward: RewardFunction, shaping: RewardShaping, leaves_out_failures: bool = False
) -> list[ScoredGroup]:
    """Verifies all completions and shapes their rewards.

    Args: leaves_out_failures: a completion on which a verifier failed does not count in its group, and has no
    advantage.
    """
    views = [view for group in groups for view in group.views]
    golds = [group.prompt.gold for group in groups for _ in group.texts]
    scores = reward.score(views, golds, len(groups[0].texts) if groups else 1)
    verified, outcomes = reward.rewards(scores), reward.outcomes(scores)
    rewards = shaping.shaped(verified, views)
    scored, start = [], 0
    for group in groups:
        end = start + len(group.texts)
        own = {name: values[start:end] for name, values in scores.items()}
        kept = np.array([not (leaves_out_failures and outcome in FAILURES) for outcome in outcomes[start:end]])
        scored.append(ScoredGroup(group, own, verified[start:end], rewards[start:end], outcomes[start:end], kept))
        start = end
    return scored


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


def as_sequences(groups: Sequence[ScoredGroup], leaves_out_overlong: bool = False) -> list[TrainSequence]:
    """One training sequence a completion, in group order, with advantages of 0. Tokens of completions that their group
    leaves out do not count.

    Args: leaves_out_overlong: nor do those of completions that were cut off.
    """
    sequences = []
    for scored in groups:
        for completion, is_kept in zip(scored.group.completions, scored.kept, strict=True):
            length = len(completion.token_ids)
            is_out = not is_kept or (leaves_out_overlong and completion.finish_reason is FinishReason.LENGTH)
            sequences.append(
                TrainSequence(
                    np.array(scored.group.prompt.ids + completion.token_ids, np.int32),
                    len(scored.group.prompt.ids),
                    np.zeros(length, np.float32),
                    np.full(length, 0.0 if is_out else 1.0, np.float32),
                    sampling_logprobs=completion.logprobs,
                )
            )
    return sequences
