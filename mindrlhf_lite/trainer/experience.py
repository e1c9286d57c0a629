"""From prompts to training sequences: generate, score, advantage.

Generation and rewards work on this rank's share; then all ranks hold the whole step's groups in one order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mindrlhf_lite.algorithms.advantage import ADVANTAGES
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.sampler import PromptSampler
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.evaluation import generate_groups
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.rewards.runner import FAILURES, RewardFunction
from mindrlhf_lite.trainer.roles import Roles
from mindrlhf_lite.types import Prompt, RolloutGroup, SamplingParams, ScoredGroup, TrainSequence


class Experience:
    """A step's groups of completions, and their rewards; every rank calls it."""

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

    def generate(self, step: int, sampler: PromptSampler) -> dict[int, RolloutGroup]:
        """The groups that this rank goes on with, by their place in the step. Tensor ranks complete the same prompts
        and share them after.
        """
        rl, mesh, groups = self.config.rl_config, self.roles.rollout_mesh, {}
        for chunk in range(rl.num_rollouts):
            indices = sampler.take(rl.chunk_size)
            places = share_of_rank(range(rl.chunk_size), mesh.at.data, mesh.dims.data)
            prompts = [self.prompts[indices[place]] for place in places]
            completed = generate_groups(
                self.roles.rollout, self.tokenizer, prompts, rl.num_generations, self.sampling, (rl.seed, step)
            )
            for number in share_of_rank(range(len(places)), mesh.at.tensor, mesh.dims.tensor):
                groups[chunk * rl.chunk_size + places[number]] = completed[number]
        return groups

    def score(self, groups: dict[int, RolloutGroup]) -> list[ScoredGroup]:
        """All groups of the step with rewards and advantages, on every rank, in the order of the prompts."""
        advantage = ADVANTAGES[self.config.rl_config.advantage]
        leaves_out = self.config.reward_config.on_failure == "leave_out"
        own = score_groups(list(groups.values()), self.reward, advantage, leaves_out)
        shares = gather_objects(self.mesh.world, list(zip(groups, own, strict=True)))
        return [scored for _, scored in sorted((pair for share in shares for pair in share), key=lambda pair: pair[0])]


def share_of_rank(items: Sequence[int], rank: int, num_ranks: int) -> list[int]:
    """Every `num_ranks`-th item: then an update's first k global prompts are the first k / num_ranks of every rank."""
    return list(items[rank::num_ranks])


def score_groups(
    groups: Sequence[RolloutGroup],
    reward: RewardFunction,
    advantage: Callable[[np.ndarray], np.ndarray],
    leaves_out_failures: bool = False,
) -> list[ScoredGroup]:
    """Verifies all completions and computes advantages within each group.

    Args: leaves_out_failures: a completion on which a verifier failed does not count in its group, and has no
    advantage.
    """
    views = [view for group in groups for view in group.views]
    golds = [group.prompt.gold for group in groups for _ in group.texts]
    scores = reward.score(views, golds)
    rewards, outcomes = reward.rewards(scores), reward.outcomes(scores)
    scored, start = [], 0
    for group in groups:
        end = start + len(group.texts)
        own = {name: values[start:end] for name, values in scores.items()}
        kept = np.array([not (leaves_out_failures and outcome in FAILURES) for outcome in outcomes[start:end]])
        scored.append(
            ScoredGroup(
                group, own, rewards[start:end], outcomes[start:end], advantages_of(rewards[start:end], kept, advantage)
            )
        )
        start = end
    return scored


def advantages_of(rewards: np.ndarray, kept: np.ndarray, advantage: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """float32 [G]: advantages among the kept rewards, 0 for the others; all 0 where fewer than two are left.

    Args: rewards [G]; kept bool [G].
    """
    advantages = np.zeros(len(rewards), np.float32)
    if kept.sum() > 1:
        advantages[kept] = advantage(rewards[kept])
    return advantages


def as_sequences(groups: Sequence[ScoredGroup]) -> list[TrainSequence]:
    """One training sequence a completion, in group order."""
    return [
        TrainSequence(
            np.array(scored.group.prompt.ids + completion.token_ids, np.int32),
            len(scored.group.prompt.ids),
            float(advantage),
            sampling_logprobs=completion.logprobs,
        )
        for scored in groups
        for completion, advantage in zip(scored.group.completions, scored.advantages, strict=True)
    ]
