"""The native rollout engine: continuous batching over a fixed number of slots.

Every decode step runs all slots, busy or idle, over the whole cache, and prompts of one length bucket are prefilled in
one shape: matrix products on CPU round differently for different shapes, so fixed shapes are what makes a completion's
tokens independent of what shares its batch. The native form's products keep rows apart, and few prompts take less. A
finished sequence frees its slot at once for the next one in the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, mutable

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.packed_attention import MASKED
from mindrlhf_lite.reshard.transports import is_on_host
from mindrlhf_lite.rollout.agreement import DrawnOnHosts, check_agreement
from mindrlhf_lite.rollout.behind import Chunk, NativePrefillBehind, PrefillBehind
from mindrlhf_lite.rollout.graph_draw import Drawing
from mindrlhf_lite.rollout.host_draw import Draw, TokenHistory, sample, uniforms
from mindrlhf_lite.rollout.native_graphs import (
    Decode,
    NativeDecode,
    NativePrefill,
    Prefill,
    allocate_cache,
    cache_views,
)
from mindrlhf_lite.rollout.protocol import OnFinished, Turns
from mindrlhf_lite.rollout.running_sequence import RunningSequence
from mindrlhf_lite.shapes.buckets import default_buckets, prefill_rows, round_up
from mindrlhf_lite.turns import Restart
from mindrlhf_lite.types import Completion, FinishReason, GenerateRequest, SamplingParams

OnToken = Callable[[int, int, int], None]


class NativeEngine:
    """RolloutEngine over this project's own decoder.

    Args:
        model: frozen copy of the policy, or this tensor rank's share of it; its weights are written in place between
            calls of `generate`.
        num_slots: sequences decoded together (vLLM's max_num_seqs).
        cache_length: longest prompt + completion, in tokens.
    """

    def __init__(self, model: Decoder, num_slots: int, cache_length: int, length_buckets: Sequence[int] = ()):
        self.model, self.num_slots, self.cache_length = model, num_slots, cache_length
        self._buckets = tuple(length_buckets) or default_buckets(cache_length)
        self.is_native = model.precision.has_native_kernels
        self._prefill = (NativePrefill if self.is_native else Prefill)(model, cache_length)
        self.prefill_behind = (NativePrefillBehind if self.is_native else PrefillBehind)(model, num_slots, cache_length)
        self._decoders: dict[tuple[tuple[int, ...], Drawing], Decode | NativeDecode] = {}
        self._caches = allocate_cache(model, num_slots, cache_length)
        self.filters_in_graph, self.drawn_on_hosts = not is_on_host(), DrawnOnHosts(model.mesh.tensor, num_slots)

    @property
    def cache_parameters(self) -> list[Parameter]:
        """The KV cache, which means nothing between calls of `generate`."""
        return list(self._caches)

    @property
    def own_weights(self) -> list[Parameter]:
        return []

    def named_weights(self) -> dict[str, Parameter]:
        return self.model.named_weights()

    def weights_changed(self) -> None:
        """Nothing is cached between calls of `generate`."""

    def generate(
        self,
        requests: Sequence[GenerateRequest],
        sampling: SamplingParams,
        progress: OnFinished | None = None,
        on_token: OnToken | None = None,
        *,
        turns: Turns | None = None,
    ) -> list[list[Completion]]:
        """As the protocol says; `on_token(request, sample, token id)` is called for every token as it is drawn. A slot
        whose turn is over keeps its cache: it decodes its last token again and again, and writes the same keys.
        """
        for index, request in enumerate(requests):
            if not 0 < len(request.prompt_ids) < self.cache_length:
                raise ValueError(
                    f"request {index}: a prompt of {len(request.prompt_ids)} tokens must leave room in "
                    f"max_model_len={self.cache_length}"
                )
        return _Batch(self, requests, sampling, self._caches, progress, on_token, turns).run()

    def decoder(self, stop_token_ids: tuple[int, ...], drawing: Drawing) -> Decode | NativeDecode:
        """The decode graph for a set of stop tokens, built once."""
        key = (stop_token_ids, drawing)
        if key not in self._decoders:
            stop_bias = np.zeros(self.model.config.vocab_size, np.float32)
            stop_bias[list(stop_token_ids)] = MASKED
            self._decoders[key] = (
                NativeDecode(self.model, self._caches, stop_bias, drawing)
                if self.is_native
                else Decode(self.model, self.num_slots, self.cache_length, stop_bias, drawing)
            )
        return self._decoders[key]

    def views(self, caches: tuple) -> tuple[Tensor, ...]:
        """What a decode graph reads without owning it."""
        head = self.model.head_view()
        views = cache_views(caches, self.num_slots, self.model.num_kv_heads)
        return views if head is None else (*views, head)

    def round_up(self, length: int) -> int:
        return round_up(length, self._buckets)

    def prefill(
        self, prompts: Sequence[tuple[int, ...]], width: int, slots_by_prompt: Sequence[Sequence[int]], caches: tuple
    ) -> None:
        """Writes the keys and values of `prompts`, padded to `width` tokens, into their slots."""
        least, most = prefill_rows(width, self.num_slots)
        for start in range(0, len(prompts), most):
            # one that takes a free slot brings few with it; other products may give other bits in another shape
            rows = least if self.is_native and len(prompts) - start <= least else most
            token_ids = np.zeros((rows, width), np.int32)
            pairs = []
            chosen = zip(prompts[start : start + rows], slots_by_prompt[start : start + rows], strict=True)
            for row, (prompt, targets) in enumerate(chosen):
                token_ids[row, : len(prompt)] = prompt
                pairs += [(row, slot) for slot in targets]
            # two shapes each: prompts of one sample, and of several
            count = rows if len(pairs) <= rows else self.num_slots
            pairs += [pairs[-1]] * (count - len(pairs))  # fills up by writing the same slot again
            source_rows, slots = np.array(pairs, np.int32).T
            self._prefill.run(token_ids, source_rows.copy(), slots.copy(), caches)


class _Batch:
    """The state of one `generate` call."""

    def __init__(
        self,
        engine: NativeEngine,
        requests: Sequence[GenerateRequest],
        sampling: SamplingParams,
        caches: tuple,
        progress: OnFinished | None,
        on_token: OnToken | None,
        turns: Turns | None,
    ):
        self.engine, self.sampling, self.caches, self.turns = engine, sampling, caches, turns
        self.drawing = Drawing.of(sampling, engine.filters_in_graph)
        self.progress, self.on_token = progress, on_token
        self.max_turn_tokens = (turns.max_turn_tokens if turns else 0) or sampling.max_tokens
        self.results: list[list[Completion | None]] = [[None] * request.num_samples for request in requests]
        self.queue = deque(
            RunningSequence(
                index,
                number,
                request.prompt_ids,
                uniforms(request.seed, number, sampling.max_tokens),
                history=None if self.drawing.in_graph else TokenHistory(request.prompt_ids),
            )
            for index, request in enumerate(requests)
            for number in range(request.num_samples)
        )
        self.slots: list[RunningSequence | None] = [None] * engine.num_slots
        self.decode = engine.decoder(tuple(sorted(sampling.stop_token_ids)), self.drawing)
        self.stops = frozenset(sampling.stop_token_ids)
        self.inverse_temperature = Tensor([1.0 / sampling.temperature if sampling.temperature > 0 else 1.0], ms.float32)
        self.of_cache = () if engine.is_native else (mutable(engine.views(caches)), *caches)
        self.token_ids, self.positions = np.zeros(engine.num_slots, np.int32), np.zeros(engine.num_slots, np.int32)

    def run(self) -> list[list[Completion]]:
        while self.queue or any(self.slots):
            self._admit()
            self._hear()
            if busy := [slot for slot, sequence in enumerate(self.slots) if sequence and not sequence.reason]:
                self._decode_once(busy)
        return [[completion for completion in group if completion is not None] for group in self.results]

    def _admit(self) -> None:
        """Fills free slots from the queue and prefills their prompts, a prompt shared by several slots once."""
        admitted: list[int] = []
        for slot, occupant in enumerate(self.slots):
            if occupant is not None or not self.queue:
                continue
            sequence = self.slots[slot] = self.queue.popleft()
            if self.turns:
                self.turns.begin(sequence.request, sequence.sample)
            admitted.append(slot)
        self._prefill(admitted)

    def _prefill(self, slots: list[int]) -> None:
        """Of slots whose sequences begin, or begin again."""
        by_prompt: dict[tuple[int, ...], list[int]] = {}
        for slot in slots:
            sequence = self.slots[slot]
            assert sequence is not None
            *before, last = sequence.context
            self.token_ids[slot], self.positions[slot] = last, len(before)
            if before:
                by_prompt.setdefault(tuple(before), []).append(slot)
        by_width: dict[int, list[tuple[int, ...]]] = {}
        for prompt in by_prompt:
            by_width.setdefault(self.engine.round_up(len(prompt)), []).append(prompt)
        for width, prompts in by_width.items():
            self.engine.prefill(prompts, width, [by_prompt[prompt] for prompt in prompts], self.caches)

    def _hear(self) -> None:
        """Takes what comes between turns, and waits for it where there is nothing else to do; what is to be read is
        read at once.
        """
        if not self.turns:
            return
        held = {slot: sequence for slot, sequence in enumerate(self.slots) if sequence}
        waiting = {(each.request, each.sample): slot for slot, each in held.items() if each.reason}
        if not waiting:
            return
        chunks, again = [], []
        for request, number, token_ids in self.turns.take(waits=len(waiting) == len(held)):
            slot = waiting[request, number]
            if isinstance(token_ids, Restart):
                held[slot].restart(token_ids.prompt_ids)
                again.append(slot)
                continue
            if not token_ids:
                self._finish(slot)
                continue
            held[slot].go_on_with(token_ids)
            last = int(self.token_ids[slot])
            chunks.append(Chunk(slot, int(self.positions[slot]), (last, *token_ids[:-1])))
            self.token_ids[slot] = token_ids[-1]
            self.positions[slot] += len(token_ids)
        self.engine.prefill_behind.run(chunks, self.caches)
        self._prefill(again)

    def _decode_once(self, busy: list[int]) -> None:
        """Args: busy: slots that do not wait."""
        uniform, forbid_stop = np.zeros(len(self.slots), np.float32), np.zeros(len(self.slots), np.float32)
        for slot in busy:
            sequence = self.slots[slot]
            assert sequence is not None
            uniform[slot] = sequence.uniforms[len(sequence.token_ids)]
            forbid_stop[slot] = len(sequence.token_ids) - sequence.turn_start < self.sampling.min_tokens
        arrays = (self.token_ids, self.positions, uniform, forbid_stop)
        lengths = (self.decode.lengths_of(self.positions),) if isinstance(self.decode, Decode) else ()
        tensors = (*(Tensor(array) for array in arrays), self.inverse_temperature)
        outputs = self.decode(*tensors, *lengths, *self.of_cache)
        tokens, logprobs, engine_logprobs, *apart = (output.asnumpy() for output in outputs)
        for each in apart:
            check_agreement(each)
        if not self.drawing.in_graph:
            drawn = sample(tokens[busy], [self._draw(slot, uniform[slot]) for slot in busy])
            self.engine.drawn_on_hosts.check(drawn.token_ids)
            tokens, logprobs, engine_logprobs = drawn.token_ids, drawn.logprobs, drawn.engine_logprobs
        else:
            tokens, logprobs, engine_logprobs = tokens[busy], logprobs[busy], engine_logprobs[busy]
        if not np.isfinite(engine_logprobs).all():
            raise FloatingPointError("the rollout model's logprobs are not finite: its weights are broken")
        for slot, token, logprob, engine_logprob in zip(busy, tokens, logprobs, engine_logprobs, strict=True):
            self._append(slot, int(token), float(logprob), float(engine_logprob))

    def _draw(self, slot: int, uniform: float) -> Draw:
        sequence = self.slots[slot]
        assert sequence is not None and sequence.history is not None
        return Draw(self.sampling, sequence.history, uniform)

    def _append(self, slot: int, token: int, logprob: float, engine_logprob: float) -> None:
        sequence = self.slots[slot]
        assert sequence is not None
        sequence.append(token, logprob, engine_logprob, is_drawn=True)
        self.token_ids[slot] = token
        self.positions[slot] += 1
        if self.on_token:
            self.on_token(sequence.request, sequence.sample, token)
        in_cache = self.engine.cache_length - 1 - int(self.positions[slot])
        room = min(self.sampling.max_tokens - len(sequence.token_ids), in_cache)
        stopped = token in self.stops
        is_long = len(sequence.token_ids) - sequence.turn_start >= self.max_turn_tokens
        if not (stopped or is_long or room <= 0):
            return
        sequence.reason = FinishReason.STOP if stopped else FinishReason.LENGTH
        if self.turns:
            told = sequence.request, sequence.sample, sequence.token_ids
            self.turns.turn_is_over(*told, sequence.reason, room)
        else:
            self._finish(slot)

    def _finish(self, slot: int) -> None:
        sequence = self.slots[slot]
        assert sequence is not None
        self.results[sequence.request][sequence.sample] = sequence.completion()
        self.slots[slot] = None
        self.token_ids[slot] = self.positions[slot] = 0
        if self.progress:
            self.progress(1)
