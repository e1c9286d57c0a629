"""The episodes of one call of `generate`: what the engine is told between turns, and what is known in the end.

One of the ranks that share a model's tensors asks the environments; what was answered, and when it was heard, all of
them learn together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np

from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.episodes.bridge import Bridge
from mindrlhf_lite.episodes.environment import Task
from mindrlhf_lite.episodes.failures import FailureRecord
from mindrlhf_lite.episodes.host import EnvironmentHost
from mindrlhf_lite.episodes.messages import Answer
from mindrlhf_lite.episodes.past import ChangedPast, Conversation
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.parallel.mesh import Axis, gather_objects
from mindrlhf_lite.turns import Episode, EpisodeEnd, Restart, Turn
from mindrlhf_lite.types import Completion, FinishReason, GenerateRequest, Prompt

_STREAM = 0xE5  # keeps an environment's seed apart from its completion's random numbers
_AT_ONCE = 64  # environments that are begun for an opening
_RESETS = 3  # of a task, before its failure is taken for a mistake

Place = tuple[int, int]  # request, sample
Next = Sequence[int] | Restart  # as of rollout.protocol
Told = list[tuple[int, Answer]]


@dataclass(frozen=True)
class EpisodeLimits:
    max_turns: int
    max_turn_tokens: int  # 0: no limit of its own
    max_prompt_tokens: int  # of an opening
    max_tokens: int  # of a completion, and of a sample with its prompt
    max_length: int


@dataclass
class Stage:
    """What the episodes of a rank share, all run long. `host`: on the rank that asks; `axis`: ranks that hear it;
    `past`: what to do about templates that change it.
    """

    host: EnvironmentHost | None
    bridge: Bridge
    tokenizer: Tokenizer
    limits: EpisodeLimits
    failures: FailureRecord
    past: ChangedPast
    axis: Axis | None = None
    numbers: Iterator[int] = field(default_factory=count)  # of environments

    def told(self, waits: bool) -> Told:
        """What the environments answered, on all ranks of the axis."""
        own = self.host.take(waits) if self.host is not None else []
        return gather_objects(self.axis, own, Told)[0]

    def close(self) -> None:
        if self.host is not None:
            self.host.close()


@dataclass
class _Running:
    """An episode under way."""

    number: int  # of its environment
    prompt: Prompt
    conversation: Conversation
    restart: Restart | None = None  # the last one
    is_reset: bool = False
    token_ids: Sequence[int] = ()
    room: int = 0
    turns: list[Turn] = field(default_factory=list)
    start: int = 0  # of the turn under way
    reason: FinishReason = FinishReason.STOP
    texts: list[str] = field(default_factory=list)
    observation: Any = None
    end: EpisodeEnd | None = None
    failure: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    waits: bool = False  # the engine does

    @property
    def context(self) -> tuple[int, ...]:
        """All that was read and written, as the policy sees it."""
        if self.restart is None:
            return (*self.prompt.ids, *self.token_ids)
        return (*self.restart.prompt_ids, *self.token_ids[self.restart.start :])

    def as_episode(self) -> Episode:
        assert self.end is not None
        solved = self.info.get("solved")
        is_solved = None if solved is None else bool(solved)
        turns = tuple(self.turns)
        answer = self.texts[-1] if self.texts else ""
        texts = tuple(self.texts)
        return Episode(turns, self.end, answer, texts, is_solved, self.failure, self.info, self.seconds)


class Play:
    """`rollout.protocol.Turns` of these prompts' completions.

    Args: prompts, seeds: of the requests, in order; on_answer: is told what is answered to a turn.
    """

    def __init__(
        self,
        stage: Stage,
        prompts: Sequence[Prompt],
        seeds: Sequence[tuple[int, ...]],
        on_answer: Callable[[Answer], None] | None = None,
    ):
        self._on_answer = on_answer
        self.stage, self.seeds, self.max_turn_tokens = stage, seeds, stage.limits.max_turn_tokens
        self._tasks = [task_of(prompt) for prompt in prompts]
        self._running: dict[Place, _Running] = {}
        self._places: dict[int, Place] = {}  # by number of an environment
        self._openings: dict[int, Any] = {}
        self.prompts: list[Prompt] = []
        for start in range(0, len(prompts), _AT_ONCE):
            self._open(range(start, min(start + _AT_ONCE, len(prompts))), prompts)

    def requests(self, num_samples: int) -> list[GenerateRequest]:
        return [
            GenerateRequest(each.ids, num_samples, seed) for each, seed in zip(self.prompts, self.seeds, strict=True)
        ]

    def begin(self, request: int, sample: int) -> None:
        number = next(self.stage.numbers)
        self._places[number] = request, sample
        prompt = self.prompts[request]
        conversation = Conversation(self._openings[request], prompt.text)
        self._running[request, sample] = _Running(number, prompt, conversation)
        if self.stage.host is not None:
            self.stage.host.begin(number, self._tasks[request], environment_seed(self.seeds[request], sample))

    def turn_is_over(
        self, request: int, sample: int, token_ids: Sequence[int], reason: FinishReason, room: int
    ) -> None:
        running = self._running[request, sample]
        running.token_ids, running.room, running.reason, running.waits = tuple(token_ids), room, reason, True
        running.turns.append(Turn(running.start, len(token_ids)))
        text = self.stage.tokenizer.decode(token_ids[running.start :])
        running.texts.append(text)
        if self.stage.host is not None and not running.failure:
            self.stage.host.step(running.number, text, reason.value)

    def take(self, waits: bool) -> list[tuple[int, int, Next]]:
        over = [place for place, each in self._running.items() if each.waits and each.failure]
        for number, answer in self.stage.told(waits and not over):
            place = self._places.get(number)
            if place is None:  # of an earlier call, told to close
                continue
            running = self._running[place]
            if answer.problem:
                running.failure = answer.problem
            elif not running.is_reset:
                self._check_opening(place[0], answer.observation)
                running.is_reset = True
                running.seconds += answer.seconds
                continue
            else:
                self._take_step(running, answer)
            if running.waits:
                over.append(place)
        return [(*place, self._next(place)) for place in sorted(over)]

    def _take_step(self, running: _Running, answer: Answer) -> None:
        calls = {"num_calls": answer.num_calls, "num_malformed": answer.num_malformed}
        running.turns[-1] = replace(running.turns[-1], reward=answer.reward, **calls)
        running.info, running.seconds = answer.info or {}, running.seconds + answer.seconds
        running.observation = answer.observation
        if self._on_answer:
            self._on_answer(answer)
        if answer.done:
            running.end = EpisodeEnd.DONE
        elif len(running.turns) >= self.stage.limits.max_turns:
            running.end = EpisodeEnd.TURNS

    def _next(self, place: Place) -> Next:
        """What comes next; nothing where the episode is over."""
        running = self._running[place]
        running.waits = False
        if running.failure:
            running.end = EpisodeEnd.FAILURE
        elif running.end is None and (found := self._after(running)):
            return found
        del self._places[running.number]
        if self.stage.host is not None:
            self.stage.host.end(running.number)
            self.stage.failures.add(running.failure, running.prompt.row)
        return ()

    def _after(self, running: _Running) -> Next:
        """What the policy reads of an answer, or begins behind again; nothing where there is no room for it."""
        stage, limits, before = self.stage, self.stage.limits, running.context
        stage.past.look(running.observation)
        ids = stage.bridge.extend(before, running.observation)
        said = running.texts[-1]
        prompt_ids = stage.past.rendered(running.conversation, said, running.observation, (*before, *ids))
        count, read = len(running.token_ids), stage.tokenizer.decode(ids)
        if prompt_ids is not None:
            fits = len(prompt_ids) < limits.max_length and count < limits.max_tokens
            found, ids = Restart(count, prompt_ids), ()
        else:
            fits, found = len(ids) < running.room, None
        if not fits:  # none of it is read
            running.end = EpisodeEnd.LENGTH
            return ()
        running.restart = found or running.restart
        running.start = count + len(ids)
        running.texts.append(read)
        return found or ids

    def ended(self, place: Place, completion: Completion) -> Completion:
        """The completion with its episode."""
        episode = self._running[place].as_episode()
        # a turn that max_turn_tokens cut off is no completion that max_tokens cut off
        is_full = completion.finish_reason is FinishReason.LENGTH and self._running[place].room <= 0
        is_cut = episode.end is EpisodeEnd.LENGTH or is_full
        return replace(completion, episode=episode, finish_reason=FinishReason.LENGTH if is_cut else FinishReason.STOP)

    def _open(self, indices: Sequence[int], prompts: Sequence[Prompt]) -> None:
        """Adds the prompts with what their environments say first; each is begun once for that."""
        asked: dict[int, int] = {}
        tries = Counter[int]()

        def ask(index: int) -> None:
            tries[index] += 1
            asked[number := next(self.stage.numbers)] = index
            if self.stage.host is not None:
                self.stage.host.begin(number, self._tasks[index], environment_seed(self.seeds[index], 0))

        for index in indices:
            ask(index)
        while asked:
            for number, answer in self.stage.told(waits=True):
                if (index := asked.pop(number, -1)) < 0:
                    continue
                if self.stage.host is not None:
                    self.stage.host.end(number)
                if not answer.problem:
                    self._openings[index] = answer.observation
                elif tries[index] < _RESETS:
                    ask(index)
                else:
                    row = prompts[index].row
                    raise UserError(f"the environment cannot be reset to the task of row {row}: {answer.problem}")
        self.prompts += [self._with_opening(prompts[index], self._openings[index]) for index in indices]

    def _with_opening(self, prompt: Prompt, opening: Any) -> Prompt:
        if opening is None:
            return prompt
        ids, text = self.stage.bridge.opening(opening)
        if not 0 < len(ids) <= self.stage.limits.max_prompt_tokens:
            raise UserError(
                f"the environment opens the task of row {prompt.row} with {len(ids)} tokens, and "
                f"generate_config.max_prompt_length={self.stage.limits.max_prompt_tokens}; raise it, or make it shorter"
            )
        return replace(prompt, ids=ids, text=text)

    def _check_opening(self, request: int, opening: Any) -> None:
        if opening != self._openings[request]:
            raise UserError(
                f"the environment opens the episodes of one task (row {self.prompts[request].row}) in different ways: "
                "a group is compared, so reset() must begin all of them alike; use the seed in step()"
            )


def task_of(prompt: Prompt) -> Task:
    return Task(prompt.index, prompt.text, prompt.gold, prompt.row, prompt.source, prompt.columns)


def environment_seed(seed: tuple[int, ...], sample: int) -> int:
    """Of a completion's environment: a function of the completion's own seed, below 2**63."""
    return int(np.random.SeedSequence([*seed, sample, _STREAM]).generate_state(1, np.uint64)[0] >> np.uint64(1))
