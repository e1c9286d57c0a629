"""Messages on a device are few: their number is bounded by bytes and latency, not by a size that suits a CPU."""

import pytest
from helpers import ROOT

from mindrlhf_lite.config.model_file import read_model_file
from mindrlhf_lite.parallel.layout import parse_strategy
from mindrlhf_lite.reshard.blocks import blocks_of_receiver
from mindrlhf_lite.reshard.buckets import (
    LINK_BYTES_PER_S,
    MESSAGE_LATENCY_S,
    bytes_of_bucket,
    least_message_bytes,
    message_bytes,
)
from mindrlhf_lite.reshard.plan import make_plan

MIB = 1 << 20


def test_a_message_is_the_smallest_whose_latency_is_a_twentieth():
    # 1 GB/s and 1 ms: 19 ms of bytes beside 1 ms of latency are 19 MB of two-byte numbers, counted as 38 MB: 64 MiB
    assert least_message_bytes(1e9, 1e-3) == 64 * MIB
    assert least_message_bytes(1e9, 1e-3 / 4) == 16 * MIB  # 9.5 MB
    size = least_message_bytes() / 2  # in the device's type
    assert 0.05 * (MESSAGE_LATENCY_S + size / LINK_BYTES_PER_S) >= MESSAGE_LATENCY_S
    assert 0.05 * (MESSAGE_LATENCY_S + size / 2 / LINK_BYTES_PER_S) < MESSAGE_LATENCY_S


def test_what_is_given_is_taken_and_a_cpu_keeps_its_own():
    assert bytes_of_bucket(3, is_of_host=False) == bytes_of_bucket(3, is_of_host=True) == 3 * MIB
    assert bytes_of_bucket(0, is_of_host=True) == 8 * MIB and message_bytes(8 * MIB, is_of_host=True) == MIB
    assert message_bytes(bytes_of_bucket(0, is_of_host=False), is_of_host=False) == least_message_bytes()


@pytest.mark.parametrize(("source", "destination"), [("dp=2,tp=4", "dp=4,tp=2"), ("tp=4,pp=2", "dp=2,tp=4")])
def test_messages_of_7b_on_eight_devices(source, destination):
    """With messages of 1 MiB a rank received up to 9,697 and wrote 19,515 pieces."""
    shape = read_model_file(str(ROOT / "model_configs/qwen2_5_7b.yaml")).shape
    plan = make_plan(shape, *(parse_strategy(text, "", shape) for text in (source, destination)))
    for rank in range(8):
        blocks = blocks_of_receiver(plan, rank, least_message_bytes())
        messages = sum(len(block.senders) for block in blocks)
        pieces = sum(len(slab.pieces) for block in blocks for slab in block.slabs)
        seconds = plan.received_bytes[rank] / 2 / LINK_BYTES_PER_S
        assert messages <= 350 and pieces <= 1000, (rank, messages, pieces)
        assert messages * MESSAGE_LATENCY_S <= 0.15 * seconds  # some are not full
