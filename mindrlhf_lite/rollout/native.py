"""The native rollout engine: continuous batching over a fixed number of slots.

Every decode step runs all slots, busy or idle, over the whole cache, and a prompt's prefill depends on its own length
bucket only: matrix products on CPU round differently for different shapes, so fixed shapes are what makes a
completion's tokens independent of what shares its batch. A finished sequence frees its slot at once for the next one in
the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, mutable

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.packed_attention import MASKED
from mindrlhf_lite.rollout.agreement import check_agreement
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
from mindrlhf_lite.rollout.protocol import OnFinished
from mindrlhf_lite.shapes.buckets import default_buckets, round_up
from mindrlhf_lite.types import Completion, FinishReason, GenerateRequest, SamplingParams

OnToken = Callable[[int, int, int], None]
_PREFILL_TOKENS = 512  # prompts prefilled together: at most this many padded tokens, at least one prompt
_MIN_ROWS = 64  # matrix products of at least this many rows give each row the same bits


@dataclass
class _Sequence:
    """One completion being generated."""

    request: int
    sample: int
    prompt_ids: tuple[int, ...]
    uniforms: np.ndarray
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    engine_logprobs: list[float] = field(default_factory=list)
    history: TokenHistory | None = None  # where the sampler needs it


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
        self._decoders: dict[tuple[tuple[int, ...], Drawing], Decode | NativeDecode] = {}
        self._caches = allocate_cache(model, num_slots, cache_length)

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
    ) -> list[list[Completion]]:
        """As the protocol says; `on_token(request, sample, token id)` is called for every token as it is drawn."""
        for index, request in enumerate(requests):
            if not 0 < len(request.prompt_ids) < self.cache_length:
                raise ValueError(
                    f"request {index}: a prompt of {len(request.prompt_ids)} tokens must leave room in "
                    f"max_model_len={self.cache_length}"
                )
        return _Batch(self, requests, sampling, self._caches, progress, on_token).run()

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
        rows = max(min(_PREFILL_TOKENS // width, self.num_slots), -(-_MIN_ROWS // width), 1)
        for start in range(0, len(prompts), rows):
            token_ids = np.zeros((rows, width), np.int32)
            pairs = []
            for row, (prompt, targets) in enumerate(
                zip(prompts[start : start + rows], slots_by_prompt[start : start + rows], strict=True)
            ):
                token_ids[row, : len(prompt)] = prompt
                pairs += [(row, slot) for slot in targets]
            width_of_pairs = (
                rows if len(pairs) <= rows else self.num_slots
            )  # two shapes: prompts of one sample, and of several
            pairs += [pairs[-1]] * (width_of_pairs - len(pairs))  # fills up by writing the same slot again
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
    ):
        self.engine, self.sampling, self.caches, self.progress, self.on_token = (
            engine,
            sampling,
            caches,
            progress,
            on_token,
        )
        self.results: list[list[Completion | None]] = [[None] * request.num_samples for request in requests]
        self.queue = deque(
            _Sequence(
                index,
                number,
                request.prompt_ids,
                uniforms(request.seed, number, sampling.max_tokens),
                history=TokenHistory(request.prompt_ids) if sampling.has_filters else None,
            )
            for index, request in enumerate(requests)
            for number in range(request.num_samples)
        )
        self.slots: list[_Sequence | None] = [None] * engine.num_slots
        self.decode = engine.decoder(tuple(sorted(sampling.stop_token_ids)), Drawing.of(sampling))
        self.stops = frozenset(sampling.stop_token_ids)
        self.inverse_temperature = Tensor([1.0 / sampling.temperature if sampling.temperature > 0 else 1.0], ms.float32)
        self.of_cache = () if engine.is_native else (mutable(engine.views(caches)), *caches)
        self.token_ids, self.positions = np.zeros(engine.num_slots, np.int32), np.zeros(engine.num_slots, np.int32)

    def run(self) -> list[list[Completion]]:
        while self.queue or any(self.slots):
            self._admit()
            self._decode_once()
        return [[completion for completion in group if completion is not None] for group in self.results]

    def _admit(self) -> None:
        """Fills free slots from the queue and prefills their prompts, a prompt shared by several slots once."""
        admitted: dict[tuple[int, ...], list[int]] = {}
        for slot, occupant in enumerate(self.slots):
            if occupant is not None or not self.queue:
                continue
            sequence = self.slots[slot] = self.queue.popleft()
            self.token_ids[slot], self.positions[slot] = sequence.prompt_ids[-1], len(sequence.prompt_ids) - 1
            if len(sequence.prompt_ids) > 1:
                admitted.setdefault(sequence.prompt_ids[:-1], []).append(slot)
        by_width: dict[int, list[tuple[int, ...]]] = {}
        for prompt in admitted:
            by_width.setdefault(self.engine.round_up(len(prompt)), []).append(prompt)
        for width, prompts in by_width.items():
            self.engine.prefill(prompts, width, [admitted[prompt] for prompt in prompts], self.caches)

    def _decode_once(self) -> None:
        busy = [slot for slot, sequence in enumerate(self.slots) if sequence is not None]
        uniform, forbid_stop = np.zeros(len(self.slots), np.float32), np.zeros(len(self.slots), np.float32)
        for slot in busy:
            sequence = self.slots[slot]
            assert sequence is not None
            uniform[slot] = sequence.uniforms[len(sequence.token_ids)]
            forbid_stop[slot] = len(sequence.token_ids) < self.sampling.min_tokens
        arrays = (self.token_ids, self.positions, uniform, forbid_stop)
        outputs = self.decode(*(Tensor(array) for array in arrays), self.inverse_temperature, *self.of_cache)
        tokens, logprobs, engine_logprobs, *apart = (output.asnumpy() for output in outputs)
        for each in apart:
            check_agreement(each)
        if self.sampling.has_filters:
            drawn = sample(tokens[busy], [self._draw(slot, uniform[slot]) for slot in busy])
            tokens, logprobs, engine_logprobs = drawn.token_ids, drawn.logprobs, drawn.engine_logprobs
        else:
            tokens, logprobs, engine_logprobs = tokens[busy], logprobs[busy], engine_logprobs[busy]
        if not np.isfinite(engine_logprobs).all():
            raise FloatingPointError(
                "the rollout model's logprobs are not finite: its weights are broken (NaN or overflow)"
            )
        for slot, token, logprob, engine_logprob in zip(busy, tokens, logprobs, engine_logprobs, strict=True):
            self._append(slot, int(token), float(logprob), float(engine_logprob))

    def _draw(self, slot: int, uniform: float) -> Draw:
        sequence = self.slots[slot]
        assert sequence is not None and sequence.history is not None
        return Draw(self.sampling, sequence.history, uniform)

    def _append(self, slot: int, token: int, logprob: float, engine_logprob: float) -> None:
        sequence = self.slots[slot]
        assert sequence is not None
        sequence.token_ids.append(token)
        sequence.logprobs.append(logprob)
        sequence.engine_logprobs.append(engine_logprob)
        self.token_ids[slot] = token
        self.positions[slot] += 1
        if sequence.history is not None:
            sequence.history.append(token)
        if self.on_token:
            self.on_token(sequence.request, sequence.sample, token)
        stopped = token in self.stops
        if (
            not stopped
            and len(sequence.token_ids) < self.sampling.max_tokens
            and self.positions[slot] + 1 < self.engine.cache_length
        ):
            return
        reason = FinishReason.STOP if stopped else FinishReason.LENGTH
        logprobs, engine_logprobs = (
            np.array(sequence.logprobs, np.float32),
            np.array(sequence.engine_logprobs, np.float32),
        )
        self.results[sequence.request][sequence.sample] = Completion(
            tuple(sequence.token_ids), logprobs, engine_logprobs, reason
        )
        self.slots[slot] = None
        self.token_ids[slot] = self.positions[slot] = 0
        if self.progress:
            self.progress(1)
