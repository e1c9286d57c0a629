"""Prompts to groups of decoded completions, by any engine."""

from __future__ import annotations

from collections.abc import Sequence

from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.rollout.protocol import OnFinished, RolloutEngine
from mindrlhf_lite.types import GenerateRequest, Prompt, RolloutGroup, SamplingParams


def generate_groups(
    engine: RolloutEngine,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    num_samples: int,
    sampling: SamplingParams,
    seeds: Sequence[tuple[int, ...]],
    progress: OnFinished | None = None,
) -> list[RolloutGroup]:
    """`num_samples` completions of every prompt, decoded. Args: seeds: one a prompt."""
    requests = [GenerateRequest(prompt.ids, num_samples, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    groups = engine.generate(requests, sampling, progress)
    return [
        RolloutGroup(prompt, completions, [tokenizer.decode(completion.token_ids) for completion in completions])
        for prompt, completions in zip(prompts, groups, strict=True)
    ]
