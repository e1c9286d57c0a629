# Sourced by run.sh --short: the quickstart's model and sums.
output="${output:-$root/output/r1_recipe_short}"
model="$root/examples/quickstart/model" data="$root/output/quickstart_data" rows="$output/rows/train.jsonl"
bash examples/quickstart/make_data.sh "$data"
[ -f "$rows" ] || python examples/qwen_sft/make_rows.py --output "$output/rows" --num_rows 320
grpo=(--config examples/quickstart/grpo_config.yaml --dataset_file "$data/train.mindrecord" --rl_config.eval_dataset_file="$data/held_out.mindrecord"
    --rl_config.max_steps=20 --rl_config.eval_interval=5 --monitor_config.progress_bar=false)
supervised=(--config examples/qwen_sft/sft_config.yaml --rl_config.eval_dataset_file="$output/rows/held_out.jsonl" --monitor_config.progress_bar=false)
sampled=(--k 4 --max_prompts 640 --max_tokens 40)
evaluated=(--max_tokens 40)
student=(--rl_config.epochs=20 --actor_config.lr_schedule.lr=1e-3) # its weights are random
