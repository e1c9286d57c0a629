"""reasoning-gym's own scorers as a verifier (PyPI, an extra). A column of the row says of which task it is, and what
the scorer needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from math import isfinite
from types import ModuleType
from typing import Any

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.boxes import last_boxed
from mindrlhf_lite.rewards.final_answer import answering_part, with_opened_thought
from mindrlhf_lite.types import CompletionView, Outcome, Score

# the column: {"task": .., "settings": of its dataset, "entry": question, answer and metadata, `packed`}
ENTRY = "reasoning_gym"
_TUPLE, _PAIRS = "__tuple__", "__pairs__"
_WHOLE = 1.0 - 1e-9


def reasoning_gym() -> ModuleType:
    """Raises UserError where it is not installed."""
    try:
        import reasoning_gym as module
        import reasoning_gym.factory
    except ImportError:
        raise UserError("reasoning-gym is not installed: pip install 'mindrlhf_lite[reasoning_gym]'") from None
    return module


def reasoning_gym_reward(completion: CompletionView, gold: str) -> Score:
    r"""What the task's own score_answer gives: 1 where the answer is right, and of some tasks less for a part. The
    answer is what stands inside <answer>, else in the last \boxed{}, else the whole text behind the thought. Nothing
    where the row is of no task.
    """
    kept = completion.columns.get(ENTRY)
    if not isinstance(kept, Mapping):
        return Score(0.0, Outcome.UNPARSED)
    part = answering_part(with_opened_thought(completion.text, completion.prompt))
    answer = "" if part is None else (last_boxed(part) or part).strip()
    if not answer:
        return Score(0.0, Outcome.UNPARSED)
    score = _scorer(str(kept["task"]), json.dumps(kept["settings"], sort_keys=True))
    try:
        value = float(score(answer, unpacked(kept["entry"])))
    except Exception:  # scorers read what a policy wrote, and may raise anything
        value = 0.0
    return Score(min(max(value, 0.0), 1.0), Outcome.CORRECT if value >= _WHOLE else Outcome.WRONG)


def packed(value: Any) -> Any:
    """As JSON values: scorers tell tuples from lists, and numbers from text as keys. What else there is becomes
    text.
    """
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: packed(each) for key, each in value.items()}
        return {_PAIRS: [[packed(key), packed(each)] for key, each in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [packed(each) for each in value]}
    if isinstance(value, list):
        return [packed(each) for each in value]
    is_plain = value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and isfinite(value))
    return value if is_plain else str(value)


def unpacked(value: Any) -> Any:
    """What `packed` was given."""
    if isinstance(value, list):
        return [unpacked(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TUPLE}:
        return tuple(unpacked(each) for each in value[_TUPLE])
    if value.keys() == {_PAIRS}:
        return {unpacked(key): unpacked(each) for key, each in value[_PAIRS]}
    return {key: unpacked(each) for key, each in value.items()}


@lru_cache(maxsize=256)
def _scorer(task: str, settings: str) -> Callable[[str, Mapping[str, Any]], float]:
    return reasoning_gym().create_dataset(task, seed=0, size=1, **json.loads(settings)).score_answer
