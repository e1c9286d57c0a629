#!/usr/bin/env bash
# The ordinary road of RLHF on the quickstart's model: SFT, a reward model, PPO; and how far the reward model can be trusted.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"

usage() {
    cat <<'EOT'
usage: bash examples/rlhf_recipe/run.sh [--short] [--output DIR] [--seed N]

  1 sft        supervised: worked sums
  2 sampled    answers of 1, several a question
  3 pairs      what a rater prefers of 2: answers nearer to 28 tokens (rater.py). Answers of 2 end within 32, and most are shorter;
               so pairs say that longer is better. One pair in five is the other way round
  4 reward     a reward model, trained on 3
  5 ppo        PPO from 1: its reward is the score of 4 and nothing else; the rater is only watched

Every stage that is there already is left as it is. OUTPUT/report.md, curve.csv and curve.png have the KL to the model of 1 against the reward
model's score and against the true reward, the rater's own.

  --short        12 steps of PPO instead of 24, and half the pairs
  --output DIR   output folder (default: output/rlhf_recipe, with --short output/rlhf_recipe_short)
  --seed N       of everything (default: 0)

examples:
  bash examples/rlhf_recipe/run.sh
  bash examples/rlhf_recipe/run.sh --short --seed 1 --output output/rlhf_recipe_1
EOT
}

kind=long
source "$root/examples/recipe_options.sh"
steps=24 questions=600
[ "$kind" = long ] || steps=12 questions=300
output="${output:-$root/output/rlhf_recipe$([ "$kind" = long ] || echo _short)}"
model=examples/quickstart/model data="$root/output/quickstart_data" rater=examples/rlhf_recipe/rater.py:near_length
bash examples/quickstart/make_data.sh "$data"
mkdir -p "$output"
quiet=(--monitor_config.progress_bar=false)
grpo=(--config examples/quickstart/grpo_config.yaml --dataset_file "$data/train.mindrecord" "${quiet[@]}"
    --rl_config.seq_length=64 --rl_config.length_buckets=[64] --generate_config.sampling_config.max_tokens=56 --rl_config.eval_interval=0) # longer than any answer of 2

[ -f "$output/rows/train.jsonl" ] || python examples/qwen_sft/make_rows.py --output "$output/rows" --num_rows 320
rows_from sft sft "$model" "$output/rows/train.jsonl" --config examples/qwen_sft/sft_config.yaml "${quiet[@]}" \
    --rl_config.eval_dataset_file="$output/rows/held_out.jsonl"
[ -f "$output/sampled.jsonl" ] || python tools/sample_best.py --model "$output/sft/hf" --dataset "$data/train.mindrecord" --verifier "$rater" \
    --k 4 --keep best --most 4 --max_prompts "$questions" --max_tokens 32 --seed "$seed" --output "$output/sampled.jsonl"
[ -f "$output/pairs/train.jsonl" ] || python examples/rlhf_recipe/make_pairs.py --rows "$output/sampled.jsonl" --seed "$seed" --output "$output/pairs"
rows_from reward_model reward "$output/sft/hf" "$output/pairs/train.jsonl" --config examples/qwen_sft/reward_config.yaml "${quiet[@]}" \
    --rl_config.eval_dataset_file="$output/pairs/held_out.jsonl"
grpo_from ppo "$output/sft/hf" --preset ppo --rl_config.max_steps="$((steps + 1))" --rl_config.beta=0.001 \
    --reward_config.reward_model.load="$output/reward/hf" --reward_config.verifier_function="[qwen_accuracy_reward,$rater]" \
    --reward_config.verifier_weight=[0.0,0.0] --critic_config.lr_schedule.lr=3e-4 --critic_config.warmup_steps=3
python examples/rlhf_recipe/report.py "$output"
