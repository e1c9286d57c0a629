"""One sequence that vLLM works on, and its sampling parameters as this project's sampler takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mindrlhf_lite.rollout.host_draw import TokenHistory
from mindrlhf_lite.types import SamplingParams

# keys of SamplingParams.extra_args
RANDOM_STREAM = "mindrlhf_random_stream"  # (*seed, sample) of `sampler.uniforms`
FIRST_UNIFORM = "mindrlhf_first_uniform"  # how many of the stream earlier turns have used
HISTORY = "mindrlhf_history"  # a TokenHistory: what penalties count of earlier turns
TEMPERED_POLICY = "mindrlhf_tempered_policy"  # `reports_tempered_policy`
_GREEDY_BELOW = 1e-5  # temperatures that vLLM takes for greedy


def convert_params(params: Any) -> SamplingParams:
    """vLLM's sampling parameters as the sampler takes them."""
    return SamplingParams(
        max_tokens=params.max_tokens,
        min_tokens=min(params.min_tokens, params.max_tokens),
        temperature=0.0 if params.temperature < _GREEDY_BELOW else params.temperature,
        top_k=max(params.top_k, 0),
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=tuple((params.logit_bias or {}).items()),
        stop_token_ids=tuple(sorted(params.all_stop_token_ids)),
        reports_tempered_policy=bool((params.extra_args or {}).get(TEMPERED_POLICY)),
    )


@dataclass
class Request:
    """One sequence that vLLM works on. Token i of `tokens` has its keys in block `blocks[i // block_size]`."""

    tokens: list[int]  # prompt, then completion
    num_prompt: int
    params: SamplingParams
    top_logprobs: int | None  # how many alternatives to report with each token; None: no logprobs
    uniforms: np.ndarray
    history: TokenHistory
    blocks: np.ndarray  # int32 [most blocks]
    num_blocks: int = 0
    computed: int = 0  # tokens whose keys are in the cache
    logprobs: list[float] = field(
        default_factory=list
    )  # of the completion's tokens, under the distribution that was sampled from
    engine_logprobs: list[float] = field(default_factory=list)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def needs_sampler(self) -> bool:
        return self.params.has_filters or self.top_logprobs is not None or self.generated < self.params.min_tokens

    def set_blocks(self, start: int, ids: Sequence[int]) -> None:
        self.num_blocks = start + len(ids)
        self.blocks[start : self.num_blocks] = ids
