"""The residency manager: which groups of parameters are in memory in which phase of a step.

A small state machine. A group is RESIDENT (contents in memory), STORED (contents in the store, memory given back) or
EMPTY (memory given back, contents gone). A phase names the groups that it needs, those that it fills from nothing, and
those that it reads from the store without bringing them in; everything else is evicted before anything comes in, so
that the peak is the largest phase. What an eviction does depends on what the group is: see `Contents`.

If a phase fails, its groups stay where they are and the ones that it was filling count as EMPTY: the state is known,
and the error that comes out is the phase's own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import Enum

import numpy as np
from mindspore import Parameter, Tensor

from mindrlhf_lite.reshard.executor import ResidentSource
from mindrlhf_lite.reshard.transports import Location
from mindrlhf_lite.swap.phases import Phase
from mindrlhf_lite.swap.stores import Store


class Contents(Enum):
    """What a group's values are worth between phases."""

    CHANGES = "changes"  # saved at every eviction
    FROZEN = "frozen"  # saved once
    ZERO = "zero"  # always zero between phases: given back, and zero again when next touched
    REBUILT = "rebuilt"  # another phase fills it again: given back
    SCRATCH = "scratch"  # means nothing between phases: given back


class State(Enum):
    RESIDENT = "resident"
    STORED = "stored"
    EMPTY = "empty"


@dataclass
class _Group:
    parameters: list[Parameter]
    contents: Contents
    state: State = State.RESIDENT
    is_saved: bool = False  # the store's copy is the current one

    @property
    def num_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.parameters)


@dataclass
class Traffic:
    """Bytes and seconds since it was last taken."""

    num_bytes: int = 0
    seconds: float = 0.0


class Residency:
    """Groups and phases of one rank.

    Args:
        phases: by name.
        store: None: nothing is ever evicted (swapping is off), but phases are still checked.
        prefetches: whether, during a phase, the groups of the one that follows are read already if the peak allows it.
    """

    def __init__(self, phases: Mapping[str, Phase], store: Store | None, prefetches: bool = True):
        self.phases, self.store, self.prefetches = dict(phases), store, prefetches
        self.groups: dict[str, _Group] = {}
        self.traffic = Traffic()
        self.current: str | None = None
        self._prefetch: threading.Thread | None = None
        self._failure: BaseException | None = None
        self.around: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext()  # of every phase's work

    def add(self, name: str, parameters: Sequence[Parameter], contents: Contents) -> None:
        """Takes charge of a new group and evicts it at once. One that is rebuilt counts as empty until a phase has
        filled it.
        """
        if name in self.groups:
            raise ValueError(f"group {name!r} is there already")
        group = _Group(list(parameters), contents)
        if self.store is not None:
            self.store.adopt(group.parameters)
        if self.store is not None and contents in (Contents.CHANGES, Contents.FROZEN):
            self.store.reserve(group.parameters)
        self.groups[name] = group
        self._evict(name)
        if contents is Contents.REBUILT:  # also where nothing is evicted: it has yet to be filled
            group.state = State.EMPTY

    def state(self, name: str) -> State:
        return self.groups[name].state

    def has_memory(self, name: str) -> bool:
        """Whether any of a group's parameters has memory of its own now; on a device."""
        return any(parameter.untyped_storage().size() for parameter in self.groups[name].parameters)

    def bytes_of_phase(self, name: str) -> int:
        """Bytes that must be in memory during a phase; groups that were never added count nothing."""
        phase = self.phases[name]
        return sum(self.groups[group].num_bytes for group in phase.resident if group in self.groups)

    @property
    def largest_phase_bytes(self) -> int:
        return max(self.bytes_of_phase(name) for name in self.phases)

    def take_traffic(self) -> Traffic:
        traffic, self.traffic = self.traffic, Traffic()
        return traffic

    @contextmanager
    def phase(self, name: str, then: str | None = None) -> Iterator[None]:
        """Brings in what the phase needs for as long as the context lasts.

        Args:
            then: the phase that follows, for prefetching.

        Raises:
            RuntimeError: a phase is open already, or a group that is needed has lost its contents.
            OSError: the store failed; every group is where it was, or whole on the other side.
        """
        if name not in self.phases:
            raise RuntimeError(f"unknown phase {name!r}; phases: {', '.join(self.phases)}")
        if self.current is not None:
            raise RuntimeError(f"phase {name!r} inside phase {self.current!r}: phases do not nest")
        phase = self.phases[name]
        present = {group for group in (*phase.resident, *phase.reads_stored) if group in self.groups}
        for group in present & {*phase.needs, *phase.changes}:
            if self.groups[group].state is State.EMPTY and self.groups[group].contents is Contents.REBUILT:
                raise RuntimeError(
                    f"phase {name!r} needs group {group!r}, whose contents are gone: a phase that fills it must "
                    "come first"
                )
        self.current = name
        try:
            self._enter(phase, present)
            if then is not None:
                self._start_prefetch(then, present)
            with self.around(name):
                yield
            for group in present & set(phase.fills):
                self.groups[group].state, self.groups[group].is_saved = State.RESIDENT, False
        except BaseException:
            for group in present & set(phase.fills):
                self.groups[group].state = State.EMPTY
            raise
        finally:
            for group in present & set(phase.changes):
                self.groups[group].is_saved = False
            self.current = None

    def source(self, name: str) -> ResidentSource | StoredSource:
        """The weights of a group as a reshard reads them, wherever they are."""
        group = self.groups[name]
        parameters = {parameter.name: parameter for parameter in group.parameters}
        if group.state is State.RESIDENT:
            return ResidentSource(parameters)
        if group.state is State.EMPTY or self.store is None:
            raise RuntimeError(f"group {name!r} has no contents to read")
        return StoredSource(parameters, self.store)

    def close(self) -> None:
        self._finish_prefetch()
        if self.store is not None:
            self.store.close()

    def _enter(self, phase: Phase, present: set[str]) -> None:
        start = time.perf_counter()
        self._finish_prefetch()
        for name in self.groups:
            if name not in phase.resident:
                self._evict(name)
        for name in present & set(phase.resident):
            self._load(name)
        self.traffic.seconds += time.perf_counter() - start

    def _evict(self, name: str) -> None:
        group = self.groups[name]
        if self.store is None or group.state is not State.RESIDENT:
            return
        keeps = group.contents in (Contents.CHANGES, Contents.FROZEN)
        if keeps and not group.is_saved:
            self.traffic.num_bytes += self.store.save(group.parameters)
            group.is_saved = True
        self.store.release(group.parameters)
        group.state = State.STORED if keeps else State.EMPTY

    def _load(self, name: str) -> None:
        group = self.groups[name]
        if group.state is State.STORED:
            assert self.store is not None
            self.traffic.num_bytes += self.store.load(group.parameters)
        elif group.state is State.EMPTY and self.store is not None:
            self.store.materialise(group.parameters)
        if group.state is State.STORED or group.contents in (Contents.ZERO, Contents.SCRATCH):
            group.state = State.RESIDENT

    def _start_prefetch(self, then: str, present: set[str]) -> None:
        """Reads the next phase's stored groups in a thread, if the peak of the largest phase leaves room for them
        now.
        """
        if self.store is None or not (self.prefetches and self.store.can_prefetch):
            return
        resident = sum(self.groups[name].num_bytes for name in present if self.groups[name].state is State.RESIDENT)
        for name in (*self.phases[then].needs, *self.phases[then].changes):
            if name in present or name not in self.groups or self.groups[name].state is not State.STORED:
                continue
            if resident + self.groups[name].num_bytes > self.largest_phase_bytes:
                continue

            def load(group: str = name) -> None:
                try:
                    self._load(group)
                except BaseException as error:  # raised again by the phase that needs it
                    self._failure = error

            thread = threading.Thread(target=load, daemon=True)
            thread.start()
            self._prefetch = thread
            return

    def _finish_prefetch(self) -> None:
        if self._prefetch is None:
            return
        thread, self._prefetch = self._prefetch, None
        thread.join()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure


class StoredSource:
    """Weights of a group that is swapped out, read from its store region by region."""

    def __init__(self, parameters: Mapping[str, Parameter], store: Store):
        self.parameters, self.store = parameters, store

    def names(self) -> list[str]:
        return list(self.parameters)

    def locate(self, name: str) -> Location:
        return self.store.locate(self.parameters[name])

    def read(self, name: str, region: tuple[slice, ...], out: np.ndarray) -> None:
        self.store.read(self.parameters[name], region, out)

    def tensor(self, name: str, region: tuple[slice, ...]) -> Tensor:
        return self.store.tensor(self.parameters[name], region)
