"""Environments and tools outside of training: the options of the tools that have them, and what they play on."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import replace

from mindrlhf_lite.commands.tool import COUNT, COUNT_OR_NONE
from mindrlhf_lite.config.environment_settings import environment_problems, spec_of
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.sections.environment import EnvironmentConfig
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.episodes.bridge import Bridge
from mindrlhf_lite.episodes.calls import FORMATS
from mindrlhf_lite.episodes.failures import FailureRecord
from mindrlhf_lite.episodes.host import EnvironmentHost
from mindrlhf_lite.episodes.past import NEW_SAMPLE, ChangedPast
from mindrlhf_lite.episodes.play import EpisodeLimits, Stage
from mindrlhf_lite.errors import UserError

_DEFAULTS = EnvironmentConfig()


def add_options(parser: argparse.ArgumentParser) -> None:
    """environment_config's, under their own names."""
    parser.add_argument("--environment", default="", help="as environment_config.environment: a name, or FILE.py:Class")
    parser.add_argument(
        "--tools", nargs="+", default=[], help="as environment_config.tools: names, or FILE.py:function"
    )
    parser.add_argument(
        "--environment_arguments", nargs="+", default=[], metavar="NAME=VALUE", help="of its constructor"
    )
    parser.add_argument("--call_format", choices=tuple(FORMATS), default=_DEFAULTS.call_format, help="default: hermes")
    parser.add_argument("--max_turns", type=COUNT, default=_DEFAULTS.max_turns, help="default: 8")
    parser.add_argument("--max_turn_tokens", type=COUNT_OR_NONE, default=0, help="0: what is left (default: 0)")
    parser.add_argument("--on_changed_past", choices=("go_on", NEW_SAMPLE), default="go_on", help="default: go_on")


def stage_of(
    args: argparse.Namespace, tokenizer: Tokenizer, stops: Collection[int], max_prompt_tokens: int, max_length: int
) -> Stage | None:
    """None: completions have one turn. Args: max_length: of a prompt with its completion.

    Raises:
        UserError: the options name what is not there, or do not go together.
    """
    environment = EnvironmentConfig(
        args.environment,
        args.tools,
        args.call_format,
        args.max_turns,
        args.max_turn_tokens,
        args.environment_arguments,
    )
    if not environment.is_used:
        return None
    if args.max_turn_tokens > args.max_tokens:
        raise UserError(f"--max_turn_tokens {args.max_turn_tokens}: at most --max_tokens, {args.max_tokens}")
    config = Config(environment_config=replace(environment, max_turn_tokens=0))
    if problems := environment_problems(config):
        raise UserError("; ".join(problems))
    spec = spec_of(config)
    host = EnvironmentHost(spec, environment.step_timeout_s)
    of_turns = (environment.max_turns, environment.max_turn_tokens, max_prompt_tokens)
    limits = EpisodeLimits(*of_turns, args.max_tokens, max_length)
    bridge = Bridge(tokenizer, stops, spec.schemas)
    past = ChangedPast(args.on_changed_past, bridge, tokenizer)
    return Stage(host, bridge, tokenizer, limits, FailureRecord(spec.name), past)
