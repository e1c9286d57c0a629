#!/usr/bin/env python3
"""What several turns cost: generated tokens a second in episodes whose environments answer after so many milliseconds,
and in single turns of as many tokens; by the native engine, on a random model.

All take turns, in one process, after a first round that compiles. Every environment has a process of its own, and
answers with as many tokens as --observed says.

Examples:
  OMP_NUM_THREADS=2 python tools/bench_episodes.py
  OMP_NUM_THREADS=2 python tools/bench_episodes.py --episodes 128 --delays 0 500 --rounds 3
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mindrlhf_lite.commands.tool import COUNT, COUNT_OR_NONE, run_tool, tool_parser
from mindrlhf_lite.episodes import Action, Environment, Step
from mindrlhf_lite.files.text_file import say

if TYPE_CHECKING:
    from mindrlhf_lite.rollout.native import NativeEngine

MODEL = ROOT / "examples/quickstart/model"  # whose tokenizer is used: a byte is a token
PROMPT = "how much is it?"


class Late(Environment):
    """Answers after a while. Args: delay_ms, tokens: of an answer."""

    def __init__(self, delay_ms: int = 0, tokens: int = 16):
        self._seconds, self._text = delay_ms / 1000, "x" * tokens

    def step(self, action: Action) -> Step:
        time.sleep(self._seconds)
        return Step(self._text)


def parse_arguments() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--episodes", type=COUNT, default=32, help="side by side (default: 32)")
    parser.add_argument("--turns", type=COUNT, default=4, help="of an episode (default: 4)")
    parser.add_argument("--turn_tokens", type=COUNT, default=32, help="that the policy writes (default: 32)")
    parser.add_argument("--observed", type=COUNT, default=16, help="tokens of an answer (default: 16)")
    parser.add_argument("--delays", type=COUNT_OR_NONE, nargs="+", default=[0, 100], help="ms (default: 0 100)")
    parser.add_argument("--hidden", type=COUNT, default=256, help="hidden size (default: 256)")
    parser.add_argument("--layers", type=COUNT, default=4, help="default: 4")
    parser.add_argument("--rounds", type=COUNT, default=5, help="timed ones; the median is reported (default: 5)")
    return parser.parse_args()


def make_engine(args: argparse.Namespace, length: int, vocabulary: int) -> NativeEngine:
    from mindrlhf_lite.models.decoder import Decoder
    from mindrlhf_lite.models.precision import Precision
    from mindrlhf_lite.native.library import set_up
    from mindrlhf_lite.rollout.native import NativeEngine
    from mindrlhf_lite.shapes.model_config import ModelConfig
    from mindrlhf_lite.shapes.parameters import initial_weights

    shape = ModelConfig(vocabulary, args.hidden, 3 * args.hidden, args.layers, 4, 2, max_position_embeddings=length)
    set_up()
    precision = Precision.here("float32", is_native=True)
    return NativeEngine(
        Decoder(shape, initial_weights(shape, 0), False, length, precision=precision), args.episodes, length
    )


def ways(args: argparse.Namespace) -> dict[str, Callable[[], int]]:
    """What is timed, by name; each returns how many tokens the policy wrote."""
    from mindrlhf_lite.data.tokenizer import Tokenizer
    from mindrlhf_lite.episodes.bridge import Bridge
    from mindrlhf_lite.episodes.failures import FailureRecord
    from mindrlhf_lite.episodes.host import EnvironmentHost
    from mindrlhf_lite.episodes.past import ChangedPast
    from mindrlhf_lite.episodes.play import EpisodeLimits, Stage
    from mindrlhf_lite.episodes.registry import EnvironmentSpec
    from mindrlhf_lite.rollout.groups import generate_groups
    from mindrlhf_lite.types import Prompt, SamplingParams

    tokenizer = Tokenizer(str(MODEL))
    written = args.turns * args.turn_tokens
    most = written + (args.turns - 1) * args.observed
    engine = make_engine(args, len(PROMPT) + most, tokenizer.size)
    prompts = [Prompt(0, tuple(tokenizer.encode(PROMPT)), PROMPT, "", 1)]

    def run(max_tokens: int, stage: Stage | None) -> int:
        sampling = SamplingParams(max_tokens)  # no stop tokens: all write as much
        groups = generate_groups(engine, tokenizer, prompts, args.episodes, sampling, [(0,)], stage=stage)
        return sum(completion.num_written for completion in groups[0].completions)

    def stage_of(delay: int) -> Stage:
        arguments = {"delay_ms": delay, "tokens": args.observed}
        host = EnvironmentHost(EnvironmentSpec(f"{__file__}:Late", arguments=arguments), 60.0)
        limits = EpisodeLimits(args.turns, args.turn_tokens, len(PROMPT), most, len(PROMPT) + most)
        bridge = Bridge(tokenizer, ())
        return Stage(host, bridge, tokenizer, limits, FailureRecord("late"), ChangedPast("go_on", bridge, tokenizer))

    stages = {f"{args.turns} turns, {delay} ms": stage_of(delay) for delay in args.delays}
    found: dict[str, Callable[[], int]] = {"one turn": lambda: run(written, None)}
    return found | {name: lambda stage=stage: run(most, stage) for name, stage in stages.items()}  # type: ignore[misc]


def main() -> None:
    args = parse_arguments()
    from mindrlhf_lite.parallel.mesh import Mesh

    Mesh()
    timed = ways(args)
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    tokens = {}
    for number in range(args.rounds + 1):
        for name, work in timed.items():
            before = time.perf_counter()
            tokens[name] = work()
            if number:
                seconds[name].append(time.perf_counter() - before)
    medians = {name: statistics.median(own) for name, own in seconds.items()}
    first = next(iter(list(medians.values())[1:]))
    for name, median in medians.items():
        share = f", {median / first:.2f} x the first delay's" if name != "one turn" else ""
        say(f"{name}: {median:.2f} s, {tokens[name] / median:.0f} tokens/s{share}")


if __name__ == "__main__":
    run_tool(main)
