"""Which checkpoints may go on under which settings."""

from dataclasses import asdict

import pytest

from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.trainer.resume import check_same_run


def check(state_config, **changes):
    config = build_config({key.replace("__", "."): value for key, value in changes.items()})
    check_same_run({"config": state_config, "prompts_digest": "a"}, asdict(config), "a")


def test_a_checkpoint_of_a_version_without_a_setting_had_its_default():
    before = asdict(Config())
    del before["rl_config"]["loss"], before["rl_config"]["kl_ctrl"], before["context"]
    check(before)
    with pytest.raises(UserError, match=r"rl_config.loss was 'ppo', is 'cispo'"):
        check(before, rl_config__loss="cispo")


def test_what_changes_numbers_is_refused_and_what_does_not_is_not():
    with pytest.raises(UserError, match=r"rl_config.kl_ctrl.target was 0.1, is 0.2"):
        check(asdict(Config()), rl_config__kl_ctrl__target=0.2)
    check(asdict(Config()), rl_config__max_steps=7, actor_config__lr_schedule__decay_steps=9)
    check(asdict(Config()), actor_config__optimizer__opt_offload=True, rl_config__swap=True)
    with pytest.raises(UserError, match=r"actor_config.compute_dtype was 'float32', is 'bfloat16'"):
        check(asdict(Config()), actor_config__compute_dtype="bfloat16")


def test_an_older_checkpoint_trained_the_policy_at_temperature_1():
    before = asdict(build_config({"generate_config.sampling_config.temperature": 0.7}))
    del before["rl_config"]["logprob_temperature"]
    with pytest.raises(UserError, match=r"rl_config.logprob_temperature was '1', is 'sampling'"):
        check(before, generate_config__sampling_config__temperature=0.7)
    check(before, generate_config__sampling_config__temperature=0.7, rl_config__logprob_temperature="1")
    at_one = asdict(Config())
    del at_one["rl_config"]["logprob_temperature"]  # there it is the same
    check(at_one)
