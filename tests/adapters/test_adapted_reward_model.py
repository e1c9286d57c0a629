"""A reward model that is trained as adapters and a score head: what it leaves is peft's, and whole."""

import json

import numpy as np
import pytest
from distributed.small_runs import as_it_was_after_step, save_first_layers, without_times
from helpers import ROOT, read_jsonl, run_python
from safetensors.numpy import load_file

from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
from mindrlhf_lite.data.supervised_rows import Reading, read_supervised
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.hf_weights import load_weights
from mindrlhf_lite.models.peft_folder import PeftFolder
from mindrlhf_lite.scoring.batches import make_microbatch
from mindrlhf_lite.scoring.pairs import LastTokenScorer
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.streams import StreamShapes

SCALE = 8 / 4  # alpha over rank
PREFIX = "base_model.model."


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("adapted_reward"), np.random.default_rng(0)
    save_first_layers(1, folder / "model")
    numbers = rng.integers(10, 99, (32, 2)).tolist()
    pairs = [{"prompt": f"{a}+{b}=", "chosen": f"{a + b}", "rejected": f"{b}{a}"} for a, b in numbers]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (folder / "run.yaml").write_text(
        f"""
rl_config: {{dataset_file: {folder}/pairs.jsonl, eval_dataset_file: {folder}/pairs.jsonl, seq_length: 64, max_steps: 4,
  save_ckpt_interval: 2}}
actor_config: {{load: {folder}/model, lr_schedule: {{lr: 3.0e-3, lr_decay_style: constant}},
  lora: {{rank: 4, alpha: 8}}}}
supervised_config: {{batch_size: 8}}
monitor_config: {{plots: false, progress_bar: false}}
"""
    )
    result = train(folder, "whole")
    assert result.returncode == 0, result.stderr
    return folder


def train(folder, name, *more):
    script = ROOT / "examples/qwen_sft/reward_model.py"
    return run_python(script, "--config", folder / "run.yaml", f"--rl_config.output_dir={folder / name}", *more)


def test_it_learns_and_goes_on_bit_for_bit(runs):
    rows = read_jsonl(runs / "whole/metrics.jsonl")
    assert rows[-1]["eval/loss"] < 0.5 * rows[0]["eval/loss"] and rows[-1]["eval/accuracy"] > 0.9
    saved = load_file(runs / "whole/checkpoints/step_4/rank_00000.safetensors")
    assert saved and all("lora_" in name or "score." in name for name in saved)
    as_it_was_after_step(runs / "whole", runs / "parts", 2)
    result = train(runs, "parts", "--resume_training")
    assert result.returncode == 0 and "resumed after step 2" in result.stdout, result.stderr
    assert without_times(read_jsonl(runs / "parts/metrics.jsonl")) == without_times(rows)


def test_its_folders_are_pefts_and_whole(runs):
    """Merged by hand, from the names and numbers that peft reads."""
    folder = runs / "whole/hf"
    settings = json.loads((folder / "adapter/adapter_config.json").read_text())
    assert settings["task_type"] == "SEQ_CLS" and settings["modules_to_save"] == ["score"]
    adapters, base = (
        load_file(folder / "adapter/adapter_model.safetensors"),
        load_file(runs / "model/model.safetensors"),
    )
    merged = load_file(folder / "model.safetensors")
    assert np.array_equal(merged.pop("score.weight"), adapters.pop(f"{PREFIX}score.weight"))
    for name, values in merged.items():
        module = PREFIX + name.removesuffix(".weight")
        expected = base[name]
        if f"{module}.lora_A.weight" in adapters:
            down, up = adapters.pop(f"{module}.lora_A.weight"), adapters.pop(f"{module}.lora_B.weight")
            expected = expected + np.float32(SCALE) * (up @ down)
            assert not np.array_equal(values, base[name])
        np.testing.assert_allclose(values, expected, atol=1e-6, err_msg=name)
    assert not adapters
    converted = run_python(
        *(ROOT / "tools/convert_weight.py", "--input_path", runs / "whole/checkpoints/step_4"),
        *("--output_path", runs / "converted"),
    )
    assert converted.returncode == 0, converted.stderr
    again = load_file(runs / "converted/model.safetensors")
    assert all(np.array_equal(values, again[name]) for name, values in load_file(folder / "model.safetensors").items())


def test_what_it_leaves_scores_as_it_did(runs):
    """As a role reads it; the run's own last evaluation is of the same weights beside adapters."""
    folder = runs / "whole/hf"
    shape = ModelConfig.from_dir(folder)
    reading = Reading("pairs", str(runs / "model"), str(runs / "model"), 64, shape.vocab_size)
    sequences = [each for row in read_supervised(str(runs / "pairs.jsonl"), reading)[0] for each in row.sequences]
    scorer = LastTokenScorer(Decoder(shape, load_weights(folder, shape), False, 64))
    batch = make_microbatch(sequences, StreamShapes(2048, 64), token_mean, BatchTotals(1, 1, 1))
    chosen, rejected = np.concatenate(scorer.score(batch)).reshape(-1, 2).T
    margin = read_jsonl(runs / "whole/metrics.jsonl")[-1]["eval/margin"]
    assert float((chosen - rejected).mean()) == pytest.approx(margin, abs=1e-4)


def test_it_goes_on_from_adapters_with_their_head(runs):
    given = (f"--actor_config.lora.load={runs}/whole/hf/adapter", "--rl_config.max_steps=1")
    result = train(runs, "more", *given)
    assert result.returncode == 0, result.stderr
    first, last = read_jsonl(runs / "more/metrics.jsonl")[0], read_jsonl(runs / "whole/metrics.jsonl")[-1]
    assert first["eval/margin"] == pytest.approx(last["eval/margin"], rel=1e-5)
    adapters = PeftFolder(runs / "whole/hf/adapter", ModelConfig.from_dir(runs / "model").scoring)
    assert adapters.shape.adapters is not None and adapters.shape.adapters.rank == 4
