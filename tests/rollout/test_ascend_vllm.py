"""What vLLM on Ascend reports, and what is made of it: the part that needs no device."""

from dataclasses import dataclass

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.config.roles import phases_of_run
from mindrlhf_lite.parallel.dims import ParallelDims
from mindrlhf_lite.parallel.layout import Strategy, buffers_of_rank, fill_buffers
from mindrlhf_lite.rollout.vllm.ascend import _Settings, completion_of
from mindrlhf_lite.rollout.vllm.weight_copy import WeightCopy
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import parameter_specs
from mindrlhf_lite.swap.residency import Contents, Residency, State
from mindrlhf_lite.swap.stores import HostStore
from mindrlhf_lite.trainer.rollout_metrics import rollout_metrics
from mindrlhf_lite.types import FinishReason, Outcome, Prompt, RolloutGroup, SamplingParams, ScoredGroup


@dataclass
class Reported:
    """vLLM's Logprob, and its CompletionOutput."""

    logprob: float = 0.0
    token_ids: tuple = ()
    logprobs: tuple = ()


def output(*logprobs):
    entries = tuple({7 + place: Reported(logprob)} for place, logprob in enumerate(logprobs))
    return Reported(token_ids=tuple(range(7, 7 + len(logprobs))), logprobs=entries)


def metrics_of(completion):
    group = RolloutGroup(Prompt(0, (1,), "a", "b", 1), [completion], ["c"])
    ones = np.ones(1, np.float32)
    return rollout_metrics([ScoredGroup(group, {}, ones, ones, [Outcome.WRONG], np.ones(1, bool))])


def test_drawn_from_the_policy_its_logprobs_are_those_of_the_draw():
    completion = completion_of(output(-0.5, -0.25), SamplingParams(4, stop_token_ids=(8,)))
    assert completion.token_ids == (7, 8) and completion.finish_reason is FinishReason.STOP
    np.testing.assert_array_equal(completion.logprobs, completion.engine_logprobs)
    assert metrics_of(completion)["rollout/sampling_gap_mean"] == 0


@pytest.mark.parametrize(
    "more", [{"temperature": 0.8}, {"top_p": 0.8}, {"top_k": 20}, {"repetition_penalty": 1.05}, {"min_tokens": 2}]
)
def test_else_they_are_not_known(more):
    completion = completion_of(output(-0.5), SamplingParams(4, **more))
    assert completion.logprobs is None and completion.engine_logprobs.tolist() == [-0.5]
    assert "rollout/sampling_gap_mean" not in metrics_of(completion)


def test_of_a_tempered_policy_neither_is_known():
    completion = completion_of(output(-0.5), SamplingParams(4, temperature=0.8, reports_tempered_policy=True))
    assert completion.logprobs is None and completion.engine_logprobs is None
    assert "rollout/sampling_gap_mean" not in metrics_of(completion)


CONFIG = ModelConfig(128, 64, 96, 2, 8, 2, head_dim=8, tie_word_embeddings=False)
NUM_KV_HEADS, HEAD_DIM = 2, 8


class Loader:
    """A model that keeps and cuts as vllm-mindspore 0.5.1's Qwen2 on one of `degree` tensor ranks: q, k, v in one
    parameter, gate and up in another, written in place; the others are given new data.
    """

    def __init__(self, whole, degree, rank):
        self.degree, self.rank, self.parameters, self.loads = degree, rank, {}, 0
        fused: dict[str, list[str]] = {}
        for name in whole:
            own = name
            for one in ("q_proj", "k_proj", "v_proj"):
                own = own.replace(f".{one}", ".qkv_proj")
            for one in ("gate_proj", "up_proj"):
                own = own.replace(f".{one}", ".gate_up_proj")
            fused.setdefault(own, []).append(name)
        self.offsets = {}
        for own, names in fused.items():
            parts = [self.cut(name, whole[name]) for name in names]
            starts = np.cumsum([0, *(part.shape[0] for part in parts)])
            self.offsets.update(dict(zip(names, zip([own] * len(names), starts.tolist()))))
            zeros = np.zeros((starts[-1], *parts[0].shape[1:]), np.float16)
            self.parameters[own] = Parameter(Tensor(zeros), name=own, requires_grad=False)
        self.parameters["rotary.cos"] = Parameter(Tensor(np.ones(3, np.float16)), name="rotary.cos")

    def cut(self, name, tensor):
        """Tensor: anything that is sliced."""
        if ".k_proj" in name or ".v_proj" in name:
            copies = max(1, self.degree // NUM_KV_HEADS)
            rows = max(1, NUM_KV_HEADS // self.degree) * HEAD_DIM
            return tensor[self.rank // copies * rows : (self.rank // copies + 1) * rows]
        if "o_proj" in name or "down_proj" in name:
            columns = (64 if "o_proj" in name else 96) // self.degree
            return tensor[:, self.rank * columns : (self.rank + 1) * columns]
        if "norm" in name:
            return tensor[:]
        rows = {"q_proj": 64, "gate_proj": 96, "up_proj": 96, "embed_tokens": 128, "lm_head": 128}
        (share,) = (count // self.degree for part, count in rows.items() if part in name)
        return tensor[self.rank * share : (self.rank + 1) * share]

    def get_params_dict(self):
        return self.parameters

    def load_weights(self, weights):
        self.loads += 1
        for name, tensor in weights:
            own, start = self.offsets[name]
            values = ms.from_numpy(self.cut(name, tensor))
            if own == name:
                self.parameters[own].set_data(values)
            else:
                self.parameters[own][start : start + values.shape[0]] = values


def whole_tensors(seed):
    rng = np.random.default_rng(seed)
    return {spec.name: rng.standard_normal(spec.shape).astype(np.float16) for spec in parameter_specs(CONFIG)}


def share_of(whole, buffers):
    arrays = fill_buffers(buffers, lambda name, box: whole[name][tuple(slice(*each) for each in box)])
    return {name: Parameter(Tensor(array), name=name, requires_grad=False) for name, array in arrays.items()}


@pytest.mark.parametrize(("degree", "rank"), [(1, 0), (2, 1), (4, 1), (4, 2), (8, 7)])
def test_the_loader_finds_its_part_in_what_the_rank_holds(degree, rank):
    strategy, whole = Strategy(ParallelDims(1, degree, 1)), whole_tensors(0)
    buffers = buffers_of_rank(CONFIG, strategy, rank)
    loader = Loader(whole, degree, rank)
    copy = WeightCopy(loader, CONFIG, buffers, np.float16)
    with pytest.raises(RuntimeError, match=r"has no lm_head.weight, nor \d+ other"):
        WeightCopy(Loader({}, degree, rank), CONFIG, buffers, np.float16)
    assert {each.name for each in copy.parameters} == set(loader.parameters) - {"rotary.cos"}
    for seed in (0, 1, 2):  # from the second time on they are written where the loader has put them
        whole = whole_tensors(seed)
        copy.load(share_of(whole, buffers))
        assert loader.loads == 1
        for name, (own, start) in loader.offsets.items():
            wanted = loader.cut(name, whole[name])
            np.testing.assert_array_equal(loader.parameters[own].asnumpy()[start : start + len(wanted)], wanted)


class TurnedLoader(Loader):
    """Keeps gate and up the other way round."""

    def __init__(self, whole, degree, rank):
        super().__init__(whole, degree, rank)
        for name, (own, start) in self.offsets.items():
            if "gate_up" in own:
                self.offsets[name] = own, 96 // degree - start


def test_a_loader_with_an_order_of_its_own_is_asked_every_time():
    buffers, whole = buffers_of_rank(CONFIG, Strategy(ParallelDims(1, 2, 1)), 1), whole_tensors(0)
    loader = TurnedLoader(whole, 2, 1)
    copy = WeightCopy(loader, CONFIG, buffers, np.float16)
    for turn in (1, 2):
        copy.load(share_of(whole_tensors(turn), buffers))
        name = "model.layers.1.mlp.up_proj.weight"
        wanted = loader.cut(name, whole_tensors(turn)[name])
        assert loader.loads == turn
        np.testing.assert_array_equal(loader.parameters[loader.offsets[name][0]].asnumpy()[:48], wanted)


def test_a_loader_that_cuts_otherwise_is_refused():
    buffers = buffers_of_rank(CONFIG, Strategy(ParallelDims(1, 2, 1)), 0)
    whole = whole_tensors(0)
    copy = WeightCopy(Loader(whole, 2, 1), CONFIG, buffers, np.float16)
    with pytest.raises(RuntimeError, match=r"vllm-mindspore wants \d+:\d+ of .*, and this rank holds 0:"):
        copy.load(share_of(whole, buffers))
    with pytest.raises(RuntimeError, match=r"wants 0:\d+ of .*, and this rank holds 0:"):  # the whole of a split one
        WeightCopy(Loader(whole, 1, 0), CONFIG, buffers, np.float16).load(share_of(whole, buffers))


def test_its_copy_and_its_cache_have_memory_while_they_are_needed():
    """Through a step's phases: what the loader replaces by new data is let go too, and comes back filled."""
    buffers, whole = buffers_of_rank(CONFIG, Strategy(ParallelDims(1, 1, 1)), 0), whole_tensors(1)
    loader, cache = Loader(whole, 1, 0), Tensor(np.ones((4, 2, 8), np.float16))
    copy = WeightCopy(loader, CONFIG, buffers, np.float16)
    residency = Residency(
        phases_of_run(build_config({"context.device_target": "Ascend", "generate_config.use_vllm": 1})), HostStore()
    )
    share = share_of(whole, buffers)
    residency.add("rollout", list(share.values()), Contents.REBUILT)
    residency.add("engine_weights", copy.parameters, Contents.REBUILT)
    residency.add("kv_cache", [cache], Contents.SCRATCH)
    assert [residency.state(name) for name in ("rollout", "engine_weights", "kv_cache")] == [State.EMPTY] * 3
    for seed in (1, 2):
        whole = whole_tensors(seed)
        with residency.phase("reshard"):
            for name, parameter in share.items():
                parameter.asnumpy()[...] = share_of(whole, buffers)[name].asnumpy()
            copy.load(share)
        with residency.phase("generate"):
            assert not residency.has_memory("rollout") and residency.has_memory("kv_cache")
            for name, (own, start) in loader.offsets.items():
                found = loader.parameters[own].asnumpy()[start : start + len(whole[name])]
                np.testing.assert_array_equal(found, whole[name])
            assert (cache.asnumpy() == 0).all()
        with residency.phase("update"):
            assert not any(map(residency.has_memory, ("rollout", "engine_weights", "kv_cache")))
    with pytest.raises(RuntimeError, match="contents are gone"), residency.phase("generate"):
        pass


def test_vllm_has_settings_of_its_own_and_the_trainer_finds_its_back():
    # of jit_config's keys, what compiling sees: a dictionary without them leaves them as they are
    names = ("mode", "jit_config", "jit_syntax_level", "jit_level", "infer_boost")
    before, theirs = {name: ms.get_context(name) for name in names}, {"jit_level": "O0", "infer_boost": "on"}
    settings = _Settings()
    with settings:
        assert ms.get_context("mode") == ms.PYNATIVE_MODE
        ms.set_context(jit_config=theirs, jit_syntax_level=ms.STRICT)  # as its import does
    assert {name: ms.get_context(name) for name in names} == before
    with pytest.raises(ValueError, match="a fault"), settings:
        assert ms.get_context("mode") == ms.PYNATIVE_MODE and ms.get_context("jit_config") == theirs
        raise ValueError("a fault")
    assert {name: ms.get_context(name) for name in names} == before
