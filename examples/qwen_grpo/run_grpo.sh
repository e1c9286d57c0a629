#!/usr/bin/env bash
# GRPO of a Qwen2.5 model on GSM8K under msrun, on one host.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"

usage() {
    cat <<'EOF'
usage: MODEL=DIR DATASET=FILE [RANKS=N] bash examples/qwen_grpo/run_grpo.sh [--section.key=value ...]

  MODEL      Hugging Face folder of the starting model
  DATASET    MindRecord file of tools/rlhf_data.py
  RANKS      ranks to start (default: 1)

example:
  source .venv/bin/activate
  python tools/rlhf_data.py --tokenizer_dir Qwen2.5-0.5B --dataset_type gsm8k --prompt_type qwen_r1 \
      --file_path gsm8k/train.jsonl --output_path train.mindrecord
  MODEL=Qwen2.5-0.5B DATASET=train.mindrecord bash examples/qwen_grpo/run_grpo.sh --rl_config.max_steps=3
EOF
}
[ "${1:-}" != "-h" ] && [ "${1:-}" != "--help" ] || { usage; exit 0; }
[ -n "${MODEL:-}" ] && [ -n "${DATASET:-}" ] || { usage >&2; echo "error: set MODEL and DATASET" >&2; exit 2; }
ranks="${RANKS:-1}"
[ ! -d "$root/.venv" ] || export PATH="$root/.venv/bin:$PATH"
export GLOG_v="${GLOG_v:-3}" TOKENIZERS_PARALLELISM=false
[ "$ranks" = 1 ] || export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

arguments=(--config "$root/examples/qwen_grpo/grpo_config.yaml" --actor_checkpoint_path "$MODEL" --dataset_file "$DATASET" "$@")
# mistakes in the settings end here, before any rank starts
MS_WORKER_NUM="$ranks" python "$root/examples/qwen_grpo/main.py" "${arguments[@]}" --dry_run
port="$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
msrun --worker_num="$ranks" --local_worker_num="$ranks" --master_addr=127.0.0.1 --master_port="$port" --join=True \
    --log_dir="${LOG_DIR:-msrun_log}" "$root/examples/qwen_grpo/main.py" "${arguments[@]}"
