"""A process of main.py: the configuration first, process groups only after it is valid, errors with their rank."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mindrlhf_lite.ascend.idle_threads import let_spinning_threads_idle
from mindrlhf_lite.commands.resume_hint import ResumeHint
from mindrlhf_lite.commands.signals import save_on_sigterm, say_when_ended
from mindrlhf_lite.commands.tool import fail, leave_torch_out
from mindrlhf_lite.config.load import ConfigError
from mindrlhf_lite.config.micro_batches import with_number
from mindrlhf_lite.config.model_file import shape_of_actor
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.job.guarded_rank import start_guard, tell_guard
from mindrlhf_lite.job.lifelines import end_rank_after_msrun
from mindrlhf_lite.job.lock import FolderIsTaken, lock_folder
from mindrlhf_lite.job.whereabouts import Whereabouts
from mindrlhf_lite.launch.command_line import Command, parse_command_line
from mindrlhf_lite.launch.data_mistakes import data_mistakes
from mindrlhf_lite.launch.faults import FIRST_RANK_S, end_with
from mindrlhf_lite.launch.plan_text import describe, exceeds_device_memory, memory_note
from mindrlhf_lite.launch.program import GRPO, Program
from mindrlhf_lite.launch.saved_strategies import save_strategies, save_strategy
from mindrlhf_lite.launch.scheduler import schedule
from mindrlhf_lite.launch.search_text import run_search
from mindrlhf_lite.native.ending import end_as_done
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects, is_simulated, launched_rank

OnRank = Callable[[Config, Mesh], None]
PLAN_SHOWN_VARIABLE = "MINDRLHF_PLAN_SHOWN"  # set by a script that has shown the plan of the run that it starts


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs main.py."""
    run(sys.argv[1:] if arguments is None else arguments, _grpo)


def _grpo(config: Config, mesh: Mesh) -> None:
    from mindrlhf_lite.trainer.grpo import GrpoTrainer

    GrpoTrainer(config, mesh).train()


def run(
    arguments: Sequence[str],
    work: OnRank,
    needs_prompts: bool = True,
    program: Program = GRPO,
    find_mistakes: Callable[[Command], list[str]] = data_mistakes,
    rows_left_out: Callable[[Command], list[str]] = lambda command: [],
) -> None:
    """Does `work` on this rank under the configuration of a command line. Exit codes: 0 done, 1 the run failed or would
    not fit, 2 the user's configuration or data is wrong, 130 interrupted.

    Args: needs_prompts: whether there must be a file of prompts; find_mistakes: in what the settings name;
    rows_left_out: what a dry run says of them.
    """
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        schedule()
        return
    _leave_compile_cache_out()
    rank = launched_rank()
    start_guard()
    end_rank_after_msrun()
    try:
        command = parse_command_line(arguments, needs_prompts, program)
        if not command.config.generate_config.use_vllm:
            leave_torch_out()
        if needs_prompts and not command.only_saves_strategy and (mistakes := find_mistakes(command)):
            raise ConfigError(mistakes)
    except ConfigError as error:
        if rank != 0:  # the first rank says what all find; this one's end would have it killed before it can
            time.sleep(FIRST_RANK_S)
        fail(f"rank {rank}: {error}" if rank else str(error))
    if command.search_file:
        text, fits = run_search(command)
        print(text, flush=True)
        sys.exit(0 if fits else 1)
    if command.is_dry_run:
        print("\n".join([*rows_left_out(command), describe(command)]), flush=True)
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


def _run(command: Command, work: OnRank, rank: int) -> None:
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

        if is_simulated():
            let_spinning_threads_idle()
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
    except Exception as error:  # whatever it is, one line on the console
        end_with(error, Path(config.rl_config.output_dir), rank, hint)
    # what MindSpore's threads log while the interpreter ends comes past GLOG_v: "Event base dispatch success!"
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    end_as_done()


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


def _compile(command: Command) -> bool:
    """Prints what compiling for Ascend tells. Returns whether it fits and has a kernel for every operator."""
    from mindrlhf_lite.ascend.dry_run import compile_run

    shape = shape_of_actor(command.config)
    try:
        run = compile_run(command.config, shape, command.num_ranks)
    except UserError as error:
        fail(f"error: {error}")
    limit = command.device_memory_gb
    print(run.describe() + (f"\nDOES NOT FIT in {limit:g} GiB" if 0 < limit < run.gib else ""))
    return not (run.backed_off or run.misplaced or 0 < limit < run.gib)
