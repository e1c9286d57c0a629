#!/usr/bin/env python3
"""Makes the quickstart's model: a tiny Qwen2 and its tokenizer, warmed up by supervised training on sloppily solved
sums.

It learns from train-split sums, worked out digit by digit inside <think>, by a tutor who forgets each carry with
probability --forget_carry. So it learns the format and the digits, mostly drops carries, and is right where there are
none to carry: under a third of held-out sums when decoding greedily. Carrying is what GRPO then has to find out from
rewards.

Example:
  python tools/make_tiny_model.py --output examples/quickstart/model
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import COUNT, DIGITS, POSITIVE, SEED, real_number, run_tool, tool_parser
from mindrlhf_lite.files.text_file import say, write_text

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
MERGES = ("\\ b", "\\b o", "\\bo x", "\\box e", "\\boxe d")
MAX_COMPLETION, SEQUENCE = 40, 48


def write_tokenizer(folder: Path) -> None:
    """vocab.json, merges.txt and tokenizer_config.json in Qwen2's format: all bytes, \\boxed, the tags and special
    tokens.
    """
    from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

    folder.mkdir(parents=True, exist_ok=True)
    symbols = [bytes_to_unicode()[byte] for byte in range(256)] + [merge.replace(" ", "") for merge in MERGES]
    write_text(
        folder / "vocab.json", json.dumps({symbol: index for index, symbol in enumerate(symbols)}, ensure_ascii=False)
    )
    write_text(folder / "merges.txt", "#version: 0.2\n" + "\n".join(MERGES) + "\n")
    added = {
        str(len(symbols) + index): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token in SPECIAL_TOKENS,
        }
        for index, token in enumerate(SPECIAL_TOKENS + TAGS)
    }
    config = {
        "added_tokens_decoder": added,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 512,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
    }
    write_text(folder / "tokenizer_config.json", json.dumps(config, indent=1))


def worked_sum(question: str, remembers_carry: Callable[[], bool]) -> str:
    """ "47+85=" -> "<think>7+5=12,4+8+1=13</think><answer>\\boxed{132}</answer><|im_end|>": digits from the right.

    Where `remembers_carry()` says no, a carry is dropped, the last one too:
    "<think>7+5=12,4+8=12</think><answer>\\boxed{22}</answer>".
    """
    left, right = question.rstrip("=").split("+")
    width = max(len(left), len(right))
    steps, result, carry = [], "", 0
    for a, b in zip(reversed(left.zfill(width)), reversed(right.zfill(width)), strict=True):
        total = int(a) + int(b) + carry
        steps.append(f"{a}+{b}" + ("+1" if carry else "") + f"={total}")
        result = str(total % 10) + result
        carry = int(total >= 10 and remembers_carry())
    result = str(int(str(carry) + result))
    return f"<think>{','.join(steps)}</think><answer>\\boxed{{{result}}}</answer><|im_end|>"


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--output", required=True, help="folder to write, in Hugging Face format")
    parser.add_argument("--seed", type=SEED, default=0, help="weights and batches (default: 0)")
    parser.add_argument("--digits", type=DIGITS, default=2, help="digits of each number (default: 2)")
    parser.add_argument(
        "--forget_carry",
        type=real_number(0, 1),
        default=0.7,
        help="probability that the tutor forgets a carry (default: 0.7)",
    )
    parser.add_argument("--steps", type=COUNT, default=320, help="training steps (default: 320)")
    parser.add_argument("--batch_size", type=COUNT, default=128, help="sums a step (default: 128)")
    parser.add_argument(
        "--lr", type=POSITIVE, default=1.5e-3, help="peak learning rate; falls to 0 by a cosine (default: 1.5e-3)"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    import numpy as np

    from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
    from mindrlhf_lite.commands.progress import Progress
    from mindrlhf_lite.data.sources import arithmetic_rows, num_arithmetic_rows
    from mindrlhf_lite.data.tokenizer import Tokenizer
    from mindrlhf_lite.evaluation.accuracy import correctness, question_rows, summarise
    from mindrlhf_lite.learner.adamw import AdamWOptions
    from mindrlhf_lite.learner.policy_loss import Objective
    from mindrlhf_lite.learner.trained_model import Actor
    from mindrlhf_lite.models.decoder import Decoder
    from mindrlhf_lite.models.hf_weights import save_hf_model
    from mindrlhf_lite.parallel.mesh import Mesh
    from mindrlhf_lite.reshard.executor import Resharder, ResidentSource
    from mindrlhf_lite.reshard.plan import make_plan
    from mindrlhf_lite.reshard.transports import SharedMemoryTransport
    from mindrlhf_lite.rewards.reward_function import RewardFunction
    from mindrlhf_lite.rollout.groups import generate_groups
    from mindrlhf_lite.rollout.native import NativeEngine
    from mindrlhf_lite.scoring.batches import make_microbatch
    from mindrlhf_lite.shapes.model_config import ModelConfig
    from mindrlhf_lite.shapes.parameters import initial_weights
    from mindrlhf_lite.shapes.streams import StreamShapes
    from mindrlhf_lite.trainer.learning_rate import LearningRate
    from mindrlhf_lite.types import Prompt, SamplingParams, TrainSequence

    Mesh()
    folder = Path(args.output)
    write_tokenizer(folder)
    tokenizer = Tokenizer(str(folder))
    config = ModelConfig(
        vocab_size=tokenizer.size,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_theta=10000.0,
        max_position_embeddings=512,
    )
    weights = initial_weights(config, args.seed)
    model = Decoder(config, weights, trainable=True, max_length=SEQUENCE)
    actor = Actor(
        model,
        Objective(),
        AdamWOptions(weight_decay=0.01),
    )
    engine = NativeEngine(
        Decoder(config, weights, trainable=False, max_length=SEQUENCE), num_slots=128, cache_length=SEQUENCE
    )
    reshard = Resharder(
        make_plan(config, model.strategy, model.strategy), 0, None, engine.named_weights(), SharedMemoryTransport(None)
    )

    num_train = min(200_000, num_arithmetic_rows(0, "train", args.digits))
    train = list(arithmetic_rows(num_train, 0, "train", args.digits))
    held_out = [
        Prompt(index, tuple(tokenizer.encode(row["question"])), row["question"], row["answer"], index + 1)
        for index, row in enumerate(arithmetic_rows(256, 0, "held_out", args.digits))
    ]
    reward = RewardFunction(["qwen_accuracy_reward"], [1.0], timeout_s=10)
    sampled = SamplingParams(MAX_COMPLETION, stop_token_ids=(tokenizer.eos_token_id or 0,))
    greedy = SamplingParams(MAX_COMPLETION, temperature=0, stop_token_ids=(tokenizer.eos_token_id or 0,))
    rng = np.random.default_rng(args.seed)
    shapes = StreamShapes(args.batch_size * SEQUENCE, SEQUENCE)
    schedule = LearningRate("cosine", args.lr, 0.0, warmup_steps=20, decay_steps=args.steps)
    eval_seeds = [(args.seed, prompt.index) for prompt in held_out]
    with Progress(args.steps, "step", "training") as progress:
        for step in range(args.steps):
            questions = [train[index]["question"] for index in rng.integers(0, len(train), args.batch_size)]
            targets = [worked_sum(question, lambda: rng.random() >= args.forget_carry) for question in questions]
            sequences = [
                TrainSequence.of(np.array(prompt + target, np.int32), len(prompt), advantage=1.0)
                for prompt, target in zip(
                    tokenizer.encode_batch(questions), tokenizer.encode_continuation_batch(targets), strict=True
                )
            ]
            totals = BatchTotals(sum(s.completion_length for s in sequences), len(sequences), MAX_COMPLETION)
            # with ratio 1 and advantage 1 the GRPO loss has the gradient of the cross entropy
            _, logprobs = actor.accumulate([make_microbatch(sequences, shapes, token_mean, totals)])
            actor.optimizer.step(schedule.at(step))
            progress.note(f"loss {-sum(float(row.sum()) for row in logprobs[0]) / totals.num_tokens:.3f}")
            progress.update()
            if (step + 1) % 50 == 0:
                reshard.run(ResidentSource(model.named_weights()))
                for name, sampling in (("greedy", greedy), ("sampled", sampled)):
                    groups = generate_groups(engine, tokenizer, held_out, 1, sampling, eval_seeds)
                    result = summarise(correctness(question_rows(groups, reward), "evaluation"))
                    progress.say(f"step {step + 1}: held-out accuracy, {name}: {result.accuracy:.1%}")
    save_hf_model(folder, config, model.weights_as_numpy(), tokenizer.eos_token_id, tokenizer.pad_token_id)
    reward.close()
    say(f"Wrote {folder}")


if __name__ == "__main__":
    run_tool(main)
