"""A run's verifiers that are no functions; and a completion made up of a data file's first row, which a user's
verifiers have to score before a run begins.
"""

from __future__ import annotations

from pathlib import Path

from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.records import read_prompts
from mindrlhf_lite.rewards.judge import Judge
from mindrlhf_lite.rewards.judge_settings import JUDGE_REWARD
from mindrlhf_lite.rewards.pool import VerifierPool
from mindrlhf_lite.rewards.reward_function import Elsewhere
from mindrlhf_lite.rewards.verifiers import BUILT_IN
from mindrlhf_lite.trainer.reward_texts import reader_of
from mindrlhf_lite.types import CompletionView, Prompt


def trial_of(prompt: Prompt) -> tuple[CompletionView, str]:
    """The gold answer given back in tags, and the gold answer."""
    text = f"<think></think><answer>{prompt.gold}</answer>"
    return CompletionView(
        text, len(text), prompt=prompt.text, source=prompt.source, columns=prompt.columns
    ), prompt.gold


def elsewhere_of(config: Config) -> dict[str, Elsewhere]:
    """The verifiers of a run that are no functions, by name."""
    judge = config.reward_config.judge
    if JUDGE_REWARD not in (*config.reward_config.verifier_function, config.rl_config.eval_verifier):
        return {}
    return {JUDGE_REWARD: Judge(judge, Path(judge.cache_dir or f"{config.rl_config.output_dir}/judge"))}


def trial_problems(config: Config) -> list[str]:
    """What is wrong with the verifiers of a user's own, or with a reward model's template, at most one; nothing is
    started where all verifiers are built in.
    """
    names = dict.fromkeys([*config.reward_config.verifier_function, config.rl_config.eval_verifier])
    own = [name for name in names if name and name not in BUILT_IN]
    if not (own or config.reward_config.reward_model.template) or not config.rl_config.dataset_file:
        return []
    try:
        first = read_prompts(config.rl_config.dataset_file)[0]
        reader_of(config, first)
        if own:
            VerifierPool(own, config.reward_config.verifier_timeout_s, 1, trial_of(first)).close()
    except ValueError as error:
        return [f"reward_config: {error}"]
    return []
