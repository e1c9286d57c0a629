#!/usr/bin/env python3
"""Makes the example's model: the quickstart's shape, warmed up by a tutor who mostly estimates a product, and in a
share of --calls asks the calculator. So it can call and copy, but seldom does; that a call pays is what GRPO finds out.

Example:
  python examples/tools/make_model.py --output output/tools/model
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(Path(__file__).resolve().parent)]

from make_tiny_model import shape_of, write_tokenizer
from products import CALL, estimate, pairs, question, write_rows

from mindrlhf_lite.commands.tool import COUNT, POSITIVE_NUMBER, SEED, real_number, run_tool, tool_parser
from mindrlhf_lite.files.text_file import say

if TYPE_CHECKING:
    from mindrlhf_lite.data.tokenizer import Tokenizer
    from mindrlhf_lite.episodes.bridge import Bridge
    from mindrlhf_lite.types import TrainSequence

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TAGS = ("<tool_call>", "</tool_call>", '{"name": "calculator", "arguments": {"expression": "', '"}}')
SEQUENCE = 64
FADES = 0.8  # of the steps: in which the share of calls falls from all to --calls


def merges_of(*words: str) -> list[str]:
    """BPE merges that make one token of each word."""
    return list(dict.fromkeys(f"{word[:end]} {word[end]}" for word in words for end in range(1, len(word))))


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--output", required=True, help="folder to write; questions go into FOLDER/data")
    parser.add_argument("--seed", type=SEED, default=0, help="weights and batches (default: 0)")
    parser.add_argument(
        "--calls", type=real_number(0, 1), default=0.15, help="how often the tutor calls (default: 0.15)"
    )
    parser.add_argument("--steps", type=COUNT, default=500, help="training steps (default: 500)")
    parser.add_argument("--batch_size", type=COUNT, default=32, help="products a step (default: 32)")
    parser.add_argument("--lr", type=POSITIVE_NUMBER, default=2e-3, help="peak learning rate (default: 2e-3)")
    return parser.parse_args()


def conversation(tokenizer: "Tokenizer", bridge: "Bridge", a: int, b: int, calls: bool) -> "TrainSequence":
    """The tutor's; what the calculator answers is read, and not learnt."""
    import numpy as np

    from mindrlhf_lite.types import TrainSequence

    prompt = bridge.opening([{"role": "user", "content": question(a, b)}])[0]
    if not calls:
        return TrainSequence.of(
            np.array([*prompt, *tokenizer.encode_continuation(estimate(a, b))], np.int32), len(prompt)
        )
    call = tokenizer.encode_continuation(CALL.format(expression=f"{a}*{b}"))
    answer = bridge.extend(call, [{"role": "tool", "content": str(a * b)}])
    last = tokenizer.encode_continuation(f"{a * b}<|im_end|>")
    written = np.array([*[True] * len(call), *[False] * len(answer), *[True] * len(last)])
    ids = np.array([*prompt, *call, *answer, *last], np.int32)
    return TrainSequence(ids, len(prompt), np.zeros(len(written), np.float32), np.float32(written), written=written)


def batches(tokenizer: "Tokenizer", args: argparse.Namespace) -> "Iterator[list[TrainSequence]]":
    from mindrlhf_lite.episodes.bridge import Bridge

    rng, bridge = random.Random(args.seed), Bridge(tokenizer, [tokenizer.eos_token_id or 0])
    for step in range(args.steps):
        calls = max(args.calls, 1.0 - step / (FADES * args.steps))
        found = pairs("train", args.batch_size, rng, short=0.4)
        yield [conversation(tokenizer, bridge, a, b, rng.random() < calls) for a, b in found]


def train(folder: Path, args: argparse.Namespace, batches: "Callable[..., Iterator[list[TrainSequence]]]") -> None:
    """Trains a new model on `batches(tokenizer, args)`, and writes it beside the tokenizer."""
    from mindrlhf_lite.commands.progress import Progress
    from mindrlhf_lite.data.tokenizer import Tokenizer
    from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
    from mindrlhf_lite.learner.supervised_loss import SupervisedLoss
    from mindrlhf_lite.learner.trained_model import TrainedModel
    from mindrlhf_lite.models.decoder import Decoder
    from mindrlhf_lite.models.hf_weights import save_hf_model
    from mindrlhf_lite.models.precision import Precision
    from mindrlhf_lite.native.library import set_up
    from mindrlhf_lite.parallel.mesh import Mesh
    from mindrlhf_lite.shapes.parameters import initial_weights
    from mindrlhf_lite.shapes.streams import StreamShapes
    from mindrlhf_lite.trainer.learning_rate import LearningRate
    from mindrlhf_lite.trainer.supervised import SupervisedTrainer

    Mesh()
    set_up()
    tokenizer = Tokenizer(str(folder))
    config = shape_of(tokenizer.size)
    precision = Precision.here("float32", is_native=True)
    model = Decoder(config, initial_weights(config, args.seed), True, SEQUENCE, precision=precision)
    trained = TrainedModel(model, SupervisedLoss(model), AdamW(model, AdamWOptions(weight_decay=0.01)))
    schedule = LearningRate("cosine", args.lr, 0.0, warmup_steps=20, decay_steps=args.steps)
    trainer = SupervisedTrainer(trained, StreamShapes(args.batch_size * SEQUENCE, SEQUENCE), schedule)
    with Progress(args.steps, "step", "training") as progress:

        def after_step(step: int, loss: float) -> None:
            progress.note(f"loss {loss:.3f}")
            progress.update()

        trainer.train(batches(tokenizer, args), after_step)
    save_hf_model(folder, config, model.weights_as_numpy(), tokenizer.eos_token_id, tokenizer.pad_token_id)
    say(f"Wrote {folder}")


def main() -> None:
    args = parse_arguments()
    folder = Path(args.output)
    write_rows(folder / "data")
    write_tokenizer(folder, merges_of("user", "assistant", "tool"), TAGS, TEMPLATE)
    train(folder, args, batches)


if __name__ == "__main__":
    run_tool(main)
