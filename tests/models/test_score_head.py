"""A decoder with a score head gives transformers' scores, in its files' form, and takes gradients."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, TINY, random_weights
from mindspore import Tensor

from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.inference.model_folder import load_model_folder
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.hf_weights import load_weights, save_hf_model
from mindrlhf_lite.models.score_head import Scores, scoring_reader, scoring_shape
from mindrlhf_lite.parallel.layout import fill_buffers
from mindrlhf_lite.scoring.batches import make_microbatch
from mindrlhf_lite.scoring.stages import StageLayers, run_stages
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import SCORE, parameter_specs
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.types import TrainSequence

FIXTURE = json.loads((Path(__file__).parents[1] / "peers/hf_scores.json").read_text())


def weights_of(shapes):
    """As tests/peers/hf_scores.py makes them."""
    rng, found = np.random.default_rng(0), {}
    for name, shape in sorted(shapes.items()):
        values = rng.standard_normal(shape).astype(np.float32)
        found[name] = 1 + 0.1 * values if "norm" in name else values * np.float32(1.2 / np.sqrt(shape[-1]))
    return found


def sequences():
    rng = np.random.default_rng(1)
    return [TrainSequence.of(rng.integers(1, 97, length).astype(np.int32), 4) for length in FIXTURE["lengths"]]


def scores_of(model):
    batch = make_microbatch(sequences(), StreamShapes(64, 64), token_mean, BatchTotals(1, 1, 1))
    return Scores(model)(run_stages(StageLayers(model), batch), Tensor(batch.ends)).asnumpy()


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_scores_and_files_are_transformers(kind, tmp_path):
    expected = FIXTURE[kind]
    config = ModelConfig.from_hf(expected["config"])
    assert config.has_score and sorted(spec.name for spec in parameter_specs(config)) == expected["names"]
    weights = weights_of({spec.name: spec.shape for spec in parameter_specs(config)})
    save_hf_model(tmp_path, config, weights, None, 0)
    written = json.loads((tmp_path / "config.json").read_text())
    for key in ("architectures", "id2label", "label2id", "pad_token_id", "hidden_size"):
        assert written[key] == expected["config"][key], key
    read = ModelConfig.from_dir(tmp_path)
    assert read == config
    model = Decoder(read, load_weights(tmp_path, read), False, 64)
    np.testing.assert_allclose(scores_of(model)[: len(expected["scores"])], expected["scores"], atol=1e-4)


def test_a_language_model_gets_a_new_head(tmp_path):
    save_hf_model(tmp_path, TINY, random_weights(TINY), None, None)
    shape, read = scoring_shape(tmp_path), scoring_reader(tmp_path, seed=3)
    assert SCORE in {spec.name for spec in parameter_specs(shape)} and not shape.tie_word_embeddings
    model = Decoder(shape, fill_buffers(Decoder(shape, None, False, 64).buffers, read), False, 64)
    own = model.weights_as_numpy()
    np.testing.assert_array_equal(own["model.norm.weight"], random_weights(TINY)["model.norm.weight"])
    assert 0.5 < own[SCORE].std() * np.sqrt(33) < 1.5 and np.abs(scores_of(model)[:3]).max() > 0
    again = scoring_reader(tmp_path, seed=3)(SCORE, ((0, 1), (0, 32)))
    np.testing.assert_array_equal(own[SCORE], again)


def test_tools_that_write_texts_refuse_a_reward_model(tmp_path):
    shape = replace(TINY, vocab_size=268).scoring
    weights = weights_of({spec.name: spec.shape for spec in parameter_specs(shape)})
    save_hf_model(tmp_path, shape, weights, None, 0)
    for name in ("tokenizer_config.json", "vocab.json", "merges.txt"):
        shutil.copy(ROOT / "examples/quickstart/model" / name, tmp_path)
    with pytest.raises(UserError, match="a reward model, which writes no text"):
        load_model_folder(str(tmp_path))


def test_several_labels_are_refused():
    values = {**FIXTURE["qwen2"]["config"], "id2label": {"0": "bad", "1": "good"}}
    with pytest.raises(UserError, match="with 2 labels; a model that gives one number"):
        ModelConfig.from_hf(values)
