"""generate_config: the rollout engine and how tokens are drawn."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindrlhf_lite.config.sections.parallel import ParallelConfig
from mindrlhf_lite.config.setting import FLOAT_TYPES_OR_EMPTY, FREE, NOT_NEGATIVE, POSITIVE, setting


@dataclass(frozen=True)
class SamplingConfig:
    max_tokens: int = setting(512, "most tokens of a completion", unit="tokens")
    min_tokens: int = setting(0, "stop tokens are forbidden before this many tokens", unit="tokens")
    temperature: float = setting(1.0, "logits are divided by it; 0: greedy")
    top_k: int = setting(0, "sample among the k most probable tokens; 0: all")
    top_p: float = setting(1.0, "sample among the most probable tokens that reach this probability")
    min_p: float = setting(
        0.0, "leave out tokens less probable than this fraction of the most probable one's probability"
    )
    repetition_penalty: float = setting(1.0, "divides the logits of tokens seen before, in prompt or completion")
    presence_penalty: float = setting(0.0, "subtracted from the logits of tokens generated before")
    frequency_penalty: float = setting(0.0, "subtracted from a token's logit for every time it was generated")
    eos_token_id: list[int] = setting([], "tokens that end a completion; empty: the tokenizer's")


@dataclass(frozen=True)
class GenerateConfig:
    load: str = setting(
        "", "must be empty or equal to actor_config.load: rollouts always use the actor's weights", resume=FREE
    )
    model_config: str = setting(
        "", "as actor_config.model_config: types of the rollout; empty: its own settings", resume=FREE
    )
    use_vllm: int = setting(0, "rollout engine; 0: native, 1: vLLM (bash build.sh --vllm)")
    max_num_seqs: int = setting(128, "sequences that a rank decodes together", bounds=POSITIVE, unit="sequences")
    max_model_len: int = setting(
        0, "vLLM: longest prompt + completion, in tokens, at most rl_config.seq_length; 0: that", unit="tokens"
    )
    max_num_batched_tokens: int = setting(
        2048, "vLLM: tokens a step; longer prompts are computed in chunks", unit="tokens"
    )
    block_size: int = setting(16, "vLLM: tokens of a KV cache block", unit="tokens")
    gpu_memory_utilization: float = setting(
        0.0, "vLLM on Ascend: share of a device's memory for weights and KV cache; not used on CPU", bounds=NOT_NEGATIVE
    )
    kv_cache_gb: float = setting(
        0.0,
        "vLLM on CPU: GiB of a rank's KV cache; 0: room for max_num_seqs sequences of max_model_len",
        bounds=NOT_NEGATIVE,
        unit="GiB",
    )
    max_prompt_length: int = setting(1024, "longest prompt, in tokens", bounds=POSITIVE, unit="tokens")
    compute_dtype: str = setting(
        "", "as actor_config.compute_dtype, and of the KV cache; empty: the actor's", FLOAT_TYPES_OR_EMPTY
    )
    param_dtype: str = setting("", "type that the parameters are stored as; empty: compute_dtype", FLOAT_TYPES_OR_EMPTY)
    parallel_config: ParallelConfig = field(default_factory=ParallelConfig)
    sampling_config: SamplingConfig = field(default_factory=SamplingConfig)
