"""Small files of every kind that the project reads, and the functions that read them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
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
    from observe.test_lab_report import answers, make_run, settings

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
    from config.test_migration import MODEL_FILE

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


# --- readers ---


def _checkpoint(folder: Path) -> object:
    from mindrlhf_lite.checkpoint.store import CheckpointStore

    saved, _ = CheckpointStore(folder / "ckpt", 2).load_newest()
    return saved and (saved.step, saved.state, saved.tensors(0)["a"].tobytes())


def _mindrecord(folder: Path) -> object:
    from mindrlhf_lite.data.records import read_file

    return read_file(folder / "data.mindrecord")[1]


def _hugging_face(folder: Path, name: str = "hf") -> object:
    from mindrlhf_lite.models.hf_weights import load_weights
    from mindrlhf_lite.shapes.model_config import ModelConfig

    return len(load_weights(folder / name, ModelConfig.from_dir(folder / name)))


def _mindformers(folder: Path) -> None:
    from mindrlhf_lite.checkpoint.open_checkpoint import open_mindformers
    from mindrlhf_lite.checkpoint.transform import transform

    transform(open_mindformers(folder / "weights.ckpt", folder / "hf"), folder / "converted", None)


def _gguf(folder: Path) -> None:
    from mindrlhf_lite.checkpoint.open_checkpoint import open_gguf
    from mindrlhf_lite.checkpoint.transform import transform

    transform(open_gguf(folder / "model.gguf"), folder / "converted", None)


def _tokenizer(folder: Path) -> object:
    from mindrlhf_lite.data.tokenizer import Tokenizer, stop_token_ids

    tokenizer = Tokenizer(str(folder / "hf"))
    return len(tokenizer.encode("12+34= <think>")), stop_token_ids(folder / "hf", tokenizer)


def _strategy(folder: Path) -> None:
    from mindrlhf_lite.checkpoint.open_checkpoint import open_checkpoint
    from mindrlhf_lite.checkpoint.transform import transform

    transform(open_checkpoint(folder / "step"), folder / "from_step", None)
    transform(open_checkpoint(folder / "shards"), folder / "from_shards", None)


def _run(folder: Path) -> None:
    from mindrlhf_lite.evaluation.accuracy import correctness, summarise
    from mindrlhf_lite.observe.lab_curves import CURVES
    from mindrlhf_lite.observe.lab_report import page_of, write_report
    from mindrlhf_lite.observe.runs import read_run

    runs = [read_run(str(folder / "run"), name) for name in ("one", "two", "two")]
    page = page_of(runs, {})
    assert page.endswith("</body></html>\n") and page.encode(errors="backslashreplace")
    for key in (key for _, key in CURVES.values()):
        runs[0].points(key)
    for step, rows in runs[0].evaluations.items():
        if rows:
            summarise(correctness(rows, f"evaluation of step {step}"))
    if len(page) % 16 == 0:  # drawing takes a hundred times as long
        write_report(runs, folder / "report")


def _configuration(folder: Path) -> None:
    from mindrlhf_lite.config.aliases.migrate import shortest_yaml
    from mindrlhf_lite.config.aliases.toolkits import translate
    from mindrlhf_lite.config.load import read_yaml
    from mindrlhf_lite.errors import UserError
    from mindrlhf_lite.launch.command_line import parse_command_line

    problems = []
    for config, model in (
        ("ours.yaml", "small.yaml"),
        ("ours.yaml", "theirs/mindformers.yaml"),
        ("theirs/mindrlhf.yaml", "hf"),
        ("theirs/mindspeed_rl.yaml", "theirs/model/small.yaml"),
    ):
        path = str(folder / config)
        options = ["--dry_run", "--devices", "2", "--model_config", str(folder / model)]
        try:
            parse_command_line(["--config", path, *options], needs_prompts=False)
            translation = translate(read_yaml(path), path, num_ranks=2)
            if translation is not None:
                shortest_yaml(translation)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


def _questions(folder: Path) -> None:
    import importlib.util

    from mindrlhf_lite.data.sources import BadRow, dataset_type, read_questions, recognised_type
    from mindrlhf_lite.errors import UserError

    spec = importlib.util.spec_from_file_location("rlhf_data", QUICKSTART.parents[1] / "tools/rlhf_data.py")
    assert spec and spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.read_config(str(folder / "data.yaml"), set(vars(tool.conversion_parser("").parse_args([]))) - {"config"})
    for name in ("data.jsonl", "data.json"):
        kind = dataset_type(recognised_type(folder / name), {}, ("extra_info",))
        bad = [row.reason for row in read_questions(folder / name, kind) if isinstance(row, BadRow)]
        if bad:
            raise UserError(bad[0])


def _experience(folder: Path) -> object:
    from mindrlhf_lite.data.experience_file import read_experience, read_texts

    read = read_experience(folder / "grpo_000001.mindrecord")
    return repr(read), read_texts(folder / "grpo_000001.mindrecord")


def _dump_of_a_run(folder: Path) -> None:
    from mindrlhf_lite.observe.compare import compare, entries_of, read_step, steps_of

    (step,) = steps_of(folder / "dump")
    entries = entries_of(read_step(folder / "dump", step))
    assert all(str(difference) for difference in compare(entries, entries, step))


def _answers(folder: Path) -> None:
    from mindrlhf_lite.evaluation.accuracy import by_source, correctness, judged_differently, verifier_of
    from mindrlhf_lite.observe.run_files import check_question, read_json_lines

    rows = read_json_lines(folder / "answers.jsonl", check_question)
    verifier_of(rows), judged_differently(rows, rows)
    if rows:
        by_source(correctness(rows, "answers.jsonl"), [str(row["source"]) for row in rows])


READERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": _checkpoint,
    "mindrecord": _mindrecord,
    "hugging_face": _hugging_face,
    "mindformers": _mindformers,
    "gguf": _gguf,
    "tokenizer": _tokenizer,
    "index": lambda folder: _hugging_face(folder, "parts"),
    "strategy": _strategy,
    "run": _run,
    "configuration": _configuration,
    "questions": _questions,
    "experience": _experience,
    "dump": _dump_of_a_run,
    "answers": _answers,
}
