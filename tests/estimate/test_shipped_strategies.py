"""Strategies of model_configs/*.yaml follow from the plan: what they leave out fits, what they have is needed."""

import pytest
from estimate.cases import DEVICES, MODELS, shipped

from mindrlhf_lite.config.memory_plan import memory_plan
from mindrlhf_lite.config.strategies import role_strategies
from mindrlhf_lite.reshard.blocks import blocks_of_receiver
from mindrlhf_lite.reshard.buckets import message_bytes
from mindrlhf_lite.reshard.plan import make_plan

ROOM = 0.8 * 64 * 2**30  # of a device
ALL = [(model, devices) for model in MODELS for devices in DEVICES]
CASES = [case for case in ALL if case != ("72b", 8)]  # which takes 54 GiB at the least


def needed(model, devices, *settings):
    config, shape = shipped(model, devices, *settings)
    return memory_plan(config, shape, devices).needed(config.rl_config.swap)


@pytest.mark.parametrize(("model", "devices"), CASES)
def test_it_fits(model, devices):
    assert needed(model, devices) <= ROOM


@pytest.mark.parametrize(("model", "devices"), CASES)
def test_a_steps_rollouts_are_one_chunk_that_fills_the_slots(model, devices):
    config, _ = shipped(model, devices)
    copies = role_strategies(config, devices)["rollout"].dims.copies
    of_a_copy = config.completions_per_step // copies
    slots = config.rollout_slots(copies)
    assert config.rl_config.num_rollouts == 1 and of_a_copy >= 64
    assert slots >= 64 and slots == min(config.generate_config.max_num_seqs, of_a_copy)


@pytest.mark.parametrize(("model", "devices"), CASES)
def test_swapping_and_offloading_are_on_only_where_it_does_not_fit_without(model, devices):
    config, _ = shipped(model, devices)
    least = ("--actor_config.recompute_config.recompute=true", _most_micro_batches(config, devices))
    if config.actor_config.optimizer.opt_offload:
        assert needed(model, devices, "--actor_config.optimizer.opt_offload=false", *least) > ROOM
    elif config.rl_config.swap:
        without = ("--rl_config.swap=false", "--rl_config.reshard_mem_opt_level=0")
        assert needed(model, devices, *without, *least) > ROOM


def _most_micro_batches(config, devices):
    shares = role_strategies(config, devices)["actor"].dims.shares
    return f"--actor_config.parallel_config.micro_batch_num={config.completions_per_update // shares}"


@pytest.mark.parametrize(("model", "devices"), CASES)
def test_a_reshards_messages_are_few(model, devices):
    """At most what its bytes are in full messages, and one more that is not full for every sender and buffer size."""
    config, shape = shipped(model, devices)
    strategies, size = role_strategies(config, devices), message_bytes(config.reshard_bucket_bytes, is_of_host=False)
    plan = make_plan(shape, strategies["actor"], strategies["rollout"], devices)
    for rank in range(0, devices, 7):
        messages = sum(len(block.senders) for block in blocks_of_receiver(plan, rank, size))
        assert messages <= 4 * plan.copied_bytes[rank] / size + 8, (rank, messages)
