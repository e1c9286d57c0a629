"""How a run's completions are drawn, and which tokens end them."""

from __future__ import annotations

from mindrlhf_lite.config.sampling_params import sampling_params
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.data.tokenizer import Tokenizer, stop_token_ids
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.types import SamplingParams


def sampling_of_run(config: Config, tokenizer: Tokenizer, vocab_size: int) -> tuple[SamplingParams, SamplingParams]:
    """(in training, in evaluation).

    Raises:
        ValueError: a stop token lies outside the vocabulary.
    """
    s = config.generate_config.sampling_config
    stops = tuple(s.eos_token_id) or stop_token_ids(config.actor_config.load, tokenizer)
    if bad := [token for token in stops if not 0 <= token < vocab_size]:
        raise UserError(
            f"generate_config.sampling_config.eos_token_id={list(stops)}: {bad} lie outside the vocabulary of "
            f"{vocab_size}"
        )
    tempered = config.policy_temperature != 1.0
    training = sampling_params(s, stop_token_ids=stops, reports_tempered_policy=tempered)
    return training, SamplingParams(s.max_tokens, temperature=config.rl_config.eval_temperature, stop_token_ids=stops)


OFF_POLICY_NOTE = (
    "note: completions are not drawn from the policy that is trained (filters, min_tokens, or a temperature with "
    "rl_config.logprob_temperature=1; see "
    "rollout/sampling_gap_mean); rl_config.rollout_is_cap=2.0 corrects for it"
)


NOT_REPORTED_NOTE = (
    "note: this engine reports the logprobs of the policy at temperature 1 only, not those of the draw: "
    "rollout/sampling_gap_mean is left out, the rollout/ratio metrics say nothing, and rl_config.rollout_is_cap cannot "
    "correct for filters and min_tokens"
)


def off_policy_notes(config: Config, sampling: SamplingParams) -> list[str]:
    """What to say of a run whose completions are not drawn from its policy, and that does not correct for it."""
    if not sampling.is_off_policy or config.rl_config.rollout_is_cap:
        return []
    return [NOT_REPORTED_NOTE if config.reports_only_policy_logprobs else OFF_POLICY_NOTE]


def end_token_ids(sampling: SamplingParams) -> int | list[int]:
    """The stop tokens as config.json has them."""
    stops = list(sampling.stop_token_ids)
    return stops[0] if len(stops) == 1 else stops
