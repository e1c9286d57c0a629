"""The worker that vLLM's in-process executor creates: one rank, one runner, no torch.distributed.

A rollout engine gives the worker its model (`model_for_next_engine`), which its tensor ranks share as this project lays
it out; without one, as in `vllm.LLM("folder")`, the worker loads the Hugging Face folder itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.worker.worker_base import WorkerBase

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.hf_weights import load_weights
from mindrlhf_lite.parallel.process_context import skip_in_collections
from mindrlhf_lite.rollout.vllm.model_runner import ModelRunner
from mindrlhf_lite.shapes.model_config import ModelConfig

_provided: list[Decoder] = []


@contextmanager
def model_for_next_engine(model: Decoder) -> Iterator[None]:
    """An engine created inside runs `model` instead of loading one."""
    _provided.append(model)
    try:
        yield
    finally:
        _provided.clear()


class MindSporeWorker(WorkerBase):
    """See vllm.v1.worker.worker_base.WorkerBase for what each method is called for."""

    model_runner: Any  # a ModelRunner; vLLM declares a torch module
    _cache_config: KVCacheConfig | None = None

    def init_device(self) -> None:
        self.device = torch.device("cpu")

    def load_model(self) -> None:
        model = _provided[-1] if _provided else self._load()
        self.model_runner = ModelRunner(
            model, self.cache_config.block_size, self.scheduler_config, self.model_config.seed or 0
        )
        skip_in_collections()  # vLLM's and torch's modules

    def _load(self) -> Decoder:
        import mindspore as ms

        ms.set_context(mode=ms.GRAPH_MODE)
        folder = self.model_config.model
        shape = ModelConfig.from_dir(folder)
        return Decoder(shape, load_weights(folder, shape), False, self.model_config.max_model_len)

    def get_model(self) -> Decoder:
        return self.model_runner.model

    def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    def get_kv_cache_spec(self) -> dict[str, KVCacheSpec]:
        model = self.model_runner.model
        spec = FullAttentionSpec(
            block_size=self.cache_config.block_size,
            num_kv_heads=model.num_kv_heads,
            head_size=model.config.head_dim,
            dtype=torch.float16 if model.precision.compute == "float16" else torch.float32,
        )
        return {f"model.layers.{index}": spec for index in range(len(model.layers))}

    def determine_available_memory(self) -> int:
        """Bytes of the KV cache: `additional_config={"kv_cache_bytes": N}`, else a tenth of what is free."""
        return (
            int(self.vllm_config.additional_config.get("kv_cache_bytes", 0)) or psutil.virtual_memory().available // 10
        )

    def initialize_cache(self, num_gpu_blocks: int, num_cpu_blocks: int) -> None:
        self.cache_config.num_gpu_blocks, self.cache_config.num_cpu_blocks = num_gpu_blocks, num_cpu_blocks

    def initialize_from_config(self, kv_cache_config: KVCacheConfig) -> None:
        self._cache_config = kv_cache_config
        self.wake_up()

    def compile_or_warm_up_model(self) -> None:
        pass  # a graph is compiled when its shape is first met

    def execute_model(self, scheduler_output: Any) -> ModelRunnerOutput:
        return self.model_runner.execute(scheduler_output)

    def take_draft_token_ids(self) -> None:
        return None

    def sleep(self, level: int = 1) -> None:
        """Frees the KV cache, whatever the level; weights stay."""
        self.model_runner.free_cache()

    def wake_up(self, tags: list[str] | None = None) -> None:
        assert self._cache_config is not None
        self.model_runner.allocate_cache(self._cache_config.num_blocks)
