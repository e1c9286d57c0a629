"""Templates that change the past: what becomes of an episode by environment_config.on_changed_past, and what its
samples count for; golden values are worked out by hand in the comments.
"""

from dataclasses import replace

import numpy as np
import pytest
from episodes.scripted_engine import ScriptedEngine
from episodes.templates import CHATML, FORGETFUL, LLAMA3, QWEN3
from episodes.test_bridge import with_template
from episodes.test_play import TOOLS, prompts, spec, stage_on
from episodes.test_written_tokens import statistics_of
from helpers import TINY, random_weights
from mindspore import Tensor

from mindrlhf_lite.algorithms.aggregation import BatchTotals, sequence_mean, token_mean
from mindrlhf_lite.data.experience_file import ExperienceHeader, read_experience, write_experience
from mindrlhf_lite.episodes.play import EpisodeLimits
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.learner.policy_loss import Objective
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.rollout.groups import generate_groups
from mindrlhf_lite.scoring.batches import make_microbatch, pack
from mindrlhf_lite.scoring.scorer import LogprobScorer
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.trainer.annotation import as_sequences
from mindrlhf_lite.turns import Episode, EpisodeEnd, Restart, Turn
from mindrlhf_lite.types import (
    Completion,
    FinishReason,
    Outcome,
    Prompt,
    RolloutGroup,
    SamplingParams,
    Score,
    ScoredGroup,
    TrainSequence,
)

CALL = '<tool_call>{"name": "calculator", "arguments": {"expression": "2*3"}}</tool_call>'
THINKS = ["<think>hm</think>" + CALL, "<think>so</think>" + CALL, "It is 6."]


def played(tokenizer, on_changed_past, says=THINKS, environment=TOOLS, max_length=600, max_tokens=400):
    stage = stage_on(tokenizer, environment, EpisodeLimits(8, 0, 400, max_tokens, max_length), on_changed_past)
    try:
        engine = ScriptedEngine(tokenizer.encode_continuation, lambda *place: says, tokenizer.eos_token_id)
        sampling, given = SamplingParams(max_tokens), prompts(tokenizer, "6")
        (group,) = generate_groups(engine, tokenizer, given, 1, sampling, [(0, 1, 0)], stage=stage)
        return group.prompt, group.completions[0]
    finally:
        stage.close()


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory):
    return with_template(tmp_path_factory.mktemp("forgetful") / "one", FORGETFUL)


def test_every_turn_stands_behind_the_conversation_as_it_is_rendered_then(forgetful):
    """The template cuts thoughts out of earlier answers: the second and the third turn are samples of their own."""
    _, completion = played(forgetful, "new_sample")
    assert [turn.start for turn in completion.episode.turns] == [0, *(each.start for each in completion.restarts)]
    messages, tool = [{"role": "user", "content": "2*3?"}], {"role": "tool", "content": "6"}
    for said, restart in zip(THINKS[:2], completion.restarts, strict=True):
        messages += [{"role": "assistant", "content": said}, tool]
        rendered = forgetful.apply_chat_template(messages, tools=TOOLS.schemas)
        assert list(restart.prompt_ids) == forgetful.encode(rendered) and "hm" not in rendered
    assert forgetful.decode(completion.token_ids) == "".join(THINKS) and completion.written.all()
    assert completion.episode.end is EpisodeEnd.DONE
    assert [segment["written"] for segment in completion.episode.segments] == [True, False] * 2 + [True]


@pytest.mark.parametrize(("template", "begin_again"), [(QWEN3, 0), (LLAMA3, 1)])
def test_kinds_of_templates_that_are_used(tmp_path, template, begin_again):
    """Qwen3's keeps thoughts while tools answer; Llama 3.1's trims: the answer with white space is rendered anew."""
    tokenizer = with_template(tmp_path / "one", template)
    says = ["<think>hm</think>" + CALL + " ", "It is 6."]
    _, completion = played(tokenizer, "new_sample", says)
    assert len(completion.restarts) == begin_again


def test_it_goes_on_where_nothing_has_changed(tmp_path):
    tokenizer = with_template(tmp_path / "one", CHATML)
    found = [played(tokenizer, how)[1] for how in ("new_sample", "go_on")]
    assert found[0].token_ids == found[1].token_ids and not found[0].restarts


def test_it_goes_on_unstripped_or_ends(forgetful, capsys):
    _, completion = played(forgetful, "go_on")
    assert not completion.restarts and not completion.written.all()
    assert "changes the thoughts of an earlier answer" in capsys.readouterr().out
    with pytest.raises(UserError, match="on_changed_past=refuse: the chat template changes an earlier answer"):
        played(forgetful, "refuse")


def test_environments_are_looked_at_too(forgetful):
    with pytest.raises(UserError, match="on_changed_past=refuse: the chat template changes"):
        played(forgetful, "refuse", ["1"] * 3, spec("Speaks"))
    with pytest.raises(UserError, match=r"has\s+to be messages, those that the environment's reset"):
        played(forgetful, "new_sample", ["1"] * 3, spec("Speaks"))
    _, completion = played(forgetful, "new_sample", ["<think>a</think>1"] * 3, spec("Speaks", opens=True))
    assert len(completion.restarts) == 2


def test_a_conversation_that_is_too_long_ends(forgetful):
    _, whole = played(forgetful, "new_sample")
    length = len(whole.restarts[1].prompt_ids)
    _, short = played(forgetful, "new_sample", max_length=length)
    assert len(short.restarts) == 1 and short.episode.end is EpisodeEnd.LENGTH
    assert short.finish_reason is FinishReason.LENGTH
    _, fits = played(forgetful, "new_sample", max_length=length + 1)
    assert len(fits.restarts) == 2


# prompt 11 12, then 5 6 7 written; then behind 21 22 23: 8 9, written
IDS, RESTARTS = [11, 12, 5, 6, 7, 8, 9], (Restart(3, (21, 22, 23)),)


def sequence(**more):
    count = len(IDS) - 2
    return TrainSequence(
        np.array(IDS, np.int32), 2, np.full(count, 2, np.float32), np.ones(count, np.float32), restarts=RESTARTS, **more
    )


def test_arrays_by_hand():
    """Two samples are two prompts with a completion each, of one sequence: five tokens count, of a batch with another
    completion of four, which shares the first prompt.
    """
    other = TrainSequence.of(np.array([11, 12, 5, 6, 7, 8], np.int32), 2)
    shapes, totals = StreamShapes(32, 16), BatchTotals(9, 2, 8)
    batch = make_microbatch([sequence(), other], shapes, sequence_mean, totals)
    assert batch.token_ids[:14].tolist() == [11, 12, 5, 6, 7, 21, 22, 23, 8, 9, 5, 6, 7, 8]
    assert batch.position_ids[:14].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 2, 3, 4, 5]
    assert batch.segments[:14].tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 4]
    assert batch.prompts[:14].tolist() == [0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 0, 0, 0, 0]
    assert batch.labels[:9].tolist() == [5, 6, 7, 8, 9, 5, 6, 7, 8]
    assert batch.predictors[:9].tolist() == [1, 2, 3, 7, 8, 1, 10, 11, 12]
    assert batch.sequences[:9].tolist() == [0] * 5 + [1] * 4
    assert batch.weight[:9] == pytest.approx([1 / 10] * 5 + [1 / 8] * 4)  # 1 / (5 * 2), 1 / (4 * 2)
    assert batch.inverse_lengths[:9] == pytest.approx([1 / 5] * 5 + [1 / 4] * 4)
    assert batch.lengths == (5, 4)


@pytest.fixture(scope="module")
def model():
    return Decoder(TINY, random_weights(TINY), trainable=True, max_length=16)


def own_logprobs(model):
    """Of the five tokens, each sample by itself."""
    found = []
    for ids, start in (([11, 12, 5, 6, 7], 2), ([21, 22, 23, 8, 9], 3)):
        logits = model(Tensor(np.array([ids], np.int32))).asnumpy()[0].astype(np.float64)
        rows = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        found += [rows[place - 1, ids[place]] for place in range(start, len(ids))]
    return np.array(found)


def test_samples_do_not_see_each_other(model):
    shapes = StreamShapes(32, 16)
    batch = make_microbatch([sequence(), sequence()], shapes, token_mean, BatchTotals(10, 2, 8))
    for found in LogprobScorer(model).score(batch):
        np.testing.assert_allclose(found, own_logprobs(model), atol=2e-5)


def test_ratio_of_a_completion_of_two_samples(model):
    """Log-ratios 0.1, 0.2, 0.3 in the first, -0.05, 0.2 in the second: mean 0.15, and s = exp(0.15) = 1.161834. A = 2:
    the loss of a token is -2.323668; of the samples by themselves it would be -2 exp(0.2) and -2 exp(0.075).
    """
    frozen = own_logprobs(model) - [0.1, 0.2, 0.3, -0.05, 0.2]
    found, _ = statistics_of(
        model, sequence(frozen_logprobs=np.float32(frozen)), Objective("gspo", policy_is_frozen=True)
    )
    assert found["policy"] == pytest.approx(-2 * 1.161834, rel=1e-4)


def test_packing_keeps_the_samples_of_a_completion_together():
    long = (Restart(3, tuple(range(40))),)
    many = [replace(sequence(), restarts=long) for _ in range(6)]  # 2 + 5 + 40 tokens, of which two are shared
    shapes = StreamShapes(100, 64)
    packed = pack(many, shapes)
    assert sorted(index for members in packed for index in members) == list(range(6))
    for members in packed:
        batch = make_microbatch([many[index] for index in members], shapes, token_mean, BatchTotals(30, 6, 8))
        assert len(batch.token_ids) <= 128 and batch.lengths == (5,) * len(members)


def test_from_completion_to_recorded_sequence(tmp_path):
    """Restarts come through annotation and the experience file."""
    zeros = np.zeros(5, np.float32)
    episode = Episode((Turn(0, 3), Turn(3, 5, 1.0)), EpisodeEnd.DONE, "b", ("a", "x", "b"))
    completion = Completion(tuple(IDS[2:]), zeros, zeros, FinishReason.STOP, None, episode, RESTARTS)
    group = RolloutGroup(Prompt(0, (11, 12), "?", "", 1), [completion], ["ab"])
    one = np.ones(1, np.float32)
    scored = ScoredGroup(group, {"v": [Score(1.0, Outcome.CORRECT)]}, one, one, [Outcome.CORRECT], np.ones(1, bool))
    sequences = as_sequences([scored])
    write_experience(tmp_path / "a.mindrecord", ExperienceHeader(1, 0.0, "", "", 1, 1, {}), [scored], sequences)
    (read,) = read_experience(tmp_path / "a.mindrecord").sequences
    assert sequences[0].restarts == read.restarts == RESTARTS and read.num_counted == 5
