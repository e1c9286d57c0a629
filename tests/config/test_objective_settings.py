"""Objectives in the configuration: what makes no sense together is refused with its reason; presets."""

import pytest
from config.test_dry_run import MAIN
from helpers import ROOT, make_sums, run_python

from mindrlhf_lite.config.load import ConfigError, build_config
from mindrlhf_lite.config.presets import PRESETS, preset_settings, without_objective
from mindrlhf_lite.config.validate import find_problems

DYNAMIC = "rl_config.dynamic_sampling.enabled"
TAUGHT, VALUED = "rl_config.distillation", {"rl_config.advantage": "gae"}
IN_REWARD = "rl_config.kl_in_reward"
ALONE = {f"{TAUGHT}.coef": 1.0, f"{TAUGHT}.with_rewards": False, "teacher_config.load": "MODEL"}
ASKED = {"reward_config.judge.address": "http://localhost:1/v1"}
ADAPTIVE = {"rl_config.kl_ctrl.type": "adaptive"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"rl_config.loss": "gspo"},
            "loss_aggregation=token_mean: the ratio of loss=gspo belongs to a whole completion",
        ),
        ({"rl_config.kl_in_reward": True}, "advantage=grpo scales what completions differ in"),
        (
            {"rl_config.num_generations": 1, "rl_config.advantage": "reinforce_pp", DYNAMIC: True},
            "one completion never differs",
        ),
        ({"ref_config.ref_model_mixup_alpha": 0.0}, "must lie in (0, 1]"),
        ({"rl_config.loss": "gpg", "rl_config.num_iterations": 2}, "nothing corrects for the 2 updates a step"),
        ({"rl_config.loss": "cispo", "rl_config.dual_clip": 3.0}, "dual_clip=3: loss=cispo is not clipped that way"),
        ({"rl_config.dual_clip": 1.1}, "dual_clip=1.1: must exceed 1 + epsilon_high = 1.28"),
        ({"rl_config.beta": 0.0, "rl_config.kl_in_reward": True}, "rl_config.beta=0: there is no KL for kl_in_reward"),
        ({"rl_config.beta": 0.0, **ADAPTIVE}, "there is no KL for kl_ctrl.type=adaptive"),
        ({"rl_config.beta": 0.0, "ref_config.sync_ref_model": True}, "there is no reference"),
        (
            {
                "rl_config.advantage": "rloo",
                "rl_config.kl_in_reward": True,
                "rl_config.kl_unbiased_gradient": True,
            },
            "no gradient flows through a KL in the reward",
        ),
        ({"rl_config.kl_unbiased_gradient": True, "rl_config.kl_estimator": "k2"}, "use k3 or k1"),
        ({"rl_config.kl_estimator": "k1"}, "its gradient is zero on average"),
        ({"rl_config.rollout_is_floor": 0.5}, "only the masks of rollout_correction have a floor"),
        ({"rl_config.rollout_correction": "token_mask"}, "rollout_is_cap=0 corrects nothing"),
        (
            {
                "rl_config.rollout_correction": "token_mask",
                "rl_config.rollout_is_cap": 2.0,
                "rl_config.rollout_is_floor": 2.0,
            },
            "must be below rollout_is_cap=2",
        ),
        ({"rl_config.overlong.buffer": 41.0}, "overlong.buffer=41: longer than a completion"),
        ({"reward_config.shaping_function": "nowhere.f"}, "shaping function 'nowhere.f' cannot be imported"),
        (
            {f"{TAUGHT}.with_rewards": False},
            "distillation.with_rewards=false: with rl_config.distillation.coef=0",
        ),
        ({"teacher_config.load": "MODEL"}, "teacher_config.load='MODEL': with rl_config.distillation.coef=0"),
        ({f"{TAUGHT}.coef": 1.0}, "teacher_config.load='': give the Hugging Face folder of the teacher"),
        ({**ALONE, DYNAMIC: True}, "dynamic_sampling.enabled=true: rewards teach nothing here"),
        (
            {**ALONE, "rl_config.beta": 0.1, "rl_config.advantage": "rloo", IN_REWARD: True},
            "kl_in_reward=true: rewards",
        ),
        ({**ALONE, "rl_config.advantage": "gae"}, "a critic has nothing to value"),
        ({"critic_config.warmup_steps": 3}, "warmup_steps=3: rl_config.advantage=grpo has no critic"),
        ({**VALUED, "critic_config.optimizer.opt_offload": True}, "only the actor's state comes in parts"),
        ({**VALUED, "rl_config.turn_discount": 0.9}, "advantage=gae discounts by rl_config.gamma"),
        ({**VALUED, "rl_config.lam": 1.5}, "rl_config.lam=1.5: must lie in [0, 1]"),
        ({**VALUED, "critic_config.load": "/nowhere"}, "critic_config.load='/nowhere'"),
        ({"reward_config.judge.address": "http://localhost:1/v1"}, "nobody asks it; name judge_reward"),
        (
            {"reward_config.verifier_function": ["judge_reward"], "reward_config.verifier_weight": [1.0], **ASKED},
            "reward_config.judge.model='': give the name",
        ),
    ],
)
def test_senseless_combinations(values, quickstart_model, change, message):
    change = {key: str(quickstart_model) if value == "MODEL" else value for key, value in change.items()}
    message = message.replace("MODEL", str(quickstart_model))
    found = find_problems(build_config({**values, **change}), 2)
    assert len([line for line in found if message in line]) == 1 == len(found), found


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole_whatever_the_file_says(values, name):
    others = {
        "rl_config.kl_in_reward": True,
        "rl_config.advantage": "rloo",
        "rl_config.dual_clip": 3.0,
        "rl_config.entropy_coeff": 0.1,
        "rl_config.overlong.buffer": 4.0,
        "rl_config.kl_ctrl.type": "adaptive",
        DYNAMIC: True,
    }
    if name == "distillation":  # of which model it cannot say
        values = {**values, "teacher_config.load": values["actor_config.load"]}
    found, alone = (
        build_config({**without_objective(given), **preset_settings(name)}) for given in ({**values, **others}, values)
    )
    assert found == alone and find_problems(found, 2) == []


def test_one_completion_a_prompt_is_enough_where_the_step_is_compared(values):
    single = {"rl_config.num_generations": 1, "rl_config.advantage": "reinforce_pp"}
    assert find_problems(build_config({**values, **single}), 2) == []


def test_an_unknown_preset_names_those_there_are():
    with pytest.raises(ConfigError, match="--preset dpo: unknown; there are cispo, dapo, distillation"):
        preset_settings("dpo")


def test_a_preset_replaces_the_file_and_the_command_line_replaces_both(values, tmp_path):
    make_sums(values["actor_config.load"], tmp_path / "sums.mindrecord", 32)
    values["rl_config.dataset_file"] = tmp_path / "sums.mindrecord"
    config = ROOT / "examples/quickstart/grpo_config.yaml"
    paths = [f"--{key}={values[key]}" for key in ("actor_config.load", "rl_config.dataset_file")]
    result = run_python(
        *(MAIN, "--config", config, *paths, "--rl_config.eval_interval=0"),
        *("--preset", "dapo", "--rl_config.epsilon_high=0.3", "--dry_run"),
    )
    assert "rl_config.epsilon_high: 0.3   (instead of 0.28)" in result.stdout
    assert "rl_config.beta: 0.0\n" in result.stdout and "rl_config.dynamic_sampling.enabled: True\n" in result.stdout
    assert "  reference        0.000 GiB" in result.stdout  # no KL, though the file has one


def test_a_preset_replaces_the_objective_under_other_toolkits_names_too():
    kept = {"rl_config.seed": 3, "rl_config.rollout_is_cap": 2.0}
    replaced = {"rl_config.beta": 0.1, "rl_config.overlong.filter": True}
    of_others = {"rl_config.loss_agg_mode": "token-mean", "rl_config.kl_penalty": "kl"}
    assert without_objective({**kept, **replaced, **of_others}) == kept
