"""A step's groups: drawn once, or until enough of them teach something."""

from __future__ import annotations

from collections import Counter

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.curriculum import CurriculumSampler, Sampler
from mindrlhf_lite.trainer.experience import Experience
from mindrlhf_lite.trainer.model_reward import ModelReward
from mindrlhf_lite.trainer.phase_clock import PhaseClock
from mindrlhf_lite.trainer.rollout_weights import RolloutWeights
from mindrlhf_lite.types import ScoredGroup


class Collection:
    """Every rank calls it, and gets all groups of the step.

    With dynamic sampling (DAPO, arXiv:2503.14476, sec. 3.2) groups whose rewards are all equal are put aside, and more
    chunks of prompts are drawn in their place. What a step draws depends on the sampler's state and the step only, so a
    step that was interrupted is repeated exactly.
    """

    def __init__(
        self,
        config: Config,
        experience: Experience,
        clock: PhaseClock,
        rollout_weights: RolloutWeights,
        then: str | None,
        model_reward: ModelReward | None = None,
    ):
        self._model_reward = model_reward
        self._config, self._experience, self._clock, self._rollout_weights = config, experience, clock, rollout_weights
        self._then = None if config.rl_config.dynamic_sampling.enabled else then
        self.num_drawn = 0  # groups of the last step, those put aside included
        self.num_attempts = 0

    def run(self, step: int, sampler: Sampler) -> list[ScoredGroup]:
        rl, wanted = self._config.rl_config, self._config.prompts_per_step
        mixed: list[ScoredGroup] = []
        aside: list[ScoredGroup] = []
        drawn: Counter[int] = Counter()
        self.num_drawn = 0
        for attempt in range(rl.dynamic_sampling.max_attempts if rl.dynamic_sampling.enabled else 1):
            num_chunks = -(-(wanted - len(mixed)) // rl.chunk_size)
            scored = self._draw(step, sampler, num_chunks, attempt, drawn)
            self.num_attempts, self.num_drawn = attempt + 1, self.num_drawn + len(scored)
            if not rl.dynamic_sampling.enabled:
                return scored
            for group in scored:
                (mixed if group.is_mixed else aside).append(group)
            if len(mixed) >= wanted:
                break
        return (mixed + aside)[:wanted]

    def _draw(
        self, step: int, sampler: Sampler, num_chunks: int, attempt: int, drawn: Counter[int]
    ) -> list[ScoredGroup]:
        self._rollout_weights.move_if_missing()
        with self._clock.phase("generate", "generate", then=self._then):
            groups = self._experience.generate(step, sampler, num_chunks, attempt, drawn)
        with self._clock.phase("reward"):
            scored = self._experience.score(groups)
        if self._model_reward is not None:
            scored = self._model_reward.add(scored)
        if isinstance(sampler, CurriculumSampler):
            sampler.learn(scored)
        return scored
