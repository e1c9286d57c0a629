"""One of two ranks of the precision tests: three updates on fixed sequences, in every type and layout. Arguments: the
settings by name as JSON; what is found goes beside them.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.config.validate import find_problems
from mindrlhf_lite.learner.statistics import UpdateCounts
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.reshard.plan import holdings
from mindrlhf_lite.roles.build import build_roles
from mindrlhf_lite.trainer.learning_rate import LearningRate
from mindrlhf_lite.trainer.update import PolicyUpdate
from mindrlhf_lite.types import TrainSequence


def whole(mesh, roles, weights):
    """The actor's tensors put together from all ranks' buffers."""
    shape, strategy = roles.model_config, roles.actor.model.strategy
    everyone = gather_objects(mesh.world, dict(weights), dict[str, np.ndarray])
    found = {}
    for tensor, held in holdings(shape, strategy).items():
        size = np.max([[stop for _, stop in h.part.box] for h in held], axis=0)
        found[tensor] = np.zeros(size, np.float32)
        for h in held:
            box = tuple(slice(*edge) for edge in h.part.box)
            rows = h.part.box[0][1] - h.part.box[0][0]
            values = everyone[int(h.ranks[0])][h.buffer.name][h.part.offset : h.part.offset + rows]
            found[tensor][box] = values
    return found


def main():
    mesh, path = Mesh(), Path(sys.argv[1])
    for name, settings in json.loads(path.read_text()).items():
        config = build_config(settings)
        assert not find_problems(config, mesh.world_size), find_problems(config, mesh.world_size)
        roles = build_roles(config, mesh)
        update = PolicyUpdate(config, roles, mesh, LearningRate("constant", 3e-4, 0.0, 0, 1))
        rng, numbers = np.random.default_rng(0), []
        prompts = [rng.integers(0, 250, 5) for _ in range(4)]
        sequences = [
            TrainSequence.of(np.concatenate([prompt, rng.integers(0, 250, length)]).astype(np.int32), 5, sign)
            for prompt in prompts
            for length, sign in ((9, 1.0), (20, -0.7), (3, 0.4), (14, -0.7))
        ]
        with roles.residency.phase("reference"):
            sequences = update.add_reference(sequences)
        for _ in range(3):
            generated = [sequence.reference_logprobs for sequence in sequences]
            counts = update.run(sequences, generated)
            found = [each for each in gather_objects(mesh.world, counts, UpdateCounts) if each.statistics]
            numbers.append([sum(each.statistics["loss"] for each in found), counts.grad_norm])
        with roles.saved() as (weights, _):
            tensors = whole(mesh, roles, weights)
        if mesh.is_main:
            logprobs = np.concatenate([sequence.reference_logprobs for sequence in sequences])
            np.savez(path.with_name(f"{name}.npz"), numbers=numbers, reference=logprobs, **tensors)
        roles.residency.close()


if __name__ == "__main__":
    main()
