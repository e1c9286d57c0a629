"""vLLM on Ascend, where vllm-mindspore brings platform, kernels and a model of its own. Not run here: no Ascend device
was at hand.

Written against vLLM 0.11.0's offline interface (EngineArgs, LLMEngine, the executor "external_launcher", the
environment variables of torchrun) and the source of vllm-mindspore 0.5.1: its native backend's `load_weights` takes
Hugging Face names and whole numpy arrays. What is not Ascend's, gathering whole tensors from tensor ranks, is tested on
CPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mindspore import Parameter
from mindspore.common.np_dtype import bfloat16

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.parallel.layout import Buffer, part_view, slices
from mindrlhf_lite.parallel.mesh import Axis, RoleMesh, gather_objects
from mindrlhf_lite.rollout.protocol import Progress
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import parameter_specs
from mindrlhf_lite.types import Completion, FinishReason, GenerateRequest, SamplingParams

_NUMPY_TYPES = {"bfloat16": bfloat16, "float16": np.float16}


def whole_tensors(
    config: ModelConfig, weights: Mapping[str, Parameter], buffers: Sequence[Buffer], axis: Axis | None
) -> Iterator[tuple[str, np.ndarray]]:
    """(Hugging Face name, float32 tensor) of a model without pipeline stages, one at a time; all ranks of the tensor
    axis iterate together.

    Args: weights, buffers: this rank's share and its layout.
    """
    places = {part.tensor: (buffer.name, part) for buffer in buffers for part in buffer.parts}
    for spec in parameter_specs(config):
        name, part = places[spec.name]
        whole = np.zeros(spec.shape, np.float32)
        for box, values in gather_objects(axis, (part.box, part_view(weights[name].asnumpy(), part))):
            whole[slices(box)] = values
        yield spec.name, whole


def export_torchrun_variables() -> None:
    """Says in torchrun's variables, which vLLM's external launcher reads, what msrun said in its own."""
    rank = os.environ.get("RANK_ID", "0")
    os.environ.setdefault("RANK", rank)
    os.environ.setdefault("LOCAL_RANK", os.environ.get("DEVICE_ID", rank))
    os.environ.setdefault("WORLD_SIZE", os.environ.get("MS_WORKER_NUM", "1"))
    os.environ.setdefault("MASTER_ADDR", os.environ.get("MS_SCHED_HOST", "127.0.0.1"))
    os.environ.setdefault("MASTER_PORT", str(int(os.environ.get("MS_SCHED_PORT", "8118")) + 1))


class AscendVllmEngine:
    """RolloutEngine over vllm-mindspore, one engine a rank in lockstep over the tensor ranks.

    A reshard writes this rank's share into `model`, as for every engine; `weights_changed` hands it on, whole tensor by
    whole tensor, to vllm-mindspore's loader, which keeps its own share in its own layout: rollout weights lie in memory
    twice. That loader calls `set_data`, which a compiled graph does not notice on CPU (docs/design.md), so the engine
    runs eagerly. Random streams are vLLM's.

    Args:
        model, buffers, mesh: where the reshard lands, the layout of this rank's share, and its tensor ranks.
        folder: Hugging Face folder of the model.
        limits: keyword arguments of vLLM's EngineArgs: max_model_len, max_num_seqs, max_num_batched_tokens, block_size,
            gpu_memory_utilization.
    """

    def __init__(self, model: Decoder, buffers: Sequence[Buffer], mesh: RoleMesh, folder: str, limits: dict[str, Any]):
        export_torchrun_variables()
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        import vllm_mindspore  # noqa: F401  # it has to be imported before vllm
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        self.model, self._buffers, self._mesh, self._max_model_len = model, buffers, mesh, limits["max_model_len"]
        # its kernels take no float32
        self._dtype = "float16" if model.precision.compute == "float16" else "bfloat16"
        arguments = EngineArgs(
            model=folder,
            skip_tokenizer_init=True,
            dtype=self._dtype,
            tensor_parallel_size=mesh.dims.tensor,
            distributed_executor_backend="external_launcher",
            enforce_eager=True,
            seed=mesh.at.data,
            disable_log_stats=True,
            **limits,
        )
        self._engine = LLMEngine.from_engine_args(arguments)

    @property
    def cache_parameters(self) -> list[Parameter]:
        """None: vllm-mindspore owns the KV cache."""
        return []

    def named_weights(self) -> dict[str, Parameter]:
        return self.model.named_weights()

    def weights_changed(self) -> None:
        runner = self._engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
        tensors = whole_tensors(self.model.config, self.named_weights(), self._buffers, self._mesh.tensor)
        runner.model.load_weights((name, tensor.astype(_NUMPY_TYPES[self._dtype])) for name, tensor in tensors)
        self._engine.reset_prefix_cache()

    def sleep(self) -> None:
        self._engine.sleep()

    def wake(self) -> None:
        if self._engine.is_sleeping():
            self._engine.wake_up()

    def generate(
        self, requests: Sequence[GenerateRequest], sampling: SamplingParams, progress: Progress | None = None
    ) -> list[list[Completion]]:
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
    """vLLM's logprobs are the policy's, before temperature, penalties and filters: under the distribution that was
    sampled from they are known where there are none of these.
    """
    token_ids = tuple(output.token_ids)
    logprobs = np.array(
        [entry[token].logprob for entry, token in zip(output.logprobs, token_ids, strict=True)], np.float32
    )
    if not np.isfinite(logprobs).all():
        raise FloatingPointError(
            "the rollout model's logprobs are not finite: its weights are broken (NaN or overflow)"
        )
    is_policy = not sampling.has_filters and sampling.temperature == 1.0 and not sampling.min_tokens
    reason = FinishReason.STOP if token_ids[-1] in sampling.stop_token_ids else FinishReason.LENGTH
    return Completion(token_ids, logprobs if is_policy else None, logprobs, reason)
