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

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.commands.tool import COUNT, DIGIT_COUNT, POSITIVE_NUMBER, SEED, real_number, run_tool, tool_parser
from mindrlhf_lite.files.text_file import say, write_text

if TYPE_CHECKING:
    from mindrlhf_lite.data.tokenizer import Tokenizer
    from mindrlhf_lite.models.decoder import Decoder
    from mindrlhf_lite.shapes.model_config import ModelConfig
    from mindrlhf_lite.types import TrainSequence

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
MERGES = ("\\ b", "\\b o", "\\bo x", "\\box e", "\\boxe d")
MAX_COMPLETION, SEQUENCE = 40, 48


def write_tokenizer(
    folder: Path, merges: Sequence[str] = MERGES, tags: Sequence[str] = TAGS, chat_template: str = ""
) -> None:
    """vocab.json, merges.txt and tokenizer_config.json in Qwen2's format: all bytes, what is merged of them (\\boxed),
    the tags and special tokens.
    """
    from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

    folder.mkdir(parents=True, exist_ok=True)
    symbols = [bytes_to_unicode()[byte] for byte in range(256)] + [merge.replace(" ", "") for merge in merges]
    write_text(
        folder / "vocab.json", json.dumps({symbol: index for index, symbol in enumerate(symbols)}, ensure_ascii=False)
    )
    write_text(folder / "merges.txt", "#version: 0.2\n" + "\n".join(merges) + "\n")
    added = {
        str(len(symbols) + index): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token in SPECIAL_TOKENS,
        }
        for index, token in enumerate((*SPECIAL_TOKENS, *tags))
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
        **({"chat_template": chat_template} if chat_template else {}),
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
    parser.add_argument("--digits", type=DIGIT_COUNT, default=2, help="digits of each number (default: 2)")
    parser.add_argument(
        "--forget_carry",
        type=real_number(0, 1),
        default=0.7,
        help="probability that the tutor forgets a carry (default: 0.7)",
    )
    parser.add_argument("--steps", type=COUNT, default=320, help="training steps (default: 320)")
    parser.add_argument("--batch_size", type=COUNT, default=128, help="sums a step (default: 128)")
    parser.add_argument(
        "--lr",
        type=POSITIVE_NUMBER,
        default=1.5e-3,
        help="peak learning rate; falls to 0 by a cosine (default: 1.5e-3)",
    )
    return parser.parse_args()


def shape_of(vocab_size: int) -> ModelConfig:
    from mindrlhf_lite.shapes.model_config import ModelConfig

    return ModelConfig(
        vocab_size,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_theta=10000.0,
        max_position_embeddings=512,
    )


class HeldOut:
    """The model's accuracy on held-out sums, greedily and sampled, by the rollout engine."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer, args: argparse.Namespace):
        from mindrlhf_lite.data.arithmetic import arithmetic_rows
        from mindrlhf_lite.models.decoder import Decoder
        from mindrlhf_lite.reshard.executor import Resharder
        from mindrlhf_lite.reshard.plan import make_plan
        from mindrlhf_lite.reshard.transports import SharedMemoryTransport
        from mindrlhf_lite.rewards.reward_function import RewardFunction
        from mindrlhf_lite.rollout.native import NativeEngine
        from mindrlhf_lite.types import Prompt, SamplingParams

        self.model, self.tokenizer, config = model, tokenizer, model.config
        self.engine = NativeEngine(Decoder(config, None, False, SEQUENCE), num_slots=128, cache_length=SEQUENCE)
        plan = make_plan(config, model.strategy, model.strategy)
        self.reshard = Resharder(plan, 0, None, self.engine.named_weights(), SharedMemoryTransport(None))
        self.prompts = [
            Prompt(index, tuple(tokenizer.encode(row["question"])), row["question"], row["answer"], index + 1)
            for index, row in enumerate(arithmetic_rows(256, 0, "held_out", args.digits))
        ]
        self.seeds = [(args.seed, prompt.index) for prompt in self.prompts]
        self.reward = RewardFunction(["qwen_accuracy_reward"], [1.0], timeout_s=10)
        stops = (tokenizer.eos_token_id or 0,)
        self.ways = {
            "greedy": SamplingParams(MAX_COMPLETION, temperature=0, stop_token_ids=stops),
            "sampled": SamplingParams(MAX_COMPLETION, stop_token_ids=stops),
        }

    def lines(self, step: int) -> list[str]:
        from mindrlhf_lite.evaluation.accuracy import correctness, question_rows, summarise
        from mindrlhf_lite.reshard.executor import ResidentSource
        from mindrlhf_lite.rollout.groups import generate_groups

        self.reshard.run(ResidentSource(self.model.named_weights()))
        found = []
        for name, sampling in self.ways.items():
            groups = generate_groups(self.engine, self.tokenizer, self.prompts, 1, sampling, self.seeds)
            result = summarise(correctness(question_rows(groups, self.reward), "evaluation"))
            found.append(f"step {step}: held-out accuracy, {name}: {result.accuracy:.1%}")
        return found


def batches(tokenizer: Tokenizer, args: argparse.Namespace) -> Iterator[list[TrainSequence]]:
    """A step's sums each, with what the tutor writes."""
    import numpy as np

    from mindrlhf_lite.data.arithmetic import arithmetic_rows, num_arithmetic_rows
    from mindrlhf_lite.types import TrainSequence

    num_train = min(200_000, num_arithmetic_rows(0, "train", args.digits))
    train, rng = list(arithmetic_rows(num_train, 0, "train", args.digits)), np.random.default_rng(args.seed)
    for _ in range(args.steps):
        questions = [train[index]["question"] for index in rng.integers(0, len(train), args.batch_size)]
        targets = [worked_sum(question, lambda: rng.random() >= args.forget_carry) for question in questions]
        prompts, completions = tokenizer.encode_batch(questions), tokenizer.encode_continuation_batch(targets)
        yield [
            TrainSequence.of(np.array(prompt + target, np.int32), len(prompt))
            for prompt, target in zip(prompts, completions, strict=True)
        ]


def main() -> None:
    args = parse_arguments()
    from mindrlhf_lite.commands.progress import Progress
    from mindrlhf_lite.data.tokenizer import Tokenizer
    from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
    from mindrlhf_lite.learner.supervised_loss import SupervisedLoss
    from mindrlhf_lite.learner.trained_model import TrainedModel
    from mindrlhf_lite.models.decoder import Decoder
    from mindrlhf_lite.models.hf_weights import save_hf_model
    from mindrlhf_lite.parallel.mesh import Mesh
    from mindrlhf_lite.shapes.parameters import initial_weights
    from mindrlhf_lite.shapes.streams import StreamShapes
    from mindrlhf_lite.trainer.learning_rate import LearningRate
    from mindrlhf_lite.trainer.supervised import SupervisedTrainer

    Mesh()
    folder = Path(args.output)
    write_tokenizer(folder)
    tokenizer = Tokenizer(str(folder))
    config = shape_of(tokenizer.size)
    model = Decoder(config, initial_weights(config, args.seed), trainable=True, max_length=SEQUENCE)
    trained = TrainedModel(model, SupervisedLoss(model), AdamW(model, AdamWOptions(weight_decay=0.01)))
    schedule = LearningRate("cosine", args.lr, 0.0, warmup_steps=20, decay_steps=args.steps)
    trainer = SupervisedTrainer(trained, StreamShapes(args.batch_size * SEQUENCE, SEQUENCE), schedule)
    held_out = HeldOut(model, tokenizer, args)
    with Progress(args.steps, "step", "training") as progress:

        def after_step(step: int, loss: float) -> None:
            progress.note(f"loss {loss:.3f}")
            progress.update()
            if step % 50 == 0:
                for line in held_out.lines(step):
                    progress.say(line)

        trainer.train(batches(tokenizer, args), after_step)
    save_hf_model(folder, config, model.weights_as_numpy(), tokenizer.eos_token_id, tokenizer.pad_token_id)
    held_out.reward.close()
    say(f"Wrote {folder}")


if __name__ == "__main__":
    run_tool(main)
