"""The vLLM platform of this project: MindSpore on CPU. It names the worker, switches off what only torch backends have,
and refuses requests that the sampler does not implement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psutil
import torch
from vllm.platforms.interface import Platform, PlatformEnum

from mindrlhf_lite.errors import UserError

if TYPE_CHECKING:
    from vllm.config import VllmConfig

DEFAULT_BLOCK_SIZE = 16

# SamplingParams that the worker does not implement, with the value that means "not asked for"
_UNSUPPORTED: dict[str, Any] = {
    "prompt_logprobs": None,
    "bad_words": [],
    "allowed_token_ids": None,
    "structured_outputs": None,
    "guided_decoding": None,
    "logits_processors": None,
}


class MindSporePlatform(Platform):
    """Out-of-tree platform; see vllm.platforms.interface.Platform for what each method answers."""

    _enum = PlatformEnum.OOT
    device_name = "cpu"
    device_type = "cpu"
    dispatch_key = "CPU"
    dist_backend = "gloo"
    simple_compile_backend = "eager"

    @property
    def supported_dtypes(self) -> list[torch.dtype]:
        return [torch.float32]

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        return "MindSpore CPU"

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        return psutil.virtual_memory().total

    @classmethod
    def set_device(cls, device: torch.device) -> None:
        pass  # there is one

    @classmethod
    def is_pin_memory_available(cls) -> bool:
        return False

    @classmethod
    def supports_v1(cls, model_config: Any) -> bool:
        return True

    @classmethod
    def is_async_output_supported(cls, enforce_eager: bool | None) -> bool:
        return False

    @classmethod
    def check_and_update_config(cls, vllm_config: VllmConfig) -> None:
        from vllm.config import CompilationLevel, CUDAGraphMode

        parallel, cache, model = vllm_config.parallel_config, vllm_config.cache_config, vllm_config.model_config
        if parallel.world_size > 1:
            raise UserError(
                f"tensor_parallel_size * pipeline_parallel_size = {parallel.world_size}: must be 1; tensor "
                "parallelism comes from msrun's ranks, every rank has an engine of its own"
            )
        if parallel.worker_cls == "auto":
            parallel.worker_cls = "mindrlhf_lite.rollout.vllm.worker.MindSporeWorker"
        if cache is not None and cache.block_size is None:
            cache.block_size = DEFAULT_BLOCK_SIZE
        refused = {
            "speculative_config": vllm_config.speculative_config,
            "lora_config": vllm_config.lora_config,
            "kv_transfer_config": vllm_config.kv_transfer_config,
        }
        if given := [name for name, value in refused.items() if value is not None]:
            raise UserError(f"{', '.join(given)}: not supported by the MindSpore platform")
        vllm_config.compilation_config.level = CompilationLevel.NO_COMPILATION
        vllm_config.compilation_config.cudagraph_mode = CUDAGraphMode.NONE
        if model is not None:
            if model.logprobs_mode != "raw_logprobs":
                raise UserError(
                    f"logprobs_mode={model.logprobs_mode}: the MindSpore platform returns raw_logprobs only"
                )
            model.disable_cascade_attn = True

    @classmethod
    def validate_request(cls, prompt: Any, params: Any, processed_inputs: Any) -> None:
        """Raises ValueError for anything that would otherwise be ignored in silence."""
        from vllm import SamplingParams

        if not isinstance(params, SamplingParams):
            raise UserError(f"{type(params).__name__}: the MindSpore platform generates only")
        given = {
            name: getattr(params, name, ignored)
            for name, ignored in _UNSUPPORTED.items()
            if getattr(params, name, ignored) not in (ignored, None)
        }
        if given:
            raise UserError(
                f"{', '.join(f'{name}={value!r}' for name, value in given.items())}: not implemented by the "
                "MindSpore platform; leave it out"
            )
        if processed_inputs.get("type") != "token":
            raise UserError(
                f"prompt of type {processed_inputs.get('type')}: the MindSpore platform takes text or token ids"
            )
