"""What can be checked of several devices: three updates on fixed sequences under a layout, with swapping and a reshard,
and how fast collectives are. Under msrun: `rank_checks.py MODEL DEVICE LAYOUT TYPE OUT.json`, LAYOUT as in dp2,tp4,pp1,
TYPE of matrix products.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mindrlhf_lite.files.text_file import write_text

if TYPE_CHECKING:
    from mindrlhf_lite.config.schema import Config
    from mindrlhf_lite.types import TrainSequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

_MIB, _TIMES = {"CPU": 16, "Ascend": 64}, {"CPU": 3, "Ascend": 20}


def train(model: str, device: str, degrees: tuple[int, int, int], dtype: str, scratch: str) -> dict[str, Any]:
    """Losses and gradient norms of three updates; every reshard is checked by its checksums."""
    from mindrlhf_lite.learner.statistics import UpdateCounts
    from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
    from mindrlhf_lite.roles.build import build_roles
    from mindrlhf_lite.trainer.annotation import Annotator, with_logprobs
    from mindrlhf_lite.trainer.assembly import assemble_training
    from mindrlhf_lite.trainer.learning_rate import LearningRate

    config, mesh = _config(model, device, degrees, dtype, scratch), Mesh(device)
    roles = build_roles(config, mesh)
    training, schedule = assemble_training(config, mesh, roles), LearningRate.constant(3e-4)
    sequences = _sequences(roles.model_config.vocab_size)
    annotator = Annotator(config, roles, training.scoring, roles.residency.phase)
    sequences = with_logprobs(sequences, annotator.fixed_logprobs(sequences))
    losses, norms = [], []
    generated = [np.asarray(sequence.reference_logprobs) for sequence in sequences]
    for _ in range(3):
        counts = training.update.run(sequences, generated, config.rl_config.beta, schedule)
        told = [each.statistics["loss"] for each in gather_objects(mesh.world, counts, UpdateCounts) if each.statistics]
        losses.append(float(sum(told)))
        norms.append(counts.grad_norm)
        with roles.residency.phase("reshard"):
            roles.move_to_rollout()
    return {"losses": losses, "norms": norms, "is_main": mesh.is_main, **_collectives(mesh)}


def _config(model: str, device: str, degrees: tuple[int, int, int], dtype: str, scratch: str) -> Config:
    """Of a short run under the layout."""
    from mindrlhf_lite.config.load import build_config

    data, tensor, stages = degrees
    settings: dict[str, Any] = {
        "actor_config.load": model,
        "actor_config.compute_dtype": dtype,
        "context.device_target": device,
        "rl_config.output_dir": scratch,
        "rl_config.seq_length": 48,
        "rl_config.chunk_size": 8,
        "rl_config.num_generations": 4,
        "rl_config.swap": True,
        "actor_config.optimizer.eps": 1e-5,
        "actor_config.parallel_config.micro_batch_num": stages,
        "generate_config.max_num_seqs": 16,
        "generate_config.max_prompt_length": 8,
        "generate_config.sampling_config.max_tokens": 40,
    }
    for role, own in (
        ("actor_config", degrees),
        ("ref_config", degrees),
        ("generate_config", (data * stages, tensor, 1)),
    ):
        for key, degree in zip(("data_parallel", "model_parallel", "pipeline_stage"), own, strict=True):
            settings[f"{role}.parallel_config.{key}"] = degree
    return build_config(settings)


def _sequences(vocabulary: int) -> list[TrainSequence]:
    """Eight groups of four, of lengths and advantages that differ; the same ones on all ranks."""
    from mindrlhf_lite.types import TrainSequence

    rng, sequences = np.random.default_rng(0), []
    for _ in range(8):
        prompt = rng.integers(0, vocabulary, 6)
        for length, advantage in ((9, 1.0), (20, -0.7), (3, 0.4), (14, -0.7)):
            ids = np.concatenate([prompt, rng.integers(0, vocabulary, length)]).astype(np.int32)
            sequences.append(TrainSequence.of(ids, len(prompt), advantage))
    return sequences


def _collectives(mesh: Any) -> dict[str, Any]:
    """GB/s of what this project sends with, over all ranks and between two, as the bytes of the larger side over the
    time; what one more communicator took of the device's memory.
    """
    import mindspore as ms
    from mindspore import Tensor, communication, jit, ops

    from mindrlhf_lite.parallel.collectives import GatherRows, ReduceScatterRows, transfer

    world = mesh.world
    if world is None:
        return {}
    device = ms.get_context("device_target")
    reduce, gather, scatter = ops.AllReduce(group=world.group), GatherRows(world), ReduceScatterRows(world)
    whole = Tensor(np.ones((world.size, (_MIB[device] << 18) // world.size), np.float32))
    own = Tensor(np.ones((1, whole.shape[1]), np.float32))
    found: dict[str, Any] = {"sum_of_ones": float(reduce(whole).asnumpy()[0, 0])}
    calls = {"all_reduce": (reduce, whole), "all_gather": (jit(gather), own), "reduce_scatter": (jit(scatter), whole)}
    before = _free_memory()
    if before:  # of all ranks: a group of its own, whatever was made already
        communication.create_group("one_more", list(range(world.size)))
        ops.AllReduce(group="one_more")(Tensor(np.ones(1, np.float32))).asnumpy()
        found["MiB of one more communicator"] = round((before - _free_memory()) / 2**20, 1)
    if mesh.rank ^ 1 < world.size:
        pair = mesh.pair(mesh.rank ^ 1)

        def send(x: Tensor) -> Tensor:
            transfer(x, pair, 0)
            return x

        calls["between_two"] = (send, whole)
    for name, (call, tensor) in calls.items():
        call(tensor).asnumpy()
        start = time.perf_counter()
        for _ in range(_TIMES[device]):
            result = call(tensor)
        if device == "CPU":
            result.asnumpy()
        else:
            ms.runtime.synchronize()
        seconds = (time.perf_counter() - start) / _TIMES[device]
        found[f"{name}_gb_per_s"] = round(whole.nbytes / 1e9 / seconds, 3)
    return found


def _free_memory() -> int:
    """Of the device, whoever holds the rest; 0 where MindSpore does not tell."""
    import mindspore as ms

    if ms.get_context("device_target") == "CPU":
        return 0
    return int(ms.hal.get_device_properties(ms.get_context("device_id")).free_memory)


def main() -> None:
    model, device, layout, dtype, out = sys.argv[1:6]
    degrees = [int(part[2:]) for part in layout.split(",")]
    found = train(model, device, (degrees[0], degrees[1], degrees[2]), dtype, str(Path(out).parent / "run"))
    if found.pop("is_main"):
        write_text(out, json.dumps(found))


if __name__ == "__main__":
    main()
