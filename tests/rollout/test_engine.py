"""The native engine: right tokens, independent of what shares the batch, and in step with the trainer's model."""

import numpy as np
import pytest
from helpers import TINY, random_weights
from mindspore import Tensor, ops

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.precision import Precision
from mindrlhf_lite.native.library import library, set_up
from mindrlhf_lite.reshard.executor import Resharder, ResidentSource
from mindrlhf_lite.reshard.plan import make_plan
from mindrlhf_lite.reshard.transports import SharedMemoryTransport
from mindrlhf_lite.rollout.host_draw import log_softmax, uniforms
from mindrlhf_lite.rollout.native import NativeEngine
from mindrlhf_lite.types import FinishReason, GenerateRequest, SamplingParams

LENGTH = 40


@pytest.fixture(scope="module")
def model():
    return Decoder(TINY, random_weights(TINY), False, LENGTH)


@pytest.fixture(scope="module")
def engine(model):
    return NativeEngine(model, num_slots=64, cache_length=LENGTH)


def requests(count, num_samples=1, seed=0):
    rng = np.random.default_rng(seed)
    return [
        GenerateRequest(tuple(int(t) for t in rng.integers(0, 97, rng.integers(1, 20))), num_samples, (seed, 5, index))
        for index in range(count)
    ]


def logits_of(model, ids):
    return model(Tensor(np.array([ids], np.int32))).asnumpy()[0]


def greedy_by_full_forward(model, prompt, count):
    ids = list(prompt)
    for _ in range(count):
        padded = np.zeros((1, LENGTH), np.int32)
        padded[0, : len(ids)] = ids
        ids.append(int(model(Tensor(padded)).asnumpy()[0, len(ids) - 1].argmax()))
    return tuple(ids[len(prompt) :])


def test_greedy_equals_full_forward(model, engine):
    batch = requests(6)
    for request, group in zip(batch, engine.generate(batch, SamplingParams(12, temperature=0)), strict=True):
        assert group[0].token_ids == greedy_by_full_forward(model, request.prompt_ids, 12)
        assert group[0].finish_reason is FinishReason.LENGTH


def test_greedy_equals_transformers(model, engine, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import Qwen2ForCausalLM

    from mindrlhf_lite.models.hf_weights import save_hf_model

    save_hf_model(tmp_path, TINY, random_weights(TINY), None, None)
    reference = Qwen2ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    batch = requests(8, seed=4)
    for request, group in zip(batch, engine.generate(batch, SamplingParams(16, temperature=0)), strict=True):
        with torch.no_grad():
            ids = reference.generate(
                torch.tensor([request.prompt_ids]),
                max_new_tokens=16,
                min_new_tokens=16,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        assert group[0].token_ids == tuple(ids[0, len(request.prompt_ids) :].tolist())


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(15, temperature=0.8, stop_token_ids=(3, 4)),
        SamplingParams(15, top_k=20, top_p=0.9, repetition_penalty=1.1, stop_token_ids=(3,)),
    ],
)
def test_alone_or_in_a_batch_of_64_the_tokens_are_the_same(engine, sampling):
    batch = requests(64)
    together = engine.generate(batch, sampling)
    for index in (0, 17, 63):
        (alone,) = engine.generate([batch[index]], sampling)
        assert alone[0].token_ids == together[index][0].token_ids
        np.testing.assert_array_equal(alone[0].logprobs, together[index][0].logprobs)


def test_more_sequences_than_slots(engine):
    """Continuous batching: slots are refilled as they free up, and nothing about the results changes."""
    batch, sampling = requests(30, num_samples=5), SamplingParams(14, stop_token_ids=tuple(range(25)))
    counted = []
    queued = engine.generate(batch, sampling, counted.append)
    assert sum(counted) == 150
    lengths = {len(completion.token_ids) for group in queued for completion in group}
    assert len(lengths) > 5  # slots did free up at different times
    for request, group in list(zip(batch, queued, strict=True))[::3]:
        (alone,) = engine.generate([request], sampling)
        assert [c.token_ids for c in alone] == [c.token_ids for c in group]


def test_samples_of_a_group_differ_and_seeds_matter(engine):
    (request,) = requests(1, num_samples=8)
    (group,) = engine.generate([request], SamplingParams(10))
    assert len({c.token_ids for c in group}) == 8
    (again,) = engine.generate([request], SamplingParams(10))
    assert [c.token_ids for c in again] == [c.token_ids for c in group]
    (other,) = engine.generate([GenerateRequest(request.prompt_ids, 8, (1, 5, 0))], SamplingParams(10))
    assert [c.token_ids for c in other] != [c.token_ids for c in group]


@pytest.mark.parametrize("more", [{}, {"reports_tempered_policy": True}])
@pytest.mark.parametrize("top_k", [0, 97])  # in the graph, and in the sampler (97: all there are)
def test_logprobs_under_both_distributions(model, engine, top_k, more):
    sampling = SamplingParams(10, temperature=0.7, stop_token_ids=(0, 1), min_tokens=3, top_k=top_k, **more)
    temperature = 0.7 if more else 1.0
    assert sampling.policy_temperature == temperature
    for request, group in zip(requests(5), engine.generate(requests(5), sampling), strict=True):
        completion, start = group[0], len(request.prompt_ids)
        logits = logits_of(model, request.prompt_ids + completion.token_ids)[start - 1 : -1]
        rows, ids = np.arange(len(completion.token_ids)), list(completion.token_ids)
        np.testing.assert_allclose(completion.engine_logprobs, log_softmax(logits / temperature)[rows, ids], atol=2e-5)
        logits[:3, :2] = -np.inf  # stop tokens are forbidden for three tokens
        np.testing.assert_allclose(completion.logprobs, log_softmax(logits / 0.7)[rows, ids], atol=2e-5)


def test_tokens_follow_the_inverse_cdf(model, engine):
    """The drawn token is the one whose cumulative probability first exceeds the stream's uniform."""
    (request,) = requests(1)
    ((completion,),) = engine.generate([request], SamplingParams(10))
    logits = logits_of(model, request.prompt_ids + completion.token_ids)[len(request.prompt_ids) - 1 : -1]
    cumulative = np.cumsum(np.exp(log_softmax(logits.astype(np.float64))), -1)
    expected = (cumulative <= uniforms(request.seed, 0, 10)[:, None] * cumulative[:, -1:]).sum(-1)
    assert completion.token_ids == tuple(expected)


def test_sampled_frequencies_match_the_distribution(engine, model):
    request = GenerateRequest((7, 8, 9), 3000, (11,))
    (group,) = engine.generate([request], SamplingParams(1))
    counts = np.bincount([c.token_ids[0] for c in group], minlength=97)
    p = np.exp(log_softmax(logits_of(model, (7, 8, 9))[-1:]))[0]
    likely = p * 3000 >= 5
    chi2 = ((counts - 3000 * p)[likely] ** 2 / (3000 * p[likely])).sum()
    assert chi2 < likely.sum() + 5 * np.sqrt(2 * likely.sum())  # five standard deviations


def test_stop_tokens_and_min_tokens(engine):
    stops = tuple(range(60))  # most tokens stop
    for minimum in (0, 6):
        groups = engine.generate(requests(20), SamplingParams(8, min_tokens=minimum, stop_token_ids=stops))
        for completion in (c for group in groups for c in group):
            assert len(completion.token_ids) > minimum or completion.finish_reason is FinishReason.STOP
            assert not set(completion.token_ids[:minimum]) & set(stops)
            assert not set(completion.token_ids[:-1]) & set(stops)
            assert (completion.token_ids[-1] in stops) == (completion.finish_reason is FinishReason.STOP)


def test_new_weights_are_used_at_once(engine, model):
    """A compiled graph must not keep old weights: after a reshard the engine gives the new model's tokens."""
    batch, sampling = requests(4), SamplingParams(12, temperature=0)

    def tokens():
        return [group[0].token_ids for group in engine.generate(batch, sampling)]

    before, plan = tokens(), make_plan(TINY, model.strategy, model.strategy)
    transport = SharedMemoryTransport(None)
    reshard = Resharder(plan, 0, None, engine.named_weights(), transport, bucket_bytes=3000)
    for seed in (1, 2, 0):  # the last are those that it had
        source = Decoder(TINY, random_weights(TINY, seed), True, LENGTH)
        copied = reshard.run(ResidentSource(source.named_weights())).copied_bytes
        assert copied == sum(4 * weight.size for weight in random_weights(TINY).values())
        expected = [greedy_by_full_forward(source, request.prompt_ids, 12) for request in batch] if seed else before
        assert tokens() == expected and (expected != before or not seed)


def test_prompts_that_leave_no_room_are_refused(engine):
    for length in (0, LENGTH):
        with pytest.raises(ValueError, match="max_model_len"):
            engine.generate([GenerateRequest((1,) * length)], SamplingParams(5))


def test_completions_end_at_the_caches_end(engine):
    ((completion,),) = engine.generate([GenerateRequest((1,) * (LENGTH - 3))], SamplingParams(30, temperature=0))
    assert len(completion.token_ids) == 3 and completion.finish_reason is FinishReason.LENGTH


def test_nan_weights_are_an_error(engine):
    norm = engine.named_weights()["model.norm.weight"]
    sound = norm.asnumpy().copy()
    broken = sound.copy()
    broken[0] = np.nan
    before = engine.generate(requests(2), SamplingParams(3))
    ops.assign(norm, Tensor(broken))
    with pytest.raises(FloatingPointError, match="not finite"):
        engine.generate(requests(2), SamplingParams(3))
    ops.assign(norm, Tensor(sound))
    after = engine.generate(requests(2), SamplingParams(3))
    assert [group[0].token_ids for group in after] == [group[0].token_ids for group in before]


def test_nothing_is_compiled_after_warm_up():
    """One decode graph and three prompt widths are compiled once; other lengths and batch sizes reuse them."""
    engine = NativeEngine(Decoder(TINY, random_weights(TINY), False, 24), 8, 24, length_buckets=(8, 16, 24))
    sampling = SamplingParams(6)

    def generate(lengths):
        engine.generate([GenerateRequest((1,) * length) for length in lengths], sampling)

    def compiled():
        graphs = (*engine._prefill._graphs.values(), *engine._decoders.values())
        return sum(len(graph.compile_cache) for graph in graphs)

    generate((9, 17, 18, 2))
    warm = compiled()
    assert warm == 1 + 3
    generate((1, 3, 5, 8, 10, 12, 16, 17))
    generate((4,))
    generate(tuple(range(1, 19)))
    assert compiled() == warm


def test_one_that_takes_a_free_slot_is_prefilled_with_few_others():
    """Sixteen slots are filled together; then each sequence that ends makes room for one."""
    if not library().path:
        pytest.skip(f"no native kernels: {library().why_not}")
    set_up(num_threads=1)
    model = Decoder(TINY, random_weights(TINY), False, 40, precision=Precision.here("float32", is_native=True))
    engine = NativeEngine(model, 16, 40, length_buckets=(16, 32, 40))
    prefilled, run = [], engine._prefill.run

    def noted(token_ids, source_rows, *rest):
        prefilled.append((len(set(source_rows.tolist())), *token_ids.shape))
        run(token_ids, source_rows, *rest)

    engine._prefill.run = noted
    prompts = [GenerateRequest((number, *range(1, 30)), 1, (0, number)) for number in range(24)]
    ends = SamplingParams(10, stop_token_ids=tuple(range(0, 97, 5)))
    found = engine.generate(prompts, ends)
    assert prefilled[0] == (16, 16, 32) and 1 in {count for count, *_ in prefilled}
    assert all(rows == (2 if count <= 2 else 16) and width == 32 for count, rows, width in prefilled)
    alone = NativeEngine(model, 24, 40, length_buckets=(16, 32, 40)).generate(prompts, ends)
    assert [group[0].token_ids for group in found] == [group[0].token_ids for group in alone]
    assert all((a[0].logprobs == b[0].logprobs).all() for a, b in zip(found, alone, strict=True))
