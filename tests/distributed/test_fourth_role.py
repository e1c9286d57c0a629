"""A role that is added as a row of the table and a section: it is planned, resident when it should be, swapped, scored
with.
"""

import json

import numpy as np
from distributed.fourth_role_worker import sequences
from distributed.jobs import run_ranks
from distributed.small_runs import QUICKSTART_MODEL, metrics
from helpers import ROOT

from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.hf_weights import load_weights
from mindrlhf_lite.scoring.batches import make_microbatch
from mindrlhf_lite.scoring.scorer import LogprobScorer
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.streams import StreamShapes


def test_a_frozen_role_of_its_own_strategy(data, tmp_path):
    settings = {
        "actor_config.load": str(data / "model"),
        "rl_config.dataset_file": str(data / "train.mindrecord"),
        "rl_config.output_dir": str(tmp_path / "run"),
        "rl_config.seq_length": 48,
        "rl_config.length_buckets": [48],
        "rl_config.chunk_size": 4,
        "rl_config.num_generations": 4,
        "rl_config.max_steps": 1,
        "rl_config.swap": True,
        "rl_config.save_hf_model": False,
        "generate_config.max_num_seqs": 8,
        "generate_config.max_prompt_length": 8,
        "generate_config.sampling_config.max_tokens": 24,
        "monitor_config.plots": False,
        "examiner": str(QUICKSTART_MODEL),
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    worker = ROOT / "tests/distributed/fourth_role_worker.py"
    code, text, logs = run_ranks(2, tmp_path / "log", worker, tmp_path / "settings.json")
    assert code == 0, text + logs
    found = json.loads((tmp_path / "run/found.json").read_text())

    assert found["strategies"]["examiner"] != found["strategies"]["actor"]
    assert found["groups"]["examiner"] > 0 and found["phases"]["examiner"] > found["groups"]["examiner"]
    (row,) = metrics(tmp_path / "run")
    assert row["time_s/examiner"] > 0 and row["swap/bytes"] > 0

    seen = found["seen"]
    assert seen["examiner"] | {"examiner": "resident", "optimizer": "stored", "kv_cache": "empty"} == seen["examiner"]
    assert all(seen[phase]["examiner"] == "stored" for phase in ("generate", "update", "reshard"))

    config = ModelConfig.from_dir(QUICKSTART_MODEL)
    alone = LogprobScorer(Decoder(config, load_weights(QUICKSTART_MODEL, config), False, 48))
    batch = make_microbatch(sequences(), StreamShapes(128, 48), token_mean, BatchTotals(1, 1, 1))
    expected = np.concatenate(alone.score(batch))
    np.testing.assert_allclose(found["logprobs"]["examiner"], expected, atol=1e-5)
    assert np.abs(np.array(found["logprobs"]["reference"]) - expected).max() > 0.1
