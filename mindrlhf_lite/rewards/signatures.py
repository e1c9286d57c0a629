"""How a user's function is called: as one of this toolkit's verifiers, or as TRL or verl would call it.

- (completion, gold): with one completion; it returns a number, or a Score.
- (completions, golds) under @verifier(whole_group=True): with all completions of a question; it returns as many.
- completions, and prompts or columns by name (TRL): with all completions of a question, as texts; it returns as many.
- solution_str, ground_truth, and data_source or extra_info (verl): with one; it returns a number, or {"score": ...}.

A question at a time, and not all that a rank has: so a score does not depend on the layout.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.types import CompletionView

# of many completions and their gold answers, as many scores
GroupFunction = Callable[[Sequence[CompletionView], Sequence[str]], Sequence[Any]]
# what TRL's functions call the column with the gold answer
_GOLDS = ("answer", "solution", "ground_truth", "gold", "golds", "target", "label", "answers", "solutions", "labels")
_OF_TRL = ("prompts", "completions")


def as_group_function(name: str, function: Callable[..., Any], is_whole_group: bool) -> tuple[GroupFunction, bool]:
    """(the function in one form, whether it has to see all completions of a question).

    Raises:
        ValueError: it cannot be called in any of the forms.
    """
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # a builtin without a signature
        return _one_by_one(function), False
    if is_whole_group:
        _check_two(name, function, "(completions, golds)")
        return function, True
    if {"solution_str", "ground_truth"} <= parameters.keys():
        return _one_by_one(_as_verl(function, parameters)), False
    if "completions" in parameters:
        return _as_trl(name, function, parameters), True
    _check_two(name, function, "(completion, gold)")
    return _one_by_one(function), False


def _check_two(name: str, function: Callable[..., Any], wanted: str) -> None:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        given = ", ".join(inspect.signature(function).parameters)
        raise UserError(
            f"verifier {name!r} must take {wanted}, or the arguments that TRL or verl pass by name "
            f"(docs/guides/r1_zero.md); it takes ({given})"
        ) from None


def _one_by_one(function: Callable[[CompletionView, str], Any]) -> GroupFunction:
    return lambda completions, golds: [function(*pair) for pair in zip(completions, golds, strict=True)]


def _takes_any(parameters: Any) -> bool:
    return any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())


def _as_verl(function: Callable[..., Any], parameters: Any) -> Callable[[CompletionView, str], Any]:
    takes_any = _takes_any(parameters)

    def score(completion: CompletionView, gold: str) -> Any:
        given = {
            "data_source": completion.source,
            "solution_str": completion.text,
            "ground_truth": gold,
            "extra_info": completion.columns.get("extra_info", dict(completion.columns)),
        }
        result = function(**{key: value for key, value in given.items() if takes_any or key in parameters})
        return result["score"] if isinstance(result, dict) else result

    return score


def _as_trl(name: str, function: Callable[..., Any], parameters: Any) -> GroupFunction:
    takes_any = _takes_any(parameters)
    needed = [
        key
        for key, each in parameters.items()
        if each.default is inspect.Parameter.empty
        and each.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        and key not in (*_OF_TRL, *_GOLDS)
    ]

    def score(completions: Sequence[CompletionView], golds: Sequence[str]) -> Sequence[Any]:
        columns = {key for completion in completions for key in completion.columns}
        if missing := [key for key in needed if key not in columns]:
            raise UserError(
                f"verifier {name!r} takes {', '.join(missing)}, and the data has no such column: convert it with "
                "tools/rlhf_data.py --keep_columns"
            )
        given: dict[str, list[Any]] = {key: [each.columns.get(key) for each in completions] for key in columns}
        given |= {key: list(golds) for key in _GOLDS if key not in given}
        given["prompts"] = [each.prompt for each in completions]
        given["completions"] = [each.text for each in completions]
        return function(**{key: value for key, value in given.items() if takes_any or key in parameters})

    return score
