"""What a search for layouts found, in words, and the best of it as a configuration."""

from __future__ import annotations

import time
from dataclasses import asdict

from mindrlhf_lite.config.aliases.migrate import shortest_yaml
from mindrlhf_lite.config.dotted import by_dotted_key, replaced
from mindrlhf_lite.config.micro_batches import MEMORY_SHARE
from mindrlhf_lite.config.model_file import shape_of_actor
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.strategies import role_strategies, without_degrees
from mindrlhf_lite.estimate.choices import Question
from mindrlhf_lite.estimate.search import Findings, Found, search
from mindrlhf_lite.files.text_file import write_text
from mindrlhf_lite.launch.command_line import Command
from mindrlhf_lite.launch.estimate_text import source_of, vllm_note
from mindrlhf_lite.launch.of_host import device_of_rank

_GIB = 2**30
_WANTED, _NEXT = 5, 3


def question_of(command: Command) -> Question:
    """What to search for: of a device of the command's size, what plans may fill."""
    device = device_of_rank(command)
    room = MEMORY_SHARE * device.memory_gib * _GIB
    return Question(without_degrees(command.config), shape_of_actor(command.config), command.num_ranks, device, room)


def run_search(command: Command) -> tuple[str, bool]:
    """(what was found, whether something fits and is written)."""
    question, started = question_of(command), time.monotonic()
    findings = search(question, _WANTED + _NEXT, command.host_memory_gb * _GIB)
    device, seconds = question.device, time.monotonic() - started
    lines = [
        *command.notes,
        f"searched {findings.num_layouts:,} layouts of {question.num_devices} devices of {device.memory_gib:.0f} GiB, "
        f"of which plans may fill {MEMORY_SHARE:.0%}; {findings.num_planned} were planned whole"
        + (", then it was stopped" if findings.is_stopped else "")
        + f"; {seconds:.0f} s",
    ]
    if not findings.best:
        return "\n".join([*lines, *_too_large(findings, question), _why_none(findings, question)]), False
    lines.append(f"seconds a step, every completion of full length, on {device.name} ({source_of(command.device)})")
    lines += vllm_note(command.config)
    lines += _table(findings.best[:_WANTED], question)
    lines += _why_others_lose(findings.best, question)
    lines += _too_large(findings, question)
    try:
        write_text(command.search_file, searched_yaml(findings.best[0], command))
    except OSError as error:
        return "\n".join([*lines, f"error: {command.search_file} is not written: {error.strerror or error}"]), False
    lines.append(f"wrote {command.search_file}: the first as a configuration, for --config")
    return "\n".join(lines), True


def _why_none(findings: Findings, question: Question) -> str:
    config = question.config
    if not findings.num_layouts:
        return (
            f"no layout: {question.num_devices} devices cannot share heads, layers, rl_config.chunk_size="
            f"{config.rl_config.chunk_size} prompts and {config.completions_per_update} completions an update; other "
            "numbers of these may do"
        )
    return "nothing that was planned fits; more devices, or shorter sequences, take less"


def searched_yaml(found: Found, command: Command) -> str:
    """The run's whole settings, with the degrees found, and the folders that are not on this host."""
    config = replaced(found.config, {"actor_config.takes_strategies": False, **command.absent})
    head = f"# {found.total:.2f} s a step by estimate, {found.needed / _GIB:.1f} GiB, on {command.num_ranks} devices\n"
    return head + shortest_yaml(by_dotted_key(asdict(config)))


def _table(best: list[Found], question: Question) -> list[str]:
    phases = list(dict.fromkeys(name for found in best for name in found.seconds))
    lines = ["     seconds   " + " ".join(f"{name[:9]:>9}" for name in phases) + "     GiB"]
    for number, found in enumerate(best, start=1):
        seconds = " ".join(f"{found.seconds.get(name, 0.0):9.2f}" for name in phases)
        lines.append(f"  {number}. {found.total:8.2f}   {seconds} {found.needed / _GIB:7.1f}")
        lines.append(f"     {_in_words(found.config, question.num_devices)}")
    return lines


def _in_words(config: Config, num_devices: int) -> str:
    """Example: actor dp=2,tp=4,pp=1; reference ...; 16 micro-batches, products kept; 128 slots"""
    roles = [
        f"{name} {strategy.dims.describe()}"
        for name, strategy in role_strategies(config, num_devices).items()
        if config.role(name).is_used(config)
    ]
    recompute = config.actor_config.recompute_config
    kept = "inputs" if recompute.recompute else "products" if recompute.select_recompute else "all activations"
    number = config.actor_config.parallel_config.micro_batch_num
    words = [
        f"{number} micro-batch{'es' * (number > 1)}, {kept} kept",
        f"{config.generate_config.max_num_seqs} slots",
        *(["swap"] if config.rl_config.swap else []),
        *(["opt_offload"] if config.actor_config.optimizer.opt_offload else []),
    ]
    return "; ".join([*roles, *words])


def _why_others_lose(best: list[Found], question: Question) -> list[str]:
    """Of the second to the last, the phase that costs them most."""
    first, lines = best[0], []
    for number, found in enumerate(best[1:], start=2):
        more = {
            name: found.seconds.get(name, 0.0) - first.seconds.get(name, 0.0)
            for name in {**first.seconds, **found.seconds}
        }
        name = max(more, key=lambda each: more[each])
        words = "" if number <= _WANTED else f" ({_in_words(found.config, question.num_devices)})"
        lines.append(f"  {number}. {found.total:.2f} s{words}: {name} takes {more[name]:.2f} s more")
    return ["why the next ones lose:", *lines] if lines else []


def _too_large(findings: Findings, question: Question) -> list[str]:
    lines = [
        f"  {found.total:.2f} s, {found.needed / _GIB:.1f} GiB: {_in_words(found.config, question.num_devices)}"
        for found in findings.too_large
    ]
    return ["faster, but too large:", *lines] if lines else []
