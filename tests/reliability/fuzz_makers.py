"""Small files of every kind that the project reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml

QUICKSTART = Path(__file__).resolve().parents[2] / "examples/quickstart"


def make_files(folder: Path) -> None:
    for make in (_make_models, _make_checkpoints, _make_data, _make_run, _make_configurations):
        make(folder)


def _make_models(folder: Path) -> None:
    from gguf_files import SHAPE, write_gguf
    from helpers import TINY, random_weights

    from mindrlhf_lite.checkpoint.open_checkpoint import open_checkpoint
    from mindrlhf_lite.checkpoint.transform import write_mindformers
    from mindrlhf_lite.models.hf_weights import save_hf_model

    save_hf_model(folder / "hf", TINY, random_weights(TINY), 3, 4)
    save_hf_model(folder / "parts", TINY, random_weights(TINY), 3, 4, 20_000)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(QUICKSTART / "model" / name, folder / "hf" / name)
    write_gguf(folder / "model.gguf", SHAPE, random_weights(SHAPE), "Q4_1")
    write_mindformers(open_checkpoint(folder / "hf"), folder / "weights.ckpt", lambda count: None, None)


def _make_checkpoints(folder: Path) -> None:
    from mindrlhf_lite.checkpoint.open_checkpoint import open_checkpoint, read_strategy
    from mindrlhf_lite.checkpoint.store import Checkpoint, CheckpointStore
    from mindrlhf_lite.checkpoint.strategy_file import strategy_to_json
    from mindrlhf_lite.checkpoint.transform import transform

    store = CheckpointStore(folder / "ckpt", 2)
    for step in (1, 2):
        values = {"a": np.arange(3000, dtype=np.float32) * step}
        store.save(Checkpoint(step, {"number": step}, values, lambda scratch: _copy_tokenizer(folder / "hf", scratch)))
    two = read_strategy("dp=1,tp=2", "here")
    transform(open_checkpoint(folder / "hf"), folder / "shards", two)
    state = {"model": json.loads((folder / "shards/config.json").read_text()), "strategy": strategy_to_json(two)}
    shutil.copytree(folder / "shards", folder / "step")
    (folder / "step/state.json").write_text(json.dumps(state))


def _copy_tokenizer(source: Path, scratch: Path) -> None:
    (scratch / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(source / name, scratch / "tokenizer" / name)


def _make_data(folder: Path) -> None:
    from mindrlhf_lite.data.experience_file import ExperienceHeader, write_experience
    from mindrlhf_lite.data.records import write_prompts
    from mindrlhf_lite.types import (
        Completion,
        FinishReason,
        Outcome,
        Prompt,
        RolloutGroup,
        ScoredGroup,
        TrainSequence,
    )

    prompts = [Prompt(n, (n + 1, n + 2), f"text {n}", str(n), n, "s") for n in range(20)]
    write_prompts(folder / "data.mindrecord", prompts)
    ids, ones = np.array([1, 2, 3], np.int32), np.ones(1, np.float32)
    group = RolloutGroup(prompts[0], [Completion((3,), ones, None, FinishReason.STOP)], ["3"])
    scored = ScoredGroup(group, {}, ones, ones, [Outcome.WRONG], np.ones(1, bool))
    header = ExperienceHeader(1, 0.1, "abc", "def", 20, 10, {"rl_config": {"seed": 0}})
    write_experience(folder / "grpo_000001.mindrecord", header, [scored], [TrainSequence.of(ids, 2)])
    rows: list[dict[str, Any]] = [
        {
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"What is {n} + 1?"}],
            "data_source": "sums",
            "reward_model": {"ground_truth": str(n + 1), "style": "rule"},
            "extra_info": {"index": n, "levels": [1, 2]},
        }
        for n in range(3)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "data.json").write_text(json.dumps(rows))
    settings = {"dataset_type": "verl", "map_keys": {"source": "data_source"}, "file_path": ["data.jsonl"]}
    (folder / "data.yaml").write_text(yaml.safe_dump({**settings, "seq_length": 64, "skip_bad_rows": True}))


def _make_run(folder: Path) -> None:
    from observe.made_runs import answers, make_run, settings

    from mindrlhf_lite.observe.dump import statistics, step_file

    make_run(folder / "run", 0.0, settings(0.1, folder))
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers(["15", "3"])))
    dump = step_file(folder / "dump", 1, 0)
    dump.parent.mkdir(parents=True)
    lines = [
        {"stage": stage, "name": "a", "part": "", **statistics(np.arange(4.0)), "box": [[0, 4]]}
        for stage in ("key data", "weight", "activation", "gradient")
    ]
    dump.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _make_configurations(folder: Path) -> None:
    from config.their_files import MODEL_FILE

    from mindrlhf_lite.config.aliases.tables import MINDRLHF, MINDSPEED_RL

    theirs = folder / "theirs"
    (theirs / "model").mkdir(parents=True)
    ours = yaml.safe_load((QUICKSTART / "grpo_config.yaml").read_text())
    ours["actor_config"]["load"], ours["rl_config"]["eval_interval"] = "", 0
    _dump(folder / "ours.yaml", ours)
    small = json.loads((folder / "hf/config.json").read_text())
    strategy = {"actor_config": {"parallel_config": {"model_parallel": 2}}}
    _dump(folder / "small.yaml", {"model": small, "strategies": {2: strategy}})
    of_mindrlhf, of_mindspeed = _defaults_of(MINDRLHF), _defaults_of(MINDSPEED_RL)
    of_mindrlhf["rl_config"]["batch_size"] = 32
    of_mindspeed["rl_config"]["n_samples_per_prompt"] = 4
    of_mindspeed["generate_config"]["infer_tensor_parallel_size"] = 1
    _dump(theirs / "mindrlhf.yaml", of_mindrlhf)
    _dump(theirs / "mindspeed_rl.yaml", {**of_mindspeed, "actor_config": {"model": "small"}})
    (theirs / "model/small.yaml").write_text(MODEL_FILE)
    model = {"type": "LlamaConfig", "num_layers": 2, "num_heads": 4, "hidden_size": 32, "vocab_size": 64}
    parallel = {"data_parallel": 1, "model_parallel": 2, "pipeline_stage": 1}
    more = {"parallel_config": parallel, "recompute_config": {"recompute": True}}
    model = {**model, "intermediate_size": 48, "qkv_has_bias": True, "compute_dtype": "bfloat16"}
    _dump(theirs / "mindformers.yaml", {"model": {"model_config": model, "arch": {"type": "x"}}, **more})


def _dump(path: Path, values: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(values))


def _defaults_of(toolkit: str) -> dict[str, Any]:
    """A configuration of another toolkit, with every key that has a default, at it."""
    from mindrlhf_lite.config.aliases.tables import table

    values: dict[str, Any] = {}
    for key, row in table(toolkit).items():
        if row.has_default and row.section != "flat":
            *sections, name = key.replace("megatron.", "megatron_training.").split(".")
            holder = values
            for section in sections:
                holder = holder.setdefault(section, {})
            holder[name] = row.default
    return values
