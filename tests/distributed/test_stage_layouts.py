"""Runs on rows are the same under every layout, in any micro-batches, packed or not: losses, gradient norms, held-out
losses and updated weights are those of one rank.
"""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from distributed.jobs import run_ranks
from distributed.small_runs import QUICKSTART_MODEL, metrics
from helpers import random_weights, read_jsonl, run_python

from mindrlhf_lite.models.hf_weights import load_weights, save_hf_model
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import SCORE

WORKER = Path(__file__).with_name("stage_worker.py")
# as of test_layouts.py: a padded vocabulary, uneven stages, replicated key-value heads
SHAPE = ModelConfig(271, 32, 48, 3, 4, 2, rope_theta=10000.0, max_position_embeddings=256, tie_word_embeddings=True)
NEAR = 1e-5
MICRO, ZERO = "actor_config.parallel_config.micro_batch_num", {"actor_config.enable_parallel_optimizer": True}
UNPACKED = {
    "rl_config.packing": False,
    "rl_config.micro_batch_tokens": 0,
    MICRO: 2,
    "actor_config.recompute_config.recompute": True,
}
LORA = {"actor_config.lora.rank": 3}
KTO = {"preference_config.loss": "kto", "preference_config.beta": 0.5}

# (name, program, degrees of the actor: dp, tp, pp, cp; options)
ONE_RANK = [
    ("sft", "sft", (1, 1, 1, 1), {}),
    ("dpo", "dpo", (1, 1, 1, 1), {}),
    ("reward", "reward_model", (1, 1, 1, 1), {}),
]
TWO_RANKS = [
    ("dpo/dp2_zero", "dpo", (2, 1, 1, 1), {**ZERO, MICRO: 2}),
]
FULL_ONE_RANK = [
    ("sft/unpacked", "sft", (1, 1, 1, 1), UNPACKED),
    ("dpo/unpacked", "dpo", (1, 1, 1, 1), UNPACKED),
    ("reward/unpacked", "reward_model", (1, 1, 1, 1), UNPACKED),
    ("kto", "dpo", (1, 1, 1, 1), KTO),
    ("lora", "dpo", (1, 1, 1, 1), LORA),
]
FULL_TWO_RANKS = [
    ("sft/pp2", "sft", (1, 1, 2, 1), {}),
    ("reward/tp2", "reward_model", (1, 2, 1, 1), {"actor_config.parallel_config.use_seq_parallel": True, MICRO: 2}),
    *((f"{of}/tp2_plain", program, (1, 2, 1, 1), {}) for of, program in (("sft", "sft"), ("dpo", "dpo"))),
    *((f"{of}/cp2", program, (1, 1, 1, 2), {MICRO: 2}) for of, program in (("sft", "sft"), ("dpo", "dpo"))),
    ("reward/cp2", "reward_model", (1, 1, 1, 2), {}),
    ("reward/pp2", "reward_model", (1, 1, 2, 1), {MICRO: 4}),
    ("reward/dp2", "reward_model", (2, 1, 1, 1), ZERO),
    ("dpo/pp2_swap", "dpo", (1, 1, 2, 1), {MICRO: 2, "rl_config.swap": True, "rl_config.swap_store": "host"}),
    ("sft/dp2", "sft", (2, 1, 1, 1), {**ZERO, MICRO: 2}),
    ("kto/dp2", "dpo", (2, 1, 1, 1), {**KTO, MICRO: 2}),
    ("lora/tp2", "dpo", (1, 2, 1, 1), {**LORA, MICRO: 2}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("stages"), random.Random(0)
    save_hf_model(folder / "model", SHAPE, random_weights(SHAPE), 258, 256)
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(QUICKSTART_MODEL / file, folder / "model" / file)

    def text(most):
        return "".join(draw.choice("0123456789+=") for _ in range(draw.randint(1, most)))

    def write(name, rows):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    for name, count in (("train", 16), ("held_out", 5)):
        turns = [["user", "assistant", "user", "assistant"]] * count
        chats = [[{"role": role, "content": text(5)} for role in each] for each in turns]
        write(f"{name}.jsonl", [{"messages": each} for each in chats])
        pairs = [{"prompt": text(8), "chosen": "1" + text(12), "rejected": "2" + text(12)} for _ in range(count)]
        write(f"{name}_pairs.jsonl", [{**each, "margin": 0.1} for each in pairs])
    return folder


def settings(folder, name, program, degrees, options):
    kind = ".jsonl" if program == "sft" else "_pairs.jsonl"
    of_sft = {
        "supervised_config.chat_template": "chatml",
        "supervised_config.num_samples": 2 if "pp2" in name or name == "sft" else 0,
    }
    values = {
        "rl_config.dataset_file": str(folder / f"train{kind}"),
        "rl_config.eval_dataset_file": str(folder / f"held_out{kind}"),
        "rl_config.output_dir": str(folder / "runs" / name),
        "rl_config.max_steps": 2,
        "rl_config.seq_length": 64,
        "rl_config.micro_batch_tokens": 128,  # one shape of graphs
        "actor_config.load": str(folder / "model"),
        "actor_config.lr_schedule.lr": 1e-3,
        "actor_config.optimizer.eps": 1e-4,  # Adam would make whole steps of gradients that are rounding errors
        "supervised_config.batch_size": 8,
        "generate_config.sampling_config.max_tokens": 8,
        "monitor_config.plots": False,
        "monitor_config.progress_bar": False,
        **(of_sft if program == "sft" else {}),
        **options,
    }
    names = ("data_parallel", "model_parallel", "pipeline_stage", "context_parallel")
    return values | {f"actor_config.parallel_config.{key}": degree for key, degree in zip(names, degrees, strict=True)}


def run_cases(folder, num_ranks, cases, timeout=400):
    path = folder / f"cases_{num_ranks}_{len(cases)}.json"
    path.write_text(json.dumps([(case[1], settings(folder, *case)) for case in cases]))
    if num_ranks == 1:
        result = run_python(WORKER, path, timeout=timeout)
        assert result.returncode == 0, result.stderr[-3000:]
        return
    code, text, logs = run_ranks(num_ranks, folder / f"log_{len(cases)}", WORKER, path, timeout=timeout)
    assert code == 0, text[-3000:] + logs[-6000:]


def check(folder, cases):
    """Each case against the run that its name begins with."""
    for name, *_ in cases:
        ours, theirs = (metrics(folder / "runs" / each) for each in (name, name.partition("/")[0]))
        for own, other in zip(ours, theirs, strict=True):
            for key in ("loss/total", "policy/grad_norm", "policy/lr", "batch/tokens", "epoch"):
                assert own[key] == pytest.approx(other[key], rel=NEAR), (name, key)
            for key in filter(lambda key: key.startswith(("eval/", "preference/")), other):
                assert own[key] == pytest.approx(other[key], rel=NEAR, abs=NEAR), (name, key)
        found = [folder / "runs" / each / "hf" for each in (name, name.partition("/")[0])]
        config = ModelConfig.from_dir(found[0])
        ours, theirs = (load_weights(each, config) for each in found)
        for tensor, values in theirs.items():
            np.testing.assert_allclose(ours[tensor], values, atol=NEAR * np.abs(values).max(), err_msg=(name, tensor))


@pytest.fixture(scope="module")
def one_rank(folder):
    run_cases(folder, 1, ONE_RANK)


def test_two_ranks(folder, one_rank):
    run_cases(folder, 2, TWO_RANKS)
    check(folder, TWO_RANKS)


def test_one_rank_trains(folder, one_rank):
    before = load_weights(folder / "model", SHAPE)
    for name in ("sft", "dpo", "reward"):
        hf = folder / "runs" / name / "hf"
        after = load_weights(hf, ModelConfig.from_dir(hf))
        assert all(np.abs(values - before.get(tensor, 0)).max() > 1e-4 for tensor, values in after.items()), name
        rows = read_jsonl(folder / "runs" / name / "metrics.jsonl")
        assert rows[-1]["eval/loss"] < rows[0]["eval/loss"], name
    assert (SCORE in after) and "lm_head.weight" not in after
    rows = read_jsonl(folder / "runs/sft/completions/eval_000002.jsonl")
    assert [row["index"] for row in rows] == [0, 1] and all(0 < row["tokens"] <= 8 for row in rows)


@pytest.mark.full
def test_all_layouts(folder, one_rank):
    run_cases(folder, 1, FULL_ONE_RANK, timeout=1000)
    check(folder, FULL_ONE_RANK)
    run_cases(folder, 2, FULL_TWO_RANKS, timeout=2000)
    check(folder, FULL_TWO_RANKS)
