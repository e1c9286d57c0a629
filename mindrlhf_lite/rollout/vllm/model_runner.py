"""Turns what vLLM scheduled into a few graph calls, and their logits into tokens.

Shapes come from small sets of buckets (rows, tokens a row, blocks of context), so that few graphs are compiled. Rows
are independent: a request's tokens do not depend on which others share the call, but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, LogprobsLists, ModelRunnerOutput

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.rollout.agreement import DrawnOnHosts
from mindrlhf_lite.rollout.host_draw import Draw, TokenHistory, log_softmax, sample, uniforms
from mindrlhf_lite.rollout.native_graphs import allocate_cache
from mindrlhf_lite.rollout.vllm.paged_graphs import PagedForward
from mindrlhf_lite.rollout.vllm.running_request import (
    FIRST_UNIFORM,
    HISTORY,
    RANDOM_STREAM,
    Request,
    convert_params,
)

_LEAST_ROWS, _ROW_FACTOR = 8, 2
_LEAST_TOKENS, _LEAST_CONTEXT = 8, 64


def _up_to(count: int, least: int, factor: int, largest: int) -> int:
    """The smallest of least, least * factor, ... that holds `count`, at most `largest`."""
    size = least
    while size < count:
        size *= factor
    return max(count, min(size, largest))


@dataclass
class _Row:
    """What is computed for one request in this step."""

    request: Request
    count: int  # tokens
    token: int | None = None
    alternatives: tuple[list[int], list[float], int] = ((), (), 0)  # type: ignore[assignment]  # token ids, logprobs, rank of the token

    @property
    def end(self) -> int:
        return self.request.computed + self.count

    @property
    def is_last_chunk(self) -> bool:
        return self.end == len(self.request.tokens)


class ModelRunner:
    """The state of all requests, the KV cache, and the graphs.

    Args:
        model: weights are written in place by others, between steps.
        scheduler_config: vLLM's, for max_num_seqs, max_num_batched_tokens and max_model_len.
        seed: of requests that bring none.
    """

    def __init__(self, model: Decoder, block_size: int, scheduler_config: Any, seed: int):
        self.model, self.block_size, self.seed = model, block_size, seed
        self.max_rows, self.max_tokens = scheduler_config.max_num_seqs, scheduler_config.max_num_batched_tokens
        self.max_blocks = -(-scheduler_config.max_model_len // block_size)
        self.requests: dict[str, Request] = {}
        self.num_added = 0
        self.caches: tuple[Parameter, ...] | None = None
        self._drawn_on_hosts = DrawnOnHosts(model.mesh.tensor, self.max_rows)
        self._graphs = {samples: PagedForward(model, block_size, samples) for samples in (True, False)}

    def allocate_cache(self, num_blocks: int) -> None:
        if self.caches is None:
            self.caches = allocate_cache(self.model, num_blocks, self.block_size)

    def free_cache(self) -> None:
        self.caches = None

    def execute(self, scheduled: Any) -> ModelRunnerOutput:
        """One step of vLLM's: computes what the scheduler chose, one new token for every request whose tokens are all
        in the cache by now.
        """
        fresh = self._update(scheduled)
        if not scheduled.num_scheduled_tokens:
            return EMPTY_MODEL_RUNNER_OUTPUT
        if self.caches is None:
            raise RuntimeError("the engine sleeps: wake it up before generating")
        rows = {
            identifier: _Row(self.requests[identifier], count)
            for identifier, count in scheduled.num_scheduled_tokens.items()
        }
        for group in self._groups(rows, fresh):
            self._run(group)
        names = list(rows)
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=[[] if row.token is None else [row.token] for row in rows.values()],
            logprobs=_as_lists(list(rows.values())),
            prompt_logprobs_dict={},
            pooler_output=[],
        )

    def _update(self, scheduled: Any) -> set[str]:
        """Takes over what the scheduler decided. Returns the requests that start, or start again, in this step."""
        for identifier in scheduled.finished_req_ids:
            self.requests.pop(identifier, None)
        fresh = set()
        for new in scheduled.scheduled_new_reqs:
            self.requests[new.req_id] = self._new_request(new)
            fresh.add(new.req_id)
        cached = scheduled.scheduled_cached_reqs
        changes = zip(
            cached.req_ids,
            cached.num_computed_tokens,
            cached.new_block_ids,
            cached.resumed_from_preemption,
            strict=True,
        )
        for identifier, computed, block_ids, is_resumed in changes:
            request = self.requests[identifier]
            request.computed = computed
            if block_ids is not None:
                request.set_blocks(0 if is_resumed else request.num_blocks, block_ids[0])
            if is_resumed:
                fresh.add(identifier)
        return fresh

    def _new_request(self, new: Any) -> Request:
        given, params = new.sampling_params, convert_params(new.sampling_params)
        self.num_added += 1
        extra = given.extra_args or {}
        stream = extra.get(RANDOM_STREAM) or (
            (given.seed, 0) if given.seed is not None else (self.seed, self.num_added, 0)
        )
        first = extra.get(FIRST_UNIFORM, 0)
        request = Request(
            tokens=list(new.prompt_token_ids),
            num_prompt=len(new.prompt_token_ids),
            params=params,
            top_logprobs=given.logprobs,
            uniforms=uniforms(tuple(stream[:-1]), stream[-1], first + params.max_tokens)[first:],
            history=extra.get(HISTORY) or TokenHistory(new.prompt_token_ids),
            blocks=np.zeros(self.max_blocks, np.int32),
            computed=new.num_computed_tokens,
        )
        request.set_blocks(0, new.block_ids[0])
        return request

    def _groups(self, rows: dict[str, _Row], fresh: set[str]) -> Iterator[list[_Row]]:
        """Rows that go through the graph together, in an order in which every row finds the keys it needs.

        vLLM lets a starting request share the blocks of a prefix that another one computes in this very step: it has to
        come after it.
        """
        rounds: list[list[_Row]] = []
        written: dict[int, int] = {}  # block -> round that writes it
        for identifier, row in rows.items():
            request = row.request
            first = request.computed // self.block_size
            number = 0
            if identifier in fresh:
                number = max((written.get(int(block), -1) + 1 for block in request.blocks[:first]), default=0)
            if row.count > 1 or fresh:
                last = (row.end - 1) // self.block_size
                written.update((int(block), number) for block in request.blocks[first : last + 1])
            while len(rounds) <= number:
                rounds.append([])
            rounds[number].append(row)
        for members in rounds:
            by_length: dict[int, list[_Row]] = {}
            for row in members:
                length = 1 if row.count == 1 else _up_to(row.count, _LEAST_TOKENS, 2, self.max_tokens)
                by_length.setdefault(length, []).append(row)
            for length, together in sorted(by_length.items(), reverse=True):
                most = min(self.max_rows, max(1, self.max_tokens // length)) if length > 1 else self.max_rows
                for start in range(0, len(together), most):
                    yield together[start : start + most]

    def _run(self, group: list[_Row]) -> None:
        length = max(row.count for row in group)
        length = 1 if length == 1 else _up_to(length, _LEAST_TOKENS, 2, self.max_tokens)
        num_rows = _up_to(len(group), _LEAST_ROWS, _ROW_FACTOR, self.max_rows)
        least = max(1, _LEAST_CONTEXT // self.block_size)
        blocks = _up_to(-(-max(row.end for row in group) // self.block_size), least, 2, self.max_blocks)
        token_ids, positions, slots = (np.zeros((num_rows, length), np.int32) for _ in range(3))
        tables, last, uniform = (
            np.zeros((num_rows, blocks), np.int32),
            np.zeros(num_rows, np.int32),
            np.zeros(num_rows, np.float32),
        )
        inverse_temperature, policy_inverse, is_greedy = (
            np.ones(num_rows, kind) for kind in (np.float32, np.float32, bool)
        )
        for index, row in enumerate(group):
            request, count, start = row.request, row.count, row.request.computed
            token_ids[index, :count] = request.tokens[start : row.end]
            tables[index, : request.num_blocks] = request.blocks[: min(request.num_blocks, blocks)]
            last[index] = index * length + count - 1
            if row.is_last_chunk:
                uniform[index] = request.uniforms[request.generated]
                is_greedy[index] = request.params.temperature == 0
                inverse_temperature[index] = 1.0 / (request.params.temperature or 1.0)
                policy_inverse[index] = 1.0 / request.params.policy_temperature
            here = np.arange(start, row.end)
            positions[index, :count] = here
            slots[index, :count] = request.blocks[here // self.block_size] * self.block_size + here % self.block_size
        samples_in_graph = not any(row.request.needs_sampler for row in group if row.is_last_chunk)
        assert self.caches is not None
        arrays = (token_ids, positions, slots, tables, last, uniform, inverse_temperature, policy_inverse, is_greedy)
        outputs = self._graphs[samples_in_graph](*(Tensor(array) for array in arrays), *self.caches)
        self._take(group, [output.asnumpy() for output in outputs], samples_in_graph)

    def _take(self, group: list[_Row], outputs: list[np.ndarray], is_sampled: bool) -> None:
        """Gives every finished row its token."""
        done = [index for index, row in enumerate(group) if row.is_last_chunk]
        if not done:
            return
        requests = [group[index].request for index in done]
        if is_sampled:
            tokens, logprobs, engine_logprobs = (output[done] for output in outputs)
        else:
            logits = outputs[0][done]
            drawn = sample(logits, [Draw(r.params, r.history, float(r.uniforms[r.generated])) for r in requests])
            tokens, logprobs, engine_logprobs = drawn.token_ids, drawn.logprobs, drawn.engine_logprobs
            for place, (index, request) in enumerate(zip(done, requests, strict=True)):
                if request.top_logprobs is not None:
                    group[index].alternatives = _top_logprobs(logits[place], int(tokens[place]), request.top_logprobs)
        self._drawn_on_hosts.check(tokens)
        for place, (index, request) in enumerate(zip(done, requests, strict=True)):
            token = group[index].token = int(tokens[place])
            request.tokens.append(token)
            request.logprobs.append(float(logprobs[place]))
            request.engine_logprobs.append(float(engine_logprobs[place]))
            request.history.append(token)


def _top_logprobs(logits: np.ndarray, token: int, count: int) -> tuple[list[int], list[float], int]:
    """(the token and the `count` most probable ones, their logprobs, the token's rank from 1) of logits [V], before any
    filter.
    """
    logprobs = log_softmax(logits)
    best = np.argpartition(-logprobs, range(count))[:count] if count else np.zeros(0, int)
    ids = [token, *(int(i) for i in best)]
    return ids, [float(logprobs[i]) for i in ids], int((logprobs > logprobs[token]).sum()) + 1


def _as_lists(rows: Sequence[_Row]) -> LogprobsLists | None:
    """What vLLM passes on to the requests that asked for logprobs; rows of others are padding."""
    width = max(len(row.alternatives[0]) for row in rows)
    if not width:
        return None
    ids, values = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width))
    for index, row in enumerate(rows):
        ids[index, : len(row.alternatives[0])], values[index, : len(row.alternatives[1])] = row.alternatives[:2]
    return LogprobsLists(ids.tolist(), values.tolist(), [row.alternatives[2] for row in rows])
