"""What a run would be, in words: sizes of a step, strategies, memory of the fullest rank, what compiling tells."""

from __future__ import annotations

from collections.abc import Callable

from mindrlhf_lite.config.adapters import with_adapters
from mindrlhf_lite.config.memory_plan import ASCEND_MEMORY_GIB, MemoryPlan, memory_plan
from mindrlhf_lite.config.model_file import shape_of_actor
from mindrlhf_lite.config.roles import scoring_roles, unused_parts
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.stages import StageConfig
from mindrlhf_lite.config.strategies import role_strategies
from mindrlhf_lite.launch.command_line import Command, ranks_of_this_host
from mindrlhf_lite.launch.estimate_text import estimate_lines
from mindrlhf_lite.observe.host import memory_limit_gb
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import count_parameters


def memory_note(command: Command) -> str:
    """A warning if all ranks of this host together need more memory than it has; on CPU only, and by the plan's
    estimate.
    """
    config = command.config
    if config.context.device_target != "CPU":
        return ""
    shape = shape_of_actor(config)
    plan = memory_plan(config, shape, command.num_ranks)
    local, limit = ranks_of_this_host(command.num_ranks), memory_limit_gb()
    needed = local * plan.needed(config.rl_config.swap) / 2**30
    if needed <= limit:
        return ""
    return (
        f"warning: {local} rank(s) on this host need about {needed:.1f} GiB, it has {limit:.1f} GiB: the system "
        "may end the run. Less takes: rl_config.seq_length, "
        "actor_config.parallel_config.micro_batch_num (more), generate_config.max_num_seqs, rl_config.swap=true, "
        "recompute_config.recompute=true"
    )


def describe(command: Command) -> str:
    """What the run would be: sizes of a step, strategies, and memory of the fullest rank by group and phase."""
    config, rl = command.config, command.config.rl_config
    shape = shape_of_actor(config)
    unused, plan = unused_parts(config), _plan(command)
    # of a GRPO run's frozen role it is said that it takes nothing
    never = unused - ({role.name for role in scoring_roles(config)} if not isinstance(config, StageConfig) else set())
    of_roles = role_strategies(config, command.num_ranks)
    strategies = {name: strategy for name, strategy in of_roles.items() if name not in unused}

    def gib(size: int) -> str:
        return f"{size / 2**30:9.3f} GiB"

    def verdict(size: int) -> str:
        return (
            ""
            if not command.device_memory_gb
            else "  fits"
            if size <= command.device_memory_gb * 2**30
            else f"  DOES NOT FIT in {command.device_memory_gb:g} GiB"
        )

    lines = [
        f"model: {count_parameters(shape):,} parameters; {_dtypes_in_words(config)}",
        *_adapters_in_words(config, shape),
        f"ranks: {command.num_ranks}; " + ", ".join(f"{name} {s.dims.describe()}" for name, s in strategies.items()),
        f"a step: {config.step_in_words}",
        f"a micro-batch: {config.micro_batch_tokens(strategies['actor'].dims.shares):,} tokens at most",
        "memory of the fullest rank:",
        *(f"  {name:<12} {gib(size)}" for name, size in plan.groups.items() if name not in never),
        *([f"  {'hccl':<12} {gib(plan.communicators)}   (communicators)"] if plan.communicators else []),
        *(_with_swap if rl.swap else _without_swap)(plan, gib, verdict),
    ]
    if rl.swap and plan.stored:
        lines.append(f"  {'host memory':<12} {gib(plan.stored)}   (a rank's swapped weights)")
    if config.engine_copies_weights:
        lines.append(
            "note: kv_cache is what full slots need, or less: vLLM takes what its weights leave of "
            f"generate_config.gpu_memory_utilization={config.generate_config.gpu_memory_utilization:g} of the device"
        )
    lines += estimate_lines(command)
    return "\n".join([*command.notes, *command.recipe, *lines, *filter(None, [memory_note(command)])])


def _plan(command: Command) -> MemoryPlan:
    device_gib = command.device_memory_gb or ASCEND_MEMORY_GIB
    return memory_plan(command.config, shape_of_actor(command.config), command.num_ranks, device_gib)


def _with_swap(plan: MemoryPlan, gib: Callable[[int], str], verdict: Callable[[int], str]) -> list[str]:
    return [
        "by phase, with swapping (activations estimated):",
        *(f"  {name:<12} {gib(size)}{verdict(size)}" for name, size in plan.phases.items()),
        f"  {'peak':<12} {gib(plan.with_swap)}{verdict(plan.with_swap)}",
        f"without swapping (rl_config.swap=false) {gib(plan.without_swap)}{verdict(plan.without_swap)}",
    ]


def _without_swap(plan: MemoryPlan, gib: Callable[[int], str], verdict: Callable[[int], str]) -> list[str]:
    return [
        f"  {'peak':<12} {gib(plan.without_swap)}{verdict(plan.without_swap)}   (activations estimated)",
        f"with rl_config.swap=true the peak would be {gib(plan.with_swap).strip()}{verdict(plan.with_swap)}, by phase:",
        *(f"  {name:<12} {gib(size)}" for name, size in plan.phases.items()),
    ]


def exceeds_device_memory(command: Command) -> bool:
    """Whether the run, swapping or not as it is set, needs more than --device_memory_gb."""
    config = command.config
    plan = _plan(command)
    return 0 < command.device_memory_gb * 2**30 < plan.needed(config.rl_config.swap)


def _adapters_in_words(config: Config, shape: ModelConfig) -> list[str]:
    adapted = with_adapters(config, shape)
    if adapted.adapters is None:
        return []
    count, rollout = count_parameters(adapted.moved), "merged" if config.merges_adapters else "beside the weights"
    names = ", ".join(adapted.adapters.targets)
    share = count / count_parameters(shape)
    return [
        f"adapters: rank {adapted.adapters.rank} on {names}: {count:,} parameters ({share:.2%}); rollout: {rollout}"
    ]


def _dtypes_in_words(config: Config) -> str:
    """Example: "actor bfloat16 with float32 masters, reference bfloat16, rollout bfloat16"."""
    words = []
    for role in (role for role in config.roles if role.is_used(config)):
        compute, param = config.dtypes(role.name)
        words.append(f"{role.name} {compute}" + (f" stored as {param}" if param != compute else ""))
    words[0] += " with float32 masters" if config.dtypes("actor")[1] != "float32" else ""
    return ", ".join(words)
