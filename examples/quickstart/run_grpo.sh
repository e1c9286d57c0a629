#!/usr/bin/env bash
# The quickstart: GRPO on two-digit sums, two CPU ranks. Builds if needed, makes the data, trains, shows where the results are.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"

usage() {
    cat <<'EOF'
usage: bash examples/quickstart/run_grpo.sh [--ranks N] [--output DIR] [--section.key=value ...]

  --ranks N      ranks to start (default: 2)
  --output DIR   output folder (default: output/quickstart_seedS_TIME)
  --resume DIR   continue the run in DIR from its newest checkpoint

examples:
  bash examples/quickstart/run_grpo.sh
  bash examples/quickstart/run_grpo.sh --rl_config.seed=1 --rl_config.max_steps=40
  bash examples/quickstart/run_grpo.sh --resume output/quickstart_seed0_20260101_120000
EOF
}

ranks=2 runs=output/quickstart_seed
source "$root/examples/run_options.sh"
cd "$root"
bash build.sh
export PATH="$root/.venv/bin:$PATH"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

model="$root/examples/quickstart/model" data="$root/output/quickstart_data"
bash examples/quickstart/make_data.sh "$data"

arguments=(--config "$root/examples/quickstart/grpo_config.yaml" --actor_checkpoint_path "$model" --dataset_file "$data/train.mindrecord"
    --rl_config.eval_dataset_file="$data/held_out.mindrecord" --rl_config.output_dir="$output" "${resume[@]}" "${overrides[@]}")
case " ${overrides[*]} " in
    *" --dry_run "* | *" --only_save_strategy "*) ;; # nothing is started
    *)  # mistakes in the settings end here, before any rank starts
        MS_WORKER_NUM="$ranks" python examples/qwen_grpo/main.py "${arguments[@]}" --dry_run
        export MINDRLHF_PLAN_SHOWN=1 ;;
esac
export MINDRLHF_RESUME_COMMAND="bash examples/quickstart/run_grpo.sh$(printf ' %q' --ranks "$ranks" --resume "$output" "${overrides[@]}")"
exec python tools/start_job.py --ranks "$ranks" --log_dir "$output/msrun_log" examples/qwen_grpo/main.py "${arguments[@]}"
