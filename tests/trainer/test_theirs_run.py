"""MindRLHF's own configuration trains on the CPU, unchanged but for paths, device and degrees."""

import re

import pytest
from helpers import read_jsonl, run_python

from mindrlhf_lite.data.experience_file import read_experience

# eos_token_id of the file is 151645: a model of Qwen2.5's vocabulary
SHAPE = (
    "model: {model_type: qwen2, vocab_size: 151936, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, "
    "num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 32768}\n"
)


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs")
    text = (shared / "configs/mindrlhf/grpo_config.yaml").read_text()
    (folder / "grpo_config.yaml").write_text(re.sub(r'model_config: "[^"]*"', 'model_config: ""', text))
    (folder / "shape.yaml").write_text(SHAPE)
    tokenizer = shared / "tokenizers/qwen2_5"
    for command in (
        ("tools/make_random_model.py", "--config", folder / "shape.yaml", "--tokenizer_dir", tokenizer)
        + ("--output", folder / "model"),
        ("tools/rlhf_data.py", "--tokenizer_dir", tokenizer, "--file_path", shared / "data/gsm8k/train.jsonl")
        + ("--dataset_type", "gsm8k", "--prompt_type", "qwen_r1", "--sample", 8)
        + ("--output_path", folder / "train.mindrecord"),
    ):
        result = run_python(*command)
        assert result.returncode == 0, result.stderr
    return folder


def test_mindrlhfs_file_trains(folder):
    """With vLLM where it is installed, as the file asks for; else with the native engine."""
    try:
        import vllm  # noqa: F401

        engine = 1
    except ImportError:
        engine = 0
    ones = [
        f"--{role}_config.parallel_config.{name}=1"
        for role in ("actor", "ref", "generate")
        for name in ("data_parallel", "model_parallel", "pipeline_stage")
    ]
    result = run_python(
        "examples/qwen_grpo/main.py",
        *("--config", folder / "grpo_config.yaml", "--actor_checkpoint_path", folder / "model"),
        *("--tokenizer_dir", folder / "model", "--dataset_file", folder / "train.mindrecord"),
        *("--save_checkpoint_dir", folder / "checkpoints", "--context.device_target=CPU", *ones),
        *(f"--rl_config.output_dir={folder}/run", "--rl_config.max_steps=1", "--rl_config.num_rollouts=1"),
        *("--rl_config.batch_size=4", "--generate_config.sampling_config.max_tokens=8"),
        *(f"--rl_config.save_data_file={folder}/data/grpo.mindrecord", f"--msprobe_config.dump_path={folder}/dump"),
        *(
            f"--rl_config.save_prompt_completions_dir={folder}/texts",
            f"--rl_config.save_strategy_dir={folder}/strategy",
        ),
        *(f"--generate_config.use_vllm={engine}", "--monitor_config.plots=false"),
        timeout=500,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "read as a configuration of MindRLHF" in result.stdout
    (row,) = read_jsonl(folder / "run/metrics.jsonl")
    # filters, a temperature and a penalty: not drawn from the policy, and the gap is known on CPU
    assert row["policy/grad_norm"] >= 0 and row["rollout/sampling_gap_mean"] > 0.01
    assert row["rollout/logprob_diff_max"] < 1e-4
    # one rank, four completions an update
    assert len(read_experience(folder / "data/grpo_000001.mindrecord").sequences) == 8
    assert (folder / "texts/step_000001.jsonl").is_file() and (folder / "strategy/rollout.json").is_file()
    assert (folder / "dump/step_000001/rank_00000.jsonl").is_file()
