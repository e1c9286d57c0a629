"""vLLM with other models, its parameters, its own class, and processes that do not ask for it."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT, TINY, clean_environment, random_weights

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.hf_weights import save_hf_model
from mindrlhf_lite.rollout.native import NativeEngine
from mindrlhf_lite.shapes.model_config import RopeScaling
from mindrlhf_lite.types import GenerateRequest, SamplingParams

pytest.importorskip("vllm", reason="needs vLLM: bash build.sh --vllm")
torch = pytest.importorskip("torch")
from rollout.vllm_cases import LENGTH, UNSUPPORTED

from mindrlhf_lite.rollout.vllm import plugin
from mindrlhf_lite.rollout.vllm.engine import VllmEngine, VllmOptions

OTHER_MODELS = {
    "qwen3": replace(TINY, model_type="qwen3", head_dim=16),
    "llama31": replace(TINY, model_type="llama", rope_theta=100.0, rope_scaling=RopeScaling(8.0, 0.5, 1.2, 8)),
}


@pytest.mark.parametrize("name", ["qwen3", pytest.param("llama31", marks=pytest.mark.full)])
def test_qwen3_and_llama_in_both_engines_equal_transformers(tmp_path, name):
    from transformers import AutoModelForCausalLM

    shape, rng = OTHER_MODELS[name], np.random.default_rng(1)
    some = [GenerateRequest(tuple(map(int, rng.integers(0, 97, length)))) for length in (16, 65)]  # 65: two chunks
    weights = random_weights(shape)
    save_hf_model(tmp_path, shape, weights, None, None)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    model = Decoder(shape, weights, False, LENGTH)
    vllm = VllmEngine(model, str(tmp_path), VllmOptions(LENGTH, max_num_seqs=8, max_num_batched_tokens=64))
    greedy = SamplingParams(8, temperature=0)
    answers = zip(some, vllm.generate(some, greedy), NativeEngine(model, 8, LENGTH).generate(some, greedy), strict=True)
    for request, by_vllm, by_native in answers:
        prompt = torch.tensor([request.prompt_ids])
        settings = {
            "attention_mask": torch.ones_like(prompt),
            "max_new_tokens": 8,
            "min_new_tokens": 8,
            "do_sample": False,
        }
        with torch.no_grad():
            ids = reference.generate(prompt, **settings, eos_token_id=None, pad_token_id=0)
        assert by_vllm[0].token_ids == by_native[0].token_ids == tuple(ids[0, len(request.prompt_ids) :].tolist())


def test_every_sampling_parameter_of_vllm_is_either_implemented_or_refused():
    """A field that a newer vLLM adds must not be ignored in silence."""
    from vllm import SamplingParams as VllmSamplingParams

    implemented = {
        "n",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "max_tokens",
        "min_tokens",
        "logprobs",
        "logit_bias",
        "extra_args",
        "ignore_eos",
    }
    implemented |= {"presence_penalty", "frequency_penalty", "repetition_penalty", "stop_token_ids"}
    by_the_engine = {
        "stop",
        "detokenize",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "include_stop_str_in_output",
        "truncate_prompt_tokens",
    }
    by_the_engine |= {"best_of", "output_kind", "output_text_buffer_length", "skip_clone"}
    public = {name for name in VllmSamplingParams.__struct_fields__ if not name.startswith("_")}
    assert public - implemented - by_the_engine == set(UNSUPPORTED)


def test_the_plugin_steps_aside_for_vllm_mindspore(monkeypatch):
    assert plugin.platform() == "mindrlhf_lite.rollout.vllm.platform.MindSporePlatform"
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: SimpleNamespace() if name == "vllm_mindspore" else None
    )
    assert plugin.platform() is None


def test_the_core_imports_neither_vllm_nor_torch():
    program = (
        "import sys, mindrlhf_lite.trainer.grpo; print([name for name in ('vllm', 'torch') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, env=clean_environment()
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_training_and_tools_leave_an_installed_torch_alone(quickstart_model):
    """transformers, whose tokenizers they use, imports torch unless it is told not to."""
    program = "import sys; from mindrlhf_lite.commands.tool import run_tool; "
    program += "from mindrlhf_lite.data.tokenizer import Tokenizer; "
    program += "run_tool(lambda: print(Tokenizer(sys.argv[1]).encode('1') and 'torch' in sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", program, str(quickstart_model)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=clean_environment(),
    )
    assert result.stdout.strip() == "False", result.stderr


def test_without_vllm_one_line_names_the_command(quickstart_model):
    program = "import sys; sys.modules['vllm'] = None; from mindrlhf_lite.launch.rank import main; main(sys.argv[1:])"
    arguments = [
        "--config",
        ROOT / "examples/qwen_grpo/vllm_ranks.yaml",
        "--actor_checkpoint_path",
        quickstart_model,
        "--dataset_file",
        __file__,
        "--dry_run",
    ]
    arguments.append("--rl_config.eval_interval=0")
    result = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=clean_environment(),
    )
    assert result.returncode == 2 and "bash build.sh --vllm" in result.stderr
    assert (
        len(result.stderr.strip().splitlines()) == 2 and "Traceback" not in result.stderr
    )  # "1 problem(s) in the configuration:" and the problem


def test_a_program_with_vllms_own_class_ends_quietly(quickstart_model):
    """No engine process that is reported dead when the program ends."""
    program = (
        "import sys\n"
        "from vllm import LLM, SamplingParams\n"
        "engine = LLM(sys.argv[1], skip_tokenizer_init=True, dtype='float32', max_model_len=64, max_num_seqs=4, "
        "additional_config={'kv_cache_bytes': 1 << 22})\n"
        "sampling = SamplingParams(temperature=0, max_tokens=4, detokenize=False)\n"
        "print(len(engine.generate({'prompt_token_ids': [1, 2, 3]}, sampling)[0].outputs[0].token_ids))\n"
    )
    loud = {"VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_LOGGING_LEVEL"}
    environment = {key: value for key, value in clean_environment().items() if key not in loud}
    result = subprocess.run(
        [sys.executable, "-c", program, str(quickstart_model)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert result.returncode == 0 and "died unexpectedly" not in result.stdout + result.stderr, result.stderr[-3000:]
