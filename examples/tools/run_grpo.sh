#!/usr/bin/env bash
# A tiny model learns to ask a calculator for products of three-digit numbers: GRPO in several turns on two CPU ranks. Builds, warms up a model, trains, shows what changed.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"

usage() {
    cat <<'END'
usage: bash examples/tools/run_grpo.sh [--ranks N] [--output DIR] [--resume DIR] [--section.key=value ...]

The first run warms up the model, which is kept in output/tools/model.

  --ranks N      ranks to start (default: 2)
  --output DIR   output folder (default: output/tools/seedS_TIME)
  --resume DIR   continue the run in DIR from its newest checkpoint

examples:
  bash examples/tools/run_grpo.sh
  bash examples/tools/run_grpo.sh --rl_config.seed=1 --rl_config.credit=turn
END
}

ranks=2 runs=output/tools/seed
source "$root/examples/run_options.sh"
cd "$root"
bash build.sh
export PATH="$root/.venv/bin:$PATH"
model="${TOOLS_MODEL:-$root/output/tools/model}"
[ -f "$model/model.safetensors" ] || python examples/tools/make_model.py --output "$model"
for split in train held_out; do
    [ "$model/data/$split.mindrecord" -nt "$model/data/$split.jsonl" ] || python tools/rlhf_data.py --tokenizer_dir "$model" --dataset_type arithmetic \
        --file_path "$model/data/$split.jsonl" --prompt_type plain --max_prompt_length 24 --seq_length 80 --output_path "$model/data/$split.mindrecord" --overwrite
done
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
arguments=(--config examples/tools/grpo_config.yaml --actor_checkpoint_path "$model" --dataset_file "$model/data/train.mindrecord"
    --rl_config.eval_dataset_file="$model/data/held_out.mindrecord" --rl_config.output_dir="$output" "${resume[@]}" "${overrides[@]}")
export MINDRLHF_RESUME_COMMAND="bash examples/tools/run_grpo.sh$(printf ' %q' --ranks "$ranks" --resume "$output" "${overrides[@]}")"
python tools/start_job.py --ranks "$ranks" --log_dir "$output/msrun_log" examples/qwen_grpo/main.py "${arguments[@]}"
case " ${overrides[*]} " in *" --dry_run "*) ;; *) python examples/tools/show.py "$output" ;; esac
