"""Prompts to groups of decoded completions, by any engine."""

from __future__ import annotations

from collections.abc import Sequence

from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.episodes.play import Play, Stage
from mindrlhf_lite.rollout.protocol import OnFinished, RolloutEngine
from mindrlhf_lite.types import Completion, GenerateRequest, Prompt, RolloutGroup, SamplingParams


def generate_groups(
    engine: RolloutEngine,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    num_samples: int,
    sampling: SamplingParams,
    seeds: Sequence[tuple[int, ...]],
    progress: OnFinished | None = None,
    stage: Stage | None = None,
) -> list[RolloutGroup]:
    """`num_samples` completions of every prompt, decoded. Args: seeds: one a prompt; stage: where they are episodes of
    several turns; None: of one.
    """
    if stage is not None:
        prompts, groups = _play(engine, prompts, num_samples, sampling, seeds, progress, stage)
    else:
        requests = [GenerateRequest(prompt.ids, num_samples, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        groups = engine.generate(requests, sampling, progress)
    return [
        RolloutGroup(prompt, completions, [tokenizer.decode(completion.token_ids) for completion in completions])
        for prompt, completions in zip(prompts, groups, strict=True)
    ]


def _play(
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    num_samples: int,
    sampling: SamplingParams,
    seeds: Sequence[tuple[int, ...]],
    progress: OnFinished | None,
    stage: Stage,
) -> tuple[Sequence[Prompt], list[list[Completion]]]:
    """(the prompts as their environments open them, the episodes of each)."""
    play = Play(stage, prompts, seeds)
    groups = engine.generate(play.requests(num_samples), sampling, progress, turns=play)
    stage.failures.report()
    return play.prompts, [
        [play.ended((request, sample), completion) for sample, completion in enumerate(group)]
        for request, group in enumerate(groups)
    ]
