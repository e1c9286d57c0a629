"""Whole runs on rows, on one rank: they learn, go on bit for bit, and say every mistake before they start."""

import json
import sys

import numpy as np
import pytest
from distributed.small_runs import QUICKSTART_MODEL, as_it_was_after_step, save_first_layers, without_times
from helpers import ROOT, read_jsonl, run, run_python

from mindrlhf_lite.models.hf_weights import load_weights
from mindrlhf_lite.shapes.model_config import ModelConfig

SFT = ROOT / "examples/qwen_sft/main.py"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("stage_runs"), np.random.default_rng(0)
    save_first_layers(1, folder / "model")
    numbers = [(int(a), int(b)) for a, b in rng.integers(10, 99, (32, 2))]
    write(folder / "rows.jsonl", [{"prompt": f"{a}+{b}=", "completion": f"{a + b}"} for a, b in numbers])
    pairs = [{"prompt": f"{a}+{b}=", "chosen": f"{a + b}", "rejected": f"{b}{a}"} for a, b in numbers]
    write(folder / "pairs.jsonl", pairs)
    (folder / "run.yaml").write_text(
        f"""
rl_config: {{dataset_file: {folder}/rows.jsonl, eval_dataset_file: {folder}/rows.jsonl, seq_length: 64}}
actor_config: {{load: {folder}/model, lr_schedule: {{lr: 3.0e-3, lr_decay_style: linear}}}}
generate_config: {{sampling_config: {{max_tokens: 8}}}}
supervised_config: {{batch_size: 8, num_samples: 2}}
monitor_config: {{plots: false, progress_bar: false}}
"""
    )
    return folder


def options(folder, name, *extra):
    return ["--config", folder / "run.yaml", f"--rl_config.output_dir={folder / name}", *extra]


def weights(run):
    return load_weights(run / "hf", ModelConfig.from_dir(run / "hf"))


def same(first, second):
    ours, theirs = weights(first), weights(second)
    return ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)


def test_supervised_runs_learn_and_go_on_bit_for_bit(folder):
    saved = ("--rl_config.max_steps=6", "--rl_config.save_ckpt_interval=3", "--rl_config.eval_interval=3")
    result = run_python(SFT, *options(folder, "sft", *saved))
    assert result.returncode == 0, result.stderr
    rows = read_jsonl(folder / "sft/metrics.jsonl")
    assert [row["step"] for row in rows if "eval/loss" in row] == [0, 3, 6]
    assert rows[-1]["eval/loss"] < rows[0]["eval/loss"] and rows[-1]["epoch"] == 1.5
    answers = read_jsonl(folder / "sft/completions/eval_000006.jsonl")
    asked = read_jsonl(folder / "rows.jsonl")[:2]
    assert [(row["prompt"], row["answer"]) for row in answers] == [tuple(row.values()) for row in asked]
    assert json.loads((folder / "sft/summary.json").read_text())["evaluations"]["6"]["eval/loss"] > 0
    assert json.loads((folder / "sft/run.json").read_text())["last_step"] == 6

    as_it_was_after_step(folder / "sft", folder / "again", 3)
    result = run_python(SFT, *options(folder, "again", *saved, "--resume_training"), is_warm=False)
    assert result.returncode == 0 and "resumed after step 3" in result.stdout, result.stdout + result.stderr
    assert same(folder / "sft", folder / "again")
    assert without_times(read_jsonl(folder / "again/metrics.jsonl")) == without_times(rows)
    result = run_python(
        SFT, *options(folder, "again", *saved, "--resume_training", "--supervised_config.train_on=last")
    )
    assert result.returncode == 2 and "supervised_config.train_on was 'all', is 'last'" in result.stderr


def test_preferences_keep_their_reference(folder):
    script = ROOT / "tests/trainer/dpo_program.py"
    more = [f"--rl_config.{name}dataset_file={folder}/pairs.jsonl" for name in ("", "eval_")]
    more += ["--rl_config.max_steps=4", "--rl_config.save_ckpt_interval=2", "--supervised_config.num_samples=0"]
    more += ["--actor_config.lr_schedule.lr=3e-4", "--preference_config.loss=kto"]
    result = run_python(script, *options(folder, "dpo", *more))
    assert result.returncode == 0, result.stderr
    rows = read_jsonl(folder / "dpo/metrics.jsonl")
    assert all("preference/divergence" in row for row in rows[1:]) and rows[1]["preference/divergence"] == 0
    assert rows[1]["loss/total"] == pytest.approx(0.5, rel=1e-5)  # policy and reference are one model
    assert rows[0]["eval/accuracy"] == 0 and rows[-1]["eval/accuracy"] > 0.9 and rows[-1]["preference/margin"] > 0
    as_it_was_after_step(folder / "dpo", folder / "dpo_again", 2)
    result = run_python(script, *options(folder, "dpo_again", *more, "--resume_training"))
    assert result.returncode == 0 and "reference logprobs: those of" in result.stdout, result.stderr
    assert same(folder / "dpo", folder / "dpo_again")

    as_it_was_after_step(folder / "dpo", folder / "dpo_lost", 2)
    (folder / "dpo_lost/reference_logprobs.npz").unlink()
    result = run_python(script, *options(folder, "dpo_lost", *more, "--resume_training"))
    assert result.returncode == 2 and "is missing, or of other rows" in result.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--rl_config.dataset_file=none.jsonl"], "rl_config.dataset_file='none.jsonl': no such file"),
        (["--rl_config.num_generations=4"], "rl_config.num_generations=4: is not read by sft; leave it out"),
        (["--rl_config.batch_size=4"], "rl_config.batch_size=4: is not read by sft; use supervised_config.batch_size"),
        (["--preference_config.beta=0.5"], "preference_config.beta=0.5: is not read by sft"),
        (["--supervised_config.batch_size=64"], "supervised_config.batch_size=64: more than the 32 rows of"),
        (["--supervised_config.prompt_type=chat"], "the tokenizer's files hold no chat_template"),
        (["--rl_config.seq_length=8", "--supervised_config.num_samples=0"], "tokens, over rl_config.seq_length=8"),
        (["--generate_config.sampling_config.max_tokens=64"], "leaves no room for a prompt"),
        (["--actor_config.parallel_config.micro_batch_num=9"], "more than the 8 rows that a rank has in an update"),
        (["--teacher_config.load=there"], "teacher_config.load=there: is not read by sft"),
        (["--critic_config.warmup_steps=4"], "critic_config.warmup_steps=4: is not read by sft"),
        (["--preset", "dapo"], "--preset: not an option of this program"),
    ],
)
def test_mistakes_are_said_before_anything_starts(folder, given, said):
    result = run_python(SFT, *options(folder, "never", *given))
    assert result.returncode == 2 and said in result.stderr, result.stderr
    assert not (folder / "never").exists()


def test_a_plan_is_made_without_a_run(folder):
    result = run_python(SFT, *options(folder, "never", "--dry_run"))
    assert result.returncode == 0 and "a step: 8 rows, 1 update" in result.stdout, result.stderr
    assert "kv_cache" in result.stdout and not (folder / "never").exists()
    assert not any(f"\n  {role} " in result.stdout for role in ("reference", "teacher", "critic", "reward_model"))


def test_a_plan_says_which_rows_are_left_out(folder):
    write(folder / "mixed.jsonl", [*read_jsonl(folder / "rows.jsonl"), {"prompt": "1+1=", "completion": 2}])
    given = [f"--rl_config.dataset_file={folder}/mixed.jsonl", "--supervised_config.skip_bad_rows=true", "--dry_run"]
    result = run_python(SFT, *options(folder, "never", *given))
    assert result.returncode == 0, result.stderr
    assert f"left out: {folder}/mixed.jsonl:33: field 'completion' is the number 2" in result.stdout


@pytest.mark.parametrize("name", ["sft", "dpo", "reward_model"])
def test_programs_have_help(name):
    result = run([sys.executable, "-m", f"mindrlhf_lite.{name}", "--help"])
    assert result.returncode == 0 and f"python -m mindrlhf_lite.{name} --config" in result.stdout, result.stderr
    assert "--dataset_file" in result.stdout and "--verifier_function" not in result.stdout  # which it refuses
    assert ("--ref_checkpoint_path" in result.stdout) == (name == "dpo")


def test_grpo_says_that_it_reads_no_such_settings(folder):
    main, config = ROOT / "examples/qwen_grpo/main.py", ROOT / "examples/quickstart/grpo_config.yaml"
    words = ("--actor_checkpoint_path", QUICKSTART_MODEL, "--supervised_config.batch_size=4", "--dry_run")
    result = run_python(main, "--config", config, *words)
    assert result.returncode == 2 and "supervised_config: is read by python -m mindrlhf_lite.sft" in result.stderr
