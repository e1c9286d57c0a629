"""Several turns in the native engine: right tokens, and independent of company and of when they are answered."""

import random

import numpy as np
import pytest
from episodes.scripted_turns import ScriptedTurns, answer
from helpers import TINY, random_weights
from mindspore import Tensor

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.precision import Precision
from mindrlhf_lite.native.library import set_up
from mindrlhf_lite.rollout.host_draw import log_softmax, uniforms
from mindrlhf_lite.rollout.native import NativeEngine
from mindrlhf_lite.turns import Restart
from mindrlhf_lite.types import FinishReason, GenerateRequest, SamplingParams

LENGTH, STOPS = 64, (3, 4, 5)


@pytest.fixture(scope="module")
def model():
    return Decoder(TINY, random_weights(TINY), False, LENGTH)


@pytest.fixture(scope="module", params=["plain", "native"])
def engine(request, model):
    if request.param == "plain":
        return NativeEngine(model, num_slots=64, cache_length=LENGTH)
    set_up()
    precision = Precision.here("float32", is_native=True)
    if not precision.has_native_kernels:
        pytest.skip("native kernels are not built")
    own = Decoder(TINY, random_weights(TINY), False, LENGTH, precision=precision)
    return NativeEngine(own, num_slots=64, cache_length=LENGTH)


def requests(count, num_samples=1):
    rng = np.random.default_rng(0)
    return [
        GenerateRequest(tuple(int(t) for t in rng.integers(6, 97, rng.integers(1, 20))), num_samples, (0, 5, index))
        for index in range(count)
    ]


def logits_of(model, ids):
    padded = np.zeros((1, LENGTH), np.int32)
    padded[0, : len(ids)] = ids
    return model(Tensor(padded)).asnumpy()[0, : len(ids)]


def turns_of(completion):
    """[(start, end)] of what was written."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], completion.written, [0]])))
    return list(zip(edges[::2], edges[1::2], strict=True))


def long_answer(request, sample, turn):
    """Of 1 to 36 tokens: chunks of several widths."""
    return tuple((7 * request + 11 * turn + place) % 90 for place in range(1 + 7 * request))


def logits_behind(model, request, completion):
    """Of every token of a completion, behind what its sample begins with."""
    restarts = (Restart(0, request.prompt_ids), *completion.restarts)
    ends = [*(each.start for each in restarts[1:]), len(completion.token_ids)]
    rows = []
    for restart, end in zip(restarts, ends, strict=True):
        whole = (*restart.prompt_ids, *completion.token_ids[restart.start : end])
        rows.append(logits_of(model, whole)[len(restart.prompt_ids) - 1 : -1].astype(np.float64))
    return np.concatenate(rows)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("turns", [{}, {"answer": long_answer, "turns": 2}, {"begins_again": True}])
def test_tokens_are_those_of_the_whole_sequence(engine, model, temperature, turns):
    """Each written token is drawn from the model's distribution after all that is before it, by its own uniform."""
    sampling = SamplingParams(44, temperature=temperature, stop_token_ids=STOPS)
    batch = requests(6)
    found = engine.generate(batch, sampling, turns=ScriptedTurns(**turns))
    assert sum(bool(group[0].restarts) for group in found) == (6 if "begins_again" in turns else 0)
    for request, (completion,) in zip(batch, found, strict=True):
        ids = completion.token_ids
        logits = logits_behind(model, request, completion)
        chosen = log_softmax(logits / (temperature or 1.0))
        cumulative = np.cumsum(np.exp(chosen), -1)
        draws = uniforms(request.seed, 0, 44)[: len(ids), None] * cumulative[:, -1:]
        expected = logits.argmax(-1) if temperature == 0 else (cumulative <= draws).sum(-1)
        written, places = completion.written, np.arange(len(ids))
        written = np.ones(len(ids), bool) if written is None else written
        assert np.array(ids)[written].tolist() == expected[written].tolist()
        policy = log_softmax(logits)[places, list(ids)]
        np.testing.assert_allclose(completion.engine_logprobs, np.where(written, policy, 0), atol=3e-5)
        sampled = chosen[places, list(ids)]
        np.testing.assert_allclose(completion.logprobs, np.where(written, sampled, 0), atol=3e-5)


def test_turns_answers_and_ends(engine):
    sampling, turns = SamplingParams(40, stop_token_ids=STOPS), ScriptedTurns(turns=3, max_turn_tokens=4)
    for index, (completion,) in enumerate(engine.generate(requests(8), sampling, turns=turns)):
        written = turns_of(completion)
        assert len(written) == 3
        for turn, (start, end) in enumerate(written):
            own = completion.token_ids[start:end]
            assert own[-1] in STOPS or len(own) == 4
            assert not set(own[:-1]) & set(STOPS)
            following = written[turn + 1][0] if turn < 2 else len(completion.token_ids)
            assert completion.token_ids[end:following] == (answer(index, 0, turn) if turn < 2 else ())
        assert completion.finish_reason is (FinishReason.STOP if own[-1] in STOPS else FinishReason.LENGTH)


def equal(one, other):
    assert [(each.token_ids, each.restarts) for each in one] == [(each.token_ids, each.restarts) for each in other]
    for mine, others in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine.logprobs, others.logprobs)
        np.testing.assert_array_equal(mine.engine_logprobs, others.engine_logprobs)
        np.testing.assert_array_equal(mine.written, others.written)


SAMPLINGS = [
    SamplingParams(40, temperature=0.9, stop_token_ids=STOPS),
    SamplingParams(40, top_k=20, repetition_penalty=1.2, min_tokens=2, stop_token_ids=STOPS),
]


@pytest.mark.parametrize(
    ("sampling", "begins_again"), [(SAMPLINGS[0], False), (SAMPLINGS[1], False), (SAMPLINGS[1], True)]
)
def test_when_an_answer_comes_does_not_matter(engine, sampling, begins_again):
    """At once, after 0 to 20 ms in any order, or all late: 48 completions, of which some wait while others decode."""
    batch, random_delays = requests(12, num_samples=4), random.Random(1)
    kind = {"begins_again": begins_again}
    at_once = engine.generate(batch, sampling, turns=ScriptedTurns(**kind))
    delays = {(r, s, t): random_delays.random() / 50 for r in range(12) for s in range(4) for t in range(3)}
    late = engine.generate(batch, sampling, turns=ScriptedTurns(delay=lambda *place: delays[place], **kind))
    one_slow = engine.generate(batch, sampling, turns=ScriptedTurns(delay=lambda r, s, t: 0.3 * (r == s == 0), **kind))
    for group, other, third in zip(at_once, late, one_slow, strict=True):
        equal(group, other)
        equal(group, third)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_alone_or_among_64(engine, sampling):
    batch = requests(64)
    together = engine.generate(batch, sampling, turns=ScriptedTurns())

    class OfOne(ScriptedTurns):
        """The first request's turns, answered as those of another number are."""

        def __init__(self, number):
            super().__init__()
            self.number = number

        def begin(self, request, sample):
            super().begin(self.number, sample)

        def turn_is_over(self, request, sample, *rest):
            super().turn_is_over(self.number, sample, *rest)

        def take(self, waits):
            return [(0, sample, ids) for _, sample, ids in super().take(waits)]

    for number in (0, 17, 63):
        (alone,) = engine.generate([batch[number]], sampling, turns=OfOne(number))
        equal(alone, together[number])


def test_more_episodes_than_slots(engine):
    sampling = SAMPLINGS[0]
    many = requests(20, num_samples=8)
    queued = engine.generate(many, sampling, turns=ScriptedTurns(delay=lambda r, s, t: 0.002 * ((r + s) % 3)))
    for group, other in zip(queued[:4], engine.generate(many[:4], sampling, turns=ScriptedTurns()), strict=True):
        equal(group, other)


def test_what_does_not_fit_is_not_read(engine):
    """16 tokens in all: an answer that leaves no room for another token ends the completion behind its last turn."""
    turns = ScriptedTurns(turns=9)
    for (completion,) in engine.generate(requests(8), SamplingParams(16, stop_token_ids=STOPS), turns=turns):
        assert len(completion.token_ids) <= 16 and completion.written[-1]
    assert min(turns.rooms) < 5


def test_one_turn_is_what_it_was(engine):
    """Episodes of one turn are the completions that there are without."""
    sampling = SamplingParams(12, stop_token_ids=STOPS)
    turns = ScriptedTurns(turns=1, max_turn_tokens=0)
    for group, other in zip(
        engine.generate(requests(8), sampling), engine.generate(requests(8), sampling, turns=turns), strict=True
    ):
        assert [each.token_ids for each in group] == [each.token_ids for each in other]
        assert group[0].written is other[0].written is None


def test_a_second_turn_does_not_repeat_the_first_ones_numbers(engine):
    """A model whose words do not matter (temperature so high that all tokens are alike) draws by its uniforms alone."""
    sampling = SamplingParams(40, temperature=1e6, stop_token_ids=())
    ((completion,),) = engine.generate(requests(1), sampling, turns=ScriptedTurns(turns=3, max_turn_tokens=6))
    first, second, third = (completion.token_ids[start:end] for start, end in turns_of(completion))
    assert len({first, second, third}) == 3
    assert first == tuple(int(u * 97) for u in uniforms((0, 5, 0), 0, 6))
