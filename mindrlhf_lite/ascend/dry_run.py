"""What a run would take of an Ascend device, from MindSpore's own dry run: every phase of a step is compiled for Ascend
in a process of its own, on one simulated rank after the other; nothing is computed.

Depth costs time and the host's memory and tells nothing new: all layers of a kind share a graph. So a step is compiled
with two layers in every pipeline stage (with one, what a layer leaves for a moment is not there yet), or one of every
kind if there are more, and what further layers add is the memory plan's.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from mindrlhf_lite.ascend.stand_ins import environment
from mindrlhf_lite.config.memory_plan import memory_parts, memory_plan
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.stages import PreferenceStageConfig, RewardModelConfig, StageConfig
from mindrlhf_lite.config.strategies import role_strategies
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import open_to_write, read_log, read_text, say
from mindrlhf_lite.files.wire import to_bytes
from mindrlhf_lite.shapes.model_config import ModelConfig

# lines of MindSpore's log: which graph is compiled, which kernel an operator of it gets, and that it has none
_GRAPH = re.compile(r"start compile function graph: (?:\d+_)*(\w+?)_\d+\b")
_KERNEL = re.compile(r"kernel opname:(\w+), kernel type:(\w+)")
# but numbers of `HostNumbers`, which are made a tuple of where they are
_BACKED_OFF = re.compile(r"TryBackoffCpu(?!.*/(?:TensorToTuple|RealTupleGetItem|RealMakeTuple)-).*")
_PHASE = re.compile(r"^phase (\w+)$", re.MULTILINE)  # what compiled_step says
_POLL_S = 1.0
_SLOW_START = "acl_kernel"  # compiled and started by aclop, which takes a multiple of what aclnn does
PROGRAMS = {each.program: each for each in (StageConfig, PreferenceStageConfig, RewardModelConfig)}
# modules of MindSpore whose log has them
_LOG = {"GLOG_v": "3", "MS_SUBMODULE_LOG_v": "{DEVICE:1,RUNTIME_FRAMEWORK:1}"}
# lines of a log that say nothing of an error: MindSpore's own, and what nanobind finds at the end of any process
_NOISE = ("[", "nanobind:", " - leaked", " - ... skipped", "See https://nanobind")


@dataclass(frozen=True)
class StepRequest:
    """What to compile: the run, and its model's shape (the layers may be fewer than the model's)."""

    config: Config
    shape: ModelConfig
    program: str = ""  # of PROGRAMS; "": GRPO

    @property
    def of_its_program(self) -> Config:
        """The configuration, of its program's class."""
        return PROGRAMS[self.program](**vars(self.config)) if self.program else self.config


@dataclass
class CompiledStep:
    """What the dry run of one rank told. `peaks`: bytes by phase; `kernels`: graph -> operator -> how many."""

    peaks: dict[str, int]
    misplaced: list[str]  # "group in phase" where memory is not as swap/phases.py has it
    kernels: dict[str, Counter[str]] = field(default_factory=dict)
    backed_off: list[str] = field(default_factory=list)  # operators without a kernel on Ascend
    slow_starts: dict[str, Counter[str]] = field(default_factory=dict)  # those of aclop


def compile_step(
    config: Config,
    shape: ModelConfig,
    rank: int,
    num_ranks: int,
    timeout: int = 1800,
    progress: Callable[[str], None] = lambda phase: None,
) -> CompiledStep:
    """One step of a run, compiled for rank `rank` of `num_ranks`. Args: progress: is told of every phase as it begins.

    Raises:
        UserError: the dry run failed, with the end of what it said; or was not done after `timeout` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="compiled_step_") as scratch:
        folder = Path(scratch)
        request = StepRequest(config, shape, config.program if isinstance(config, StageConfig) else "")
        (folder / "request").write_bytes(to_bytes(request, StepRequest))
        variables = {**os.environ, **environment(rank, num_ranks), **_LOG}
        package = Path(__file__).resolve().parents[2]
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(package), variables.get("PYTHONPATH", "")]))
        module = "mindrlhf_lite.ascend.compiled_step"
        command = [sys.executable, "-m", module, "request", "report", str(os.getpid())]
        with open_to_write(folder / "log") as log:  # MindSpore writes files where it runs
            process = subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=subprocess.STDOUT)
            try:
                code = _watch(process, folder / "log", timeout, progress)
            finally:
                process.kill()
        text = read_log(folder / "log")
        if code:
            said = [line for line in text.splitlines() if not line.startswith(_NOISE)]
            raise UserError(f"--compile: rank {rank} ended with {code}:\n" + "\n".join(said[-30:]))
        report = json.loads(read_text(folder / "report"))
    slow_starts = _kernels(text, _SLOW_START)[0]
    return CompiledStep(report["phases"], report["misplaced"], *_kernels(text), slow_starts)


def _watch(process: subprocess.Popen[bytes], log: Path, timeout: int, progress: Callable[[str], None]) -> int:
    """Its exit code."""
    deadline, told = time.monotonic() + timeout, 0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_POLL_S)
        phases = _PHASE.findall(read_log(log))
        for phase in phases[told:]:
            progress(phase)
        told = len(phases)
        if time.monotonic() > deadline:
            raise UserError(f"--compile: not done after {timeout} s, in {phases[-1] if phases else 'building models'}")


def _kernels(text: str, of_type: str = "") -> tuple[dict[str, Counter[str]], list[str]]:
    """(kernels by graph, operators that went to the CPU) of a log. Shapes compile a graph again: the largest counts.

    Args: of_type: kernels of this type only; "": all.
    """
    found: dict[str, Counter[str]] = {}
    current: Counter[str] = Counter()
    name, backed_off = "", []
    for line in text.splitlines():
        if match := _GRAPH.search(line):
            _keep_larger(found, name, current)
            name, current = match[1].removeprefix("mindrlhf_lite_"), Counter()
        elif match := _KERNEL.search(line):
            current[match[1]] += not of_type or match[2] == of_type
        elif match := _BACKED_OFF.search(line):
            backed_off.append(match[0])
    _keep_larger(found, name, current)
    return found, backed_off


def _keep_larger(found: dict[str, Counter[str]], name: str, kernels: Counter[str]) -> None:
    if name and kernels.total() > found.get(name, Counter()).total():
        found[name] = kernels


def with_layers(shape: ModelConfig, config: Config, layers: int) -> tuple[Config, ModelConfig]:
    """The run with so many layers in every stage of the actor."""
    actor = config.actor_config
    parallel = replace(actor.parallel_config, stage_layers=[])
    config = replace(config, actor_config=replace(actor, parallel_config=parallel))
    return config, replace(shape, num_hidden_layers=layers * parallel.pipeline_stage)


@dataclass(frozen=True)
class CompiledRun:
    """What the dry run tells of a run, by rank: bytes at the peak of a phase, with what the other layers add."""

    depth: int  # layers a stage
    compiled: int  # layers a stage that were compiled
    peaks: dict[int, dict[str, int]]
    planned: dict[str, int]
    kernels: dict[str, Counter[str]]  # of the most layers that were compiled
    backed_off: list[str]
    misplaced: list[str]
    notes: list[str]

    @property
    def gib(self) -> float:
        """At the peak of the fullest rank."""
        return max(max(peaks.values()) for peaks in self.peaks.values()) / 2**30

    def describe(self) -> str:
        head = "  phase       " + "".join(f"rank {rank}".rjust(14) for rank in self.peaks) + "planned".rjust(14)
        rows = [
            f"  {name:<12}"
            + "".join(f"{peaks[name] / 2**30:10.3f} GiB" for peaks in self.peaks.values())
            + f"{self.planned.get(name, 0) / 2**30:10.3f} GiB"
            for name in next(iter(self.peaks.values()))
        ]
        total = sum(counts.total() for counts in self.kernels.values())
        backed_off = "; ".join(self.backed_off)
        return "\n".join(
            [
                *self.notes,
                f"compiled for Ascend, nothing computed ({self.compiled} of {self.depth} layers a stage, the others as "
                "planned):",
                head,
                *rows,
                f"{total} kernels in {len(self.kernels)} graphs ({self.compiled} layers a stage), "
                + (f"without one on Ascend: {backed_off}" if backed_off else "one for every operator"),
                *([f"not in memory as its phase has it: {', '.join(self.misplaced)}"] if self.misplaced else []),
            ]
        )


def _say(rank: int, phase: str) -> None:
    say(f"--compile: rank {rank}, {phase}", file=sys.stderr)


def planned_phases(config: Config, shape: ModelConfig, num_ranks: int) -> dict[str, int]:
    """Bytes by phase as the run has them: without swapping every group is in memory in every phase."""
    phases = memory_plan(config, shape, num_ranks).phases
    if config.rl_config.swap:
        return phases
    groups, activations = memory_parts(config, shape, num_ranks)
    return {name: sum(groups.values()) + activations.get(name, 0) for name in phases}


def compile_run(config: Config, shape: ModelConfig, num_ranks: int) -> CompiledRun:
    """A run, compiled for its first rank and, where there are several stages, the first of the last one, which has the
    head.

    Raises:
        UserError: the dry run failed.
    """
    notes = []
    if config.generate_config.use_vllm:
        notes.append("note: vLLM is not compiled here; generation is the native engine's")
        config = replace(config, generate_config=replace(config.generate_config, use_vllm=0))
    config = replace(config, context=replace(config.context, device_target="Ascend"))
    strategy = role_strategies(config, num_ranks)["actor"]
    depth = max(map(len, strategy.layers_of_stage(shape.num_hidden_layers)))
    compiled = min(depth, max(2, len({shape.blocks_of(number) for number in range(shape.num_hidden_layers)})))
    cut = with_layers(shape, config, compiled)
    planned, of_cut = (planned_phases(*each, num_ranks) for each in ((config, shape), cut))
    peaks: dict[int, dict[str, int]] = {}
    kernels: dict[str, Counter[str]] = {}
    backed_off, misplaced = set(), set()
    for rank in sorted({0, strategy.dims.rank(0, 0, strategy.dims.pipeline - 1)}):
        step = compile_step(*cut, rank, num_ranks, progress=partial(_say, rank))
        peaks[rank] = {name: own + planned.get(name, 0) - of_cut.get(name, 0) for name, own in step.peaks.items()}
        for name, counts in step.kernels.items():
            _keep_larger(kernels, name, counts)
        backed_off |= set(step.backed_off)
        misplaced |= set(step.misplaced)
    return CompiledRun(depth, compiled, peaks, planned, kernels, sorted(backed_off), sorted(misplaced), notes)
