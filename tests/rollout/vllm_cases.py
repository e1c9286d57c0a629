"""What tests of vLLM share."""

import numpy as np
from mindspore import Tensor

LENGTH, NEW = 128, 16


UNSUPPORTED = {
    "prompt_logprobs": 1,
    "allowed_token_ids": [1, 2],
    "bad_words": ["a"],
    "guided_decoding": "json",
    "structured_outputs": "json",
    "logits_processors": [lambda ids, row: row],
}


def logits_of(model, ids):
    """[len(ids), V], always computed at one length: a graph is compiled once."""
    padded = np.zeros((1, LENGTH), np.int32)
    padded[0, : len(ids)] = ids
    return model(Tensor(padded)).asnumpy()[0, : len(ids)]


def tokens(groups):
    return [group[0].token_ids for group in groups]


def scheduler_of(engine):
    return engine._core.scheduler


def count_steps(monkeypatch, engine, count):
    """Calls `count` with what the scheduler decided, at every step."""
    schedule = scheduler_of(engine).schedule

    def counted():
        decided = schedule()
        count(decided)
        return decided

    monkeypatch.setattr(scheduler_of(engine), "schedule", counted)
