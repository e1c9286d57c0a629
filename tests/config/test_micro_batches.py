"""Where neither micro-batches nor their tokens are given, memory decides."""

import pytest
from helpers import ROOT

from mindrlhf_lite.config.load import build_config, read_yaml
from mindrlhf_lite.config.memory_plan import memory_plan
from mindrlhf_lite.config.micro_batches import with_micro_batches
from mindrlhf_lite.config.model_file import read_model_file

SHAPE = read_model_file(str(ROOT / "model_configs/qwen2_5_0_5b.yaml")).shape
NUMBER = "actor_config.parallel_config.micro_batch_num"


def config(**changes):
    values = {
        **read_yaml(ROOT / "examples/qwen_grpo/grpo_config.yaml"),
        NUMBER: 0,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return build_config(values)


def number(gib, world_size=1, **changes):
    found = with_micro_batches(config(**changes), SHAPE, world_size, gib)
    return found.actor_config.parallel_config.micro_batch_num


def test_the_fewest_that_fit_into_four_fifths_of_the_memory():
    assert number(1e6) == 1
    for gib in (25, 40, 60):
        chosen = number(gib)
        needed = [
            memory_plan(config(**{NUMBER.replace(".", "__"): count}), SHAPE, 1).without_swap / 2**30
            for count in (chosen, chosen // 2)
        ]
        assert chosen > 1 and needed[0] <= 0.8 * gib < needed[1]
    assert number(60) < number(25)
    assert number(25, rl_config__swap=True) < number(25)  # which leaves more room


def test_a_completion_each_where_nothing_fits():
    assert number(0.1) == 64  # completions an update


def test_at_least_one_a_stage():
    assert number(1e6, 2, actor_config__parallel_config__pipeline_stage=2) == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({NUMBER.replace(".", "__"): 8}, 8), ({"rl_config__micro_batch_tokens": 2048}, 0)],
)
def test_what_is_given_stays(changes, expected):
    assert number(0.1, **changes) == expected
