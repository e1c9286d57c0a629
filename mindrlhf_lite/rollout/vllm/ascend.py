"""vLLM on Ascend, where vllm-mindspore brings platform, kernels and a model of its own. Not run here: no Ascend device
was at hand.

Written against vLLM 0.11.0's offline interface (EngineArgs, LLMEngine, the executor "external_launcher", the
environment variables of torchrun) and the source of vllm-mindspore 0.5.1: its native backend's `load_weights` takes
Hugging Face names and what safetensors' slices are, and cuts this rank's part out of each. What is not Ascend's is
tested on CPU, against a loader that cuts as that one does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor
from mindspore._c_expression import ms_ctx_param
from mindspore.common.np_dtype import bfloat16
from mindspore.context import _context

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.parallel.layout import Buffer
from mindrlhf_lite.parallel.mesh import RoleMesh
from mindrlhf_lite.rollout.protocol import OnFinished, Turns
from mindrlhf_lite.rollout.vllm.weight_copy import WeightCopy
from mindrlhf_lite.types import Completion, FinishReason, GenerateRequest, SamplingParams

_NUMPY_TYPES = {"bfloat16": bfloat16, "float16": np.float16}


def export_torchrun_variables() -> None:
    """Says in torchrun's variables, which vLLM's external launcher reads, what msrun said in its own."""
    rank = os.environ.get("RANK_ID", "0")
    os.environ.setdefault("RANK", rank)
    os.environ.setdefault("LOCAL_RANK", os.environ.get("DEVICE_ID", rank))
    os.environ.setdefault("WORLD_SIZE", os.environ.get("MS_WORKER_NUM", "1"))
    os.environ.setdefault("MASTER_ADDR", os.environ.get("MS_SCHED_HOST", "127.0.0.1"))
    os.environ.setdefault("MASTER_PORT", str(int(os.environ.get("MS_SCHED_PORT", "8118")) + 1))


def _join_all_ranks() -> None:
    """vLLM would make a process group of the tensor ranks' number with global rank numbers; one that is there already,
    of all ranks, it divides by itself.
    """
    import torch.distributed

    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            "hccl", rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"])
        )


class _Settings:
    """MindSpore's settings while vllm-mindspore works; the trainer's own before and after. `jit_config` sets its keys
    one by one: what they are is kept, and set again.
    """

    _NAMES = ("mode", "jit_config", "jit_syntax_level")
    _KEYS_OF_JIT = ("jit_level", "infer_boost")

    def __init__(self) -> None:
        self._others = {**self._current(), "mode": ms.PYNATIVE_MODE}

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *error: object) -> None:
        self._swap()

    def _current(self) -> dict[str, Any]:
        return {name: ms.get_context(name) for name in (*self._NAMES, *self._KEYS_OF_JIT)}

    def _swap(self) -> None:
        here, self._others = self._others, self._current()
        ms.set_context(**{name: here[name] for name in self._NAMES})
        for key in self._KEYS_OF_JIT:
            _context().set_param(getattr(ms_ctx_param, key), here[key])


class AscendVllmEngine:
    """RolloutEngine over vllm-mindspore, one engine a rank in lockstep over the tensor ranks.

    A reshard writes this rank's share into `model`, as for every engine; `weights_changed` hands it on to
    vllm-mindspore's loader, which keeps its own copy in its own layout. vllm-mindspore has no sleep mode: its copy and
    its KV cache are parameters and tensors like any other, whose memory swapping gives back while they are not needed.
    The loader calls `set_data`, which a compiled graph does not notice on CPU (docs/design.md), so the engine runs
    eagerly, in settings of its own (`_Settings`). Random streams are vLLM's.

    Args:
        model, buffers, mesh: where the reshard lands, the layout of this rank's share, and its tensor ranks.
        folder: Hugging Face folder of the model.
        limits: keyword arguments of vLLM's EngineArgs: max_model_len, max_num_seqs, max_num_batched_tokens, block_size,
            gpu_memory_utilization.
    """

    def __init__(self, model: Decoder, buffers: Sequence[Buffer], mesh: RoleMesh, folder: str, limits: dict[str, Any]):
        export_torchrun_variables()
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        backend = os.environ.setdefault("VLLM_MS_MODEL_BACKEND", "Native")
        if backend.lower() != "native":
            raise UserError(f"VLLM_MS_MODEL_BACKEND={backend}: weights are handed on to the Native backend only")
        self._settings = _Settings()
        with self._settings:
            self._start(model, buffers, mesh, folder, limits)

    def _start(
        self, model: Decoder, buffers: Sequence[Buffer], mesh: RoleMesh, folder: str, limits: dict[str, Any]
    ) -> None:
        import vllm_mindspore  # noqa: F401  # it has to be imported before vllm
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        _join_all_ranks()
        # its kernels take no float32
        dtype = "float16" if model.precision.compute == "float16" else "bfloat16"
        arguments = EngineArgs(
            model=folder,
            skip_tokenizer_init=True,
            trust_remote_code=False,
            dtype=dtype,
            tensor_parallel_size=mesh.dims.tensor,
            distributed_executor_backend="external_launcher",
            enforce_eager=True,
            seed=mesh.at.data,
            disable_log_stats=True,
            **limits,
        )
        engine = LLMEngine.from_engine_args(arguments)
        runner = engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
        self._engine, self.model, self._max_model_len = engine, model, limits["max_model_len"]
        self._copy = WeightCopy(runner.model, model.config, buffers, _NUMPY_TYPES[dtype])
        self._caches = [tensor for layer in runner.kv_caches for tensor in layer]

    @property
    def cache_parameters(self) -> list[Tensor]:
        """vllm-mindspore's keys and values of all layers."""
        return self._caches

    @property
    def own_weights(self) -> list[Parameter]:
        return self._copy.parameters

    def named_weights(self) -> dict[str, Parameter]:
        return self.model.named_weights()

    def weights_changed(self) -> None:
        with self._settings:
            self._copy.load(self.named_weights())
            self._engine.reset_prefix_cache()

    def generate(
        self,
        requests: Sequence[GenerateRequest],
        sampling: SamplingParams,
        progress: OnFinished | None = None,
        *,
        turns: Turns | None = None,
    ) -> list[list[Completion]]:
        if turns is not None:
            raise UserError("environment_config: vLLM on Ascend has no turns; set generate_config.use_vllm=0")
        for index, request in enumerate(requests):
            if not 0 < len(request.prompt_ids) < self._max_model_len:
                raise UserError(
                    f"request {index}: a prompt of {len(request.prompt_ids)} tokens must leave room in "
                    f"max_model_len={self._max_model_len}"
                )
        results: list[list[Completion | None]] = [[None] * request.num_samples for request in requests]
        places: dict[str, tuple[int, int]] = {}
        for index, request in enumerate(requests):
            for number in range(request.num_samples):
                places[name := f"{index}-{number}"] = index, number
                self._engine.add_request(
                    name, {"prompt_token_ids": list(request.prompt_ids)}, _params(sampling, request, number)
                )
        with self._settings:
            while places:
                for output in self._engine.step():
                    if not output.finished:
                        continue
                    index, number = places.pop(output.request_id)
                    results[index][number] = completion_of(output.outputs[0], sampling)
                    if progress:
                        progress(1)
        return [[completion for completion in group if completion is not None] for group in results]


def _params(sampling: SamplingParams, request: GenerateRequest, number: int) -> Any:
    from vllm import SamplingParams as VllmSamplingParams
    from vllm.sampling_params import RequestOutputKind

    return VllmSamplingParams(
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k or -1,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=int(np.random.SeedSequence([*request.seed, number]).generate_state(1)[0]),
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=True,
        detokenize=False,
        logprobs=0,  # of the sampled token only
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def completion_of(output: Any, sampling: SamplingParams) -> Completion:
    """vLLM's logprobs are the policy's at temperature 1, before penalties and filters: under the distribution that was
    sampled from, and of the policy at another temperature, they are known where there is none of these.
    """
    token_ids = tuple(output.token_ids)
    logprobs = np.array(
        [entry[token].logprob for entry, token in zip(output.logprobs, token_ids, strict=True)], np.float32
    )
    if not np.isfinite(logprobs).all():
        raise FloatingPointError(
            "the rollout model's logprobs are not finite: its weights are broken (NaN or overflow)"
        )
    is_policy = not replace(sampling, reports_tempered_policy=False).is_off_policy
    of_policy = logprobs if sampling.policy_temperature == 1.0 else None
    reason = FinishReason.STOP if token_ids[-1] in sampling.stop_token_ids else FinishReason.LENGTH
    return Completion(token_ids, logprobs if is_policy else None, of_policy, reason)
