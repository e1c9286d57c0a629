"""Strategies for a model on so many devices, by the plan and the estimate: what model_configs/*.yaml propose.

The rollout's copies are as small as their weights allow, and a step has as many prompts as fill the slots of all once.
Of the actor's layouts that fit, the one with the shortest step is taken; what costs time, swapping and recomputation,
only where nothing fits without, or where it is shorter all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.config.memory_plan import ASCEND_MEMORY_GIB, memory_plan
from mindrlhf_lite.config.micro_batches import MEMORY_SHARE, compiles_soon, with_micro_batches
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.estimate.devices import DEVICES, Device
from mindrlhf_lite.estimate.step import work_of_step
from mindrlhf_lite.parallel.dims import ParallelDims
from mindrlhf_lite.parallel.layout import Strategy
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import count_parameters

LEAST_SLOTS, GROUP = 64, 8
_MICRO_BATCHES = "actor_config.parallel_config.micro_batch_num"
_LEAST_PROMPTS = 32  # a step
_OF_HOST = 8  # devices; tensor ranks are of one host
_ROLLOUT_SHARE = 0.2  # of a device, for the weights of a copy's rank
_CHOICES_OF_SLOTS = (256, 128, 64, 32, 16)


@dataclass(frozen=True)
class Proposal:
    """Settings by key, as a model file has them, what they would take, and whether they fit."""

    settings: dict[str, Any]
    gib: float
    seconds: float
    fits: bool


def propose(base: dict[str, Any], shape: ModelConfig, devices: int, device: Device | None = None) -> Proposal:
    """The best proposal; where nothing fits, the one that needs the least memory.

    Args: base: the run's other settings by key.
    """
    device = device or DEVICES["910B"]
    tensor = _rollout_tensor(shape, devices)
    completions = _prompts(devices // tensor) * GROUP * tensor // devices  # of a copy
    for swaps, offloads in ((False, False), (True, False), (True, True)):
        for slots in sorted({min(slots, completions) for slots in _CHOICES_OF_SLOTS}, reverse=True):
            found = [
                _judged(base, shape, devices, device, settings)
                for settings in _candidates(shape, devices, tensor, slots, swaps, offloads)
            ]
            if fitting := [proposal for proposal in found if proposal.fits]:
                return _by_memory(base, shape, devices, device, min(fitting, key=lambda proposal: proposal.seconds))
            if slots <= LEAST_SLOTS and not (swaps and offloads):
                break  # swap before slots are given up
    return min(found, key=lambda proposal: proposal.gib)  # of everything that saves memory


def _prompts(copies: int) -> int:
    """Of a step: a copy of the rollout decodes the least number of slots, or more."""
    return max(_LEAST_PROMPTS, LEAST_SLOTS // GROUP * copies)


def _rollout_tensor(shape: ModelConfig, devices: int) -> int:
    """Tensor ranks of the rollout: the fewest whose part of the weights leaves most of a device free."""
    choices = [tensor for tensor in _degrees(shape, min(devices, _OF_HOST)) if devices % tensor == 0]
    room = _ROLLOUT_SHARE * ASCEND_MEMORY_GIB * 2**30
    return next((tensor for tensor in choices if 2 * count_parameters(shape) / tensor <= room), choices[-1])


def _degrees(shape: ModelConfig, most: int) -> list[int]:
    powers = (2**power for power in range(most.bit_length()))
    return [tensor for tensor in powers if tensor <= most and not Strategy(ParallelDims(1, tensor)).problems(shape)]


def _candidates(
    shape: ModelConfig, devices: int, rollout: int, slots: int, swaps: bool, offloads: bool
) -> Iterator[dict[str, Any]]:
    copies = devices // rollout
    prompts = _prompts(copies)
    for tensor in _degrees(shape, min(devices, _OF_HOST)):
        for pipeline in (2**power for power in range(4)):
            data = devices // (tensor * pipeline)
            share = prompts * GROUP // max(1, data)
            if data * tensor * pipeline != devices or pipeline * 4 > shape.num_hidden_layers or not share:
                continue
            # weights and gradients, the optimizer's state, the frozen models: without anything else
            of_rank = count_parameters(shape) / (tensor * pipeline) * (6 + (0 if offloads else 12 / data))
            of_rank += 0 if swaps else 4 * count_parameters(shape) / rollout
            if of_rank > MEMORY_SHARE * ASCEND_MEMORY_GIB * 2**30 and not offloads:
                continue
            least = min(share, 4 * pipeline) if pipeline > 1 else 1
            numbers = [2**power for power in range(share.bit_length()) if 2**power >= least]
            for recomputes in (False, True):
                for number in numbers:
                    settings = {
                        "rl_config.chunk_size": prompts,
                        "rl_config.num_rollouts": 1,
                        "rl_config.batch_size": 0,
                        "rl_config.swap": swaps,
                        "rl_config.reshard_mem_opt_level": int(swaps),
                        "actor_config.compute_dtype": "bfloat16",
                        "actor_config.parallel_config.data_parallel": data,
                        "actor_config.parallel_config.model_parallel": tensor,
                        "actor_config.parallel_config.pipeline_stage": pipeline,
                        _MICRO_BATCHES: number,
                        "actor_config.parallel_config.use_seq_parallel": tensor > 1,
                        "actor_config.enable_parallel_optimizer": data > 1,
                        "actor_config.recompute_config.recompute": recomputes,
                        "actor_config.optimizer.opt_offload": offloads,
                        "ref_config.ref_model_batch_size": 0,
                        "ref_config.parallel_config.data_parallel": copies,
                        "ref_config.parallel_config.model_parallel": rollout,
                        "ref_config.parallel_config.pipeline_stage": 1,
                        "generate_config.max_num_seqs": slots,
                        "generate_config.parallel_config.data_parallel": copies,
                        "generate_config.parallel_config.model_parallel": rollout,
                    }
                    yield settings


def _by_memory(base: dict[str, Any], shape: ModelConfig, devices: int, device: Device, proposal: Proposal) -> Proposal:
    """Without the number of micro-batches, where memory decides on the same one: so it does for other lengths, too."""
    free = {**proposal.settings, _MICRO_BATCHES: 0}
    config = build_config({**base, **free, "context.device_target": "Ascend"})
    chosen = with_micro_batches(config, shape, devices, device.memory_gib).actor_config.parallel_config.micro_batch_num
    return replace(proposal, settings=free) if chosen == proposal.settings[_MICRO_BATCHES] else proposal


def _judged(
    base: dict[str, Any], shape: ModelConfig, devices: int, device: Device, settings: dict[str, Any]
) -> Proposal:
    config = build_config({**base, **settings, "context.device_target": "Ascend"})
    needed = memory_plan(config, shape, devices, device.memory_gib).needed(config.rl_config.swap)
    fits = needed <= MEMORY_SHARE * device.memory_gib * 2**30 and compiles_soon(config, shape, devices)
    return Proposal(settings, needed / 2**30, seconds_of_step(config, shape, devices, device) if fits else 0.0, fits)


def seconds_of_step(config: Config, shape: ModelConfig, devices: int, device: Device) -> float:
    return sum(work.seconds(device) for work in work_of_step(config, shape, devices).values())
