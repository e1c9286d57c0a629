"""What processes tell one another: every value comes back as it was, and bytes that are no message make nothing."""

import json
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindrlhf_lite.checkpoint.store import SavedCheckpoint
from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.files.wire import BadMessage, from_bytes, to_bytes
from mindrlhf_lite.learner.statistics import UpdateCounts
from mindrlhf_lite.types import Completion, FinishReason, Outcome, Prompt, RolloutGroup, Score, ScoredGroup

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
FLOATS = np.array([0.5, np.nan, -np.inf], np.float32)


def scored_group():
    completions = [
        Completion((5, 2), FLOATS[:2], None, FinishReason.STOP),
        Completion((7,), None, FLOATS, FinishReason.LENGTH),
    ]
    prompt = Prompt(3, (1, 2), 'a "\ud800\n', "b", 9, "s", {"level": [1, {"x": None}]})
    scores = {"v": [Score(1.0, Outcome.CORRECT), Score(0, Outcome.TIMEOUT)]}
    outcomes = [Outcome.CORRECT, Outcome.TIMEOUT]
    return ScoredGroup(
        RolloutGroup(prompt, completions, ["x", "\0"]), scores, FLOATS, FLOATS, outcomes, np.array([1, 0], bool)
    )


CASES = [
    (scored_group(), ScoredGroup),
    ([(4, scored_group())], list[tuple[int, ScoredGroup]]),
    ({7: np.arange(6).reshape(2, 3), 1: np.array(3.5), 2: np.zeros((0, 4), np.float16)}, dict[int, np.ndarray]),
    (UpdateCounts({"loss": 0.1}, 7, lr=1e-6), UpdateCounts),
    ((SavedCheckpoint(2, {"a": [1.5]}, Path("/x/step_2")), ["note"]), tuple[SavedCheckpoint | None, list[str]]),
    ((None, []), tuple[SavedCheckpoint | None, list[str]]),
    (build_config({"rl_config.beta": 0.25}), Config),
]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # of a busy machine
@given(JSON)
def test_json_values_come_back(value):
    assert from_bytes(to_bytes(value)) == value


@pytest.mark.parametrize(("value", "kind"), CASES)
def test_values_come_back(value, kind):
    found = from_bytes(to_bytes(value, kind), kind)
    assert type(found) is type(value) and repr(found) == repr(value)


def test_numbers_of_numpy_and_tuples_are_plain():
    assert from_bytes(to_bytes([np.float32(0.1), np.int64(3), (1, np.bool_(True))])) == [
        float(np.float32(0.1)),
        3,
        [1, True],
    ]


@pytest.mark.parametrize(
    ("value", "kind"),
    [({1}, object), (object(), int), ("1", int), (1.5, int), ((1, 2), tuple[int]), (len, str), (1, np.ndarray)],
)
def test_what_is_not_of_the_kind_is_not_sent(value, kind):
    with pytest.raises(TypeError):
        to_bytes(value, kind)


class Bomb:
    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_bytes_that_are_no_message(tmp_path):
    """Damaged messages are refused in one way; a pickle is bytes like others."""
    Bomb.path = str(tmp_path / "made")
    rng = random.Random(0)
    messages = [pickle.dumps(Bomb()), b"", b"\0" * 65536, bytes(3), (1 << 31).to_bytes(4, "little")]
    for value, kind in CASES:
        whole = to_bytes(value, kind)
        for _ in range(200):
            damaged = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                damaged[rng.randrange(len(damaged))] = rng.choice(b'0123456789[]{},":\0\xff')
            messages.append(bytes(damaged[: rng.choice((len(damaged), rng.randrange(len(damaged))))]))
        for other in messages:
            try:
                from_bytes(other, kind)
            except BadMessage:
                continue
    for name in ("(", "O", "<f4,<f4", "V8", "<U4", "float32", 3, None):
        described = json.dumps({"value": 0, "arrays": [[name, [0]]]}).encode()
        with pytest.raises(BadMessage):
            from_bytes(len(described).to_bytes(4, "little") + described, np.ndarray)
    with pytest.raises(BadMessage):
        from_bytes(pickle.dumps(Bomb()), ScoredGroup)
    assert not (tmp_path / "made").exists()


def test_nothing_is_unpickled():
    """Nothing that this package reads can name code to be run."""
    root = Path(__file__).resolve().parents[1]
    for path in [*(root / "mindrlhf_lite").rglob("*.py"), *(root / "tools").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert "pickle" not in text and "marshal" not in text and "shelve" not in text, path
