#!/usr/bin/env bash
# GRPO with vLLM as the rollout engine, on one host. As it is: two CPU ranks on the quickstart's model. See --help.
set -euo pipefail

# Ascend only (DEVICE=Ascend); not run by this project's tests. Set them here or in the environment.
MSADAPTER_PATH="${MSADAPTER_PATH:-}"      # folder of msadapter, which vllm-mindspore needs
MINDFORMERS_PATH="${MINDFORMERS_PATH:-}"  # folder of MindSpore Transformers
ASCEND_HOME_PATH="${ASCEND_HOME_PATH:-/usr/local/Ascend/ascend-toolkit/latest}"
vLLM_MODEL_BACKEND="${vLLM_MODEL_BACKEND:-Native}"  # the backend whose weights rollout/vllm/ascend.py updates
HCCL_EXEC_TIMEOUT="${HCCL_EXEC_TIMEOUT:-7200}"       # seconds: the first step compiles
HCCL_CONNECT_TIMEOUT="${HCCL_CONNECT_TIMEOUT:-3600}"
DEVICE="${DEVICE:-CPU}"

root="$(cd "$(dirname "$0")/../.." && pwd)"

usage() {
    cat <<'EOF'
usage: bash examples/qwen_grpo/run_grpo_vllm.sh [--section.key=value ...]
       MODEL=DIR DATASET=FILE [RANKS=N] [CONFIG=FILE] [DEVICE=CPU|Ascend] bash examples/qwen_grpo/run_grpo_vllm.sh [--section.key=value ...]

vLLM schedules and samples; on CPU this project's plugin runs the model, on Ascend vllm-mindspore does. Everything else is as in run_grpo.sh.
Installs vLLM into .venv first (bash build.sh --vllm) if it is not there.

  MODEL      Hugging Face folder of the starting model (default: the quickstart's)
  DATASET    MindRecord file of tools/rlhf_data.py
  RANKS      ranks to start (default: 2)
  CONFIG     YAML (default: examples/qwen_grpo/vllm_ranks.yaml)
  DEVICE     CPU (default) or Ascend; Ascend needs MSADAPTER_PATH, MINDFORMERS_PATH and ASCEND_HOME_PATH
  SAVE_CHECKPOINT_DIR  folder of checkpoints (default: the configuration's)

All of these are taken from the environment, also by the names that scripts of MindRLHF use: QWEN_MODEL_PATH (MODEL), DATASET_FILE (DATASET). CONFIG may be
a YAML of MindRLHF or MindSpeed-RL. A rank's log is LOG_DIR/worker_N.log (default: msrun_log in the output folder).

examples:
  bash examples/qwen_grpo/run_grpo_vllm.sh --rl_config.max_steps=20 --rl_config.output_dir=output/vllm
  bash examples/qwen_grpo/run_grpo_vllm.sh --generate_config.sampling_config.top_p=0.95 --rl_config.rollout_is_cap=2.0
  QWEN_MODEL_PATH=Qwen2.5-7B DATASET_FILE=train.mindrecord SAVE_CHECKPOINT_DIR=ckpt RANKS=8 DEVICE=Ascend CONFIG=grpo_config.yaml \
      MSADAPTER_PATH=msadapter MINDFORMERS_PATH=mindformers bash examples/qwen_grpo/run_grpo_vllm.sh
  MODEL=Qwen2.5-0.5B DATASET=train.mindrecord RANKS=1 bash examples/qwen_grpo/run_grpo_vllm.sh --rl_config.max_steps=3
EOF
}
[ "${1:-}" != "-h" ] && [ "${1:-}" != "--help" ] || { usage; exit 0; }
case "$DEVICE" in
    CPU) ;;
    Ascend)
        missing=()
        for name in MSADAPTER_PATH MINDFORMERS_PATH ASCEND_HOME_PATH; do
            [ -n "${!name}" ] && [ -d "${!name}" ] || missing+=("$name='${!name}'")
        done
        [ "${#missing[@]}" = 0 ] || { echo "error: no such folder: ${missing[*]}; set it in the environment, or at the top of examples/qwen_grpo/run_grpo_vllm.sh" >&2; exit 2; }
        export PYTHONPATH="$MSADAPTER_PATH:$MINDFORMERS_PATH:$root${PYTHONPATH:+:$PYTHONPATH}"
        [ "$vLLM_MODEL_BACKEND" = Native ] || { echo "error: vLLM_MODEL_BACKEND=$vLLM_MODEL_BACKEND: trained weights can be given to Native only" >&2; exit 2; }
        export ASCEND_HOME_PATH vLLM_MODEL_BACKEND VLLM_MS_MODEL_BACKEND="$vLLM_MODEL_BACKEND" HCCL_EXEC_TIMEOUT HCCL_CONNECT_TIMEOUT
        export MS_ENABLE_LCCL=off MS_JIT_MODULES=vllm_mindspore,research ;;
    *) usage >&2; echo "error: DEVICE=$DEVICE: CPU or Ascend" >&2; exit 2 ;;
esac
export MODEL="${MODEL:-${QWEN_MODEL_PATH:-}}" DATASET="${DATASET:-${DATASET_FILE:-}}"
[ -n "${MODEL:-}" ] || [ -z "${DATASET:-}" ] || { usage >&2; echo "error: DATASET needs MODEL" >&2; exit 2; }
[ -z "${MODEL:-}" ] || [ -n "${DATASET:-}" ] || { usage >&2; echo "error: MODEL needs DATASET" >&2; exit 2; }

[ "$DEVICE" = Ascend ] || bash "$root/build.sh" --vllm
export RANKS="${RANKS:-2}" CONFIG="${CONFIG:-$root/examples/qwen_grpo/vllm_ranks.yaml}"
bash "$root/examples/qwen_grpo/run_grpo.sh" --generate_config.use_vllm=1 --context.device_target="$DEVICE" "$@"
