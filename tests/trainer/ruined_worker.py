"""Asks a run to save and to export a model that is ruined, and then one that is not; for test_health_runs.py.

Arguments: a JSON file of settings. Prints what came of it as JSON.
"""

import json
import sys
from pathlib import Path

import numpy as np

from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.parallel.mesh import Mesh
from mindrlhf_lite.trainer.grpo import GrpoTrainer
from mindrlhf_lite.trainer.soundness import RuinedModel


def copied(tensors):
    return {name: values.copy() for name, values in tensors.items()}


def poisoned(tensors, place, value):
    """(name, tensors) with one number changed."""
    name, tensors = list(tensors)[place], copied(tensors)
    tensors[name].flat[3] = value
    return name, tensors


def refusal(work):
    try:
        work()
    except RuinedModel as refused:
        return str(refused)
    return ""


def main():
    trainer = GrpoTrainer(build_config(json.loads(Path(sys.argv[1]).read_text())), Mesh())
    with trainer.run.roles.saved() as (weights, moments):
        weights, moments = copied(weights), copied(moments)

    def save(step):
        return refusal(lambda: trainer.run.persistence.save(step, trainer.run.state))

    def export():
        return refusal(lambda: trainer.ending.export("hf"))

    weight, large = poisoned(weights, 2, -2e4)
    moment, broken = poisoned(moments, 5, np.nan)
    found = {"weight": weight, "moment": moment, "at_first": save(1)}
    trainer.run.roles.restore(weights, broken)
    found["moments"] = save(2)
    trainer.run.roles.restore(large, moments)
    found |= {"largest": trainer.run.training.update.largest_weight(), "weights": save(3), "export": export()}
    found["left"] = sorted(
        path.name for path in Path(trainer.run.config.rl_config.output_dir).rglob("*") if path.is_dir()
    )
    trainer.run.roles.restore(weights, moments)
    found |= {"sound": save(4), "sound_export": export(), "steps": trainer.run.persistence.store.steps()}
    trainer.run.reward.close()
    trainer.run.roles.residency.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
