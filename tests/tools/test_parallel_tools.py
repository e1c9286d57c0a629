"""tools/plan_reshard.py, main.py --only_save_strategy and --dry_run: parallel strategies on paper."""

import json

import pytest
from helpers import ROOT, run_python

MODELS = ("0_5b", "1_5b", "3b", "7b", "14b", "32b", "72b")
MAIN = "examples/qwen_grpo/main.py"


def plan(*arguments):
    return run_python("tools/plan_reshard.py", "--model_config", ROOT / "model_configs/qwen2_5_7b.yaml", *arguments)


def test_plan_of_7b_on_eight_ranks():
    arguments = ("--src", "dp=1,tp=4,pp=2", "--dst", "dp=2,tp=4,pp=1")
    result = plan(*arguments, "--json", "--link_gb_per_s", 10, "--memory_gb_per_s", 100)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["ranks"] == 8 and found["balance"] == 1.0
    assert found["received_bytes_by_rank"] == found["lower_bound_bytes_by_rank"]
    shard = found["weights_bytes"] / 4
    most = found["received_bytes"]["max"]
    assert 0.4 * shard < most < 0.6 * shard  # a rank holds one of the two stages of its shard
    assert found["estimated_seconds"] == pytest.approx(most / 10e9 + shard / 100e9, rel=0.1)
    table = plan(*arguments)
    for part in ("lower bound", "balance of sending", "buckets of 8 MiB", "GB/s memory", "planned in"):
        assert part in table.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--src", "tp=3", "--dst", "tp=1"), "num_attention_heads 28 % model_parallel 3 = 1"),
        (("--src", "tp=4,qq=1", "--dst", "tp=1"), "qq"),
        (("--src", "tp=4", "--dst", "tp=4", "--bucket_mb", "0"), "--bucket_mb: 0: a number above 0 is needed"),
    ],
)
def test_impossible_plans(arguments, message):
    result = plan(*arguments)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, result.stderr


@pytest.mark.parametrize("model", MODELS)
def test_dry_run_of_every_model_file(model, tmp_path):
    """The strategies for 8, 16 and 64 devices are valid, and the plan says what every phase needs."""
    for devices in (8, 16, 64):
        file = ROOT / f"model_configs/qwen2_5_{model}.yaml"
        arguments = (
            "--config",
            ROOT / "examples/qwen_grpo/grpo_config.yaml",
            "--model_config",
            file,
            "--dry_run",
            "--devices",
            devices,
            "--context.device_target=Ascend",
        )
        result = run_python(MAIN, *arguments, "--device_memory_gb", 64)
        assert result.returncode == 0, result.stdout + result.stderr
        if model == "72b" and devices == 16:  # the optimizer's state alone would take 51 GiB
            at_once = run_python(
                MAIN, *arguments, "--device_memory_gb", 64, "--actor_config.optimizer.opt_offload=false"
            )
            assert at_once.returncode == 1 and "DOES NOT FIT in 64 GiB" in at_once.stdout
        for part in (
            "actor",
            "gradients",
            "optimizer",
            "reference",
            "rollout",
            "kv_cache",
            "update",
            "generate",
            "reshard",
            "peak",
        ):
            assert f"  {part} " in result.stdout
        of_this_run = result.stdout.partition("without swapping")[0].partition("with rl_config.swap=true")[0]
        assert "DOES NOT FIT" not in of_this_run, result.stdout


def test_only_save_strategy_is_what_transform_checkpoint_takes(tmp_path, quickstart_model):
    settings = (
        "--actor_checkpoint_path",
        quickstart_model,
        f"--rl_config.output_dir={tmp_path}",
        "--only_save_strategy",
    )
    (tmp_path / "c.yaml").write_text(
        "actor_config: {parallel_config: {model_parallel: 1, pipeline_stage: 1}}\nreward_config: "
        "{verifier_function: [accuracy_reward], verifier_weight: [1.0]}\n"
    )
    saved = run_python(MAIN, "--config", tmp_path / "c.yaml", *settings, "--generate_config.max_prompt_length=8")
    assert saved.returncode == 0 and "strategy.json" in saved.stdout, saved.stderr
    assert json.loads((tmp_path / "strategy.json").read_text())["pipeline_stage"] == 1
    converted = run_python(
        *(
            "tools/transform_checkpoint.py",
            "--src_checkpoint",
            quickstart_model,
            "--dst_checkpoint",
            tmp_path / "shards",
        ),
        *("--dst_strategy", tmp_path / "strategy.json"),
    )
    assert converted.returncode == 0, converted.stderr
    assert [path.name for path in (tmp_path / "shards").glob("rank_*")] == ["rank_00000.safetensors"]
