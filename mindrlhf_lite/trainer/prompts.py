"""The prompts of a run, training and held-out ones."""

from __future__ import annotations

from collections.abc import Sequence

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.curriculum import CurriculumSampler, Sampler, levels_of
from mindrlhf_lite.data.prompt_sampler import PromptSampler
from mindrlhf_lite.data.records import read_file
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.reasoning import ENTRY
from mindrlhf_lite.rewards.verifiers import REASONING_GYM
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.types import Prompt


def prompts_of_run(config: Config, tokenizer: Tokenizer) -> tuple[list[Prompt], list[Prompt]]:
    """(training prompts, held-out prompts: none without rl_config.eval_dataset_file).

    Raises:
        ValueError: a file is damaged, was made with another tokenizer, has a prompt that is too long, or too few for a
            step.
    """
    rl = config.rl_config
    prompts = _read(rl.dataset_file, config, tokenizer)
    if len(prompts) < config.prompts_per_step:
        wanted = f"a step takes chunk_size * num_rollouts = {config.prompts_per_step}"
        raise UserError(f"dataset_file {rl.dataset_file}: {len(prompts)} prompts, but {wanted}")
    held_out = _read(rl.eval_dataset_file, config, tokenizer) if rl.eval_dataset_file else []
    judges = (*config.reward_config.verifier_function, rl.eval_verifier)
    if REASONING_GYM in judges and (other := [each for each in (*prompts, *held_out) if ENTRY not in each.columns][:1]):
        raise UserError(
            f"reward_config.verifier_function: {REASONING_GYM} needs rows of --dataset_type reasoning_gym; "
            f"row {other[0].row} is of no task"
        )
    return prompts, held_out[: rl.eval_max_prompts or None]


def sampler_of_run(config: Config, prompts: Sequence[Prompt]) -> Sampler:
    """In which order the training prompts are drawn.

    Raises:
        ValueError: there is a curriculum, and a row is of no level.
    """
    curriculum, seed = config.data_config.curriculum, config.rl_config.seed
    if not curriculum.column:
        return PromptSampler(len(prompts), seed)
    return CurriculumSampler(levels_of(prompts, curriculum.column), seed, curriculum.memory, curriculum.floor)


def _read(path: str, config: Config, tokenizer: Tokenizer) -> list[Prompt]:
    (header, prompts), limit = read_file(path), config.generate_config.max_prompt_length
    header.check(tokenizer, config.tokenizer_dir, path)
    if longest := [prompt for prompt in prompts if len(prompt.ids) > limit][:1]:
        row, length = longest[0].row, len(longest[0].ids)
        raise UserError(
            f"dataset_file {path}: row {row} has {length} tokens, over "
            f"generate_config.max_prompt_length={limit}; raise it, or convert again"
        )
    vocab_size = ModelConfig.from_dir(config.actor_config.load).vocab_size
    if beyond := [prompt for prompt in prompts if max(prompt.ids, default=-1) >= vocab_size][:1]:
        raise UserError(
            f"dataset_file {path}: row {beyond[0].row} has token id {max(beyond[0].ids)}, but the model's vocabulary "
            f"has {vocab_size}; choose a template without that token"
        )
    return prompts
