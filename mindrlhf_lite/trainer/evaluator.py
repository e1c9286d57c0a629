"""Held-out accuracy during a run: which prompts, by which ranks, and what is left on disk."""

from __future__ import annotations

from pathlib import Path

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.episodes.play import Stage
from mindrlhf_lite.evaluation.accuracy import EVALUATION_STREAM, Evaluation, correctness, question_rows, summarise
from mindrlhf_lite.observe.writers import write_completions
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.parallel.shares import share_of_rank
from mindrlhf_lite.rewards.reward_function import RewardFunction
from mindrlhf_lite.roles.models import Roles
from mindrlhf_lite.rollout.groups import generate_groups
from mindrlhf_lite.types import Prompt, SamplingParams


class Evaluator:
    """Evaluates the rollout weights on held-out prompts; every rank calls it.

    Args:
        prompts: none: nothing is ever evaluated.
        last_step: of the run; the evaluation after it is its result.
        results: gets every evaluation: "before", "step_20", ..., "after".
    """

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        roles: Roles,
        tokenizer: Tokenizer,
        reward: RewardFunction,
        prompts: list[Prompt],
        sampling: SamplingParams,
        last_step: int,
        results: dict[str, Evaluation],
        stage: Stage | None = None,
    ):
        self.stage = stage
        self.config, self.mesh, self.roles, self.tokenizer, self.reward = config, mesh, roles, tokenizer, reward
        self.prompts, self.sampling, self.last_step, self.results = prompts, sampling, last_step, results

    def is_due_after(self, step: int) -> bool:
        interval = self.config.rl_config.eval_interval
        return bool(self.prompts) and (step == self.last_step or bool(interval and step % interval == 0))

    def run(self, step: int) -> Evaluation:
        """The evaluation after `step`, kept in `results` and written to completions/eval_N.jsonl."""
        rl, mesh = self.config.rl_config, self.roles.rollout_mesh
        prompts = [
            self.prompts[index] for index in share_of_rank(range(len(self.prompts)), mesh.at.data, mesh.dims.copies)
        ]
        with self.roles.residency.phase("generate"):
            seeds = [(rl.seed, EVALUATION_STREAM, prompt.index) for prompt in prompts]
            groups = generate_groups(
                self.roles.rollout,
                self.tokenizer,
                prompts,
                rl.eval_samples,
                self.sampling,
                seeds,
                stage=self.stage,
            )
        groups = groups[mesh.at.tensor :: mesh.dims.tensor]
        own = question_rows(groups, self.reward) if groups else []
        rows = sorted(
            (row for share in gather_objects(self.mesh.world, own) for row in share), key=lambda row: row["index"]
        )
        result = summarise(correctness(rows, "evaluation"), self.reward.judge)
        if rl.save_prompt_completions_data and self.mesh.is_main:
            write_completions(Path(self.config.completions_dir), f"eval_{step:06d}", rows)
        self.results["before" if step == 0 else "after" if step >= self.last_step else f"step_{step}"] = result
        return result
