# Sourced by run.sh: SmolLM2-135M-Instruct and the sums of examples/smollm2, worked out before the answer.
output="${output:-$root/output/r1_recipe}"
model="$root/output/smollm2/model" data="$output/data" rows="$output/data/rows.jsonl" template=examples/r1_recipe/templates.yaml:reason
bash examples/smollm2/get_model.sh "$model"
[ -f "$data/held_out.jsonl" ] || python examples/smollm2/make_sums.py "$data"
for split in train held_out; do
    [ -f "$data/$split.mindrecord" ] || python tools/rlhf_data.py --tokenizer_dir "$model" --dataset_type arithmetic --file_path "$data/$split.jsonl" \
        --prompt_type "$template" --max_prompt_length 56 --seq_length 120 --output_path "$data/$split.mindrecord"
done
[ -f "$data/held_out_rows.jsonl" ] || python examples/r1_recipe/make_rows.py --dataset "$data/held_out.mindrecord" --output "$data/held_out_rows.jsonl"
[ -f "$rows" ] || python examples/r1_recipe/make_rows.py --dataset "$data/train.mindrecord" --output "$rows" --num_rows 600
sizes=(--rl_config.seq_length=120 --generate_config.sampling_config.max_tokens=64)
grpo=(--config examples/smollm2/grpo_config.yaml --dataset_file "$data/train.mindrecord" --rl_config.eval_dataset_file="$data/held_out.mindrecord"
    "${sizes[@]}" --rl_config.length_buckets=[120] --generate_config.max_prompt_length=56 --rl_config.max_steps=60 --rl_config.eval_interval=20
    --reward_config.verifier_function=[qwen_accuracy_reward,format_reward] --reward_config.verifier_weight=[1.0,0.2])
supervised=(--config examples/qwen_sft/sft_config.yaml "${sizes[@]}" --rl_config.eval_dataset_file="$data/held_out_rows.jsonl"
    --actor_config.lr_schedule.lr=2e-5)
sampled=(--k 8 --max_prompts 400 --max_tokens 64)
evaluated=(--max_tokens 64)
student=(--rl_config.epochs=20 --actor_config.lr_schedule.lr=1e-3) # its weights are random
