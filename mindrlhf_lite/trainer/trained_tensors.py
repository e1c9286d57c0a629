"""Weights and moments of a trained model in checkpoints: the actor's under "weight/" and "optimizer/", those of others
under names of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_lite.checkpoint.sharded import ShardedReader
from mindrlhf_lite.checkpoint.store import SavedCheckpoint, prefixed
from mindrlhf_lite.checkpoint.strategy_file import strategy_from_json, strategy_to_json
from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.parallel.layout import Strategy, fill_buffers
from mindrlhf_lite.roles.critic import Critic
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.swap.residency import Residency
from mindrlhf_lite.trainer.soundness import problem_of

_CRITIC = "critic_"


def tensors_to_save(
    trained: TrainedModel, weights: Mapping[str, np.ndarray], moments: Mapping[str, np.ndarray], name: str = ""
) -> dict[str, np.ndarray]:
    """This rank's part; one copy of every part is enough. Args: name: that all of the model's keys begin with."""
    data_rank, splits_data = trained.model.mesh.at.data, trained.optimizer.strategy.splits_data
    tensors = prefixed(f"{name}weight", weights) if data_rank == 0 else {}
    return {**tensors, **(prefixed(f"{name}optimizer", moments) if data_rank == 0 or splits_data else {})}


def saved_tensors(
    folder: Path, trained: TrainedModel, shape: ModelConfig, saved: Strategy, name: str = ""
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(this rank's weights, its moments), from the files of whatever strategy they were saved under. Args: shape: of
    what is trained.
    """
    reader = ShardedReader(folder, shape, replace(saved, splits_data=False), f"{name}weight/")
    weights = fill_buffers(trained.model.trained_buffers, reader.read)
    state: dict[str, np.ndarray] = {}
    for moment in ("adam_m", "adam_v"):
        reader = ShardedReader(folder, shape, saved, f"{name}optimizer/{moment}.")
        filled = fill_buffers(trained.optimizer.buffers, reader.read)
        state |= {f"{moment}.{buffer}": values for buffer, values in filled.items()}
    return weights, state


def state_of_critic(critic: Critic | None) -> dict[str, Any]:
    """What a checkpoint's state has of it besides tensors."""
    if critic is None:
        return {}
    optimizer = critic.trained.optimizer
    own = {"updates_done": optimizer.updates_done, "loss_scale": optimizer.loss_scale.state()}
    return {"critic": {**own, "strategy": strategy_to_json(optimizer.strategy)}}


def tensors_of_critic(critic: Critic | None) -> dict[str, np.ndarray]:
    """In the phase "save"; the data-parallel ranks call it together."""
    if critic is None:
        return {}
    optimizer = critic.trained.optimizer
    return tensors_to_save(critic.trained, optimizer.master_weights(), optimizer.state(), _CRITIC)


def problem_of_critic(tensors: Mapping[str, np.ndarray], limit: float) -> str:
    """As `problem_of`, of `tensors_of_critic`."""
    weights = {key: values for key, values in tensors.items() if key.startswith(f"{_CRITIC}weight/")}
    return problem_of(weights, {key: values for key, values in tensors.items() if key not in weights}, limit)


def restore_critic(checkpoint: SavedCheckpoint, critic: Critic, residency: Residency) -> None:
    trained, state = critic.trained, checkpoint.state["critic"]
    saved = strategy_from_json(state["strategy"], f"{checkpoint.folder}/state.json")
    weights, moments = saved_tensors(checkpoint.folder, trained, trained.model.config, saved, _CRITIC)
    with residency.phase("restore"):
        trained.optimizer.load_weights(weights)
        trained.optimizer.load_state(moments)
    trained.optimizer.updates_done = state["updates_done"]
    trained.optimizer.loss_scale.restore(state["loss_scale"])
