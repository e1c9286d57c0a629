"""What must hold between settings and for the files they name; all problems are returned, with key, value and fix."""

from __future__ import annotations

from fnmatch import fnmatchcase
from operator import attrgetter

from mindrlhf_lite.algorithms.names import WITHOUT_GROUP
from mindrlhf_lite.config.adapters import lora_problems
from mindrlhf_lite.config.environment_settings import environment_problems
from mindrlhf_lite.config.file_checks import file_problems
from mindrlhf_lite.config.load import known_keys
from mindrlhf_lite.config.model_file import read_model_file, shape_of_actor, shape_of_role
from mindrlhf_lite.config.objectives import objective_problems
from mindrlhf_lite.config.sampling_params import sampling_params
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.sections.parallel import ParallelConfig
from mindrlhf_lite.config.sections.reward_model import RewardModelRole
from mindrlhf_lite.config.strategies import dims_of, role_strategies
from mindrlhf_lite.config.trackers import tracker_problems
from mindrlhf_lite.config.vllm_settings import vllm_problems
from mindrlhf_lite.errors import short_repr
from mindrlhf_lite.rewards.judge_settings import JUDGE_REWARD, judge_problems
from mindrlhf_lite.rewards.model_template import template_problem
from mindrlhf_lite.rewards.shaping import find_shaping
from mindrlhf_lite.rewards.sizes import LARGEST_REWARD, is_usable
from mindrlhf_lite.rewards.verifiers import find_verifier
from mindrlhf_lite.shapes.parameters import parameter_specs


def find_problems(config: Config, world_size: int, is_plan: bool = False, needs_prompts: bool = True) -> list[str]:
    """Every reason why `config` cannot run on `world_size` ranks. `is_plan`: nothing will run, so no weights and data
    are needed. `needs_prompts`: whether a run completes prompts of a file and verifies what
    it gets.
    """
    problems = [
        *range_problems(config),
        *_groups(config),
        *objective_problems(config),
        *_batches(config, world_size, needs_prompts),
        *length_problems(config, is_plan),
        *parallel_problems(config, world_size),
        *layout_problems(config, world_size),
        *frozen_problems(config),
        *lora_problems(config, is_plan),
        *tracker_problems(config),
    ]
    defaults = Config()
    problems += [
        f"{name}: is read by python -m mindrlhf_lite.sft, dpo and reward_model, not by GRPO; leave it out"
        for name in ("supervised_config", "preference_config")
        if getattr(config, name) != getattr(defaults, name)
    ]
    rewards = [*reward_problems(config), *environment_problems(config)] if needs_prompts else []
    return [*problems, *rewards, *([] if is_plan else file_problems(config, needs_prompts))]


def _groups(config: Config) -> list[str]:
    """Of groups of completions, and of what goes by their accuracy."""
    rl = config.rl_config
    problems = []
    if rl.num_generations < (1 if rl.advantage in WITHOUT_GROUP or config.has_teacher_alone else 2):
        problems.append(
            f"rl_config.num_generations={rl.num_generations}: a group needs at least 2 completions to compare"
        )
    if rl.eval_samples > 1 and rl.eval_temperature == 0:
        problems.append(
            f"rl_config.eval_samples={rl.eval_samples}: greedy completions are all equal; set eval_temperature, "
            "e.g. to 1.0"
        )
    for key, is_on in (("save_best", rl.save_best), ("early_stopping.patience", rl.early_stopping.patience > 0)):
        if is_on and not (rl.eval_dataset_file and rl.eval_interval):
            problems.append(
                f"rl_config.{key}: goes by held-out accuracy while training; give rl_config.eval_dataset_file and "
                "eval_interval"
            )
    return problems


def range_problems(config: Config) -> list[str]:
    """Of single settings, and of those that go together in every kind of run."""
    rl, schedule = config.rl_config, config.actor_config.lr_schedule
    problems = []
    for key, entry in known_keys().items():
        bounds, value = entry.metadata["facts"].bounds, attrgetter(key)(config)
        if bounds is not None and not bounds.holds(value):
            problems.append(f"{key}={value}: {bounds.text}")
    if rl.eval_interval and not rl.eval_dataset_file:
        problems.append(
            f"rl_config.eval_interval={rl.eval_interval}: there is nothing to evaluate on; give "
            "rl_config.eval_dataset_file, or set it to 0"
        )
    if rl.reshard_mem_opt_level not in (0, 1):
        problems.append(f"rl_config.reshard_mem_opt_level={rl.reshard_mem_opt_level}: must be 0 or 1")
    if config.actor_config.optimizer.opt_offload and not rl.swap:
        problems.append(
            "actor_config.optimizer.opt_offload=True: needs a store for the state; set rl_config.swap to true"
        )
    if rl.reshard_mem_opt_level == 1 and not rl.swap:
        problems.append(
            "rl_config.reshard_mem_opt_level=1: needs a store to read the weights from; set rl_config.swap to true"
        )
    if rl.swap_store == "file" and config.context.device_target != "CPU":
        problems.append("rl_config.swap_store=file: weights of a device are swapped to the host's memory; use host")
    if rl.reshard_transport == "shared_memory" and config.context.device_target != "CPU":
        problems.append("rl_config.reshard_transport=shared_memory: only ranks on CPU share memory; use collective")
    if schedule.min_lr > schedule.lr:
        problems.append(f"actor_config.lr_schedule.min_lr={schedule.min_lr}: must not exceed lr={schedule.lr}")
    if config.profiler_config.stop_step < config.profiler_config.start_step:
        problems.append(
            f"profiler_config.stop_step={config.profiler_config.stop_step}: must not be before "
            f"start_step={config.profiler_config.start_step}"
        )
    return problems


def _batches(config: Config, world_size: int, generates: bool) -> list[str]:
    rl, problems = config.rl_config, []
    if min(rl.chunk_size, rl.num_rollouts, rl.num_generations) < 1:
        return []  # reported above
    rollout_ranks = dims_of(config.generate_config.parallel_config, world_size).shares
    actor_ranks = dims_of(config.actor_config.parallel_config, world_size).shares
    if generates and rl.chunk_size % rollout_ranks:
        problems.append(
            f"rl_config.chunk_size={rl.chunk_size}: must be a multiple of the {rollout_ranks} data-parallel "
            "ranks of the rollout, so that each gets the same number of prompts"
        )
    if config.completions_per_update % actor_ranks or config.completions_per_step % config.completions_per_update:
        problems.append(
            f"rl_config.batch_size={rl.batch_size}: must be a multiple of the actor's {actor_ranks} data-parallel "
            f"ranks and divide chunk_size * num_rollouts * num_generations = {config.completions_per_step} completions "
            "a step; 0 uses all of them"
        )
    share = config.completions_per_update // actor_ranks
    micro = config.actor_config.parallel_config.micro_batch_num
    if micro > share > 0:
        problems.append(
            f"actor_config.parallel_config.micro_batch_num={micro}: more than the {share} completions that a "
            "rank has in an update"
        )
    return problems


def length_problems(config: Config, is_plan: bool) -> list[str]:
    rl, generate, problems = config.rl_config, config.generate_config, []
    sampling = generate.sampling_config
    if generate.max_prompt_length + sampling.max_tokens > rl.seq_length:
        problems.append(
            f"rl_config.seq_length={rl.seq_length}: must hold generate_config.max_prompt_length + "
            "sampling_config.max_tokens = "
            f"{generate.max_prompt_length} + {sampling.max_tokens} = {generate.max_prompt_length + sampling.max_tokens}"
        )
    if rl.length_buckets and (
        rl.length_buckets != sorted(set(rl.length_buckets))
        or rl.length_buckets[0] < 1
        or rl.length_buckets[-1] != rl.seq_length
    ):
        problems.append(
            f"rl_config.length_buckets={rl.length_buckets}: must be positive, rise, and end with "
            f"seq_length={rl.seq_length}"
        )
    try:
        sampling_params(sampling)
    except ValueError as error:
        problems += [f"generate_config.sampling_config.{problem}" for problem in str(error).split("; ")]
    if sampling.temperature == 0:
        problems.append(
            "generate_config.sampling_config.temperature=0: greedy completions of a group are all equal and "
            "teach nothing; use 1.0"
        )
    return problems + vllm_problems(config, is_plan)


def parallel_problems(config: Config, world_size: int) -> list[str]:
    misfits: dict[str, list[str]] = {}
    for role in config.roles:
        degrees: ParallelConfig = role.section_of(config).parallel_config
        if problem := dims_of(degrees, world_size).problem(world_size):
            misfits.setdefault(problem, []).append(f"{role.section}.parallel_config")
    problems = [f"{', '.join(names)}: {problem}" for problem, names in misfits.items()]
    if config.generate_config.parallel_config.pipeline_stage > 1:
        problems.append(
            "generate_config.parallel_config.pipeline_stage="
            f"{config.generate_config.parallel_config.pipeline_stage}: rollouts run on one stage; set it to 1"
        )
    return problems


def layout_problems(config: Config, world_size: int) -> list[str]:
    """Whether the model can be laid out as every role asks for; where the degrees themselves are wrong, nothing more is
    said.
    """
    if parallel_problems(config, world_size):
        return []
    problems: list[str] = []
    strategies = role_strategies(config, world_size)
    for role in config.roles:
        try:
            actors = read_model_file(role.folder(config) or config.actor_config.model_config).shape
            model = shape_of_role(config, role, actors)
        except ValueError:
            continue  # reported with the files
        problems += [f"{role.section}.parallel_config: {problem}" for problem in strategies[role.name].problems(model)]
    return problems


def frozen_problems(config: Config) -> list[str]:
    """Whether actor_config.frozen names parameters, and leaves some."""
    actor = config.actor_config
    if not actor.frozen:
        return []
    try:
        model = shape_of_actor(config)
    except ValueError:
        return []  # reported with the files
    names = [spec.name for spec in parameter_specs(model)]
    problems = [
        f"actor_config.frozen={short_repr(pattern)}: no parameter has such a name; names are those of the model's "
        f"files, such as {names[0]}"
        for pattern in actor.frozen
        if not any(fnmatchcase(name, pattern) for name in names)
    ]
    if not any(spec.is_trained for spec in parameter_specs(model, actor.frozen)):
        problems.append(f"actor_config.frozen={short_repr(actor.frozen)}: nothing is left to train")
    return problems


def _reward_model(config: Config) -> list[str]:
    wanted, key = config.reward_config.reward_model, "reward_config.reward_model"
    problems = []
    if not wanted.load and wanted != RewardModelRole():
        problems.append(f"{key}: there is no reward model; set {key}.load, or leave the others out")
    if problem := template_problem(wanted.template):
        problems.append(f"{key}.template={short_repr(wanted.template)}: {problem}")
    if not is_usable(wanted.weight):
        problems.append(f"{key}.weight={wanted.weight}: must be a number of at most {LARGEST_REWARD:g}")
    return problems


def reward_problems(config: Config) -> list[str]:
    """Of verifiers, their weights and what shapes rewards."""
    reward, problems = config.reward_config, _reward_model(config)
    if not reward.verifier_function:
        problems.append("reward_config.verifier_function=[]: name at least one verifier")
    if len(reward.verifier_function) != len(reward.verifier_weight):
        problems.append(
            f"reward_config.verifier_weight={reward.verifier_weight}: {len(reward.verifier_function)} verifiers "
            "need as many weights"
        )
    if not all(map(is_usable, reward.verifier_weight)):
        problems.append(
            f"reward_config.verifier_weight={reward.verifier_weight}: must be numbers of at most {LARGEST_REWARD:g}, "
            "above which rewards overflow in training"
        )
    if len(set(reward.verifier_function)) != len(reward.verifier_function):
        problems.append(f"reward_config.verifier_function={reward.verifier_function}: names must differ")
    judge = [config.rl_config.eval_verifier] if config.rl_config.eval_verifier else []
    for name in [*reward.verifier_function, *judge]:
        try:
            find_verifier(name)
        except ValueError as error:
            problems.append(f"reward_config.verifier_function: {error}")
    if JUDGE_REWARD in (*reward.verifier_function, *judge):
        problems += judge_problems(reward.judge)
    elif reward.judge.address:
        problems.append(
            f"reward_config.judge.address={reward.judge.address!r}: nobody asks it; name {JUDGE_REWARD} in "
            "verifier_function, or leave it out"
        )
    try:
        find_shaping(reward.shaping_function)
    except ValueError as error:
        problems.append(f"reward_config.shaping_function: {error}")
    return problems
