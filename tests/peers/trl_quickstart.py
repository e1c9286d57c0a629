"""The quickstart in TRL: the same weights, prompts, rewards, learning rate and batch, for docs/learning.md.

    export PYTHONPATH=.
    python tests/peers/trl_quickstart.py --export output/quickstart_data sums.json     (in the project's environment)
    trl-env/bin/python tests/peers/trl_quickstart.py --data sums.json --recipe grpo --seed 0 --output trl_grpo_0.json

The last runs in TRL's environment (torch, trl 1.16, math-verify), on one thread, and imports only this project's
verifiers. Writes
held-out accuracy before training and after every ten steps, and the seconds of every step.
"""

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

EVAL_EVERY, MAX_TOKENS = 10, 40
RECIPES = {
    "grpo": {"loss_type": "grpo", "beta": 0.001, "epsilon": 0.2, "epsilon_high": 0.2},
    # without dynamic sampling, which TRL does not have
    "dapo": {
        "loss_type": "dapo",
        "beta": 0.0,
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "mask_truncated_completions": True,
    },
}


def export(folder: str, path: str) -> None:
    from mindrlhf_lite.data.records import read_file

    splits = {
        split: [{"prompt": prompt.text, "gold": prompt.gold} for prompt in read_file(f"{folder}/{split}.mindrecord")[1]]
        for split in ("train", "held_out")
    }
    Path(path).write_text(json.dumps(splits))


def settings_of(args: argparse.Namespace, weights: list[float]):
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=256,
        num_generations=8,
        max_completion_length=MAX_TOKENS,
        max_steps=args.steps,
        max_grad_norm=1.0,
        temperature=1.0,
        reward_weights=weights,
        seed=args.seed,
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1000,
        save_strategy="no",
        **RECIPES[args.recipe],
    )


def score(verifier, completion: str, gold: str) -> float:
    from mindrlhf_lite.types import CompletionView

    found = verifier(CompletionView(completion), gold)
    return float(getattr(found, "value", found))


def accuracy_of(model, tokenizer, accuracy, rows: list[dict]) -> float:
    """The share of held-out sums that greedy completions get right."""
    import torch

    right = 0
    model.eval()
    for start in range(0, len(rows), 100):
        part = rows[start : start + 100]
        inputs = tokenizer([row["prompt"] for row in part], return_tensors="pt", padding=True)
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        texts = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        right += sum(score(accuracy, text, row["gold"]) > 0 for text, row in zip(texts, part, strict=True))
    model.train()
    return right / len(rows)


def model_of(folder: str, rank: int):
    """Args: rank: of peft's adapters; 0: all weights are trained."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if not rank:
        return model
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))


def optimizer_of(model, rate: float):
    """(AdamW as the recipe has it, the rate's rise over three updates)"""
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 3))


def train(args: argparse.Namespace) -> dict:
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOTrainer
    from trl.rewards import get_soft_overlong_punishment

    from mindrlhf_lite.rewards.verifiers import find_verifier

    torch.set_num_threads(1)
    splits = json.loads(Path(args.data).read_text())
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    model = model_of(args.model, args.lora)
    accuracy, form = find_verifier("qwen_accuracy_reward").function, find_verifier("format_reward").function

    def answer_reward(completions, gold, **others):
        return [score(accuracy, text, own) for text, own in zip(completions, gold, strict=True)]

    def format_reward(completions, gold, **others):
        return [score(form, text, own) for text, own in zip(completions, gold, strict=True)]

    held_out_accuracy = partial(accuracy_of, model, tokenizer, accuracy, splits["held_out"])
    accuracies, seconds = {0: held_out_accuracy()}, []

    class Watch(TrainerCallback):
        def on_step_begin(self, *arguments, **others):
            self.start = time.perf_counter()

        def on_step_end(self, arguments, state, control, **others):
            seconds.append(time.perf_counter() - self.start)
            if state.global_step % EVAL_EVERY == 0:
                accuracies[state.global_step] = held_out_accuracy()
                print(state.global_step, accuracies[state.global_step], flush=True)

    rewards, weights = [answer_reward, format_reward], [1.0, 0.1]
    if args.recipe == "dapo":
        rewards, weights = [*rewards, get_soft_overlong_punishment(MAX_TOKENS, MAX_TOKENS // 5)], [*weights, 1.0]
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=rewards,
        train_dataset=Dataset.from_list(splits["train"]),
        callbacks=[Watch()],
        optimizers=optimizer_of(model, args.lr),
        args=settings_of(args, weights),
    )
    trainer.train()
    return {"recipe": args.recipe, "seed": args.seed, "accuracy": accuracies, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", nargs=2, metavar=("FOLDER", "JSON"))
    parser.add_argument("--model", default="examples/quickstart/model")
    parser.add_argument("--data")
    parser.add_argument("--recipe", choices=RECIPES, default="grpo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--lora", type=int, default=0, help="rank of peft's adapters; 0: all weights are trained")
    parser.add_argument("--output")
    args = parser.parse_args()
    if args.export:
        export(*args.export)
        return
    if not (args.data and args.output):
        sys.exit("error: give --data and --output")
    Path(args.output).write_text(json.dumps(train(args)) + "\n")


if __name__ == "__main__":
    main()
