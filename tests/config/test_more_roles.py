"""A teacher and a critic in the plan: sizes of their own, phases, strategies; nothing of them in a run without them."""

import pytest
from config.test_dry_run import dry_run
from distributed.small_runs import save_first_layers
from helpers import make_sums

from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.config.memory_plan import memory_plan
from mindrlhf_lite.config.model_file import shape_of_actor, shape_of_role
from mindrlhf_lite.config.roles import CRITIC, TEACHER, phases_of_run
from mindrlhf_lite.config.strategies import role_strategies
from mindrlhf_lite.estimate.step import work_of_step
from mindrlhf_lite.shapes.parameters import FLOAT32_BYTES, count_parameters
from mindrlhf_lite.trainer.same_run import model_folders


@pytest.fixture
def both(values, quickstart_model, tmp_path):
    """A teacher of one layer, and a critic; the actor has more."""
    teacher = save_first_layers(1, tmp_path / "teacher")
    changes = {
        "rl_config.distillation.coef": 0.5,
        "rl_config.advantage": "gae",
        "rl_config.swap": True,
        "teacher_config.load": str(teacher),
        "teacher_config.parallel_config.model_parallel": 2,
        "critic_config.enable_parallel_optimizer": True,
    }
    return {**values, **changes}


def test_sizes_are_those_of_their_own_models(both):
    config = build_config(both)
    actor = shape_of_actor(config)
    teacher, critic = (shape_of_role(config, role, actor) for role in (TEACHER, CRITIC))
    assert teacher.num_hidden_layers == 1 < actor.num_hidden_layers and critic.has_score
    plan, numbers = memory_plan(config, actor, 2), count_parameters(critic)
    assert plan.groups["teacher"] < FLOAT32_BYTES * count_parameters(teacher)  # half of most of it
    assert plan.groups["critic"] == plan.groups["critic_gradients"] == FLOAT32_BYTES * numbers
    # two moments and a copy, of half of the rows
    assert plan.groups["critic_optimizer"] == pytest.approx(3 * FLOAT32_BYTES * numbers / 2, rel=0.02)
    assert plan.phases["teacher"] > plan.groups["teacher"]
    trained = sum(plan.groups[name] for name in ("critic", "critic_gradients", "critic_optimizer"))
    assert plan.phases["update_critic"] > max(trained, plan.phases["values"])
    saved = ("actor", "optimizer", "critic", "critic_optimizer", "graphs")
    assert plan.phases["save"] == sum(plan.groups[name] for name in saved)
    phases = phases_of_run(config)
    assert phases["values"].needs == ("critic",) and set(phases["update_critic"].resident) == {
        "critic",
        "critic_gradients",
        "critic_optimizer",
    }
    work = work_of_step(config, actor, 2)
    assert 0 < work["teacher"].flops < work["reference"].flops and work["critic"].flops > 2 * work["reference"].flops


def test_a_run_without_them_has_no_trace_of_them(values):
    config = build_config(values)
    assert [role.name for role in config.roles] == ["actor", "reference", "rollout"]
    assert role_strategies(config, 2).keys() == {"actor", "reference", "rollout"}
    plan = memory_plan(config, shape_of_actor(config), 2)
    assert not [name for name in (*plan.groups, *plan.phases) if "teacher" in name or "critic" in name]


def test_a_checkpoint_from_before_them_is_read():
    sections = {name: {"load": "a"} for name in ("actor_config", "ref_config")}
    assert model_folders(sections) == {"actor_config.load": "a", "ref_config.load": "a"}


def test_the_dry_run_shows_them_and_refuses_another_vocabulary(both, quickstart_model, tmp_path):
    both = {**both, "rl_config.dataset_file": str(make_sums(quickstart_model, tmp_path / "sums.mindrecord", 40))}
    shown = dry_run(both, tmp_path, "--devices", 2)
    assert shown.returncode == 0, shown.stderr
    for name in ("teacher", "critic", "critic_gradients", "critic_optimizer", "values", "update_critic"):
        assert f"\n  {name:<12} " in shown.stdout, name
    assert "teacher" in shown.stdout.split("ranks:")[1].split("\n")[0]
    vocabulary = tmp_path / "teacher/vocab.json"
    vocabulary.write_text(vocabulary.read_text().replace('"5":', '"five":', 1))
    refused = dry_run(both, tmp_path, "--devices", 2)
    assert refused.returncode == 2 and "another vocabulary than the actor's: id" in refused.stderr, refused.stderr
