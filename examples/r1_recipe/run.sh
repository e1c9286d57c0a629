#!/usr/bin/env bash
# DeepSeek-R1's recipe in miniature: cold start, GRPO, rejection sampling, supervised again, distillation into a small student; R1-Zero beside it.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"

usage() {
    cat <<'EOF'
usage: bash examples/r1_recipe/run.sh [--short] [--output DIR] [--seed N]

  1 cold       supervised: worked sums between <think> and </think>, then the answer
  2 grpo       GRPO from 1
  3 best       rejection sampling: right completions of 2
  4 again      supervised: the first model on the rows of 3
  5 student    a small Llama-shaped model: supervised on the rows of 3, then distilled from 2, which scores what it writes
  6 zero       R1-Zero: GRPO from the first model, with as many steps as 2

Every stage that is there already is left as it is, so that an interrupted recipe goes on. OUTPUT/report.md has the held-out accuracy of each.

  --short        the quickstart's model of 0.77M parameters: minutes. Else SmolLM2-135M-Instruct (examples/smollm2): hours
  --output DIR   output folder (default: output/r1_recipe, with --short output/r1_recipe_short)
  --seed N       of everything (default: 0)

examples:
  bash examples/r1_recipe/run.sh --short
  bash examples/r1_recipe/run.sh --seed 1 --output output/r1_recipe_1
EOF
}

kind=smollm2
source "$root/examples/recipe_options.sh"
source "examples/r1_recipe/$kind.sh" # sets model, data, grpo, supervised, sizes of what follows
mkdir -p "$output"

supervised_from() { rows_from sft "${@:1:3}" "${supervised[@]}" "${@:4}"; } # NAME MODEL ROWS [settings]

supervised_from cold "$model" "$rows"
grpo_from grpo "$output/cold/hf"
[ -f "$output/best.jsonl" ] || python tools/sample_best.py --model "$output/grpo/hf" --dataset "$data/train.mindrecord" \
    --verifier qwen_accuracy_reward format_reward --min_reward 2 "${sampled[@]}" --seed "$seed" --output "$output/best.jsonl"
supervised_from again "$model" "$output/best.jsonl"
[ -f "$output/student_start/model.safetensors" ] || python tools/make_random_model.py --config "examples/r1_recipe/student_$kind.yaml" \
    --tokenizer_dir "$model" --seed "$seed" --output "$output/student_start"
supervised_from student_supervised "$output/student_start" "$output/best.jsonl" "${student[@]}"
grpo_from student "$output/student_supervised/hf" --preset distillation --teacher_config.load="$output/grpo/hf"
grpo_from zero "$model"
for stage in first cold grpo again student_supervised student zero; do
    folder="$output/$stage/hf"
    [ "$stage" != first ] || folder="$model"
    [ -f "$output/$stage.json" ] || python tools/evaluate.py --model "$folder" --dataset "$data/held_out.mindrecord" --verifier qwen_accuracy_reward \
        "${evaluated[@]}" --output "$output/$stage.json"
done
python examples/r1_recipe/report.py "$output"
