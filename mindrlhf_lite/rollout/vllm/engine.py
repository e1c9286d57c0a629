"""vLLM behind the rollout protocol: one in-process V1 engine a rank.

With tensor parallelism every tensor rank has an engine, is given the same requests and so schedules the same steps;
only the model's graphs talk to one another. Sampled tokens come from the same random streams as the native engine's.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.rollout.host_draw import TokenHistory
from mindrlhf_lite.rollout.protocol import OnFinished, Turns
from mindrlhf_lite.rollout.running_sequence import RunningSequence
from mindrlhf_lite.turns import Restart
from mindrlhf_lite.types import Completion, FinishReason, GenerateRequest, SamplingParams

# before vLLM is imported: an engine in this process, quiet, and nothing sent anywhere
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")  # or it looks for the one that faces the network
os.environ.setdefault("VLLM_DO_NOT_TRACK", "1")


@dataclass(frozen=True)
class VllmOptions:
    """vLLM's own names and meanings, but for the cache's size."""

    max_model_len: int  # longest prompt + completion, in tokens
    max_num_seqs: int = 128
    max_num_batched_tokens: int = 2048
    block_size: int = 16
    kv_cache_bytes: int = 0  # 0: room for max_num_seqs sequences of max_model_len

    def cache_bytes(self, model: Decoder) -> int:
        """`kv_cache_bytes`, or what the default means for this rank's share of the model."""
        if self.kv_cache_bytes:
            return self.kv_cache_bytes
        row = model.config.head_dim * np.dtype(ms.dtype_to_nptype(model.precision.activations)).itemsize
        block = 2 * self.block_size * model.num_kv_heads * row * len(model.layers)
        return (self.max_num_seqs * -(-self.max_model_len // self.block_size) + 1) * block  # block 0 is never given out


class VllmEngine:
    """RolloutEngine over vLLM's V1 engine.

    Args:
        model: frozen copy of the policy, or this tensor rank's share of it; its weights are written in place between
            calls of `generate`.
        folder: Hugging Face folder of the model; vLLM reads its config.json.
    """

    def __init__(self, model: Decoder, folder: str, options: VllmOptions):
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from mindrlhf_lite.rollout.vllm.worker import model_for_next_engine

        self.model, self.options = model, options
        arguments = EngineArgs(
            model=folder,
            skip_tokenizer_init=True,
            trust_remote_code=False,
            dtype="float32",
            max_model_len=options.max_model_len,
            max_num_seqs=options.max_num_seqs,
            max_num_batched_tokens=max(options.max_num_batched_tokens, options.max_num_seqs),
            block_size=options.block_size,  # type: ignore[arg-type]
            enable_prefix_caching=True,
            enable_chunked_prefill=True,
            enforce_eager=True,
            distributed_executor_backend="uni",
            disable_log_stats=True,
            additional_config={"kv_cache_bytes": options.cache_bytes(model)},
        )
        with model_for_next_engine(model):
            self._engine = LLMEngine.from_engine_args(arguments)
        self._core = self._engine.engine_core.engine_core  # in this process
        self._runner = self._core.model_executor.driver_worker.worker.model_runner

    @property
    def cache_parameters(self) -> list[Parameter]:
        """The KV cache, which means nothing between calls of `generate`."""
        return list(self._runner.caches or ())

    @property
    def own_weights(self) -> list[Parameter]:
        return []

    def named_weights(self) -> dict[str, Parameter]:
        return self.model.named_weights()

    def weights_changed(self) -> None:
        """Prefixes computed from the old weights must not be found again."""
        if not self._core.scheduler.reset_prefix_cache():
            raise RuntimeError(
                "vLLM still holds blocks of unfinished requests: weights must not change during generate()"
            )

    def generate(
        self,
        requests: Sequence[GenerateRequest],
        sampling: SamplingParams,
        progress: OnFinished | None = None,
        *,
        turns: Turns | None = None,
    ) -> list[list[Completion]]:
        """As the protocol says; every turn is a request of its own, whose beginning is found among the prefixes."""
        for index, request in enumerate(requests):
            if not 0 < len(request.prompt_ids) < self.options.max_model_len:
                raise ValueError(
                    f"request {index}: a prompt of {len(request.prompt_ids)} tokens must leave room in "
                    f"max_model_len={self.options.max_model_len}"
                )
        # memory that was given back between two calls (swapping) held the prefixes
        self.weights_changed()
        results: list[list[Completion | None]] = [[None] * request.num_samples for request in requests]
        batch = _Batch(self, requests, sampling, turns)
        try:
            for done in batch.run():
                results[done.request][done.sample] = done.completion()
                if progress:
                    progress(1)
        finally:
            if batch.running:
                self._engine.abort_request(list(batch.running))
        return [[completion for completion in group if completion is not None] for group in results]

    def step(self) -> list[tuple[str, Sequence[int], list[float], list[float]]]:
        """(name, tokens, logprobs, policy logprobs) of the requests that end with one step of the engine."""
        found = []
        for output in self._engine.step():
            if output.finished:
                request = self._runner.requests[output.request_id]  # until the next step
                if not np.isfinite(request.engine_logprobs).all():
                    raise FloatingPointError(
                        "the rollout model's logprobs are not finite: its weights are broken (NaN or overflow)"
                    )
                token_ids = output.outputs[0].token_ids
                found.append((output.request_id, token_ids, request.logprobs, request.engine_logprobs))
        return found

    def add(self, name: str, token_ids: Sequence[int], params: Any) -> None:
        self._engine.add_request(name, {"prompt_token_ids": list(token_ids)}, params)


class _Batch:
    """The state of one `generate` call. `running`: by the name of its request to vLLM."""

    def __init__(
        self,
        engine: VllmEngine,
        requests: Sequence[GenerateRequest],
        sampling: SamplingParams,
        turns: Turns | None,
    ):
        self.engine, self.requests, self.sampling, self.turns = engine, requests, sampling, turns
        self.running: dict[str, RunningSequence] = {}
        self._waiting: dict[tuple[int, int], RunningSequence] = {}
        self._most = engine.options.max_num_seqs if turns else sum(request.num_samples for request in requests)
        self._queue = deque(
            RunningSequence(
                index,
                number,
                request.prompt_ids,
                np.empty(0),
                history=TokenHistory(request.prompt_ids) if sampling.has_filters else None,
            )
            for index, request in enumerate(requests)
            for number in range(request.num_samples)
        )

    def run(self) -> Iterator[RunningSequence]:
        """Those that are done, as they are."""
        while self._queue or self.running or self._waiting:
            while self._queue and len(self.running) + len(self._waiting) < self._most:
                sequence = self._queue.popleft()
                if self.turns:
                    self.turns.begin(sequence.request, sequence.sample)
                self._go_on(sequence)
            yield from self._hear()
            for name, token_ids, logprobs, engine_logprobs in self.engine.step() if self.running else ():
                done = self._take(self.running.pop(name), token_ids, logprobs, engine_logprobs)
                if done is not None:
                    yield done

    def _hear(self) -> Iterator[RunningSequence]:
        if self.turns is None or not self._waiting:
            return
        for request, sample, token_ids in self.turns.take(waits=not self.running):
            sequence = self._waiting.pop((request, sample))
            if isinstance(token_ids, Restart):
                sequence.restart(token_ids.prompt_ids)
            elif token_ids:
                sequence.go_on_with(token_ids)
            else:
                yield sequence
                continue
            self._go_on(sequence)

    def _room(self, sequence: RunningSequence) -> int:
        in_cache = self.engine.options.max_model_len - len(sequence.context)
        return min(self.sampling.max_tokens - len(sequence.token_ids), in_cache)

    def _go_on(self, sequence: RunningSequence) -> None:
        most = (self.turns.max_turn_tokens if self.turns else 0) or self.sampling.max_tokens
        params = self._params(sequence, min(most, self._room(sequence)))
        name = f"{sequence.request}-{sequence.sample}-{len(sequence.token_ids)}"
        self.running[name] = sequence
        self.engine.add(name, sequence.context, params)

    def _take(
        self,
        sequence: RunningSequence,
        token_ids: Sequence[int],
        logprobs: Sequence[float],
        engine_logprobs: Sequence[float],
    ) -> RunningSequence | None:
        """The sequence, if it is done with what a turn has added."""
        for token, logprob, engine_logprob in zip(token_ids, logprobs, engine_logprobs, strict=True):
            sequence.append(token, logprob, engine_logprob, is_drawn=True)
        # vLLM calls a stop token at max_tokens a length stop
        stopped = token_ids[-1] in self.sampling.stop_token_ids
        sequence.reason = FinishReason.STOP if stopped else FinishReason.LENGTH
        if self.turns is None:
            return sequence
        self._waiting[sequence.request, sequence.sample] = sequence
        told = sequence.request, sequence.sample, sequence.token_ids
        self.turns.turn_is_over(*told, sequence.reason, self._room(sequence))
        return None

    def _params(self, sequence: RunningSequence, max_tokens: int) -> Any:
        from vllm import SamplingParams as VllmSamplingParams
        from vllm.sampling_params import RequestOutputKind

        from mindrlhf_lite.rollout.vllm.running_request import (
            FIRST_UNIFORM,
            HISTORY,
            RANDOM_STREAM,
            TEMPERED_POLICY,
        )

        sampling, request = self.sampling, self.requests[sequence.request]
        return VllmSamplingParams(
            max_tokens=max_tokens,
            min_tokens=min(sampling.min_tokens, max_tokens),
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            logit_bias=dict(sampling.logit_bias) or None,
            stop_token_ids=list(sampling.stop_token_ids),
            ignore_eos=True,  # the stop tokens are the ones given
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args={
                RANDOM_STREAM: (*request.seed, sequence.sample),
                FIRST_UNIFORM: len(sequence.token_ids),
                HISTORY: deepcopy(sequence.history),  # which the request goes on with
                TEMPERED_POLICY: sampling.reports_tempered_policy,
            },
        )
