"""What crosses module borders: frozen dataclasses, each field with its meaning, dtype and unit.

Left out on purpose: anything only one module uses. Token ids are Python ints or int32 arrays; logprobs are natural
logarithms in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.turns import Episode, Restart

VALUES, RETURNS = "values", "returns"  # of a critic: among `TrainSequence.of_roles`
IntArray = np.ndarray
FloatArray = np.ndarray


class FinishReason(str, Enum):
    """Why a completion ended: `STOP` on a stop token (kept as its last token), `LENGTH` at max_tokens or the cache's
    end.
    """

    STOP = "stop"
    LENGTH = "length"


class Outcome(str, Enum):
    """What a verifier found out about one completion."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    ERROR = "error"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Prompt:
    """One row of the data file.

    Example: Prompt(index=0, ids=(15, 10, 17, 28), text="3+5=", gold="8", row=12)
    """

    index: int  # position in the MindRecord file, from 0; part of every completion's seed
    ids: tuple[int, ...]  # prompt token ids, unpadded
    text: str  # the rendered prompt that `ids` encodes
    gold: str  # the gold answer, verbatim
    row: int  # row number in the source file, from 1
    source: str = ""  # what accuracy is broken down by: subject, or name of the source file
    columns: Mapping[str, Any] = field(default_factory=dict)  # more of the source's row, for verifiers: JSON values


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. Fields and defaults follow vLLM's names.

    Example: SamplingParams(max_tokens=64, temperature=1.0, stop_token_ids=(151645, 151643))
    """

    max_tokens: int  # most tokens generated, the stop token included
    min_tokens: int = 0  # stop tokens are forbidden before this many tokens
    temperature: float = 1.0  # 0 means greedy
    top_k: int = 0  # 0 means all
    top_p: float = 1.0
    min_p: float = 0.0  # least probability, as a fraction of the most probable token's
    repetition_penalty: float = 1.0  # over prompt and completion tokens
    presence_penalty: float = 0.0  # subtracted from the logits of tokens generated before
    frequency_penalty: float = 0.0  # subtracted once for every time a token was generated
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, what is added to its logit)
    stop_token_ids: tuple[int, ...] = ()
    reports_tempered_policy: bool = False  # the policy whose logprobs are reported is that at `temperature`, not at 1

    def __post_init__(self) -> None:
        problems = []
        if self.max_tokens < 1:
            problems.append(f"max_tokens={self.max_tokens}: must be at least 1")
        if not 0 <= self.min_tokens <= self.max_tokens:
            problems.append(f"min_tokens={self.min_tokens}: must lie in 0..max_tokens ({self.max_tokens})")
        if self.temperature < 0:
            problems.append(f"temperature={self.temperature}: must be 0 (greedy) or positive")
        if self.top_k < 0:
            problems.append(f"top_k={self.top_k}: must be 0 (off) or positive")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p={self.top_p}: must lie in (0, 1]")
        if not 0 <= self.min_p <= 1:
            problems.append(f"min_p={self.min_p}: must lie in [0, 1]")
        if self.repetition_penalty <= 0:
            problems.append(f"repetition_penalty={self.repetition_penalty}: must be positive")
        if problems:
            raise UserError("; ".join(problems))

    @property
    def has_penalties(self) -> bool:
        """Whether anything but min_tokens changes the logits of single tokens."""
        penalties = self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0
        return penalties or bool(self.logit_bias)

    @property
    def has_filters(self) -> bool:
        """Whether the sampled distribution differs from the tempered policy by more than the stop-token mask."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0 or self.has_penalties

    @property
    def is_off_policy(self) -> bool:
        """Whether completions are drawn from another distribution than the policy's whose logprobs are reported."""
        return self.has_filters or self.temperature != self.policy_temperature or self.min_tokens > 0

    @property
    def policy_temperature(self) -> float:
        """Of the policy whose logprobs an engine reports besides those of the draw."""
        return self.temperature if self.reports_tempered_policy and self.temperature > 0 else 1.0


@dataclass(frozen=True)
class GenerateRequest:
    """One prompt to complete `num_samples` times.

    A completion's random stream depends on (`seed`, sample index) only, never on what shares its batch.

    Example: GenerateRequest(prompt_ids=(15, 10, 17, 28), num_samples=8, seed=(0, 12, 345))
    """

    prompt_ids: tuple[int, ...]
    num_samples: int = 1
    seed: tuple[int, ...] = (0,)  # here (run seed, step, prompt index), and more where a step has a prompt again


@dataclass(frozen=True)
class Completion:
    """One generated sequence.

    Example: Completion(token_ids=(23, 2), logprobs=array([-0.1, -0.2]), engine_logprobs=array([-0.1, -0.2]),
    finish_reason=FinishReason.STOP)
    """

    token_ids: tuple[int, ...]  # the stop token included
    # float32 [len(token_ids)], under the distribution that was sampled from; None where the engine does not report it
    logprobs: FloatArray | None
    # float32 [len(token_ids)], the engine's, of the unfiltered policy at SamplingParams.policy_temperature, or None
    engine_logprobs: FloatArray | None
    finish_reason: FinishReason
    # bool [len(token_ids)]: the policy wrote it, an environment or the chat template did not; None: it wrote all
    written: IntArray | None = None
    episode: Episode | None = None  # of a completion of several turns
    restarts: tuple[Restart, ...] = ()  # where it goes on behind another prompt

    @property
    def has_failed(self) -> bool:
        """Whether its environment has."""
        return self.episode is not None and self.episode.has_failed

    @property
    def num_written(self) -> int:
        """Tokens that the policy wrote: what counts as its length."""
        return len(self.token_ids) if self.written is None else int(self.written.sum())


@dataclass(frozen=True)
class CompletionView:
    """What a verifier sees of a completion.

    Example: CompletionView("<think>3+5</think><answer>8</answer>", num_tokens=12, prompt="3+5=")
    """

    text: str  # in an episode: that of the last turn
    num_tokens: int = 0  # that the policy wrote, the stop token included
    finish_reason: FinishReason = FinishReason.STOP
    prompt: str = ""  # as rendered
    source: str = ""  # of the question: subject, or name of its file
    columns: Mapping[str, Any] = field(default_factory=dict)  # of the question: rlhf_data.py --keep_columns
    episode: Episode | None = None  # its turns, where there is an environment
    num_read: int = 0  # tokens between the turns, which max_tokens holds too


@dataclass(frozen=True)
class Score:
    """A verifier's verdict on one completion. Example: Score(1.0, Outcome.CORRECT)"""

    value: float
    outcome: Outcome


@dataclass(frozen=True)
class RolloutGroup:
    """All completions of one prompt, with their text.

    Example: RolloutGroup(prompt, completions=[c0, c1], texts=["8", "9"])
    """

    prompt: Prompt
    completions: list[Completion]
    texts: list[str]

    @property
    def views(self) -> list[CompletionView]:
        """The completions as verifiers see them."""
        return [
            CompletionView(
                text if completion.episode is None else completion.episode.answer,
                completion.num_written,
                completion.finish_reason,
                self.prompt.text,
                self.prompt.source,
                self.prompt.columns,
                completion.episode,
                len(completion.token_ids) - completion.num_written,
            )
            for text, completion in zip(self.texts, self.completions, strict=True)
        ]


@dataclass(frozen=True)
class ScoredGroup:
    """A rollout group with its rewards. Example: two completions, one verifier: rewards=[1, 0]"""

    group: RolloutGroup
    scores: dict[str, list[Score]]  # verifier name -> one score a completion
    verified: FloatArray  # float32 [G]: weighted sum over verifiers
    rewards: FloatArray  # float32 [G]: the same, shaped
    outcomes: list[Outcome]  # of the first verifier that judges the answer; error or timeout if any verifier failed
    kept: IntArray  # bool [G]: False where a verifier failed and such completions are left out of their group

    @property
    def pass_rate(self) -> float:
        """Of its kept completions: how many are correct."""
        kept = [outcome for outcome, is_kept in zip(self.outcomes, self.kept, strict=True) if is_kept]
        return kept.count(Outcome.CORRECT) / len(kept)

    @property
    def is_mixed(self) -> bool:
        """Whether the verifiers tell its kept completions apart: else it teaches nothing."""
        kept = self.verified[self.kept]
        return len(kept) > 1 and bool(np.any(kept != kept[0]))


@dataclass(frozen=True)
class TrainSequence:
    """One sequence as the actor trains on it: prompt + completion, unpadded.

    `reference_logprobs` is None when beta is 0; `frozen_logprobs`, of the actor before the first of several updates, is
    None when the batch is used for one update only.
    """

    token_ids: IntArray  # int32 [P + C]
    prompt_length: int  # P
    advantages: FloatArray  # float32 [C]
    mask: FloatArray  # float32 [C]: 1 on tokens that count, 0 on others
    reference_logprobs: FloatArray | None = None  # float32 [C]
    frozen_logprobs: FloatArray | None = None  # float32 [C]
    # float32 [C], under the distribution that was sampled from; None: not corrected for
    sampling_logprobs: FloatArray | None = None
    # float32 [C] each, by name: logprobs of further frozen roles; the critic's "values", and the "returns" it learns
    of_roles: Mapping[str, FloatArray] = field(default_factory=dict)
    written: IntArray | None = None  # bool [C], as of the completion; the others never count
    restarts: tuple[Restart, ...] = ()  # as of the completion: its samples are one sequence, of one length and ratio

    @staticmethod
    def of(token_ids: IntArray, prompt_length: int, advantage: float = 0.0, **logprobs: Any) -> TrainSequence:
        """A sequence of which every completion token counts, with one advantage. Args: logprobs: fields, by name."""
        length = len(token_ids) - prompt_length
        advantages, mask = np.full(length, advantage, np.float32), np.ones(length, np.float32)
        return TrainSequence(token_ids, prompt_length, advantages, mask, **logprobs)

    @property
    def completion_length(self) -> int:
        return len(self.token_ids) - self.prompt_length

    @property
    def num_read_again(self) -> int:
        """Tokens of the prompts of its further samples."""
        return sum(len(restart.prompt_ids) for restart in self.restarts)

    @property
    def num_counted(self) -> int:
        """Completion tokens that count."""
        return int(self.mask.sum())


@dataclass
class StepMetrics:
    """One line of metrics.jsonl; keys as in docs/metrics.md."""

    step: int
    values: dict[str, float] = field(default_factory=dict)

    def as_row(self) -> dict[str, float]:
        return {"step": self.step, **self.values}
