#!/usr/bin/env bash
# GRPO under msrun, on one host. As it is: three parallel strategies on four CPU ranks. With MODEL and DATASET: a model of yours.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"

usage() {
    cat <<'EOF'
usage: bash examples/qwen_grpo/run_grpo.sh [--section.key=value ...]
       MODEL=DIR DATASET=FILE [RANKS=N] [CONFIG=FILE] bash examples/qwen_grpo/run_grpo.sh [--section.key=value ...]

Without MODEL: the quickstart's model and data on 4 ranks; actor dp=1,tp=2,pp=2, reference and rollout dp=2,tp=2.

  MODEL      Hugging Face folder of the starting model
  DATASET    MindRecord file of tools/rlhf_data.py
  RANKS      ranks to start (default: 1 with MODEL, else 4)
  CONFIG     YAML (default: grpo_config.yaml with MODEL, else four_ranks.yaml, both in examples/qwen_grpo)
  LOG_DIR    where every rank's log goes (default: msrun_log in the output folder; follow one with tail -f .../worker_0.log)
  SAVE_CHECKPOINT_DIR  folder of checkpoints (default: the configuration's)

QWEN_MODEL_PATH and DATASET_FILE, as scripts of MindRLHF call them, are MODEL and DATASET. CONFIG may be a YAML of MindRLHF or MindSpeed-RL.

examples:
  bash examples/qwen_grpo/run_grpo.sh --rl_config.max_steps=20 --rl_config.output_dir=output/four_ranks
  bash examples/qwen_grpo/run_grpo.sh --rl_config.swap=true --rl_config.reshard_mem_opt_level=1
  MODEL=Qwen2.5-0.5B DATASET=train.mindrecord bash examples/qwen_grpo/run_grpo.sh --rl_config.max_steps=3
EOF
}
[ "${1:-}" != "-h" ] && [ "${1:-}" != "--help" ] || { usage; exit 0; }
[ ! -d "$root/.venv" ] || export PATH="$root/.venv/bin:$PATH"
MODEL="${MODEL:-${QWEN_MODEL_PATH:-}}" DATASET="${DATASET:-${DATASET_FILE:-}}"
if [ -z "${MODEL:-}" ]; then
    [ -z "${DATASET:-}" ] || { usage >&2; echo "error: DATASET needs MODEL" >&2; exit 2; }
    bash "$root/build.sh"
    export PATH="$root/.venv/bin:$PATH"
    MODEL="$root/examples/quickstart/model" data="$root/output/quickstart_data"
    bash "$root/examples/quickstart/make_data.sh" "$data"
    ranks="${RANKS:-4}" config="${CONFIG:-$root/examples/qwen_grpo/four_ranks.yaml}"
    files=(--dataset_file "$data/train.mindrecord" --rl_config.eval_dataset_file="$data/held_out.mindrecord"
        --rl_config.output_dir="output/four_ranks_$(date +%Y%m%d_%H%M%S)")
else
    [ -n "${DATASET:-}" ] || { usage >&2; echo "error: MODEL needs DATASET" >&2; exit 2; }
    ranks="${RANKS:-1}" config="${CONFIG:-$root/examples/qwen_grpo/grpo_config.yaml}"
    files=(--dataset_file "$DATASET")
fi
[ "$ranks" = 1 ] || export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

[ -z "${SAVE_CHECKPOINT_DIR:-}" ] || files+=(--save_checkpoint_dir "$SAVE_CHECKPOINT_DIR")
[ -z "${QWEN_MODEL_PATH:-}" ] || files+=(--tokenizer_dir "$QWEN_MODEL_PATH")  # there the model's folder holds it

arguments=(--config "$config" --actor_checkpoint_path "$MODEL" "${files[@]}" "$@")
case " $* " in
    *" --dry_run "* | *" --only_save_strategy "*) ;; # nothing is started
    *)  # mistakes in the settings end here, before any rank starts
        MS_WORKER_NUM="$ranks" python "$root/examples/qwen_grpo/main.py" "${arguments[@]}" --dry_run
        export MINDRLHF_PLAN_SHOWN=1 ;;
esac
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
# logs lie beside the run's files
output="$(sed -n 's/^ *output_dir: *//p' "$config" | head -n 1)"
for argument in "${arguments[@]}"; do
    case "$argument" in --rl_config.output_dir=*) output="${argument#*=}" ;; esac
done
exec python "$root/tools/start_job.py" --ranks "$ranks" --log_dir "${LOG_DIR:-${output:-output}/msrun_log}" "$root/examples/qwen_grpo/main.py" "${arguments[@]}"
