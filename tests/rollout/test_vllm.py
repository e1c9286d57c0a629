"""The unmodified vLLM V1 engine over this project's model: right tokens whatever the scheduler does, right logprobs,
weights in place.
"""

import numpy as np
import pytest
from helpers import TINY, random_weights
from mindspore import Tensor, ops

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.hf_weights import save_hf_model
from mindrlhf_lite.rollout.host_draw import log_softmax
from mindrlhf_lite.rollout.native import NativeEngine
from mindrlhf_lite.types import FinishReason, GenerateRequest, SamplingParams

pytest.importorskip("vllm", reason="needs vLLM: bash build.sh --vllm")
torch = pytest.importorskip("torch")
from rollout.vllm_cases import LENGTH, NEW, UNSUPPORTED, count_steps, logits_of, tokens

from mindrlhf_lite.rollout.vllm.engine import VllmEngine, VllmOptions

GREEDY = SamplingParams(NEW, temperature=0)


BLOCK = 2 * 16 * TINY.num_key_value_heads * TINY.head_dim * 4 * TINY.num_hidden_layers  # bytes of 16 tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_hf_model(folder, TINY, random_weights(TINY), None, None)
    return folder


def make_engine(folder, weights=None, **options):
    model = Decoder(TINY, weights or random_weights(TINY), False, LENGTH)
    return VllmEngine(
        model, str(folder), VllmOptions(LENGTH, **{"max_num_seqs": 8, "max_num_batched_tokens": 64, **options})
    )


@pytest.fixture(scope="module")
def engine(folder):
    return make_engine(folder)


@pytest.fixture(scope="module")
def native(engine):
    """The native engine over the same weights."""
    return NativeEngine(engine.model, 8, LENGTH)


@pytest.fixture(scope="module")
def cramped(folder):
    """An engine with a step for many tokens, and little room to keep them."""
    return make_engine(folder, max_num_batched_tokens=512, kv_cache_bytes=18 * BLOCK)


@pytest.fixture(scope="module")
def requests():
    """32 prompts of 1 to 100 tokens; some longer than the 64 tokens of a step, the last four with a prefix of two
    blocks in common.
    """
    rng = np.random.default_rng(1)
    lengths = [1, 2, 16, 17, 64, 65, 100, *rng.integers(3, 100, 21)]
    prompts = [tuple(int(t) for t in rng.integers(0, 97, length)) for length in lengths]
    prompts += [prompts[6][:40] + (index,) * (index + 1) for index in range(4)]
    return [GenerateRequest(prompt, 1, (0, 1, index)) for index, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def by_transformers(folder, requests):
    from transformers import Qwen2ForCausalLM

    reference = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    answers = []
    with torch.no_grad():
        for request in requests:
            prompt = torch.tensor([request.prompt_ids])
            every = torch.ones_like(prompt)  # or transformers takes token 0 for padding
            ids = reference.generate(
                prompt,
                attention_mask=every,
                max_new_tokens=NEW,
                min_new_tokens=NEW,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
            answers.append(tuple(ids[0, len(request.prompt_ids) :].tolist()))
    return answers


def test_greedy_equals_transformers_with_chunked_prefill_and_prefix_hits(
    engine, requests, by_transformers, monkeypatch
):
    chunks, hits, same_step = [], [], []

    def count(decided):
        sizes = decided.num_scheduled_tokens
        chunks.extend(
            new.req_id
            for new in decided.scheduled_new_reqs
            if sizes[new.req_id] + new.num_computed_tokens < len(new.prompt_token_ids)
        )
        started = [new for new in decided.scheduled_new_reqs if new.num_computed_tokens]
        hits.extend(started)
        written = {
            block for new in decided.scheduled_new_reqs if not new.num_computed_tokens for block in new.block_ids[0]
        }
        same_step.extend(new for new in started if set(new.block_ids[0]) & written)

    count_steps(monkeypatch, engine, count)
    assert tokens(engine.generate(requests, GREEDY)) == by_transformers
    assert chunks and hits


def test_a_prefix_computed_in_the_same_step_is_found(cramped, native, monkeypatch):
    """Samples of one prompt start together: the others take their shared blocks from the first, which has to run before
    them.
    """
    together = []

    def count(decided):
        blocks = [set(new.block_ids[0][: new.num_computed_tokens // 16]) for new in decided.scheduled_new_reqs]
        together.append(
            sum(
                bool(own & set().union(*(set(new.block_ids[0]) for new in decided.scheduled_new_reqs[:i])))
                for i, own in enumerate(blocks)
                if i
            )
        )

    count_steps(monkeypatch, cramped, count)
    request = GenerateRequest(tuple(range(50)), 6, (3,))
    (group,) = cramped.generate([request], SamplingParams(8))
    assert max(together) == 5
    (expected,) = native.generate([request], SamplingParams(8))
    assert [c.token_ids for c in group] == [c.token_ids for c in expected]


def test_preemption_changes_nothing(cramped, requests, by_transformers, monkeypatch):
    resumed = []
    count_steps(
        monkeypatch, cramped, lambda decided: resumed.extend(decided.scheduled_cached_reqs.resumed_from_preemption)
    )
    assert tokens(cramped.generate(requests, GREEDY)) == by_transformers
    assert sum(resumed) > 0


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(NEW, stop_token_ids=(3, 4)),
        SamplingParams(NEW, temperature=0.7, min_tokens=4, stop_token_ids=tuple(range(40))),
        SamplingParams(NEW, temperature=0.7, reports_tempered_policy=True),
        SamplingParams(NEW, temperature=0.7, top_k=20, reports_tempered_policy=True),
        SamplingParams(
            NEW,
            top_k=20,
            top_p=0.9,
            min_p=0.01,
            repetition_penalty=1.2,
            presence_penalty=0.2,
            frequency_penalty=0.1,
            logit_bias=((5, 2.0),),
        ),
    ],
)
def test_samples_and_logprobs_equal_the_native_engine_and_the_model(engine, native, requests, sampling):
    batch = [GenerateRequest(request.prompt_ids, 2, request.seed) for request in requests[:12]]
    for request, ours, theirs in zip(
        batch, engine.generate(batch, sampling), native.generate(batch, sampling), strict=True
    ):
        for completion, expected in zip(ours, theirs, strict=True):
            assert completion.token_ids == expected.token_ids and completion.finish_reason == expected.finish_reason
            np.testing.assert_allclose(completion.logprobs, expected.logprobs, atol=1e-4)
            ids, start = request.prompt_ids + completion.token_ids, len(request.prompt_ids)
            again = log_softmax(logits_of(engine.model, ids) / sampling.policy_temperature)[
                np.arange(start - 1, len(ids) - 1), list(completion.token_ids)
            ]
            np.testing.assert_allclose(completion.engine_logprobs, again, atol=1e-4)


def assign_all(engine, weights):
    for name, parameter in engine.named_weights().items():
        ops.assign(parameter, Tensor(weights[name]))
    engine.weights_changed()


def test_updated_weights_are_used_and_old_prefixes_forgotten(engine, native, requests):
    """generate, update, generate equals the native engine over the same parameters; the assignment goes into those that
    the compiled graphs hold.
    """
    some = requests[-6:]  # four of them share a prefix
    before = tokens(engine.generate(some, GREEDY))
    assign_all(engine, random_weights(TINY, seed=1))
    after = tokens(engine.generate(some, GREEDY))
    assert after == tokens(native.generate(some, GREEDY)) and after != before
    assign_all(engine, random_weights(TINY))
    assert tokens(engine.generate(some, GREEDY)) == before


def test_vllms_own_sleep_frees_the_cache_and_its_wake_up_restores_it(engine, requests, by_transformers):
    vllm = engine._engine
    vllm.sleep()
    assert engine.cache_parameters == [] and vllm.is_sleeping()
    with pytest.raises(RuntimeError, match="sleeps"):
        engine.generate(requests[:1], GREEDY)
    vllm.wake_up()
    assert engine.cache_parameters and tokens(engine.generate(requests[:8], GREEDY)) == by_transformers[:8]


def test_contents_of_the_cache_may_be_lost_between_calls(engine, requests, by_transformers):
    """Swapping gives the cache's pages back between two calls: nothing computed before may be found again."""
    assert tokens(engine.generate(requests, GREEDY)) == by_transformers
    for parameter in engine.cache_parameters:
        ops.assign(parameter, ops.zeros_like(parameter) + 7)
    assert tokens(engine.generate(requests, GREEDY)) == by_transformers


def test_stops_and_lengths(engine):
    (stopped,) = engine.generate(
        [GenerateRequest((1, 2, 3), 1, (0,))], SamplingParams(10, stop_token_ids=tuple(range(97)))
    )
    assert stopped[0].finish_reason is FinishReason.STOP and len(stopped[0].token_ids) == 1
    (full,) = engine.generate([GenerateRequest((1,) * (LENGTH - 3), 1, (0,))], SamplingParams(10))
    assert full[0].finish_reason is FinishReason.LENGTH and len(full[0].token_ids) == 3
    with pytest.raises(ValueError, match=f"max_model_len={LENGTH}"):
        engine.generate([GenerateRequest((1,) * LENGTH, 1, (0,))], GREEDY)


def test_broken_weights_are_an_error_and_the_engine_survives(engine, requests, by_transformers):
    weights = random_weights(TINY)
    parameter = engine.named_weights()["model.norm.weight"]
    ops.assign(parameter, ops.zeros_like(parameter) + float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        engine.generate(requests[:4], GREEDY)
    ops.assign(parameter, Tensor(weights["model.norm.weight"]))
    engine.weights_changed()  # nothing of the failed call is left
    assert tokens(engine.generate(requests[:4], GREEDY)) == by_transformers[:4]


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_implemented_is_refused(engine, name):
    from vllm import SamplingParams as VllmSamplingParams
    from vllm.platforms import current_platform

    params = VllmSamplingParams(max_tokens=4)
    current_platform.validate_request("", params, {"type": "token"})
    setattr(params, name, UNSUPPORTED[name])
    with pytest.raises(ValueError, match=f"{name}=.*not implemented"):
        current_platform.validate_request("", params, {"type": "token"})


def test_the_llm_class_serves_a_folder(folder, requests, by_transformers):
    """What a user of vLLM writes: LLM(folder), n samples, seeds, top logprobs."""
    from vllm import LLM
    from vllm import SamplingParams as VllmSamplingParams

    llm = LLM(
        str(folder),
        skip_tokenizer_init=True,
        dtype="float32",
        max_model_len=LENGTH,
        max_num_seqs=8,
        additional_config={"kv_cache_bytes": 200 * BLOCK},
    )
    prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests[:6]]
    greedy = llm.generate(
        prompts, VllmSamplingParams(temperature=0, max_tokens=NEW, logprobs=3, detokenize=False), use_tqdm=False
    )
    assert [tuple(output.outputs[0].token_ids) for output in greedy] == by_transformers[:6]
    model = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.get_model()
    for request, output in zip(requests, greedy, strict=False):
        first, expected = output.outputs[0].logprobs[0], log_softmax(logits_of(model, request.prompt_ids)[-1])
        assert list(first) == list(np.argsort(-expected)[:3])
        assert all(entry.logprob == pytest.approx(expected[token], abs=1e-4) for token, entry in first.items())
        assert [entry.rank for entry in first.values()] == [1, 2, 3]
    sampled = llm.generate(prompts[:2], VllmSamplingParams(n=4, seed=5, max_tokens=8, detokenize=False), use_tqdm=False)
    again = llm.generate(prompts[:2], VllmSamplingParams(n=4, seed=5, max_tokens=8, detokenize=False), use_tqdm=False)
    assert [[c.token_ids for c in output.outputs] for output in sampled] == [
        [c.token_ids for c in output.outputs] for output in again
    ]
    assert len({tuple(c.token_ids) for c in sampled[0].outputs}) == 4
