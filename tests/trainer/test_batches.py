"""Packed micro-batches: their arrays, how full they are, and that nobody notices who shares a stream."""

import numpy as np
import pytest
from helpers import TINY, random_weights
from mindspore import Tensor

from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.learner.policy_loss import Objective, PolicyLoss
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.scoring.batches import make_microbatch, pack
from mindrlhf_lite.scoring.scorer import LogprobScorer
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.types import TrainSequence

TOTALS = BatchTotals(100, 12, 40)


def sequence(prompt, completion, advantage=1.0, **logprobs):
    return TrainSequence.of(np.array([*prompt, *completion], np.int32), len(prompt), advantage, **logprobs)


def test_arrays_by_hand():
    """Prompt 1 2 with completions 3 4 and 7, prompt 5 with completion 0: padding is 0 and so is token 0, only the
    segments tell them apart.
    """
    sequences = [
        sequence([1, 2], [3, 4], 0.5),
        sequence([1, 2], [7], -0.5),
        sequence([5], [0], -2.0, reference_logprobs=np.array([-0.1], np.float32)),
    ]
    batch = make_microbatch(sequences, StreamShapes(32, 8), lambda length, totals: 10.0 * length, TOTALS)
    assert batch.shape == (32, 32) and batch.num_padding == 25
    assert batch.token_ids.tolist() == [1, 2, 3, 4, 7, 5, 0] + [0] * 25
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 2, 0, 1] + [0] * 25
    assert batch.segments.tolist() == [0, 0, 1, 1, 2, 3, 4] + [-1] * 25
    assert batch.prompts.tolist() == [0, 0, 0, 0, 0, 3, 3] + [-1] * 25
    assert batch.used_keys.tolist() == [7] and sorted(batch.keys[0, :7]) == list(range(7))
    assert batch.predictors.tolist()[:4] == [1, 2, 1, 5]  # the first token of a completion at the prompt's last
    assert batch.labels.tolist() == [3, 4, 7, 0] + [0] * 28
    assert batch.mask.tolist() == [1, 1, 1, 1] + [0] * 28
    assert batch.weight.tolist() == [20, 20, 10, 10] + [0] * 28
    assert batch.advantages.tolist() == [0.5, 0.5, -0.5, -2] + [0] * 28
    assert batch.reference_logprobs.tolist()[:4] == pytest.approx([0, 0, 0, -0.1])
    assert [part.tolist() for part in batch.split(np.arange(32))] == [[0, 1], [2], [3]]


def test_prompts_of_their_own():
    sequences = [sequence([1, 2], [3]), sequence([1, 2], [4])]
    batch = make_microbatch(sequences, StreamShapes(32, 8), token_mean, TOTALS, shares_prompts=False)
    assert batch.token_ids.tolist()[:6] == [1, 2, 3, 1, 2, 4]
    assert batch.prompts.tolist()[:6] == [0, 0, 0, 2, 2, 2]


def test_a_block_has_the_keys_that_its_tokens_see_and_no_others():
    """70 tokens of one group: the second block (32 to 63) lies in the second completion, the third begins there."""
    sequences = [sequence(range(10), range(10, 30)), sequence(range(10), range(30, 70))]
    batch = make_microbatch(sequences, StreamShapes(96, 80), token_mean, TOTALS)
    seen = [set(keys[:used].tolist()) for keys, used in zip(batch.keys, batch.used_keys, strict=True)]
    assert seen[0] == set(range(32))
    assert seen[1] == set(range(10)) | set(range(30, 64))
    assert seen[2] == set(range(10)) | set(range(30, 70))


def groups(rng, lengths, num_prompts, longest_prompt=30):
    found = []
    for _ in range(num_prompts):
        prompt = rng.integers(0, 97, rng.integers(1, longest_prompt + 1))
        found += [
            TrainSequence.of(np.concatenate([prompt, rng.integers(0, 97, length)]).astype(np.int32), len(prompt), a)
            for length, a in zip(lengths, rng.normal(0, 1, len(lengths)), strict=True)
        ]
    return found


def test_every_sequence_is_packed_once_and_fits():
    rng = np.random.default_rng(0)
    shapes = StreamShapes(160, 80)
    for shares in (True, False):
        sequences = groups(rng, (1, 50, 7, 12, 33), 9)
        packed = pack(sequences, shapes, shares)
        assert sorted(index for members in packed for index in members) == list(range(len(sequences)))
        for members in packed:
            batch = make_microbatch([sequences[index] for index in members], shapes, token_mean, TOTALS, shares)
            assert len(batch.token_ids) <= 160
            assert batch.lengths == tuple(sequences[index].completion_length for index in members)


def test_a_long_prompt_with_short_completions_is_packed():
    """What is left of the last group may need more than the stream that is begun for it, and less than two prompts."""
    group = [sequence([number, *range(1, 104)], [7] * 14) for number in range(8) for _ in range(8)]
    for shapes in (StreamShapes(896, 128), *(StreamShapes(budget, 128) for budget in range(128, 512, 32))):
        packed = pack(group, shapes)
        assert sorted(index for members in packed for index in members) == list(range(64))
        batches = [make_microbatch([group[index] for index in each], shapes, token_mean, TOTALS) for each in packed]
        assert all(batch.shape[0] in shapes.streams for batch in batches)


def test_at_most_a_tenth_is_padding():
    """Completions of 5 to 512 tokens, log-uniform; 16 prompts of up to 100 tokens x 8, streams of 4096."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.uniform(np.log(5), np.log(512), (16, 8))).astype(int)
    sequences = [each for row in lengths for each in groups(rng, row, 1, 100)]
    shapes = StreamShapes(4096, 612)
    batches = [
        make_microbatch([sequences[index] for index in members], shapes, token_mean, TOTALS)
        for members in pack(sequences, shapes)
    ]
    computed = sum(len(batch.token_ids) for batch in batches)
    assert sum(batch.num_padding for batch in batches) <= 0.1 * computed
    shared = sum(length for row in lengths for length in row) + sum(
        len(p) for p in {tuple(each.token_ids[: each.prompt_length]) for each in sequences}
    )
    assert computed <= 1.15 * shared  # with padding, and prompts computed twice where a group is divided


def logprobs_alone(model, sequences, width=80):
    """Of every sequence's completion, by rows that are padded on the right."""
    rows = np.zeros((len(sequences), width), np.int32)
    for row, each in zip(rows, sequences, strict=True):
        row[: len(each.token_ids)] = each.token_ids
    logits = model(Tensor(rows)).asnumpy().astype(np.float64)
    peak = logits.max(-1, keepdims=True)
    normal = logits - peak - np.log(np.exp(logits - peak).sum(-1, keepdims=True))
    return [
        own[np.arange(each.prompt_length - 1, len(each.token_ids) - 1), each.token_ids[each.prompt_length :]]
        for own, each in zip(normal, sequences, strict=True)
    ]


@pytest.mark.parametrize("shares", [True, False])
def test_logprobs_are_those_of_the_sequence_alone(shares):
    model = Decoder(TINY, random_weights(TINY), False, 80)
    sequences, shapes = groups(np.random.default_rng(1), (1, 5, 40, 12), 4), StreamShapes(160, 80)
    scorer, expected = LogprobScorer(model), logprobs_alone(model, sequences)
    for members in pack(sequences, shapes, shares):
        batch = make_microbatch([sequences[index] for index in members], shapes, token_mean, TOTALS, shares)
        for index, found in zip(members, scorer.score(batch), strict=True):
            np.testing.assert_allclose(found, expected[index], atol=1e-5)


def gradients(sequences, shapes, shares):
    model = Decoder(TINY, random_weights(TINY), True, 80)
    actor = TrainedModel(model, PolicyLoss(model, Objective()), AdamW(model, AdamWOptions()))
    actor.accumulate(
        [
            make_microbatch([sequences[index] for index in members], shapes, token_mean, TOTALS, shares)
            for members in pack(sequences, shapes, shares)
        ]
    )
    return {gradient.name: gradient.asnumpy().copy() for gradient in actor.optimizer.gradients}


def test_gradients_do_not_depend_on_sharing_packing_or_order():
    sequences = groups(np.random.default_rng(2), (3, 20, 40, 9), 3)
    expected = gradients(sequences, StreamShapes(128, 80), False)
    for found in (
        gradients(sequences, StreamShapes(320, 80), True),
        gradients(sequences[::-1], StreamShapes(96, 80), True),
    ):
        for name, values in found.items():
            np.testing.assert_allclose(values, expected[name], atol=1e-5 * np.abs(expected[name]).max(), err_msg=name)


def test_few_shapes_however_lengths_vary():
    """No more graphs than the plan says, and the second pass over the same shapes compiles nothing."""
    rng, shapes = np.random.default_rng(3), StreamShapes(96, 64)
    model = Decoder(TINY, random_weights(TINY), True, 64)
    actor = TrainedModel(
        model, PolicyLoss(model, Objective(has_kl=True, policy_is_frozen=True)), AdamW(model, AdamWOptions())
    )
    scorer = LogprobScorer(model, actor.layers)

    def compiled():
        gradients = actor._gradients
        cells = (*actor.layers._graphs.values(), *gradients._graphs.values())
        ends = (gradients._loss, scorer._head, actor.layers._embed, gradients._add_embedding_gradient)
        return [[len(cell.compile_cache) for cell in group] for group in (cells, ends)]

    def expected(found):
        return [[len(found)] * 2, [len({tokens for tokens, _ in found})] * 4]

    def step(lengths):
        batch = make_microbatch(groups(rng, lengths, 1, 20), shapes, token_mean, TOTALS)
        scorer.score(batch)
        actor.accumulate([batch])
        actor.optimizer.step(1e-3)
        return batch.shape

    found = {step(lengths) for lengths in ((5, 2), (30, 20), (40, 30))}
    assert compiled() == expected(found)
    for lengths in ((1,), (3, 3, 1), (29, 22), (41, 28), (16, 16, 16, 16)):
        found.add(step(lengths))
    assert compiled() == expected(found) and len(found) <= shapes.num_graphs


def test_shapes_by_hand():
    shapes = StreamShapes(1024, longest=400)
    assert shapes.streams == (128, 256, 512, 768, 1024)
    assert shapes.keys == (64, 128, 256, 448)
    # streams of 128 have 64 or 128 keys, those of 256 also 256, those of 512 and more also 448
    assert shapes.num_graphs == 2 + 3 + 4 + 4 + 4
    assert StreamShapes(100, longest=400).streams[-1] == 416  # one sequence always fits
    assert all(stream % 6 == 0 for stream in StreamShapes(1000, 100, multiple=6).streams)
    # 700 tokens fill nine tenths of 768; 600 would not: first 512 of them, then the other 88 in 128
    assert [shapes.stream_for(tokens, 50) for tokens in (5000, 1000, 700, 600, 88, 20)] == [
        1024,
        1024,
        768,
        512,
        128,
        128,
    ]
    assert shapes.stream_for(300, at_least=290) == 512
