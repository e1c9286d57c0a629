#!/usr/bin/env python3
"""Proves that a plain `bash build.sh` is enough: in an environment that nothing else filled, every module is imported
and every tool run on its main path.

.ci/run calls it after the first command of README and before tests/run.sh, which installs more. No pytest, so only the
standard library besides what is tested.

Example:
  .venv/bin/python tests/plain_build.py output/quickstart
"""

import importlib
import importlib.util
import json
import pkgutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from distributed.jobs import start_msrun
from helpers import ROOT, clean_environment

EXTRAS = ("torch", "vllm", "pytest", "pyarrow", "mindformers", "mindspore_gs")
NEEDS_AN_EXTRA = ("mindrlhf_lite.rollout.vllm", "mindrlhf_lite.checkpoint.quantize")
MODEL = ROOT / "examples/quickstart/model"
SHAPE = (
    "model: {model_type: qwen2, vocab_size: 64, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, "
    "num_attention_heads: 4, num_key_value_heads: 2}\n"
)


# the main path of every tool, the longest first after what others read; quantize is an extra: it says which
COMMANDS = """
convert_weight --input_path {folder}/small.gguf --output_path {folder}/of_gguf
convert_weight --input_path {model} --output_path {folder}/model.ckpt --dtype bf16
convert_weight --input_path {folder}/model.ckpt --config_path {model} --output_path {folder}/back
rlhf_data --tokenizer_dir {model} --dataset_type arithmetic --num_rows 8 --split held_out \
    --output_path {folder}/sums.mindrecord
rlhf_data --tokenizer_dir {folder}/of_gguf --dataset_type custom --file_path {folder}/math.jsonl --prompt_type chat \
    --map_keys {keys} --output_path {folder}/math.mindrecord
bench_swap --hidden 128 --layers 1 --steps 2
sweep --seeds 0 --output {folder}/runs -- bash {root}/examples/quickstart/run_grpo.sh --ranks 1 \
    --rl_config.max_steps=1 --rl_config.eval_max_prompts=8
bench_recompute --layers 4 --hidden 64 --rows 2 --length 64
start_job --ranks 1 --log_dir {folder}/job_log {root}/tools/evaluate.py --model {model} \
    --dataset {folder}/sums.mindrecord --max_tokens 8 --verifier math_reward
evaluate --model {model} --dataset {folder}/sums.mindrecord --max_tokens 8 --verifier math_reward
sample_best --model {model} --dataset {folder}/sums.mindrecord --k 2 --max_tokens 40 --keep best \
    --verifier math_reward --output {folder}/best.jsonl
generate --model {model} --input {folder}/rows.jsonl --output {folder}/out.jsonl --max_tokens 8 --top_p 0.9
generate --model {folder}/of_gguf --chat --max_tokens 8 --max_length 100
score --model {model} --input {folder}/rows.jsonl --output {folder}/scored.jsonl
transform_checkpoint --src_checkpoint {model} --dst_checkpoint {folder}/shards --dst_strategy dp=1,tp=2,pp=1
lab_report {run} {run} --names one again --output {folder}/lab
plot_run {run}
watch {run} --once
document_config --check
calibrate --output {folder}/cpu.yaml
bench_layouts --config {root}/examples/quickstart/grpo_config.yaml --only 1 --steps 3 --output {folder}/layouts \
    --actor_config.load={model} --rl_config.dataset_file={folder}/sums.mindrecord --rl_config.chunk_size=2
ascend_kit --device CPU --only store,sampler --output {folder}/kit
plan_reshard --model_config {root}/model_configs/qwen2_5_7b.yaml --src dp=1,tp=4,pp=2 --dst dp=2,tp=4
make_random_model --config {folder}/shape.yaml --tokenizer_dir {model} --output {folder}/random
make_tiny_model --output {folder}/tiny --steps 1 --batch_size 4
bench_grpo --model {model} --steps 2 --prompts 2 --generations 2 --max_new_tokens 4 --micro_batch_num 1
bench_rewards --completions 20 --turns 1
bench_reshard --model_config {folder}/shape.yaml --src dp=1,tp=2 --dst dp=2,tp=1 --repeat 1
bench_rollout --engines native --hidden 64 --layers 1 --prompts 4 --turns 1
bench_episodes --episodes 2 --delays 0 --hidden 64 --layers 1 --rounds 1
quantize --model {model} --output {folder}/int8
migrate_config {folder}/theirs.yaml --output {folder}/ours.yaml
compare_dumps {folder}/dump {folder}/dump
replay --show {folder}/step_000001.mindrecord
"""


def import_all() -> int:
    """Imports every module of the package but those of extras; returns how many."""
    import mindrlhf_lite

    names = [
        module.name
        for module in pkgutil.walk_packages(mindrlhf_lite.__path__, "mindrlhf_lite.", onerror=lambda name: None)
    ]
    names = [name for name in names if not name.startswith(NEEDS_AN_EXTRA) and not name.endswith("__main__")]
    for name in names:
        importlib.import_module(name)
    return len(names)


def write_inputs(folder: Path) -> None:
    """What the commands read beside the quickstart's model: a GGUF file, a shape, rows."""
    from gguf_files import SHAPE as GGUF_SHAPE
    from gguf_files import write_gguf
    from helpers import random_weights

    write_gguf(folder / "small.gguf", GGUF_SHAPE, random_weights(GGUF_SHAPE), "Q4_1")
    (folder / "shape.yaml").write_text(SHAPE)
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{n}+8=", "completion": f"{n + 8}"}) + "\n" for n in (12, 34))
    )
    (folder / "theirs.yaml").write_text("rl_config: {use_parallel: True, chunk_size: 2}\n")
    write_records(folder)
    (folder / "math.jsonl").write_text(json.dumps({"question": "What is 1/2 + 1/4?", "answer": "\\frac{3}{4}"}) + "\n")


def write_records(folder: Path) -> None:
    """A dump and an experience file of one completion."""
    import numpy as np

    from mindrlhf_lite.config.load import build_config
    from mindrlhf_lite.data.experience_file import ExperienceHeader, experience_path, write_experience
    from mindrlhf_lite.observe.dump import Dumps
    from mindrlhf_lite.parallel.mesh import Mesh
    from mindrlhf_lite.types import Completion, FinishReason, Outcome, Prompt, RolloutGroup, ScoredGroup, TrainSequence

    ones, sequence = np.ones(1, np.float32), TrainSequence.of(np.arange(3, dtype=np.int32), 2, 1.0)
    dumps = Dumps(build_config({"msprobe_config.msprobe": True, "msprobe_config.dump_path": f"{folder}/dump"}), Mesh())
    with dumps.step(1):
        dumps.key_data([sequence], ones)
    group = RolloutGroup(Prompt(0, (0, 1), "a", "b", 1), [Completion((2,), ones, ones, FinishReason.STOP)], ["c"])
    scored = ScoredGroup(group, {}, ones, ones, [Outcome.WRONG], np.ones(1, bool))
    header = ExperienceHeader(1, 0.0, "", "", 1, 1, {})
    write_experience(experience_path(f"{folder}/step.mindrecord", 1), header, [scored], [sequence])


def commands(folder: Path, run: Path) -> dict[str, list[list[str]]]:
    """{name of a tool: its commands' arguments}, on the quickstart's model and a finished run."""
    keys = '{"prompt": "question", "response": "answer"}'
    found: dict[str, list[list[str]]] = {}
    for line in COMMANDS.strip().splitlines():
        name, *words = line.split()
        arguments = [word.format(folder=folder, model=MODEL, run=run, root=ROOT, keys=keys) for word in words]
        found.setdefault(name, []).append(arguments)
    return found


def run_tool(name: str, arguments: list[str]) -> str:
    """Runs one command of a tool. Returns what is wrong with it, or ""."""
    script, started = ROOT / f"tools/{name}.py", time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        if name == "bench_reshard":
            code, text, logs = start_msrun(2, f"{scratch}/log", script, *arguments)
            output = text + logs
        else:
            command = [sys.executable, str(script), *arguments]
            streams: dict[str, Any] = {"input": "12+34=\n", "capture_output": True, "text": True}
            done = subprocess.run(command, cwd=scratch, timeout=300, env=clean_environment(), **streams)
            code, output = done.returncode, done.stdout + done.stderr
    print(f"{time.monotonic() - started:5.1f} s  {name} {' '.join(arguments)[:120]}", flush=True)
    if name == "quantize":
        asks = code == 2 and "bash build.sh --quantize" in output
        return "" if asks else f"it should ask for its extra: {output[-500:]}"
    return "" if code == 0 else f"exit code {code}: {output[-1500:]}"


def main() -> None:
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "summary.json").is_file():
        sys.exit(f"usage: python {sys.argv[0]} RUN\n\n{__doc__}")
    if more := [name for name in EXTRAS if importlib.util.find_spec(name)]:
        sys.exit(
            f"error: {sys.prefix} was filled by more than `bash build.sh` ({', '.join(more)} is there): this "
            "proves nothing"
        )
    print(f"{import_all()} modules imported")
    with tempfile.TemporaryDirectory() as scratch:
        write_inputs(Path(scratch))
        wanted = commands(Path(scratch), Path(sys.argv[1]).resolve())
        if wanted.keys() != (tools := {path.stem for path in (ROOT / "tools").glob("*.py")}):
            sys.exit(f"error: tools and their main paths differ: {sorted(wanted.keys() ^ tools)}")
        inputs = ("convert_weight", "rlhf_data")  # others read what these write
        first = [(name, arguments) for name in inputs for arguments in wanted.pop(name)]
        chains = [[(name, arguments) for arguments in of_one] for name, of_one in wanted.items()]
        wrong = run_chain(first)
        with ThreadPoolExecutor(2) as pool:
            wrong += [line for lines in pool.map(run_chain, chains) for line in lines]
    if wrong:
        sys.exit("\n".join(["error: with what `bash build.sh` installs:", *wrong]))
    print("every tool ran")


def run_chain(calls: list[tuple[str, list[str]]]) -> list[str]:
    """Runs one tool's commands in turn."""
    return [f"{name}: {wrong}" for name, arguments in calls if (wrong := run_tool(name, arguments))]


if __name__ == "__main__":
    main()
