"""Gold answers that no verifier, or none of a run's, could ever find: better met when data is converted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tqdm import tqdm

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.agreement import same_answer
from mindrlhf_lite.rewards.formulas import parsed_formula
from mindrlhf_lite.rewards.knights import knight_statements
from mindrlhf_lite.rewards.numbers import parse_quantity
from mindrlhf_lite.rewards.plain_form import has_balanced_braces, plain_form
from mindrlhf_lite.rewards.pool import Verdict, VerifierPool
from mindrlhf_lite.rewards.verifiers import find_verifier
from mindrlhf_lite.types import CompletionView, FinishReason, Outcome

# how a gold answer may be given back as a completion
_FORMS = ("{}", "\\boxed{{{}}}", "<think></think><answer>{}</answer>", "<think></think><answer>\\boxed{{{}}}</answer>")
TIMEOUT_S = 10.0  # as a run's, unless it is told otherwise
_MAX_TIMEOUTS = 20  # in a row; more would be every gold


@dataclass(frozen=True)
class Asked:
    """A gold answer, with what a verifier is told of its question besides."""

    gold: str
    source: str = ""
    prompt: str = ""


def unsatisfied(
    asked: Sequence[Asked], names: Sequence[str], timeout_s: float = TIMEOUT_S, workers: int = 0
) -> dict[Asked, list[str]]:
    """By question, the verifiers that find no form of its gold answer right; where all find one, it is not in it.

    Verifiers run as in training: in processes, each score with a limit, with all that they are told there. Those that
    do not judge answers are not asked.

    Args: workers: processes; 0: one a core.

    Raises:
        ValueError: a verifier cannot be found, or does nothing but time out.
    """
    found: dict[Asked, list[str]] = {}
    for name in names:
        if find_verifier(name).judges_answer:
            for each, problem in _unsatisfied_by(name, asked, timeout_s, workers).items():
                found.setdefault(each, []).append(f"{name} ({problem})" if problem else name)
    return found


def _unsatisfied_by(name: str, asked: Sequence[Asked], timeout_s: float, workers: int) -> dict[Asked, str]:
    """Those of whose gold answer it finds no form right, each with its last failure, or ""."""
    trial, pool = _Trial(name, timeout_s, dict.fromkeys(asked, "")), VerifierPool([name], timeout_s, workers)
    try:
        for form in _FORMS:
            left = list(trial.left)
            with tqdm(total=len(left), unit="gold", desc=name, leave=False, disable=None) as progress:
                pool.score([(_given_back(form, each), each.gold) for each in left], partial(trial.take, left, progress))
    finally:
        pool.close()
    return trial.left


def _given_back(form: str, asked: Asked) -> CompletionView:
    text = form.format(asked.gold)
    return CompletionView(text, max(1, len(text) // 3), FinishReason.STOP, asked.prompt, asked.source)


@dataclass
class _Trial:
    """How a verifier does on golds."""

    name: str
    timeout_s: float
    left: dict[Asked, str]  # not found right yet: the last failure
    timeouts: int = 0  # in a row

    def take(self, asked: Sequence[Asked], progress: tqdm[Any], place: int, verdict: Verdict) -> None:
        """The verdict on one form of asked[place]."""
        progress.update()
        each = asked[place]
        self.timeouts = self.timeouts + 1 if verdict.failure is Outcome.TIMEOUT else 0
        if self.timeouts == _MAX_TIMEOUTS:
            raise UserError(
                f"verifier {self.name!r} gave no score within {self.timeout_s:g} s on {self.timeouts} gold answers in "
                f"a row, the last one {each.gold[:80]!r}"
            )
        if verdict.score is None:
            self.left[each] = verdict.problem
        elif verdict.score.outcome is Outcome.CORRECT:
            del self.left[each]


_COMMAND, _WORD = re.compile(r"\\[A-Za-z]+"), re.compile(r"[A-Za-z]{2,}")
_PROSE = 4  # so many words are no answer that a model would give word by word


def gold_problem(gold: str, kind: str = "math") -> str | None:
    """Why no verifier could ever find an answer equal to this gold, or None. kind: "math", or "statements" for
    kk_reward.
    """
    if kind == "statements":
        said = knight_statements(gold)
        if said is None:
            return "it contradicts itself"
        return None if said else "it says of nobody whether they are a knight or a knave"
    # a quantity, or one word, which is compared as text
    if parse_quantity(gold) is not None or plain_form(gold).isalpha():
        return None
    if len(_WORD.findall(_COMMAND.sub(" ", gold))) >= _PROSE:
        return "it is prose, which no model would give word by word"
    if not re.search(r"\w", plain_form(gold)):
        return "there is neither a letter nor a digit in it"
    if not has_balanced_braces(gold):
        return "its braces, or the brackets of a root, do not match"
    if parsed_formula(plain_form(gold)) is not None or same_answer(gold, gold):
        return None
    return "it is no quantity, and math-verify finds no formula in it"
