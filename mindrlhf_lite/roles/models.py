"""The models of a run on this rank, and what goes into a checkpoint of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from mindrlhf_lite.learner.trained_model import TrainedModel
from mindrlhf_lite.parallel.mesh import RoleMesh
from mindrlhf_lite.reshard.executor import Moved, Resharder
from mindrlhf_lite.roles.critic import Critic
from mindrlhf_lite.roles.merging import MergedWeights
from mindrlhf_lite.rollout.protocol import RolloutEngine
from mindrlhf_lite.scoring.pairs import LastTokenScorer
from mindrlhf_lite.scoring.scorer import LogprobScorer
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.swap.phases import phase_of_part
from mindrlhf_lite.swap.residency import Residency


@dataclass
class TrainedRoles:
    """The models of this rank that an update needs. `model_config`: of the actor, with its adapters; `policy` scores
    with the actor's own weights; `scorers`: the frozen roles that give logprobs of sequences, by name; `critic`: where
    advantages are made of its values.
    """

    model_config: ModelConfig
    actor: TrainedModel
    policy: LogprobScorer
    scorers: dict[str, LogprobScorer]
    reward_model: LastTokenScorer | None
    critic: Critic | None
    residency: Residency
    base_fingerprint: str  # of the model that adapters were read beside, where there are any, else ""; on the main rank

    @property
    def reference(self) -> LogprobScorer | None:
        """None where beta is 0."""
        return self.scorers.get("reference")

    @contextmanager
    def saved(self, has_state: bool = True) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """(the actor's trained weights by buffer name, whole and float32; the optimizer's moments), of this rank,
        for as long as the context lasts. The data-parallel ranks open it together.

        Args: has_state: whether the moments are wanted.
        """
        optimizer, residency = self.actor.optimizer, self.residency
        if phase_of_part("save", 0) not in residency.phases:
            with residency.phase("save"):
                yield optimizer.master_weights(), optimizer.state() if has_state else {}
            return
        weights: dict[str, np.ndarray] = {}
        state: dict[str, np.ndarray] = {}
        for part in range(len(optimizer.parts)):  # copies: a part's memory is given back
            with residency.phase(phase_of_part("save", part)):
                weights |= {name: values.copy() for name, values in optimizer.master_weights(part).items()}
                state |= {name: values.copy() for name, values in optimizer.state(part).items()} if has_state else {}
        with residency.phase("save"):
            yield weights, state

    def restore(self, weights: dict[str, np.ndarray], state: dict[str, np.ndarray]) -> None:
        """Sets what `saved` gave."""
        optimizer, is_in_parts = self.actor.optimizer, phase_of_part("restore", 0) in self.residency.phases
        for part in range(len(optimizer.parts)):
            with self.residency.phase(phase_of_part("restore", part) if is_in_parts else "restore"):
                optimizer.load_weights(weights, part)
                optimizer.load_state(state, part)


@dataclass
class Roles(TrainedRoles):
    """All models of this rank."""

    rollout: RolloutEngine
    rollout_mesh: RoleMesh
    resharder: Resharder  # from the actor to the rollout engine
    followers: dict[str, Resharder]  # from the actor to the roles that follow it, by name
    reshard_bound_bytes: int  # least that all ranks together must receive
    merged: MergedWeights | None  # of the rollout, where it has no adapters beside its weights

    def move_to_rollout(self, is_checked: bool = True) -> Moved:
        """What was trained, into the rollout engine's weights; every rank calls it, in the phase "reshard"."""
        moved = self.resharder.run(self.residency.source("actor"), is_checked)
        if self.merged is not None:
            self.merged.write()
        return moved
