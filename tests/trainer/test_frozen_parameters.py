"""Parameters that are not trained: no gradient, no moment, no place in a checkpoint; the others learn as ever."""

import numpy as np
import pytest
from distributed.small_runs import completions, metrics, single, without_times
from helpers import TINY, random_weights
from safetensors.numpy import load_file

from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.config.memory_plan import memory_plan
from mindrlhf_lite.config.validate import find_problems
from mindrlhf_lite.learner.adamw import AdamW, AdamWOptions
from mindrlhf_lite.learner.policy_loss import Objective, PolicyLoss
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.scoring.batches import make_microbatch
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.types import TrainSequence

PATTERNS = {
    "ends": ["model.embed_tokens.*", "model.norm.weight", "lm_head.weight"],
    "first layer": ["model.embed_tokens.*", "model.layers.0.*"],
    "some of every layer": ["*.mlp.*", "*_norm.weight", "*layernorm.weight"],
}


def trained(frozen=()):
    model = Decoder(TINY, random_weights(TINY), True, 64, frozen=frozen)
    return TrainedModel(model, PolicyLoss(model, Objective()), AdamW(model, AdamWOptions(weight_decay=0.1)))


def accumulate(actor):
    rng = np.random.default_rng(0)
    sequences = [
        TrainSequence.of(rng.integers(0, 97, length).astype(np.int32), 4, advantage)
        for length, advantage in ((20, 1.0), (9, -0.5), (30, 0.3))
    ]
    totals = BatchTotals(sum(each.completion_length for each in sequences), 3, 60)
    return actor.accumulate([make_microbatch(sequences, StreamShapes(128, 64), token_mean, totals)])


@pytest.mark.parametrize("frozen", PATTERNS.values(), ids=PATTERNS)
def test_the_others_have_the_same_gradients_and_the_frozen_ones_stay(frozen):
    whole, part = trained(), trained(frozen)
    before = part.model.weights_as_numpy(frozen_only=True)
    accumulate(whole)
    accumulate(part)
    gradients = {name: each.asnumpy().copy() for name, each in whole.optimizer.accumulators.items()}
    assert gradients.keys() - part.optimizer.accumulators.keys() == before.keys() and before
    for name, gradient in part.optimizer.accumulators.items():
        np.testing.assert_allclose(gradient.asnumpy(), gradients[name], atol=1e-7, err_msg=name)
    assert len(part.optimizer.parameters) == 2 * len(part.optimizer.accumulators)
    part.optimizer.step(0.1)
    for name, values in part.model.weights_as_numpy().items():
        assert (name in before) == np.array_equal(values, random_weights(TINY)[name]), name


def test_a_run_and_its_resume(data, tmp_path):
    settings = (
        "--actor_config.frozen=model.embed_tokens.*,*.mlp.up_proj.weight",
        "--rl_config.save_ckpt_interval=1",
        "--actor_config.lr_schedule.lr=1e-3",
    )
    for name, steps, extra in (("whole", 2, ()), ("parts", 1, ()), ("parts", 2, ("--resume_training", "true"))):
        result = single(data, tmp_path / name, f"--rl_config.max_steps={steps}", *settings, *extra)
        assert result.returncode == 0, result.stderr
    assert without_times(metrics(tmp_path / "parts")) == without_times(metrics(tmp_path / "whole"))
    assert completions(tmp_path / "parts", 2) == completions(tmp_path / "whole", 2)
    first, last = load_file(data / "model/model.safetensors"), load_file(tmp_path / "parts/hf/model.safetensors")
    kept = {name for name in first if np.array_equal(first[name], last[name])}
    assert kept == {"model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"} and first.keys() == last.keys()
    saved = load_file(tmp_path / "parts/checkpoints/step_2/rank_00000.safetensors")
    assert not [name for name in saved if "embed_tokens" in name or "up_proj" in name]


def test_what_is_planned_and_refused(data):
    whole, part = (
        build_config({"actor_config.load": str(data / "model"), "actor_config.frozen": frozen})
        for frozen in ([], ["model.embed_tokens.*"])
    )
    shape = ModelConfig.from_dir(data / "model")
    plans = [memory_plan(config, shape, 1).groups for config in (whole, part)]
    embedding = 4 * shape.vocab_size * shape.hidden_size
    assert plans[0]["gradients"] - plans[1]["gradients"] == embedding
    assert plans[0]["optimizer"] - plans[1]["optimizer"] == 2 * embedding
    for frozen, words in ((["model.layer.0.*"], "no parameter has such a name"), (["*"], "nothing is left to train")):
        config = build_config({"actor_config.load": str(data / "model"), "actor_config.frozen": frozen})
        assert [problem for problem in find_problems(config, 1) if words in problem]
