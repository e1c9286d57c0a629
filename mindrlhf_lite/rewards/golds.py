"""Gold answers that no verifier, or none of a run's, could ever find: better met when data is converted."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from mindrlhf_lite.commands.progress import Progress
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.formulas import parsed_formula
from mindrlhf_lite.rewards.knights import knight_statements
from mindrlhf_lite.rewards.numbers import parse_quantity
from mindrlhf_lite.rewards.plain_form import has_balanced_braces, plain_form
from mindrlhf_lite.rewards.pool import Verdict, VerifierPool
from mindrlhf_lite.rewards.regions import region
from mindrlhf_lite.rewards.structure import leaves, read
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
    columns: str = "{}"  # JSON: what of its row was kept for verifiers


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
            with Progress(len(left), "gold answer", name, says_end=False, leave=False) as progress:
                pool.score([(_given_back(form, each), each.gold) for each in left], partial(trial.take, left, progress))
    finally:
        pool.close()
    return trial.left


def _given_back(form: str, asked: Asked) -> CompletionView:
    text = form.format(asked.gold)
    columns = json.loads(asked.columns)
    return CompletionView(text, max(1, len(text) // 3), FinishReason.STOP, asked.prompt, asked.source, columns)


@dataclass
class _Trial:
    """How a verifier does on golds."""

    name: str
    timeout_s: float
    left: dict[Asked, str]  # not found right yet: the last failure
    timeouts: int = 0  # in a row

    def take(self, asked: Sequence[Asked], progress: Progress, place: int, verdict: Verdict) -> None:
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
# what tables and programs write where there is nothing; "none" and "undefined" may be answers
_MISSING = re.compile(
    r"[-+]?nan|[-+]?Infinity|[-+]inf|inf|null|nil|NoneType|n\.?/?a\.?|tbd|todo|unknown|missing"
    r"|#[A-Z/0!?]+|<[a-z_ ]+>|\[[a-z_ ]+\]|-|\?+"
)
_MISSING_IN_ANY_CASE = re.compile(r"nan|null|n/a|tbd|todo|#[a-z/0]+[!?]?", re.IGNORECASE)
_APPROXIMATE = re.compile(
    r"(?:about|around|approximately|approx\.?|roughly|nearly|almost|circa|ca\.|some|~|\\(?:approx|sim|simeq)(?![A-Za-z])|大?约|約|およそ|약|대략)\s*(?=[-+]?[$£€]?\s*[.\d\\])",
    re.IGNORECASE,
)
_OR_SO = re.compile(r"\d\s*(?:or so|or thereabouts|-?ish|左右|前後|정도)$", re.IGNORECASE)
_MALFORMED = re.compile(r"\d\s*\.\.+\s*\d|\d\.\d+\.\d|\d\s*[@#~]\s*\d|\d,,\d|[-+]{2,}\d|^\d*\.$")
_FORMULA = re.compile(r"[\w\s\\{}()\[\]^+\-*/=<>.,:;|&°!'%$]+")
_UNIT_WORD = re.compile(r"(?<=[\d}])\s*[A-Za-z]{3,}")


def gold_problem(gold: str, kind: str = "math") -> str | None:
    """Why no verifier could ever find an answer equal to this gold, or None. kind: "math", "statements" for
    kk_reward, or "own": a scorer of the task's own knows.
    """
    if kind == "own":
        return None
    if kind == "statements":
        said = knight_statements(gold)
        if said is None:
            return "it contradicts itself"
        return None if said else "it says of nobody whether they are a knight or a knave"
    plain = plain_form(gold)
    if _MISSING.fullmatch(plain) or _MISSING_IN_ANY_CASE.fullmatch(plain):
        return "it stands for an answer that is missing"
    if _APPROXIMATE.match(plain) or _APPROXIMATE.match(gold.strip()) or _OR_SO.search(plain):
        return "it says about how much, and answers say how much"
    if _MALFORMED.search(plain):
        return "it is no number"
    # a quantity, or one word, which is compared as text
    if parse_quantity(gold) is not None or plain.isalpha():
        return None
    if len(_WORD.findall(_COMMAND.sub(" ", gold))) >= _PROSE:
        return "it is prose, which no model would give word by word"
    if not re.search(r"\w", plain):
        return "there is neither a letter nor a digit in it"
    if not has_balanced_braces(gold):
        return "its braces, or the brackets of a root, do not match"
    return _unreadable(plain)


def _unreadable(plain: str) -> str | None:
    """Why the parts of a gold answer cannot be read, or None. (Whether it is equal to itself says nothing: as text, it
    always is.)
    """
    node = read(plain)
    parts = [part.text for part in node.parts] if node.kind == "list" else [plain]
    if len(parts) > 1 and sum(_is_amount(part) for part in parts) > 1 and len(set(map(_unit, parts))) > 1:
        return "it holds two amounts, each with a unit of its own"
    if all(_is_readable(part) for part in leaves(node)) or region(plain) is not None:
        return None
    if parsed_formula(plain) is not None:
        return None
    return "it is no quantity and no words, and no formula can be read in it"


def _is_amount(text: str) -> bool:
    return parse_quantity(text) is not None and _UNIT_WORD.search(text) is not None


def _unit(text: str) -> str:
    found = _UNIT_WORD.search(text)
    return found.group().strip() if found else ""


def _is_readable(text: str) -> bool:
    """Whether a single value is a quantity, a formula, words, or digits and words as in a time or a date."""
    return (
        parse_quantity(text) is not None
        or re.fullmatch(r"[^\W_][\w .:'/-]*", text) is not None
        or parsed_formula(text) is not None
        or (_COMMAND.search(text) is not None and _FORMULA.fullmatch(text) is not None)  # \\tan 15°, which is no LaTeX
    )
