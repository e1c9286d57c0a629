"""What vLLM needs of the settings: whether it is installed, the lengths it takes, what it can report on a device."""

from __future__ import annotations

import importlib.util

from mindrlhf_lite.config.schema import Config


def vllm_problems(config: Config, is_plan: bool) -> list[str]:
    """Args: is_plan: nothing runs here."""
    generate, needed = (
        config.generate_config,
        config.generate_config.max_prompt_length + config.generate_config.sampling_config.max_tokens,
    )
    if generate.use_vllm == 0:
        return []
    if generate.use_vllm != 1:
        return [f"generate_config.use_vllm={generate.use_vllm}: must be 0 (native engine) or 1 (vLLM)"]
    problems = [] if is_plan else _installation_problems(config)  # what is not installed here may be where it runs
    if generate.max_model_len and generate.max_model_len < needed:
        problems.append(
            f"generate_config.max_model_len={generate.max_model_len}: must be at least max_prompt_length + "
            f"max_tokens = {needed}; 0 takes rl_config.seq_length"
        )
    for name, least in (("max_num_batched_tokens", 1), ("block_size", 1)):
        if getattr(generate, name) < least:
            problems.append(f"generate_config.{name}={getattr(generate, name)}: must be at least {least}")
    memory, is_cpu = generate.gpu_memory_utilization, config.context.device_target == "CPU"
    if is_cpu and memory > 1:
        problems.append(
            f"generate_config.gpu_memory_utilization={memory:g}: a share of a device's memory, and not used on CPU; "
            "give generate_config.kv_cache_gb the size of a rank's KV cache, or 0 for the size that max_num_seqs needs"
        )
    if config.reports_only_policy_logprobs and config.rl_config.rollout_is_cap:
        problems.append(
            f"rl_config.rollout_is_cap={config.rl_config.rollout_is_cap:g}: it needs logprobs of the distribution that "
            "was sampled from, and with these sampling settings vLLM on Ascend reports the policy's only; set it to 0, "
            "or use_vllm to 0"
        )
    if config.rl_config.kl_in_reward and not is_cpu and config.policy_temperature != 1.0:
        problems.append(
            "rl_config.kl_in_reward=true: it needs the policy's logprobs at the sampling temperature "
            f"({config.policy_temperature:g}), and vLLM on Ascend reports those at 1; set kl_in_reward to false, "
            "logprob_temperature to 1, or use_vllm to 0"
        )
    if not is_cpu and not 0 < memory <= 1:
        problems.append(
            f"generate_config.gpu_memory_utilization={memory:g}: must lie in (0, 1]: the share of a device's "
            "memory, e.g. 0.5"
        )
    return problems


def _installation_problems(config: Config) -> list[str]:
    if importlib.util.find_spec("vllm") is None:
        return [
            "generate_config.use_vllm=1: vLLM is not installed; install it with `bash build.sh --vllm`, or set "
            "it to 0 (native engine)"
        ]
    if config.context.device_target == "Ascend" and importlib.util.find_spec("vllm_mindspore") is None:
        return [
            "generate_config.use_vllm=1: on Ascend vLLM needs the vllm-mindspore plugin, which is not "
            "importable; use its image, or set it to 0"
        ]
    return []
