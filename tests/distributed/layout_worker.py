"""One rank of the invariance tests: trains, one after the other, under every configuration of a JSON file, in one msrun
job.

Beside what a run writes, leaves OUTPUT/probe.npz: reference logprobs of fixed sequences, and greedy rollouts of fixed
prompts.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.config.validate import find_problems
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.trainer.grpo import GrpoTrainer
from mindrlhf_lite.types import GenerateRequest, SamplingParams, TrainSequence


def probe(run):
    rng = np.random.default_rng(0)
    sequences = [
        TrainSequence.of(rng.integers(0, 250, length).astype(np.int32), 3, 0.0) for length in (5, 12, 20, 23, 8)
    ]
    with run.roles.residency.phase("reference"):
        logprobs = np.concatenate(run.training.scoring.score("reference", run.roles.reference, sequences))
    requests = [GenerateRequest(tuple(int(t) for t in rng.integers(0, 250, 5))) for _ in range(4)]
    run.rollout_weights.move_if_missing()
    with run.roles.residency.phase("generate"):
        greedy = run.roles.rollout.generate(requests, SamplingParams(16, temperature=0))
    tokens = [group[0].token_ids for group in greedy]
    assert all(other == tokens for other in gather_objects(run.mesh.world, tokens, list[tuple[int, ...]])), (
        "ranks disagree on greedy rollouts"
    )
    return {"reference": logprobs, "greedy": np.array(tokens)}


def main():
    mesh = Mesh()
    for settings in json.loads(Path(sys.argv[1]).read_text()):
        config = build_config(settings)
        assert not find_problems(config, mesh.world_size), find_problems(config, mesh.world_size)
        trainer = GrpoTrainer(config, mesh)
        last = trainer.run_steps()
        found = probe(trainer.run)
        if mesh.is_main:
            np.savez(Path(config.rl_config.output_dir) / "probe.npz", **found)
        trainer.ending.finish(last)


if __name__ == "__main__":
    main()
