"""Searching for layouts: against trying all, and what must hold whatever the figures."""

import re
from dataclasses import replace
from itertools import product

import pytest
from estimate.cases import shipped
from helpers import ROOT, run_python

from mindrlhf_lite.config.dotted import replaced
from mindrlhf_lite.config.memory_plan import memory_plan
from mindrlhf_lite.config.micro_batches import compiles_soon
from mindrlhf_lite.config.strategies import role_strategies, without_degrees
from mindrlhf_lite.config.validate import find_problems
from mindrlhf_lite.estimate.choices import Question, actor_choices, rollout_choices, scorer_choices, staged_dims
from mindrlhf_lite.estimate.devices import DEVICES
from mindrlhf_lite.estimate.search import search
from mindrlhf_lite.estimate.step import StepWork
from mindrlhf_lite.parallel.dims import ParallelDims

GIB = 2**30
VERL = ROOT.parent / "shared/configs/verl/ppo_trainer_generated.yaml"
DEVICE = DEVICES["910B"]


def question(model="0_5b", devices=4, gib=16.0, device=DEVICE, prompts=32):
    config, shape = shipped(model, 8)
    config = replaced(without_degrees(config), {"rl_config.chunk_size": prompts, "rl_config.batch_size": 0})
    return Question(config, shape, devices, replace(device, memory_gib=gib), 0.8 * gib * GIB)


def best_of_all(asked):
    """Seconds of the fastest, by trying every combination whole."""
    seconds = []
    rollouts = [each for of_layout in rollout_choices(asked) for each in of_layout]
    actors = [each for of_layout in actor_choices(asked) for each in of_layout]
    for actor, rollout, scorer in product(actors, rollouts, scorer_choices(asked)):
        for swaps, offloads in ((False, False), (True, False), (True, True)):
            settings = {"rl_config.swap": swaps, "rl_config.reshard_mem_opt_level": int(swaps)}
            settings |= {"actor_config.optimizer.opt_offload": offloads}
            settings |= rollout.settings | scorer.settings | actor.settings
            config = replaced(asked.config, settings)
            plan = memory_plan(config, asked.shape, asked.num_devices, asked.device.memory_gib)
            if plan.needed(swaps) > asked.room or not compiles_soon(config, asked.shape, asked.num_devices):
                continue
            if not find_problems(config, asked.num_devices, is_plan=True):
                seconds.append(asked.seconds(StepWork(config, asked.shape, asked.num_devices).phases()))
    return min(seconds)


def test_nothing_that_fits_is_faster():
    asked = question(devices=2, gib=8.0, prompts=2)
    found = search(asked, wanted=3).best
    assert found[0].total == pytest.approx(best_of_all(asked), rel=1e-9)
    assert [each.total for each in found] == sorted(each.total for each in found)
    assert all(each.needed <= asked.room for each in found)


def test_more_memory_and_faster_links_are_never_slower():
    sizes = [search(question(gib=gib), wanted=1).best[0].total for gib in (8.0, 12.0, 64.0)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    slow = replace(DEVICE, link_bytes_per_s=1e9, launch_s=5e-6)
    totals = [
        search(question(device=each), wanted=1).best[0].total for each in (replace(slow, link_bytes_per_s=1e10), slow)
    ]
    assert totals[0] < totals[1]


def test_layouts_that_do_the_same_take_the_same():
    """Context ranks of the rollout are data ranks."""
    asked = question(devices=4)
    seconds = [
        StepWork(
            replaced(
                asked.config,
                {
                    "generate_config.parallel_config.data_parallel": data,
                    "generate_config.parallel_config.context_parallel": context,
                    "generate_config.parallel_config.model_parallel": 1,
                },
            ),
            asked.shape,
            4,
        )
        .generate()
        .seconds(DEVICE)
        for data, context in ((4, 1), (2, 2))
    ]
    assert seconds[0] == seconds[1]


def test_degrees_divide_devices_heads_and_layers():
    """Qwen2.5-0.5B has 14 heads, 2 key-value heads and 24 layers: 4 numbers of stages times 4 of context ranks,
    but for 8 times 8 with two tensor ranks, which are more than 64 devices.
    """
    _, shape = shipped("0_5b", 8)
    found = list(staged_dims(shape, 64))
    assert {each.tensor for each in found} == {1, 2} and {each.pipeline for each in found} == {1, 2, 4, 8}
    assert len(found) == len(set(found)) == 31 and all(each.size == 64 for each in found)
    assert {each.context for each in found} == {1, 2, 4, 8}
    _, shape = shipped("72b", 64)
    assert len(list(staged_dims(shape, 64))) < 200
    assert ParallelDims(3, 2) in set(staged_dims(shape, 6))


def test_what_lacks_memory_swaps_and_says_what_is_too_large():
    small = search(question(gib=6.0), wanted=1)
    assert small.best[0].settings["rl_config.swap"] and small.too_large
    assert small.too_large[0].total < small.best[0].total and small.too_large[0].needed > 0.8 * 6.0 * GIB
    assert search(question(gib=0.5), wanted=1).best == []


def test_a_host_without_room_for_swapped_weights_swaps_nothing():
    asked = question("1_5b", 4, gib=20.0)
    assert search(asked, wanted=1).best[0].settings["rl_config.swap"]
    for found in search(asked, wanted=2, host_bytes=GIB).best:
        assert not found.settings["rl_config.swap"]


def test_a_run_without_a_reference_is_searched_too():
    """Nothing is chosen for it, and it must not stand in the way."""
    asked = question()
    asked = replace(asked, config=replaced(asked.config, {"rl_config.beta": 0.0}))
    found = search(asked, wanted=2)
    assert len(found.best) == 2 and found.num_planned == 2
    assert "reference" not in found.best[0].seconds


def run_main(*arguments):
    command = [ROOT / "examples/qwen_grpo/main.py", "--config", ROOT / "examples/qwen_grpo/grpo_config.yaml"]
    return run_python(*command, "--dry_run", "--context.device_target=Ascend", *arguments)


def test_main_writes_what_it_found(tmp_path):
    file, model = tmp_path / "found.yaml", f"--model_config={ROOT}/model_configs/qwen2_5_0_5b.yaml"
    # degrees that do not fit: a search replaces them
    wanted = (
        "--actor_config.load=/not/here",
        "--devices=4",
        "--device_memory_gb=16",
        f"--search={file}",
        "--actor_config.parallel_config.model_parallel=5",
    )
    done = run_main(model, *wanted)
    assert done.returncode == 0, done.stderr
    assert "why the next ones lose" in done.stdout and done.stdout.count("actor dp=") >= 5
    again = run_python(
        ROOT / "examples/qwen_grpo/main.py", "--config", file, "--dry_run", "--devices=4", "--device_memory_gb=16"
    )
    assert again.returncode == 0, again.stderr
    assert "load: /not/here" in file.read_text()
    # the plan of the file is the one found: its seconds, its layouts
    seconds, layouts = re.search(r"\n  1\. +([\d.]+) .*\n +(.*)", done.stdout).groups()
    assert f"step         {float(seconds):8.2f}" in again.stdout
    assert all(layout in again.stdout for layout in layouts.split("; ")[:3])
    refused = run_main(model, *wanted)
    assert refused.returncode == 2 and "is there already" in refused.stderr
    other = tmp_path / "other.yaml"
    for words, problem in (
        ((f"--device_table={file}", f"--search={other}"), "not a table"),
        ((f"--search={tmp_path}/none/x.yaml",), "its folder is not there"),
        (("--host_memory_gb=-1", f"--search={other}"), "must not be negative"),
        (("--host_memory_gb=1",), "only with --search"),
    ):
        refused = run_main(model, "--devices=4", *words)
        assert refused.returncode == 2 and problem in refused.stderr and "Traceback" not in refused.stderr
    none = run_main(model, "--devices=7", f"--search={other}")
    assert none.returncode == 1 and "no layout: 7 devices cannot share" in none.stdout and not other.exists()


@pytest.mark.skipif(not VERL.is_file(), reason="needs ../shared")
def test_a_file_of_verl_is_searched(tmp_path):
    file, model = tmp_path / "found.yaml", f"--model_config={ROOT}/model_configs/qwen2_5_0_5b.yaml"
    words = ("--config", VERL, model, "--dry_run", "--devices=4", f"--search={file}", "algorithm.adv_estimator=grpo")
    done = run_python(ROOT / "examples/qwen_grpo/main.py", *words, "actor_rollout_ref.rollout.n=8")
    assert done.returncode == 0, done.stderr
    assert "on 4 devices" in file.read_text() and "takes_strategies: false" in file.read_text()


def test_strategies_of_all_roles_are_those_found():
    asked = question(devices=4)
    found = search(asked, wanted=1).best[0]
    strategies = role_strategies(found.config, 4)
    assert all(strategy.dims.size == 4 for strategy in strategies.values())
    assert found.seconds.keys() == StepWork(found.config, asked.shape, 4).phases().keys()
