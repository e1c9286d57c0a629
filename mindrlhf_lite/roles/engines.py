"""The rollout engine that a configuration asks for."""

from __future__ import annotations

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.parallel.layout import Strategy, buffers_of_rank
from mindrlhf_lite.parallel.mesh import RoleMesh
from mindrlhf_lite.rollout.native import NativeEngine
from mindrlhf_lite.rollout.protocol import RolloutEngine


def make_engine(config: Config, model: Decoder, strategy: Strategy, mesh: RoleMesh, rank: int) -> RolloutEngine:
    generate, rl = config.generate_config, config.rl_config
    slots = config.rollout_slots(strategy.dims.copies)
    if not generate.use_vllm:
        return NativeEngine(model, slots, rl.seq_length, rl.length_buckets)
    length = min(generate.max_model_len or rl.seq_length, rl.seq_length)
    if config.context.device_target == "Ascend":
        from mindrlhf_lite.rollout.vllm.ascend import AscendVllmEngine  # not run here

        options = {
            "max_model_len": length,
            "max_num_seqs": slots,
            "max_num_batched_tokens": generate.max_num_batched_tokens,
            "block_size": generate.block_size,
            "gpu_memory_utilization": generate.gpu_memory_utilization,
        }
        buffers = buffers_of_rank(model.config, strategy, rank)
        return AscendVllmEngine(model, buffers, mesh, config.actor_config.load, options)
    from mindrlhf_lite.rollout.vllm.engine import VllmEngine, VllmOptions  # heavy, and an extra

    cache_bytes = int(generate.kv_cache_gb * 2**30)
    sizes = (slots, generate.max_num_batched_tokens, generate.block_size, cache_bytes)
    return VllmEngine(model, config.actor_config.load, VllmOptions(length, *sizes))
