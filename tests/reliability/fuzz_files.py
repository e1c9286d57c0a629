"""The functions that read the files of fuzz_makers.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
                shortest_yaml(translation.values)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


def _questions(folder: Path) -> None:
    import importlib.util

    from mindrlhf_lite.data.sources import BadRow, dataset_type, read_questions, recognised_type
    from mindrlhf_lite.errors import UserError

    spec = importlib.util.spec_from_file_location(
        "rlhf_data", Path(__file__).resolve().parents[2] / "tools/rlhf_data.py"
    )
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
