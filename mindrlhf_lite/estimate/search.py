"""The layouts of a run with the shortest steps, by the estimate, of all that fit by the memory plan.

Best first: a candidate is taken from the heap at what it takes at the least, what it leaves out is added, from the
cheap to the dear (swapping, resharding, the whole plan), and it goes back. One that comes up whole is the next best:
nothing that is left can be faster.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from itertools import count, product
from typing import Any

from mindrlhf_lite.config.memory_plan import MemoryPlan, communicators_of_run, memory_plan
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.validate import find_problems
from mindrlhf_lite.estimate.choices import Choice, Question, actor_choices, rollout_choices, scorer_choices
from mindrlhf_lite.estimate.step import StepWork

_HOST = 8  # devices
_STORES = ((False, False), (True, False), (True, True))  # (swap, opt_offload)
_TOO_LARGE_SHOWN = 3
_MOST_PLANNED = 400  # whole; then it ends with what it has


@dataclass(frozen=True)
class Found:
    """Settings by key, seconds by phase, bytes of the plan, and the run itself."""

    settings: dict[str, Any]
    seconds: dict[str, float]
    needed: int
    config: Config = field(repr=False)

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


@dataclass
class Findings:
    """`best`: the fastest first, each of another layout; `too_large`: faster ones that do not fit; `num_layouts`: that
    were to choose from, without frozen roles' that others beat; `num_planned`: whose whole plan was made.
    """

    best: list[Found] = field(default_factory=list)
    too_large: list[Found] = field(default_factory=list)
    num_layouts: int = 0
    num_planned: int = 0
    is_stopped: bool = False  # slower ones were not looked at


@dataclass(frozen=True)
class _Candidate:
    """Layouts of all roles, and what the actor's updates could be with them."""

    actors: tuple[Choice, ...]  # the fastest first, those only that may fit
    others: tuple[Choice, Choice]  # of the rollout, of the scorers
    swaps: bool
    offloads: bool
    swapping: float | None = None  # seconds, where they are known
    resharding: float | None = None

    @property
    def at_least(self) -> float:
        own = self.actors[0].seconds + sum(choice.seconds for choice in self.others)
        return own + (self.swapping or 0.0) + (self.resharding or 0.0)

    @property
    def settings(self) -> dict[str, Any]:
        found = {
            "rl_config.swap": self.swaps,
            "rl_config.reshard_mem_opt_level": int(self.swaps),
            "actor_config.optimizer.opt_offload": self.offloads,
        }
        for choice in (*self.others, self.actors[0]):
            found |= choice.settings
        return found

    @property
    def layout(self) -> tuple[Any, ...]:
        return (self.actors[0].strategies, *(choice.strategies for choice in self.others))

    @property
    def order(self) -> tuple[Any, ...]:
        """Of equals, the one that asks for less: no store, few tensor ranks, stages, context ranks."""
        dims = [each.dims for each in (*self.actors[0].strategies, *(s for c in self.others for s in c.strategies))]
        return (self.swaps + self.offloads, [(each.pipeline, each.context, each.tensor) for each in dims])


def search(question: Question, wanted: int = 5, host_bytes: float = 0.0) -> Findings:
    """Args: host_bytes: of memory that a host has for what its devices swap out; 0: enough."""
    findings, ties, taken = Findings(), count(), set()
    heap: list[tuple[float, tuple[Any, ...], int, _Candidate]] = []

    def put(candidate: _Candidate) -> None:
        heapq.heappush(heap, (candidate.at_least, candidate.order, next(ties), candidate))

    findings.num_layouts, candidates, large = _candidates(question)
    for candidate in candidates:
        put(candidate)
    while heap and len(findings.best) < wanted:
        if findings.num_planned == _MOST_PLANNED:
            findings.is_stopped = True
            break
        candidate = heapq.heappop(heap)[-1]
        if candidate.layout in taken:
            continue
        if candidate.swapping is None or candidate.resharding is None:
            if more := _with_more(question, candidate):
                put(more)
            continue
        findings.num_planned += 1
        found, fits = _whole(question, candidate, host_bytes)
        if fits:
            findings.best.append(found)
            taken.add(candidate.layout)
            continue
        if not findings.best and found.needed > question.room:
            large.append(candidate)
        if candidate.actors[1:]:
            put(replace(candidate, actors=candidate.actors[1:]))
    _add_large(question, findings, large)
    return findings


def _add_large(question: Question, findings: Findings, large: list[_Candidate]) -> None:
    """The fastest of those that do not fit, each of another layout or with other stores."""
    fastest = findings.best[0].total if findings.best else float("inf")
    seen = set()
    for candidate in sorted(large, key=lambda each: (each.at_least, each.order)):
        if len(findings.too_large) == _TOO_LARGE_SHOWN or candidate.at_least >= fastest:
            return
        if candidate.layout in seen:
            continue
        seen.add(candidate.layout)
        found, _ = _whole(question, candidate, 0.0)
        if found.total < fastest:
            findings.too_large.append(found)


def _candidates(question: Question) -> tuple[int, list[_Candidate], list[_Candidate]]:
    """(how many layouts there are, those that may fit, those that do not without swapping, each at its fastest)."""
    actors, scorers, rollouts = list(actor_choices(question)), scorer_choices(question), rollout_choices(question)
    found, large, num_layouts = [], [], 0
    for of_layout in rollouts:
        num_layouts += len(actors) * len({choice.strategies for choice in scorers})
        for choices, rollout, scorer, (swaps, offloads) in product(actors, of_layout, scorers, _STORES):
            fitting = tuple(
                actor for actor in choices if _least_bytes((actor, rollout, scorer), swaps, offloads) <= question.room
            )
            if fitting:
                found.append(_Candidate(fitting, (rollout, scorer), swaps, offloads))
            if not swaps and fitting[:1] != tuple(choices[:1]):
                large.append(_Candidate(tuple(choices[:1]), (rollout, scorer), swaps, offloads))
    return num_layouts, found, large


def _least_bytes(choices: tuple[Choice, ...], swaps: bool, offloads: bool) -> int:
    if swaps:
        return max(choice.alone[offloads] for choice in choices)
    return sum(choice.held for choice in choices) + max(choice.peak for choice in choices)


def _with_more(question: Question, candidate: _Candidate) -> _Candidate | None:
    """With what comes next of swapping and resharding; None: with communicators nothing of it fits."""
    config = question.with_settings(candidate.settings)
    work = StepWork(config, question.shape, question.num_devices)
    if candidate.swapping is None:
        seconds = question.device.seconds_of("swap", work.swapping()) if candidate.swaps else 0.0
        return replace(candidate, swapping=seconds)
    room = question.room - communicators_of_run(config, question.shape, question.num_devices)
    fitting = tuple(
        actor
        for actor in candidate.actors
        if _least_bytes((actor, *candidate.others), candidate.swaps, candidate.offloads) <= room
    )
    resharding = question.device.seconds_of("reshard", work.reshard())
    return replace(candidate, actors=fitting, resharding=resharding) if fitting else None


def _whole(question: Question, candidate: _Candidate, host_bytes: float) -> tuple[Found, bool]:
    config = question.with_settings(candidate.settings)
    plan = memory_plan(config, question.shape, question.num_devices, question.device.memory_gib)
    phases = StepWork(config, question.shape, question.num_devices).phases()
    seconds = {name: question.device.seconds_of(name, work) for name, work in phases.items()}
    found = Found(candidate.settings, seconds, plan.needed(candidate.swaps), config)
    return found, found.needed <= question.room and _can_run(question, config, plan, candidate.swaps, host_bytes)


def _can_run(question: Question, config: Config, plan: MemoryPlan, swaps: bool, host_bytes: float) -> bool:
    of_host = plan.stored * min(_HOST, question.num_devices) * swaps
    return (not host_bytes or of_host <= host_bytes) and not find_problems(config, question.num_devices, is_plan=True)
