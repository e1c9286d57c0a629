"""Tokens that the policy did not write count nowhere: golden values, worked out by hand in the comments."""

import numpy as np
import pytest
from helpers import TINY, random_weights
from mindspore import Tensor

from mindrlhf_lite.algorithms.aggregation import BatchTotals, sequence_mean, token_mean
from mindrlhf_lite.data.experience_file import ExperienceHeader, read_experience, write_experience
from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.learner.policy_loss import Objective, PolicyLoss
from mindrlhf_lite.learner.statistics import UpdateCounts
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.observe.writers import completion_rows
from mindrlhf_lite.scoring.batches import make_microbatch
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.trainer.annotation import advantages_of, as_sequences, with_logprobs
from mindrlhf_lite.trainer.rollout_metrics import rollout_metrics
from mindrlhf_lite.turns import Episode, EpisodeEnd, Turn
from mindrlhf_lite.types import (
    Completion,
    FinishReason,
    Outcome,
    Prompt,
    RolloutGroup,
    Score,
    ScoredGroup,
    TrainSequence,
)

PROMPT = Prompt(0, (11, 12), "1+1=", "2", 1)
# two tokens of the policy, three of an answer, one of the policy; and four of the policy
WRITTEN = np.array([1, 1, 0, 0, 0, 1], bool)
EPISODE = Episode((Turn(0, 2, 0.0, 1), Turn(5, 6, 1.0)), EpisodeEnd.DONE, "last", ("first", " then ", "last"), True)


def completions():
    own = np.float32([-1, -2, 0, 0, 0, -3])
    return [
        Completion((5, 6, 7, 8, 9, 10), own, own - 0.5 * WRITTEN, FinishReason.STOP, WRITTEN, EPISODE),
        Completion((5, 6, 7, 8), np.float32([-1] * 4), np.float32([-1.5] * 4), FinishReason.STOP),
    ]


def scored():
    scores = {"one": [Score(1.0, Outcome.CORRECT), Score(0.0, Outcome.WRONG)]}
    rewards = np.float32([1, 0])
    group = RolloutGroup(PROMPT, completions(), ["first then last", "wrong"])
    outcomes = [Outcome.CORRECT, Outcome.WRONG]
    return ScoredGroup(group, scores, rewards, rewards, outcomes, np.ones(2, bool))


def test_mask_advantages_and_lengths():
    """Rewards 1 and 0: mean 0.5, deviation 0.7071, advantages 0.7071 and -0.7071; 0 where nothing was written."""
    group = scored()
    sequences = as_sequences([group])
    assert [each.mask.tolist() for each in sequences] == [[1, 1, 0, 0, 0, 1], [1, 1, 1, 1]]
    masks = [each.mask for each in sequences]
    found = advantages_of([group], [np.zeros(6), np.zeros(4)], masks, "grpo")
    annotated = with_logprobs(sequences, {}, found)
    assert annotated[0].advantages == pytest.approx(0.7071 * WRITTEN, abs=1e-4)
    assert annotated[0].advantages.dtype == np.float32
    assert [row["tokens"] for row in completion_rows([group], annotated, str)] == [3, 4]
    assert completion_rows([group], annotated, str)[0]["advantage"] == pytest.approx(0.7071, abs=1e-4)
    metrics = rollout_metrics([group])
    assert (metrics["completion/mean_tokens"], metrics["completion/max_tokens"]) == (3.5, 4)
    assert metrics["rollout/sampling_gap_mean"] == 0.5  # of seven tokens; over ten it would be 0.35
    assert [(view.text, view.num_tokens) for view in group.group.views] == [("last", 3), ("wrong", 4)]


def test_weights_of_tokens():
    """Means over a sequence count 3 and 4 tokens, the batch has 7."""
    sequences = as_sequences([scored()])
    shapes, totals = StreamShapes(32, 16), BatchTotals(7, 2, 8)
    batch = make_microbatch(sequences, shapes, sequence_mean, totals)
    assert batch.weight[:10] == pytest.approx([1 / 6, 1 / 6, 0, 0, 0, 1 / 6, 1 / 8, 1 / 8, 1 / 8, 1 / 8])
    assert batch.inverse_lengths[:10] == pytest.approx([1 / 3] * 6 + [1 / 4] * 4)
    batch = make_microbatch(sequences, shapes, token_mean, totals)
    assert batch.weight[:10] == pytest.approx([1 / 7, 1 / 7, 0, 0, 0] + [1 / 7] * 5)


@pytest.fixture(scope="module")
def model():
    return Decoder(TINY, random_weights(TINY), trainable=True, max_length=16)


def policy(model, ids, start):
    """(logprobs, entropies) of the tokens from `start` on."""
    logits = model(Tensor(np.array([ids], np.int32))).asnumpy()[0].astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows = logprobs[start - 1 : -1]
    return rows[np.arange(len(rows)), ids[start:]], -(np.exp(rows) * rows).sum(-1)


def statistics_of(model, sequence, objective):
    actor = TrainedModel(model, PolicyLoss(model, objective), AdamW(model, AdamWOptions()))
    totals = BatchTotals(sequence.num_counted, 1, 8)
    found, _ = actor.accumulate([make_microbatch([sequence], StreamShapes(32, 16), token_mean, totals)])
    return found, {each.name: each.asnumpy().copy() for each in actor.optimizer.gradients}


def trained_on(model, log_ratio, beyond):
    """A sequence whose written tokens have these log-ratios, A = 2 and d = log 2 to the reference. What was not written
    is `beyond`: further away, with another advantage.
    """
    ids = [11, 12, 5, 6, 7, 8, 9, 10]
    now, entropy = policy(model, ids, 2)
    frozen = now - np.where(WRITTEN, log_ratio, beyond)
    reference = now - np.where(WRITTEN, np.log(2), beyond)
    return entropy, TrainSequence(
        np.array(ids, np.int32),
        2,
        np.float32(np.where(WRITTEN, 2.0, beyond)),
        np.float32(WRITTEN),
        np.float32(reference),
        np.float32(frozen),
        np.float32(frozen),
        written=WRITTEN,
    )


def test_loss_kl_and_entropy_of_written_tokens_only(model):
    """Ratio 1.1, A = 2: -2.2 a token. k3 of d = log 2: 1/2 + log 2 - 1 = 0.193147."""
    entropy, sequence = trained_on(model, np.log(1.1), -3.0)
    objective = Objective(has_kl=True, policy_is_frozen=True, entropy_coeff=0.01)
    found, gradient = statistics_of(model, sequence, objective)
    assert found["policy"] == pytest.approx(-2.2, rel=1e-4)
    assert found["kl"] == pytest.approx(0.193147, rel=1e-3)
    assert found["entropy"] == pytest.approx(entropy[WRITTEN].sum(), rel=1e-4)
    assert found["ratio_max"] == pytest.approx(1.1, rel=1e-4)
    again, same = statistics_of(model, trained_on(model, np.log(1.1), 4.0)[1], objective)
    assert again["loss"] == found["loss"]
    assert all(np.array_equal(gradient[name], same[name]) for name in gradient)


def test_ratio_of_a_sequence_counts_written_tokens(model):
    """Log-ratios 0.05, 0.1 and 0.15: mean 0.1, so s = exp(0.1) = 1.105171 and the loss is -2 s; over all six with the
    others' -3 it would be exp(-1.45).
    """
    _, sequence = trained_on(model, np.array([0.05, 0.1, 0, 0, 0, 0.15]), -3.0)
    found, _ = statistics_of(model, sequence, Objective("gspo", policy_is_frozen=True))
    assert found["policy"] == pytest.approx(-2 * 1.105171, rel=1e-4)


def test_differences_between_rollout_and_trainer():
    """|d| = 0.5 on three tokens; on what was not written the engine has 0, which is no logprob."""
    counts, first = UpdateCounts(), completions()[0]
    trainers = np.float32([-1, -2, -7, -8, -9, -3])
    counts.compare(trainers, first.engine_logprobs, first.logprobs, WRITTEN)
    assert (counts.logprob_diff_sum, counts.logprob_diff_max, counts.num_diff_tokens) == (1.5, 0.5, 3)
    assert (counts.ratio_sum, counts.ratio_max, counts.k3_sum) == (3.0, 1.0, 0.0)


def test_recorded_experience_keeps_what_was_written(tmp_path):
    group = scored()
    sequences = as_sequences([group])
    header = ExperienceHeader(1, 0.0, "", "", 1, 1, {})
    write_experience(tmp_path / "one.mindrecord", header, [group], sequences)
    read = read_experience(tmp_path / "one.mindrecord").sequences
    assert read[0].written.tolist() == WRITTEN.tolist() and read[1].written is None
    assert read[0].mask.tolist() == sequences[0].mask.tolist()
