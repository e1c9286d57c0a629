"""Small configuration files of MindRLHF and MindSpeed-RL, and what they are here."""

import textwrap

from mindrlhf_lite.config.aliases.toolkits import translate
from mindrlhf_lite.config.load import collect, read_yaml

MAIN = "examples/qwen_grpo/main.py"


def written(tmp_path, text, name="theirs.yaml"):
    path = tmp_path / name
    path.write_text(textwrap.dedent(text))
    return path


def ours(path, **overrides):
    translation = translate(read_yaml(str(path)), str(path), {k.replace("__", "."): v for k, v in overrides.items()})
    config, problems = collect(translation.values)
    assert not problems, problems
    return config, translation


MINDRLHF_FILE = """
    rl_config:
      use_parallel: True
      parallel_mode: semi_auto_parallel
      load_ckpt_format: hf_safetensors
      deterministic: "ON"
      tokenizer_type: qwen
      seq_length: 1024
      epochs: 2
      batch_size: 2
      chunk_size: 3
      num_rollouts: 2
      num_generations: 4
      num_iterations: 1
      enable_oldpolicy: True
    actor_config:
      offset: [-1, 1]
      loss_scale_value: 4096
      parallel_config: {data_parallel: 2, model_parallel: 1, pipeline_stage: 2, micro_batch_num: 4}
      recompute_config: {recompute: False, select_recompute: ['feed_forward']}
    ref_config:
      sync_ref_model: True
      parallel_config: {data_parallel: 4, model_parallel: 1, pipeline_stage: 1}
    reward_config:
      verifier_function: [accuracy_reward, format_reward]
      verifier_weight: [1.0, 0.5]
    generate_config:
      max_prompt_length: 256
      parallel_config: {data_parallel: 4, model_parallel: 1, pipeline_stage: 1}
      sampling_config: {max_tokens: 128, top_k: -1, temperature: 1.0, eos_token_id: [7]}
    monitor_config:
      host_monitor_steps: [1, [5, 7]]
    profiler_config: {profile: true, profile_step_start: 0, profile_step_end: 2}
    context: {mode: 0, device_target: CPU}
"""


MINDSPEED_FILE = """
    defaults:
      - model: [small]
    megatron_training:
      model: small
      stage: ray_grpo
      bf16: true
      global_batch_size: 16
      train_iters: 10
      seq_length: 512
      tokenizer_name_or_path: ./nowhere
      data_path: ./data/train
      save_interval: 5
      seed: 3
    actor_config:
      tensor_model_parallel_size: 2
      pipeline_model_parallel_size: 2
      context_parallel_size: 2
      micro_batch_size: 2
      lr: 1e-6
      lr_warmup_fraction: 0.1
      clip_grad: 5.0
      recompute_granularity: full
      num_layer_list: "3,1"
      load: ./ckpt
      save: ./ckpt
    rl_config:
      n_samples_per_prompt: 4
      mini_batch_size: 8
      init_kl_coef: 0.001
      clip_ratio: 0.3
      max_prompt_length: 128
      verifier_function: [acc, strict_format]
      verifier_weight: [1.0, 0.5]
      actor_resource: {num_npus: 16}
    generate_config:
      infer_tensor_parallel_size: 2
      offload_train_param: true
      sampling_config: {max_tokens: 256, temperature: 0.9, top_k: -1}
"""


MODEL_FILE = """
    small:
      num_layers: 4
      hidden_size: 64
      ffn_hidden_size: 96
      num_attention_heads: 4
      group_query_attention: true
      num_query_groups: 2
      rotary_base: 1000000
      norm_epsilon: 1e-6
      max_position_embeddings: 4096
      padded_vocab_size: 512
      add_qkv_bias: true
      untie_embeddings_and_output_weights: true
      num_experts: null
"""
