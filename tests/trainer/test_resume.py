"""Which checkpoints may go on under which settings."""

import shutil
from dataclasses import asdict

import pytest
from helpers import TINY, random_weights

from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.models.hf_weights import save_hf_model, write_hf_model
from mindrlhf_lite.models.stored_numbers import narrow_bfloat16, widen_bfloat16
from mindrlhf_lite.trainer.same_run import check_same_run, model_fingerprints


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


@pytest.fixture
def models(tmp_path):
    """The same model in one file, in several, and in bfloat16; and one that differs in one weight."""
    weights = {name: narrow(values) for name, values in random_weights(TINY).items()}
    other = {name: values.copy() for name, values in weights.items()}
    other["model.layers.1.mlp.down_proj.weight"][3, 5] += 1
    for name, values, most in (("a", weights, 1 << 30), ("split", weights, 20_000), ("other", other, 1 << 30)):
        save_hf_model(tmp_path / name, TINY, values, 1, 0, most)
    write_hf_model(
        tmp_path / "bf16",
        TINY,
        lambda name, box: weights[name][box[0][0] : box[0][1]],
        *(1, 0),
        dtype=lambda name: "BF16",
    )
    shutil.copytree(tmp_path / "a", tmp_path / "moved")
    return tmp_path


def narrow(values):
    """Values that bfloat16 holds."""
    return widen_bfloat16(narrow_bfloat16(values))


def state_of(config, **more):
    return {"config": asdict(config), "prompts_digest": "a", **more}


@pytest.mark.parametrize("is_kept", [True, False])
def test_of_a_model_counts_what_is_in_its_folder(models, monkeypatch, is_kept):
    before = build_config({"actor_config.load": str(models / "a")})
    state = state_of(before, **({"models": model_fingerprints(asdict(before))} if is_kept else {}))
    monkeypatch.chdir(models)
    for name in ("a", "./a", "moved", "split", "bf16"):
        check_same_run(state, asdict(build_config({"actor_config.load": name})), "a")
    for change in ({"actor_config.load": "other"}, {"actor_config.load": "a", "ref_config.load": "other"}):
        with pytest.raises(UserError, match=r"ref_config.load was '.*/a', is 'other', which holds another model"):
            check_same_run(state, asdict(build_config(change)), "a")


def test_a_model_that_was_moved_away_is_known_by_what_the_checkpoint_keeps(models):
    before = build_config({"actor_config.load": str(models / "moved")})
    state = state_of(before, models=model_fingerprints(asdict(before)))
    shutil.rmtree(models / "moved")
    check_same_run(state, asdict(build_config({"actor_config.load": str(models / "a")})), "a")


def test_a_folder_that_holds_another_model_now_is_refused(models):
    before = build_config({"actor_config.load": str(models / "a")})
    state = state_of(before, models=model_fingerprints(asdict(before)))
    shutil.copyfile(models / "other/model.safetensors", models / "a/model.safetensors")
    with pytest.raises(UserError, match="which holds another model"):
        check_same_run(state, asdict(before), "a")
