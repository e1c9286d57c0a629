"""What main.py does: configuration first, process groups only after it is valid, errors with their rank."""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mindrlhf_lite.checkpoint.strategy_file import strategy_to_json
from mindrlhf_lite.commands.resume_hint import ResumeHint
from mindrlhf_lite.commands.signals import save_on_sigterm, say_when_ended
from mindrlhf_lite.commands.tool import USER_ERROR, fail, leave_torch_out
from mindrlhf_lite.config.file_checks import data_problems
from mindrlhf_lite.config.load import ConfigError
from mindrlhf_lite.config.memory_plan import MemoryPlan, memory_plan
from mindrlhf_lite.config.micro_batches import with_number
from mindrlhf_lite.config.model_file import read_model_file
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.strategies import role_strategies
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import printable_lines, write_text
from mindrlhf_lite.job import SECOND_NODE_VARIABLE
from mindrlhf_lite.job.guard import has_guard, start_guard, tell_guard, withdraw_hint
from mindrlhf_lite.job.lifelines import end_rank_after_msrun, end_scheduler_after_job
from mindrlhf_lite.job.limits import why_no_process
from mindrlhf_lite.job.lock import FolderIsTaken, lock_folder
from mindrlhf_lite.job.ports import is_taken, taken_message
from mindrlhf_lite.job.processes import Process
from mindrlhf_lite.job.whereabouts import Whereabouts
from mindrlhf_lite.launch.command_line import Command, parse_command_line, ranks_of_this_host
from mindrlhf_lite.observe.health import Unhealthy
from mindrlhf_lite.observe.host import memory_limit_gb
from mindrlhf_lite.observe.host_monitor import MemoryIsShort
from mindrlhf_lite.parallel.layout import Strategy
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects, launched_rank
from mindrlhf_lite.parallel.signing import ForgedMessage
from mindrlhf_lite.shapes.parameters import count_parameters
from mindrlhf_lite.trainer.soundness import RuinedModel
from mindrlhf_lite.trainer.verifier_trial import trial_problems

# how MindSpore says on CPU, outside and inside of a graph, that a collective was given up
_GAVE_UP = re.compile(
    r"(?:AllReduce|AllGather|Broadcast|Ring \w+).*failed|Launch kernel failed:.*/(?:All|Reduce|Broad)\w+-"
)

_FIRST_RANK_S = 30.0  # the first rank has said by then what all have found, and all are ended

Work = Callable[[Config, Mesh], None]
PLAN_SHOWN_VARIABLE = "MINDRLHF_PLAN_SHOWN"  # set by a script that has shown the plan of the run that it starts


def data_mistakes(command: Command) -> list[str]:
    """Mistakes in data, tokenizer, disk and device of a run, which a plan without a model has none of."""
    config = command.config
    if not config.actor_config.load:
        return []
    problems = data_problems(config)
    if command.is_dry_run and not problems:  # a run's ranks try them too, before they load a model
        problems = trial_problems(config)
    if config.context.device_target == "Ascend" and not command.is_dry_run and not has_ascend():
        problems.append(
            "context.device_target='Ascend': this host has no Ascend device (/dev/davinci_manager); use CPU, or "
            "--dry_run for a plan"
        )
    return problems


def has_ascend() -> bool:
    """Whether there is an Ascend device, or MindSpore is told to simulate one."""
    return Path("/dev/davinci_manager").exists() or "MS_SIMULATION_LEVEL" in os.environ


def memory_note(command: Command) -> str:
    """A warning if all ranks of this host together need more memory than it has; on CPU only, and by the plan's
    estimate.
    """
    config = command.config
    if config.context.device_target != "CPU":
        return ""
    shape = read_model_file(config.actor_config.load or config.actor_config.model_config).shape
    plan = memory_plan(config, shape, command.num_ranks)
    local, limit = ranks_of_this_host(command.num_ranks), memory_limit_gb()
    needed = local * (plan.with_swap if config.rl_config.swap else plan.without_swap) / 2**30
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
    shape = read_model_file(config.actor_config.load or config.actor_config.model_config).shape
    strategies, plan = role_strategies(config, command.num_ranks), memory_plan(config, shape, command.num_ranks)

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
        f"ranks: {command.num_ranks}; actor {strategies.actor.dims.describe()}, reference "
        f"{strategies.reference.dims.describe()}, rollout {strategies.rollout.dims.describe()}",
        f"a step: {config.prompts_per_step} prompts x {rl.num_generations} completions = "
        f"{config.completions_per_step} sequences, {config.updates_per_step} update(s)"
        + ("" if config.keeps_frozen_policy else ": the ratio is 1 and nothing is clipped"),
        f"a micro-batch: {config.micro_batch_tokens(strategies.actor.dims.shares):,} tokens at most",
        "memory of the fullest rank:",
        *(f"  {name:<12} {gib(size)}" for name, size in plan.groups.items()),
        *(_with_swap if rl.swap else _without_swap)(plan, gib, verdict),
    ]
    if config.engine_copies_weights:
        lines.append(
            "note: kv_cache is what full slots need; vLLM takes what generate_config.gpu_memory_utilization="
            f"{config.generate_config.gpu_memory_utilization:g} of the device leaves for one"
        )
    return "\n".join([*command.notes, *command.recipe, *lines, *filter(None, [memory_note(command)])])


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
    plan = memory_plan(
        config, read_model_file(config.actor_config.load or config.actor_config.model_config).shape, command.num_ranks
    )
    needed = plan.with_swap if config.rl_config.swap else plan.without_swap
    return 0 < command.device_memory_gb * 2**30 < needed


def _compile(command: Command) -> bool:
    """Prints what compiling for Ascend tells. Returns whether it fits and has a kernel for every operator."""
    from mindrlhf_lite.ascend.dry_run import compile_run

    shape = read_model_file(command.config.actor_config.load or command.config.actor_config.model_config).shape
    try:
        run = compile_run(command.config, shape, command.num_ranks)
    except UserError as error:
        fail(f"error: {error}")
        sys.exit(USER_ERROR)
    limit = command.device_memory_gb
    print(run.describe() + (f"\nDOES NOT FIT in {limit:g} GiB" if 0 < limit < run.gib else ""))
    return not (run.backed_off or run.misplaced or 0 < limit < run.gib)


def save_strategy(command: Command) -> Path:
    """Writes OUTPUT/strategy.json: how the actor's checkpoint lies on the ranks."""
    return _write_strategy(Path(command.config.rl_config.output_dir) / "strategy.json", _actor_strategy(command))


def save_strategies(command: Command, folder: Path) -> None:
    """Writes every role's strategy into a folder."""
    strategies = role_strategies(command.config, command.num_ranks)
    _write_strategy(folder / "actor.json", _actor_strategy(command))
    _write_strategy(folder / "reference.json", strategies.reference)
    _write_strategy(folder / "rollout.json", strategies.rollout)


def _actor_strategy(command: Command) -> Strategy:
    """As the actor's checkpoints lie on the ranks."""
    strategy = role_strategies(command.config, command.num_ranks).actor
    is_shared = command.config.actor_config.enable_parallel_optimizer and strategy.dims.data > 1
    return replace(strategy, splits_data=is_shared)


def _write_strategy(path: Path, strategy: Strategy) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(strategy_to_json(strategy), indent=1) + "\n")
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs main.py."""
    run(sys.argv[1:] if arguments is None else arguments, _grpo)


def _grpo(config: Config, mesh: Mesh) -> None:
    from mindrlhf_lite.trainer.grpo import GrpoTrainer

    GrpoTrainer(config, mesh).train()


def run(arguments: Sequence[str], work: Work, needs_prompts: bool = True) -> None:
    """Does `work` on this rank under the configuration of a command line. Exit codes: 0 done, 1 the run failed or would
    not fit, 2 the user's configuration or data is wrong, 130 interrupted.

    Args: needs_prompts: whether there must be a file of prompts.
    """
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        _schedule()
        return
    _leave_compile_cache_out()
    rank = launched_rank()
    start_guard()
    end_rank_after_msrun()
    try:
        command = parse_command_line(arguments, needs_prompts)
        if not command.config.generate_config.use_vllm:
            leave_torch_out()
        if needs_prompts and not command.only_saves_strategy and (mistakes := data_mistakes(command)):
            raise ConfigError(mistakes)
    except ConfigError as error:
        if rank != 0:  # the first rank says what all find; this one's end would have it killed before it can
            time.sleep(_FIRST_RANK_S)
        fail(f"rank {rank}: {error}" if rank else str(error))
    if command.is_dry_run:
        print(describe(command), flush=True)
        is_too_large = exceeds_device_memory(command)
        sys.exit(1 if (command.compiles and not _compile(command)) or is_too_large else 0)
    if command.only_saves_strategy:
        if rank == 0:
            print(f"wrote {save_strategy(command)}")
        sys.exit(0)
    _run(command, work, rank)


def _leave_compile_cache_out() -> None:
    """MindSpore's compile cache, where the environment asks for it: a second run on CPU that took its graphs from the
    cache computed NaN in its first update (MindSpore 2.9.0).
    """
    if os.environ.get("MS_COMPILER_CACHE_ENABLE", "0") not in ("", "0"):
        os.environ["MS_COMPILER_CACHE_ENABLE"] = "0"
        if launched_rank() == 0:
            print("note: MS_COMPILER_CACHE_ENABLE is not used: graphs from MindSpore's cache computed wrong numbers")


def _run(command: Command, work: Work, rank: int) -> None:
    """The run itself; ends the process where it fails."""
    config = command.config
    Whereabouts().note("preparing the run")
    hint = ResumeHint.of(config.rl_config.output_dir, config.checkpoint_dir)
    tell_guard(hint)
    say_when_ended(hint)
    if config.rl_config.on_sigterm == "save":
        save_on_sigterm()
    if rank == 0 and not os.environ.get(PLAN_SHOWN_VARIABLE):
        for note in filter(None, (*command.notes, *command.recipe, memory_note(command))):
            print(note, flush=True)
    try:
        from mindrlhf_lite.trainer.device_context import apply_context

        context = config.context
        folder = Path(config.rl_config.output_dir)
        mesh = Mesh(context.device_target, context.num_threads, context.deterministic, folder)
        apply_context(context, mesh.rank)
        _take_output_folder(config, mesh)
        # hosts may differ in memory, and so in what they derive from it
        numbers = gather_objects(mesh.world, config.actor_config.parallel_config.micro_batch_num)
        if config.rl_config.save_strategy_dir and mesh.is_main:
            save_strategies(command, Path(config.rl_config.save_strategy_dir))
        work(with_number(config, max(numbers)), mesh)
    except UserError as error:
        _stop(f"error: rank {rank}: {error}", USER_ERROR)
    except Exception as error:  # whatever it is, one line on the console
        is_alone = rank == 0 and not has_guard()  # else the guard says how to go on
        how = f"; {hint.text()}" if is_alone else ""
        if isinstance(error, MemoryIsShort):
            _stop(f"error: rank {rank}: {error}", 1)
        if isinstance(error, RuinedModel):  # the same command would end there again
            withdraw_hint()
            how = f"; {newest}" if (newest := hint.newest()) else ""
        if isinstance(error, RuinedModel | Unhealthy):
            if rank:  # all ranks have found it: the first one says so, and the others are ended after it
                time.sleep(_FIRST_RANK_S)
            _stop(f"error: rank {rank}: {error}{how}", 1)
        if refused := why_no_process(error):
            _stop(f"error: rank {rank}: {refused}{how}", 1)
        if isinstance(error, FloatingPointError | OSError | ForgedMessage):
            _keep_trace(Path(config.rl_config.output_dir), rank)
            _stop(f"error: rank {rank}: {error}{how}", 1)
        _stop(f"error: rank {rank}: {_fault(error, Path(config.rl_config.output_dir), rank)}{how}", 1)
    # what MindSpore's threads log while the interpreter ends comes past GLOG_v: "Event base dispatch success!"
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _take_output_folder(config: Config, mesh: Mesh) -> None:
    """Raises UserError, on every rank, where another run writes there."""
    said = ""
    if mesh.is_main:
        try:
            if lock_folder(Path(config.rl_config.output_dir)) is None:
                print("note: this file system has no locks: nothing keeps a second run out of the output folder")
        except FolderIsTaken as taken:
            said = (
                f"rl_config.output_dir={config.rl_config.output_dir}: another run is writing there ({taken}); wait for "
                "it, or give another folder"
            )
    if said := gather_objects(mesh.world, said)[0]:
        raise UserError(said)


def _dtypes_in_words(config: Config) -> str:
    """Example: "actor bfloat16 with float32 masters, reference bfloat16, rollout bfloat16"."""
    words = []
    for role, name in (("actor", "actor"), ("ref", "reference"), ("generate", "rollout")):
        compute, param = config.dtypes(role)
        words.append(f"{name} {compute}" + (f" stored as {param}" if param != compute else ""))
    words[0] += " with float32 masters" if config.dtypes("actor")[1] != "float32" else ""
    return ", ".join(words)


def _fault(error: Exception, output: Path, rank: int) -> str:
    """A line about a fault of the program; its stack trace goes to a file."""
    path, first = _keep_trace(output, rank), _first_line(error)
    if path is None:
        print(traceback.format_exc(), file=sys.stderr, flush=True)
        return f"a fault of the program: {type(error).__name__}: {first}"
    if _GAVE_UP.match(first):
        return (
            f"another rank did not come to a collective for 30 s, or its message was lost (a broken network, another "
            f"program that writes to the ports between ranks: docs/security.md); MindSpore waits no longer on CPU "
            f"({first}); its stack trace is in {path}"
        )
    return f"a fault of the program: {type(error).__name__}: {first}; its stack trace is in {path}"


def _keep_trace(output: Path, rank: int) -> Path | None:
    """Writes the stack trace of the error under way into a file; None where that is impossible."""
    path = output / f"error_rank_{rank}.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, traceback.format_exc())
    except OSError:
        return None
    return path


def _first_line(error: Exception) -> str:
    """The first line of its text that says something; MindSpore's begin with ruled headings."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line[:300] for line in lines if line.strip("-") and not line.startswith("- ")), "")


def _schedule() -> None:
    """The scheduler that msrun starts beside the ranks, with their command line."""
    address, port = os.environ.get("MS_SCHED_HOST", "127.0.0.1"), int(os.environ.get("MS_SCHED_PORT", "0"))
    if os.environ.get(SECOND_NODE_VARIABLE):  # another node on the first one's host: that one's scheduler serves both
        return
    end_scheduler_after_job()
    if is_taken(address, port):
        fail(taken_message("--master_port", address, port))
    if _has_all_ranks_here():
        # guards see at once when a rank dies; one that is stopped for a while, or a clock that jumps, is no reason to
        # end the run
        os.environ.setdefault("MS_NODE_TIMEOUT", str(30 * 24 * 3600))
    from mindspore import communication

    communication.init("mccl")


def _has_all_ranks_here() -> bool:
    """Whether msrun, which started this process, starts all ranks on this host; False where its command line does not
    say so.
    """
    msrun = Process.find(os.getppid())
    command = " ".join(msrun.command_line()) if msrun else ""
    found = re.search(r"--local_worker_num[= ](\d+)", command)
    return found is not None and found[1] == os.environ.get("MS_WORKER_NUM")


def _stop(message: str, code: int) -> None:
    print(flush=True)  # ends the progress bar's line
    print(printable_lines(message), file=sys.stderr, flush=True)
    sys.stdout.flush()
    # peers may be waiting in a collective: a normal interpreter exit would join MindSpore's threads and wait with them
    os._exit(code)
