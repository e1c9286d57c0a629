"""environment_config as the processes of environments take it, and what must hold for it; problems are returned, with
key, value and fix.
"""

from __future__ import annotations

from typing import Any

import yaml

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.sections.environment import EnvironmentConfig
from mindrlhf_lite.data.records import read_header
from mindrlhf_lite.data.tokenizer import Tokenizer, stop_token_ids
from mindrlhf_lite.episodes.bridge import Bridge
from mindrlhf_lite.episodes.past import REFUSE, refusal
from mindrlhf_lite.episodes.registry import EnvironmentSpec, maker_of
from mindrlhf_lite.episodes.tools import find_tool, name_of_tool, schema_of
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.strict_yaml import load_yaml
from mindrlhf_lite.rewards.verifiers import ENVIRONMENT_REWARD

_SECTION = "environment_config"


def arguments_of(environment: EnvironmentConfig) -> dict[str, Any]:
    """{"highest": 64} of ["highest=64"].

    Raises:
        ValueError: one is no NAME=VALUE, or a name is there twice.
    """
    found: dict[str, Any] = {}
    for text in environment.arguments:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier() or name.strip() in found:
            raise UserError(f"{_SECTION}.arguments: {text!r}: NAME=VALUE is needed, each name once")
        try:
            found[name.strip()] = load_yaml(value)
        except yaml.YAMLError:
            raise UserError(f"{_SECTION}.arguments: {text!r}: the value is no YAML") from None
    return found


def spec_of(config: Config) -> EnvironmentSpec:
    """Raises ValueError: a tool cannot be described."""
    environment = config.environment_config
    return EnvironmentSpec(
        environment.environment,
        environment.tools,
        [schema_of(name) for name in environment.tools],
        arguments_of(environment),
        environment.call_format,
        int(environment.memory_gb * 2**30),
    )


def environment_problems(config: Config) -> list[str]:
    """What is wrong with the settings themselves, and with what they name."""
    environment, problems = config.environment_config, []
    has_reward = ENVIRONMENT_REWARD in (*config.reward_config.verifier_function, config.rl_config.eval_verifier)
    if not environment.is_used:
        if has_reward:
            problems.append(
                f"reward_config.verifier_function: {ENVIRONMENT_REWARD} is what an environment pays, and there is "
                f"none; give {_SECTION}.environment"
            )
        if config.rl_config.credit == "turn":
            problems.append(f"rl_config.credit=turn: there are no turns; give {_SECTION}.environment or tools")
        return problems
    if environment.environment and environment.tools:
        problems.append(f"{_SECTION}.tools={environment.tools}: give an environment or tools, not both")
    names = list(map(name_of_tool, environment.tools))
    if len(set(names)) != len(names):
        problems.append(f"{_SECTION}.tools={environment.tools}: the policy calls two of them by one name")
    if config.generate_config.use_vllm and config.context.device_target == "Ascend":
        problems.append("generate_config.use_vllm=1: vLLM on Ascend has no turns; set it to 0, or use no environment")
    most = config.generate_config.sampling_config.max_tokens
    if environment.max_turn_tokens > most:
        problems.append(
            f"{_SECTION}.max_turn_tokens={environment.max_turn_tokens}: must not exceed "
            f"generate_config.sampling_config.max_tokens={most}, which all turns have together"
        )
    try:
        arguments = arguments_of(environment)
        tools = [find_tool(name) for name in environment.tools]
        schemas: list[Any] = [{} for _ in tools]  # looked at where the data are
        maker_of(EnvironmentSpec(environment.environment, environment.tools, schemas, arguments))
    except ValueError as error:
        text = str(error)
        problems.append(text if text.startswith(_SECTION) else f"{_SECTION}: {text}")
    return problems


def conversation_mistakes(config: Config) -> list[str]:
    """What is wrong with tools, chat template and data of a run with tools. Args: config: whose settings are right."""
    environment, problems = config.environment_config, []
    if not environment.tools:
        return []
    try:
        spec = spec_of(config)
        if spec.arguments.get("answers_as", "messages") != "messages":
            return []
        for key in ("dataset_file", "eval_dataset_file"):
            header = read_header(path) if (path := getattr(config.rl_config, key)) else None
            if header is not None and header.template != "plain":
                problems.append(
                    f"rl_config.{key}={path!r}: its prompts are rendered already (--prompt_type {header.template}), "
                    f"and {_SECTION}.tools render them with the tools; convert the data with --prompt_type plain"
                )
        problems += _problems_of_template(config, spec)
    except ValueError as error:
        problems.append(f"{_SECTION}: {error}")
    return problems


def told_at_the_start(spec: EnvironmentSpec) -> list[str]:
    """Roles of the messages that tools answer with; what an environment answers with is seen when it does."""
    if not spec.tools or spec.arguments.get("answers_as", "messages") != "messages":
        return []
    return [str(spec.arguments.get("role", "tool"))]


def changed_past(bridge: Bridge, spec: EnvironmentSpec) -> list[str]:
    """Notes on how episodes differ from what transformers renders.

    Raises:
        ValueError: the template cannot have such messages.
    """
    return [note for role in told_at_the_start(spec) for note in bridge.notes(role)]


def _problems_of_template(config: Config, spec: EnvironmentSpec) -> list[str]:
    tokenizer = Tokenizer(config.tokenizer_dir)
    stops = tuple(config.generate_config.sampling_config.eos_token_id) or stop_token_ids(
        config.actor_config.load, tokenizer
    )
    notes = changed_past(Bridge(tokenizer, stops, spec.schemas), spec)
    return list(map(refusal, notes)) if config.environment_config.on_changed_past == REFUSE else []
