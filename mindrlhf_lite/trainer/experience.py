"""From prompts to scored groups: generate, verify, shape.

Generation and rewards work on this rank's share; then all ranks hold the whole step's groups in one order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.curriculum import Sampler
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.episodes.play import Stage
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.parallel.shares import share_of_rank
from mindrlhf_lite.rewards.reward_function import FAILURES, RewardFunction
from mindrlhf_lite.rewards.shaping import RewardShaping
from mindrlhf_lite.roles.models import Roles
from mindrlhf_lite.rollout.groups import generate_groups
from mindrlhf_lite.types import Outcome, Prompt, RolloutGroup, SamplingParams, ScoredGroup


class Experience:
    """A step's groups of completions; every rank calls it."""

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        roles: Roles,
        tokenizer: Tokenizer,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        reward: RewardFunction,
        stage: Stage | None = None,
    ):
        self.stage = stage
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
        self, step: int, sampler: Sampler, num_chunks: int, attempt: int, drawn: Counter[int]
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
            places = share_of_rank(range(rl.chunk_size), mesh.at.data, mesh.dims.copies)
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
                stage=self.stage,
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


def score_groups(
    groups: Sequence[RolloutGroup], reward: RewardFunction, shaping: RewardShaping, leaves_out_failures: bool = False
) -> list[ScoredGroup]:
    """Verifies all completions and shapes their rewards.

    Args: leaves_out_failures: a completion on which a verifier failed does not count in its group, and has no
    advantage; one whose environment failed never does.
    """
    views = [view for group in groups for view in group.views]
    golds = [group.prompt.gold for group in groups for _ in group.texts]
    scores = reward.score(views, golds, len(groups[0].texts) if groups else 1)
    verified, outcomes = reward.rewards(scores), reward.outcomes(scores)
    completions = [completion for group in groups for completion in group.completions]
    outcomes = [
        Outcome.ERROR if completion.has_failed else outcome
        for completion, outcome in zip(completions, outcomes, strict=True)
    ]
    rewards = shaping.shaped(verified, views)
    scored, start = [], 0
    for group in groups:
        end = start + len(group.texts)
        own = {name: values[start:end] for name, values in scores.items()}
        kept = np.array(
            [
                not completion.has_failed and not (leaves_out_failures and outcome in FAILURES)
                for completion, outcome in zip(group.completions, outcomes[start:end], strict=True)
            ]
        )
        scored.append(ScoredGroup(group, own, verified[start:end], rewards[start:end], outcomes[start:end], kept))
        start = end
    return scored
