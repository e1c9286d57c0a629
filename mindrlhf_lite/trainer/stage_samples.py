"""A few held-out prompts, answered by the model as it is: completions/eval_N.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mindrlhf_lite.config.stages import StageConfig
from mindrlhf_lite.data.supervised_rows import SupervisedRow
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.evaluation.accuracy import EVALUATION_STREAM
from mindrlhf_lite.observe.writers import write_completions
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.parallel.shares import share_of_rank
from mindrlhf_lite.roles.models import Roles
from mindrlhf_lite.rollout.groups import generate_groups
from mindrlhf_lite.trainer.phase_clock import PhaseClock
from mindrlhf_lite.trainer.rollout_weights import RolloutWeights
from mindrlhf_lite.types import Prompt, SamplingParams


class Samples:
    """Every rank calls it. Args: rows: held-out ones; the first whose prompts leave room are answered."""

    def __init__(
        self,
        config: StageConfig,
        mesh: Mesh,
        roles: Roles,
        tokenizer: Tokenizer,
        rows: Sequence[SupervisedRow],
        sampling: SamplingParams,
        clock: PhaseClock,
    ):
        self._config, self._mesh, self._roles, self._tokenizer = config, mesh, roles, tokenizer
        self._sampling, self._weights = sampling, RolloutWeights(roles, clock, config.rl_config.reshard_check_interval)
        room = config.rl_config.seq_length - sampling.max_tokens
        first = [(row, row.sequences[0]) for row in rows if row.sequences[0].prompt_length <= room]
        self._prompts = [
            Prompt(index, tuple(each.token_ids[: each.prompt_length].tolist()), row.prompt, row.answer, row.row)
            for index, (row, each) in enumerate(first[: config.supervised_config.num_samples])
        ]

    def write(self, step: int) -> None:
        """The answers after a step."""
        if not self._prompts:  # none leaves room for an answer
            return
        mesh, seed = self._roles.rollout_mesh, self._config.rl_config.seed
        self._weights.move()
        mine = share_of_rank(range(len(self._prompts)), mesh.at.data, mesh.dims.copies)
        prompts = [self._prompts[index] for index in mine]
        with self._roles.residency.phase("generate"):
            seeds = [(seed, EVALUATION_STREAM, prompt.index) for prompt in prompts]
            groups = generate_groups(self._roles.rollout, self._tokenizer, prompts, 1, self._sampling, seeds)
        own = [
            {
                "index": group.prompt.index,
                "row": group.prompt.row,
                "prompt": group.prompt.text,
                "answer": group.prompt.gold,
                "completion": group.texts[0],
                "tokens": len(group.completions[0].token_ids),
                "finish_reason": group.completions[0].finish_reason.value,
            }
            for group in groups[mesh.at.tensor :: mesh.dims.tensor]
        ]
        rows = [row for share in gather_objects(self._mesh.world, own) for row in share]
        if self._mesh.is_main:
            folder = Path(self._config.completions_dir)
            write_completions(folder, f"eval_{step:06d}", sorted(rows, key=lambda row: row["index"]))
