"""The estimate's arithmetic, by hand where that is possible; its counts are those of the dry run."""

import json
from dataclasses import replace

import pytest
from estimate.cases import shipped
from helpers import ROOT

from mindrlhf_lite.ascend.dry_run import planned_phases
from mindrlhf_lite.config.load import read_yaml
from mindrlhf_lite.config.memory_plan import memory_plan
from mindrlhf_lite.estimate.devices import DEVICES, Device
from mindrlhf_lite.estimate.kernels import ASCEND
from mindrlhf_lite.estimate.proposals import propose, seconds_of_step
from mindrlhf_lite.estimate.step import work_of_step
from mindrlhf_lite.estimate.work import Work

ROUND = Device("round", 64, 1e12, 1e9, 1e9, 0.5, 0.5, 1e9, 1e-3, 1e-2, 1e-2, 1e-1, 1.0)
BEFORE = (
    *("--rl_config.chunk_size=8", "--rl_config.num_rollouts=4", "--rl_config.swap=true"),
    *("--rl_config.reshard_mem_opt_level=1", "--rl_config.reshard_bucket_mb=2"),
    *("--actor_config.parallel_config.micro_batch_num=128", "--actor_config.recompute_config.recompute=true"),
    "--ref_config.ref_model_batch_size=2",
)


def test_the_longest_of_computing_reading_and_starting_counts_and_the_rest_comes_on_top():
    assert Work(flops=1e12, memory_bytes=1e9, launches=3000).seconds(ROUND) == 3.0
    assert Work(flops=1e12, memory_bytes=1e9, launches=500).seconds(ROUND) == 2.0
    assert Work(launches=1000, calls=10).seconds(ROUND) == 2.0
    # a product of 63 rows takes as long as 63 + 126 rows would at the full rate
    assert Work(flops=63e9, row_flops=1e9).seconds(ROUND) == pytest.approx((63 + 126) * 1e9 / 0.5e12)
    # 3 messages and 2 GB over a link, 4 GB to the host, 5 tokens
    work = Work(messages=3, sent_bytes=2e9, host_bytes=4e9, tokens=5)
    assert work.seconds(ROUND) == pytest.approx(0.03 + 2 + 4 + 5)


def test_the_shipped_7b_on_8_takes_a_third_of_what_it_took():
    config, shape = shipped("7b", 8)
    before, _ = shipped("7b", 8, *BEFORE)
    device = DEVICES["910B"]
    pageable = replace(device, host_bytes_per_s=device.pageable_bytes_per_s)  # as copies were then
    assert seconds_of_step(config, shape, 8, device) <= 20 and seconds_of_step(before, shape, 8, pageable) > 50
    work = {name: each.seconds(pageable) for name, each in work_of_step(before, shape, 8).items()}
    assert work["reshard"] > 1 and work["swap"] > 8 and work["generate"] > 25
    assert work_of_step(before, shape, 8)["swap"].seconds(device) < 2.5


def test_a_step_of_7b_by_hand():
    """28 layers; of 7.6e9 numbers 0.545e9 are the embedding, which multiplies nothing."""
    config, shape = shipped("7b", 8)
    work = work_of_step(config, shape, 8)
    tokens = 256 * 512 + 32 * 512  # prompts once a group
    products = 2 * (7.616e9 - 0.545e9) * tokens / 8
    attention = 4 * 28 * 128 * 512 * 28 * tokens / 8  # a token sees 512 others on average
    assert work["reference"].flops == pytest.approx(products + attention, rel=0.01)
    # a token: 64 slots, two ranks' share of the weights, in two bytes, is read
    assert work["generate"].tokens == 512
    cache = 64 * 768 * 28 * 2 * 2 * 128 * 2  # slots, length, layers, k and v, heads of a rank, head_dim, bytes
    assert work["generate"].memory_bytes / 512 == pytest.approx(7.071e9 / 2 * 2 + cache, rel=0.01)
    assert work["reshard"].sent_bytes <= 7.616e9 * 2 / 2  # half of the weights, in two bytes


def test_kernels_of_a_graph_are_those_of_the_dry_run():
    """0.5B with two layers; views are no kernels."""
    found = json.loads((ROOT / "tests/ascend_dry/kernels_0_5b.json").read_text())

    def kernels(name):
        (counts,) = (each for graph, each in found.items() if graph.endswith(name))
        return sum(count for kernel, count in counts.items() if kernel not in ("Reshape", "ExpandDims"))

    assert kernels("Decode_construct") == pytest.approx(2 * ASCEND.decode_layer + ASCEND.decode_ends, rel=0.05)
    assert kernels("PrefillLayer_construct") == pytest.approx(ASCEND.prefill_layer, rel=0.1)
    assert kernels("LayerForward_construct") == pytest.approx(ASCEND.layer_forward, rel=0.1)
    assert kernels("LayerBackward_construct") == pytest.approx(ASCEND.layer_backward, rel=0.1)


def test_swapping_moves_what_changes_out_and_in():
    """Actor and optimizer leave after they were changed and come back; the frozen reference only comes in."""
    config, shape = shipped("7b", 8, *BEFORE)
    sizes = memory_plan(config, shape, 8).groups
    moved = work_of_step(config, shape, 8)["swap"].host_bytes
    expected = sizes["reference"] + 2 * sizes["actor"] + 2 * sizes["optimizer"] + sizes["actor"]  # read for the reshard
    assert moved == expected


def test_the_shipped_files_are_what_is_derived():
    """One of them; python -m mindrlhf_lite.estimate writes all."""
    base = read_yaml(ROOT / "examples/qwen_grpo/grpo_config.yaml")
    config, shape = shipped("7b", 8)
    proposal = propose(base, shape, 8)
    for key, value in proposal.settings.items():
        section, *path = key.split(".")
        found = getattr(config, section)
        for name in path:
            found = getattr(found, name)
        assert found == value or key.endswith("micro_batch_num"), key  # in numbers, from memory


def test_adapters_start_more_kernels_unless_they_are_merged():
    """Qwen2.5-0.5B: 24 layers of 7 linears with adapters; rank 16 of them is 8.8 million numbers of 4 bytes."""
    given = ("--actor_config.lora.rank=16", "--actor_config.compute_dtype=bfloat16")
    works = {
        kind: work_of_step(*shipped("0_5b", 8, *given, f"--actor_config.lora.rollout={kind}"), 8)
        for kind in ("separate", "merge")
    }
    more = works["separate"]["generate"].launches - works["merge"]["generate"].launches
    config, _ = shipped("0_5b", 8, *given)
    copies = 8 // config.generate_config.parallel_config.model_parallel
    prompts = config.rl_config.chunk_size // copies
    series = max(1, prompts * 8 // config.rollout_slots(copies))
    tokens = config.generate_config.sampling_config.max_tokens * series
    assert more == pytest.approx(24 * 46 * (tokens + prompts))
    assert works["separate"]["update"].flops < work_of_step(*shipped("0_5b", 8), 8)["update"].flops


def test_what_a_compiled_phase_is_compared_with():
    """With swapping a phase has its own groups, without all of them."""
    config, shape = shipped("0_5b", 8, "--rl_config.swap=true")
    swaps, holds = (
        planned_phases(each, shape, 8) for each in (config, shipped("0_5b", 8, "--rl_config.swap=false")[0])
    )
    groups = memory_plan(config, shape, 8).groups
    others = sum(size for name, size in groups.items() if name not in ("reference", "graphs"))
    assert holds["reference"] - swaps["reference"] == others > 0
