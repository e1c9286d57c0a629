"""Whole runs whose chat template changes the past, and whose completions so are several training samples."""

import json
import shutil

import pytest
from distributed.small_runs import EXACT, arguments, completions, metrics, msrun, single
from helpers import ROOT, read_jsonl, run_python

# earlier answers are marked
TEMPLATE = (
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' and not loop.last %}said: {% endif %}{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SETTINGS = (
    f"--environment_config.environment={ROOT / 'tests/episodes/acting.py'}:Speaks",
    "--environment_config.arguments=[opens=true]",
    "--environment_config.on_changed_past=new_sample",
    "--environment_config.max_turn_tokens=5",
    "--environment_config.max_turns=3",
    "--generate_config.max_prompt_length=40",
    "--generate_config.sampling_config.max_tokens=60",
    "--rl_config.seq_length=160",
    "--rl_config.length_buckets=[40,160]",
    "--rl_config.loss=gspo",
    "--rl_config.loss_aggregation=sequence_mean",
    "--rl_config.batch_size=8",  # two updates a step: ratios are other than 1
)


@pytest.fixture(scope="module")
def forgetful(data, tmp_path_factory):
    """The data, with a model whose template changes the past, and a run of it with its experience."""
    folder = tmp_path_factory.mktemp("forgetful")
    shutil.copytree(data, folder / "data")
    path = folder / "data/model/tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": TEMPLATE}))
    recorded = f"--rl_config.save_data_file={folder}/run/experience.mindrecord"
    result = single(folder / "data", folder / "run", *SETTINGS, recorded)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "a new training sample begins there" in result.stdout
    return folder


def test_samples_are_trained_on_as_they_were_sampled(forgetful):
    rows = completions(forgetful / "run", 1)
    assert any(row.get("samples", 1) > 1 for row in rows)
    for row in metrics(forgetful / "run"):
        assert row["rollout/logprob_diff_max"] < 1e-4  # of every token, behind its own prompt
        assert row["policy/grad_norm"] > 0


def test_two_ranks_train_the_same(forgetful):
    code, text, logs = msrun(2, forgetful / "data", forgetful / "two", *SETTINGS)
    assert code == 0, text + logs
    for a, b in zip(metrics(forgetful / "run"), metrics(forgetful / "two"), strict=True):
        for key in EXACT:
            assert b[key] == pytest.approx(a[key], rel=1e-5, abs=1e-7), (a["step"], key)


def test_a_replay_makes_the_same_updates(forgetful):
    words = [str(word) for word in arguments(forgetful / "data", forgetful / "again", *SETTINGS)]
    place = words.index("--dataset_file")
    del words[place : place + 2]
    files = sorted(str(path) for path in (forgetful / "run").glob("experience_*.mindrecord"))
    result = run_python("tools/replay.py", "--data", *files, *words)
    assert result.returncode == 0, result.stdout + result.stderr
    for a, b in zip(read_jsonl(forgetful / "again/metrics.jsonl"), metrics(forgetful / "run"), strict=True):
        shared = [key for key in a if not key.startswith(("time_s/", "memory/", "graphs/"))]
        assert {key: a[key] for key in shared} == {key: b[key] for key in shared}
