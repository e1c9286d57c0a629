"""bfloat16 (emulated on CPU) and float16: what is stored and computed, and how far that is from transformers."""

import mindspore as ms
import numpy as np
import pytest
from helpers import random_weights
from mindspore import Tensor, ops
from models.test_parity import SHAPES

from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.learner.policy_loss import Objective, PolicyLoss
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.hf_weights import save_hf_model
from mindrlhf_lite.models.precision import Precision
from mindrlhf_lite.models.stored_numbers import narrow_bfloat16, widen_bfloat16
from mindrlhf_lite.rollout.native import NativeEngine
from mindrlhf_lite.scoring.batches import make_microbatch
from mindrlhf_lite.scoring.scorer import LogprobScorer
from mindrlhf_lite.scoring.stages import Keeps
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.types import GenerateRequest, SamplingParams, TrainSequence

EPSILON = {"bfloat16": 2**-8, "float16": 2**-11}  # half a unit of the last place of 1.0
SHAPE = SHAPES["untied_gqa2"]


def sequences_of(rng):
    return [
        TrainSequence.of(rng.integers(1, 97, length).astype(np.int32), 4, advantage)  # 0 is padding to transformers
        for length, advantage in ((23, 1.0), (9, -0.5), (30, 0.3))
    ]


def micro_batch(sequences):
    total = sum(each.completion_length for each in sequences)
    return make_microbatch(sequences, StreamShapes(128, 32), token_mean, BatchTotals(total, len(sequences), 32))


def is_bfloat16(values):
    return (widen_bfloat16(narrow_bfloat16(np.ascontiguousarray(values))) == values).all()


def test_rounding_is_to_nearest_even():
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8 + 2**-20), 1e-30], np.float32)
    rounded = Precision.here("bfloat16").rounded(values)
    np.testing.assert_array_equal(rounded[:4], [1.0, 1.0, 1 + 2**-6, -(1 + 2**-7)])
    assert Precision.here("float16").stored(values).dtype == ms.float16


def by_transformers(folder, dtype, sequences):
    """Logprobs of all completions, and the gradients of -sum(advantage * logprob) / tokens by name."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="eager")
    found, loss, total = [], 0.0, sum(each.completion_length for each in sequences)
    for each in sequences:
        ids = torch.tensor(each.token_ids.astype(np.int64))
        logprobs = torch.log_softmax(model.eval()(ids[None]).logits[0].float(), -1)
        chosen = logprobs[torch.arange(3, len(ids) - 1), ids[4:]]
        found.append(chosen.detach().numpy())
        loss = loss - each.advantages[0] / total * chosen.sum()
    loss.backward()
    return np.concatenate(found), {name: p.grad.float().numpy() for name, p in model.named_parameters()}


STORED_AND_KEPT = [(None, {}), ("float32", {"keeps": Keeps.INPUTS}), (None, {"keeps": Keeps.PRODUCTS})]


@pytest.mark.parametrize(
    ("dtype", "shape", "stored_and_kept"),
    [
        ("bfloat16", "untied_gqa2", STORED_AND_KEPT[:2]),
        ("float16", "qwen3", STORED_AND_KEPT[2:]),
        pytest.param("bfloat16", "untied_gqa2", STORED_AND_KEPT[2:], marks=pytest.mark.full),
        pytest.param("float16", "qwen3", STORED_AND_KEPT[:2], marks=pytest.mark.full),
    ],
)
def test_it_is_as_near_as_transformers_in_that_type(dtype, shape, stored_and_kept, tmp_path):
    """Logprobs and gradients are as far from float32 as transformers', and that far from transformers': the distance
    of roundings.
    """
    config = SHAPES[shape]
    weights, sequences = random_weights(config), sequences_of(np.random.default_rng(3))
    save_hf_model(tmp_path, config, weights, 1, 0)
    exact, exact_gradients = by_transformers(tmp_path, "float32", sequences)
    theirs, their_gradients = by_transformers(tmp_path, dtype, sequences)
    their_error = np.abs(theirs - exact).mean()
    assert their_error > EPSILON[dtype] / 2  # large enough to compare with
    batch = micro_batch(sequences)
    for stored, more in stored_and_kept:
        model = Decoder(config, weights, True, 32, precision=Precision.here(dtype, *([stored] if stored else [])))
        actor = TrainedModel(model, PolicyLoss(model, Objective()), AdamW(model, AdamWOptions()), **more)
        ours = np.concatenate(actor.accumulate([batch])[1][0])
        our_error, between = np.abs(ours - exact).mean(), np.abs(ours - theirs).mean()
        print(f"{dtype}: ours {our_error:.5f}, transformers' {their_error:.5f}, between the two {between:.5f}")
        assert our_error < 1.3 * their_error and between < 1.5 * their_error
        for gradient in actor.optimizer.gradients:
            name, values = gradient.name.removeprefix("gradient."), gradient.asnumpy()
            errors = [np.linalg.norm(each - exact_gradients[name]) for each in (values, their_gradients[name])]
            assert values.dtype == np.float32 and 0 < errors[0] < 2 * errors[1], (name, errors)


@pytest.fixture(scope="module")
def engines():
    """An engine a type, of 8 slots of 64 tokens."""
    every = {
        dtype: Decoder(SHAPE, random_weights(SHAPE), False, 64, precision=Precision.here(dtype)) for dtype in EPSILON
    }
    return {dtype: NativeEngine(model, 8, 64) for dtype, model in every.items()}


def test_what_is_stored_is_bfloat16(engines):
    """Parameters, the tensors between layers and the KV cache."""
    engine = engines["bfloat16"]
    model = engine.model
    engine.generate([GenerateRequest((5, 6, 7, 8), num_samples=8)], SamplingParams(8, temperature=1.0))
    assert all(is_bfloat16(weight.asnumpy()) for weight in model.parameters_in_order)
    caches = [cache.asnumpy() for cache in engine.cache_parameters]
    assert all(is_bfloat16(cache) and np.abs(cache).max() > 0.1 for cache in caches)
    exact = Decoder(SHAPE, random_weights(SHAPE), False, 32)
    assert not is_bfloat16(exact.embed(Tensor(np.arange(9, dtype=np.int32))).asnumpy())


def rows_know_each_other():
    """Whether a row of MindSpore's float16 product depends on how many there are: so it is on AVX2, by oneDNN."""
    rng = np.random.default_rng(0)
    x, weight = (Tensor(rng.standard_normal((size, 64)).astype(np.float16)) for size in (128, 64))
    product = ops.MatMul(transpose_b=True)
    whole = product(x, weight).asnumpy()
    return any(not np.array_equal(product(x[:rows], weight).asnumpy(), whole[:rows]) for rows in range(1, 128))


@pytest.mark.parametrize("dtype", EPSILON)
def test_tokens_do_not_depend_on_their_company(engines, dtype):
    if dtype == "float16" and rows_know_each_other():
        pytest.skip("a row of MindSpore's float16 product depends on the others on this processor")
    engine, sampling = engines[dtype], SamplingParams(24, temperature=1.0)
    rng = np.random.default_rng(0)
    requests = [GenerateRequest(tuple(map(int, rng.integers(0, 97, 3 + i))), 2, (0, i)) for i in range(6)]
    together = engine.generate(requests, sampling)
    alone = [engine.generate([request], sampling)[0] for request in reversed(requests)][::-1]
    for group, other in zip(together, alone, strict=True):
        for ours, theirs in zip(group, other, strict=True):
            assert ours.token_ids == theirs.token_ids
            np.testing.assert_array_equal(ours.logprobs, theirs.logprobs)


@pytest.mark.parametrize("dtype", EPSILON)
def test_rollout_and_trainer_agree_within_rounding(engines, dtype):
    """The engine's logprobs of its own tokens against the trainer's, which computes with other shapes."""
    engine, requests = engines[dtype], [GenerateRequest((5, 6, 7, 8), num_samples=8)]
    completions = engine.generate(requests, SamplingParams(24, temperature=1.0))[0]
    sequences = [TrainSequence.of(np.array((5, 6, 7, 8, *c.token_ids), np.int32), 4, 1.0) for c in completions]
    shapes = StreamShapes(512, 64)
    batch = make_microbatch(sequences, shapes, token_mean, BatchTotals(1, 1, 1))
    scored = np.concatenate(LogprobScorer(engine.model).score(batch))
    gap = np.abs(scored - np.concatenate([c.logprobs for c in completions]))
    print(f"{dtype}: mean {gap.mean():.5f}, largest {gap.max():.5f}")
    assert gap.mean() < 4 * EPSILON[dtype]
