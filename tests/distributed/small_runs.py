"""Small whole runs for tests: their data and model, their arguments, what they leave."""

import shutil
import subprocess
import time
from dataclasses import replace

from distributed.jobs import VERIFIERS, start_msrun
from helpers import ROOT, clean_environment, make_sums, read_jsonl, run_python

from mindrlhf_lite.models.hf_weights import load_weights, save_hf_model
from mindrlhf_lite.shapes.model_config import ModelConfig

MAIN, QUICKSTART_MODEL = ROOT / "examples/qwen_grpo/main.py", ROOT / "examples/quickstart/model"
EXACT = (
    "loss/total",
    "loss/policy",
    "loss/kl",
    "policy/grad_norm",
    "reward/mean",
    "completion/mean_tokens",
    "policy/entropy",
    "policy/lr",
    "epoch",
)


def make_data(folder):
    """Prompts, and a model to train: the quickstart's first layer alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", 20), ("held_out", 6)):
        make_sums(QUICKSTART_MODEL, folder / f"{split}.mindrecord", rows, split)
    save_first_layers(1, folder / "model")
    return folder


def save_first_layers(count, folder):
    """The quickstart's model without its other layers, which compiles faster."""
    config = ModelConfig.from_dir(QUICKSTART_MODEL)
    kept = [f".layers.{number}." for number in range(count)]
    weights = {
        name: value
        for name, value in load_weights(QUICKSTART_MODEL, config).items()
        if ".layers." not in name or any(layer in name for layer in kept)
    }
    save_hf_model(folder, replace(config, num_hidden_layers=count), weights, 258, 256)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(QUICKSTART_MODEL / name, folder / name)
    return folder


def arguments(data, output, *extra):
    """A run of 4 prompts x 4 completions a step: 20 prompts are an epoch of 5 steps."""
    return [
        "--config",
        ROOT / "examples/quickstart/grpo_config.yaml",
        "--actor_checkpoint_path",
        data / "model",
        "--dataset_file",
        data / "train.mindrecord",
        f"--rl_config.output_dir={output}",
        "--rl_config.chunk_size=4",
        "--rl_config.num_generations=4",
        "--generate_config.max_num_seqs=16",
        "--rl_config.max_steps=3",
        "--rl_config.save_ckpt_interval=0",
        "--rl_config.tensorboard=false",
        "--rl_config.eval_interval=0",
        "--monitor_config.plots=false",
        "--monitor_config.progress_bar=false",
        "--verifier_function",
        "verifiers_for_runs.length_modulo,format_reward",
        "--verifier_weight",
        "1.0,1.0",
        "--context.num_threads=1",
        *extra,
    ]


def single(data, output, *extra, timeout=480, is_warm=True):
    """A run on one rank. Not warm: with a hash seed of its own, as a run that is resumed on another day has."""
    return run_python(MAIN, *arguments(data, output, *extra), timeout=timeout, is_warm=is_warm, PYTHONPATH=VERIFIERS)


BASELINE = (
    "--rl_config.max_steps=6",
    "--rl_config.save_ckpt_interval=2",
    "--rl_config.save_max_ckpt_num=10",
    "--rl_config.eval_interval=2",
)


def run_baseline(data, output):
    """Plain, on one rank, with an evaluation and a checkpoint at every second step."""
    result = single(data, output, *BASELINE, f"--rl_config.eval_dataset_file={data / 'held_out.mindrecord'}")
    assert result.returncode == 0, result.stderr


def as_it_was_after_step(run, copy, step):
    """Copies a run without what it saved after this step."""
    shutil.copytree(run, copy)
    for later in (copy / "checkpoints").glob("step_*"):
        if int(later.name.removeprefix("step_")) > step:
            shutil.rmtree(later)
    shutil.rmtree(copy / "hf")


def msrun(num_ranks, data, output, *extra, timeout=480):
    return start_msrun(num_ranks, f"{output}_log", MAIN, *arguments(data, output, *extra), timeout=timeout)


def kill_once_there(command, path, seconds):
    """Starts a command, and kills it -9 when the path is there."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=clean_environment(PYTHONPATH=VERIFIERS),
    )
    try:
        deadline = time.monotonic() + seconds
        while not path.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()


def metrics(output):
    """Of the steps; the evaluation before them has a row of its own."""
    return [row for row in read_jsonl(output / "metrics.jsonl") if row["step"] > 0]


OF_A_PROCESS = (
    "time_s/",
    "speed/",
    "memory/",
    "reshard/gb",
    "swap/",
    "graphs/",
)  # metrics that two equal runs differ in


def without_times(rows):
    return [{key: value for key, value in row.items() if not key.startswith(OF_A_PROCESS)} for row in rows]


def completions(output, step):
    return read_jsonl(output / f"completions/step_{step:06d}.jsonl")
