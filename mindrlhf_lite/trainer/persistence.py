"""What of a run survives it: checkpoints, and going on from the newest whole one."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import ops

from mindrlhf_lite.checkpoint.sharded import ShardedReader
from mindrlhf_lite.checkpoint.store import Checkpoint, CheckpointStore, SavedCheckpoint, prefixed
from mindrlhf_lite.checkpoint.strategy_file import strategy_from_json, strategy_to_json
from mindrlhf_lite.config.roles import scoring_roles
from mindrlhf_lite.config.schema import Config
from mindrlhf_lite.config.strategies import role_strategies
from mindrlhf_lite.data.tokenizer import TOKENIZER_FOLDER, Tokenizer
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.evaluation.accuracy import Evaluation
from mindrlhf_lite.observe.health import History
from mindrlhf_lite.observe.host import versions
from mindrlhf_lite.parallel.layout import fill_buffers
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.roles.models import Roles, TrainedRoles
from mindrlhf_lite.trainer.learning_rate import LearningRate
from mindrlhf_lite.trainer.run_state import RunState
from mindrlhf_lite.trainer.same_run import check_same_run, is_exact, model_fingerprints
from mindrlhf_lite.trainer.soundness import problem_of, refuse_ruined
from mindrlhf_lite.trainer.trained_tensors import (
    problem_of_critic,
    restore_critic,
    saved_tensors,
    state_of_critic,
    tensors_of_critic,
    tensors_to_save,
)


class Persistence:
    """Saves and restores a run; every rank calls it.

    Args:
        digest: of the training prompts; a checkpoint of other prompts is refused.
        end_token_ids: go into the model's config.json.
        last_step: of the run, as it is configured now.
    """

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        roles: TrainedRoles,
        tokenizer: Tokenizer,
        digest: str,
        end_token_ids: int | list[int] | None,
        last_step: int,
    ):
        self.last_step = last_step
        self.config, self.mesh, self.roles = config, mesh, roles
        self.tokenizer, self.digest, self.end_token_ids = tokenizer, digest, end_token_ids
        if roles.base_fingerprint:  # later the folders may hold others
            _ = self._models
        self.store = CheckpointStore(
            config.checkpoint_dir, config.rl_config.save_max_ckpt_num, config.rl_config.save_ckpt_format
        )

    def is_due_after(self, step: int, last_step: int) -> bool:
        interval = self.config.rl_config.save_ckpt_interval
        return bool(interval) and (step % interval == 0 or step == last_step)

    def save(self, step: int, state: RunState) -> None:
        """Raises RuinedModel, on every rank, if weights or moments of any are not sound; nothing is written then. The
        newest checkpoint from before a check of `state.health` began to fail is kept, however many follow.
        """
        optimizer = self.roles.actor.optimizer
        of_roles = role_strategies(self.config, self.mesh.world_size)
        strategies = {name: strategy_to_json(strategy) for name, strategy in of_roles.items()}
        saved = {
            "updates_done": optimizer.updates_done,
            "loss_scale": optimizer.loss_scale.state(),
            "sampler": state.sampler.as_dict(),
            "prompts_digest": self.digest,
            "decay_steps": state.schedule.decay_steps,
            "last_step": self.last_step,
            "kl_coefficient": state.kl.value,
            "world_size": self.mesh.world_size,
            "strategy": strategy_to_json(optimizer.strategy),
            **{f"{role.name}_strategy": strategies[role.name] for role in scoring_roles(self.config)},
            "model": self.roles.model_config.to_hf(self.end_token_ids, self.tokenizer.pad_token_id),
            "adapters": asdict(adapters) if (adapters := self.roles.model_config.adapters) else None,
            "base": str(Path(self.config.actor_config.load).absolute()),
            "config": asdict(self.config),
            "models": self._models,
            "versions": versions(),
            "evaluations": {name: result.as_dict() for name, result in state.evaluations.items()},
            "health": state.health.as_dict(),
            **state_of_critic(self.roles.critic),
        }
        with self.roles.saved() as (weights, moments):
            of_critic = tensors_of_critic(self.roles.critic)
            limit = self._max_weight
            refuse_ruined(self.mesh, problem_of(weights, moments, limit) or problem_of_critic(of_critic, limit))
            tensors = {**tensors_to_save(self.roles.actor, weights, moments), **of_critic}
            for role in self._followers():
                tensors.update(self._follower_tensors(role))
            checkpoint = Checkpoint(step, saved, tensors, lambda folder: self.tokenizer.save(folder / TOKENIZER_FOLDER))
            spared = self.store.newest_before(state.health.failing_since(step))
            self.store.save(checkpoint, self.mesh.rank, self._gather, spared)

    @property
    def _max_weight(self) -> float:
        return self.config.monitor_config.health.max_weight

    def made_since(self, first_step: int) -> list[int]:
        """Steps of the checkpoints from a step on, oldest first."""
        return sorted(step for step in self.store.steps() if step >= first_step)

    @cached_property
    def _models(self) -> dict[str, str]:
        return model_fingerprints(asdict(self.config)) if self.mesh.is_main else {}  # the main rank writes the state

    def _followers(self) -> list[str]:
        """The roles that follow the actor, and so are part of a checkpoint."""
        return list(self.roles.followers) if isinstance(self.roles, Roles) else []

    def _follower_tensors(self, role: str) -> dict[str, np.ndarray]:
        """This rank's part of a model that follows the actor; one copy of every part is enough."""
        model = self.roles.scorers[role].model
        return {} if model.mesh.at.data else prefixed(role, model.weights_as_numpy())

    def _check_decay(self, step: int, schedule: LearningRate) -> None:
        """Raises ValueError where a run that is extended would go on with a learning rate of zero."""
        done = self.roles.actor.optimizer.updates_done
        last = done + (self.last_step - step) * self.config.updates_per_step
        if schedule.at(last - 1) == 0:
            raise UserError(
                f"resume_training: the learning rate is 0 from update {schedule.decay_steps} on, and the run would "
                f"go on to update {last}; give --actor_config.lr_schedule.decay_steps={last}"
            )

    def resume(self, state: RunState) -> tuple[int, list[str]]:
        """(the first step to run, lines for the console): from the newest whole checkpoint if the configuration asks
        for it, else 1.

        Raises:
            ValueError: checkpoints are there and all damaged, or the newest was made under settings that would change
                the run's numbers.
        """
        if not self.config.rl_config.resume_training:  # config.validate has refused an output folder that holds a run
            return 1, []
        # one rank reads the checksums of all files; the others take its word
        found = self.store.load_newest() if self.mesh.is_main else (None, [])
        checkpoint, notes = gather_objects(self.mesh.world, found, tuple[SavedCheckpoint | None, list[str]])[0]
        if checkpoint is None and notes:
            raise UserError(
                "resume_training: no whole checkpoint is left:\n" + "\n".join(f"  - {note}" for note in notes)
            )
        if checkpoint is None:
            return 1, [*notes, f"no checkpoint to resume from in {self.store.folder}: starting from step 1"]
        check_same_run(checkpoint.state, asdict(self.config), self.digest)
        self._restore(checkpoint)
        state.health = History.from_dict(checkpoint.state.get("health", {}))
        state.sampler.restore_from(checkpoint.state["sampler"])
        state.evaluations.update(
            {name: Evaluation.from_dict(values) for name, values in checkpoint.state["evaluations"].items()}
        )
        if not is_exact(checkpoint.state, asdict(self.config), self.mesh.world_size):
            notes.append(
                "the checkpoint was made under other parallel strategies: results go on equal up to the order of "
                "additions, not bit for bit"
            )
        state.kl.value = checkpoint.state.get("kl_coefficient", state.kl.value)
        if not self.config.actor_config.lr_schedule.decay_steps:
            # a decay over "all updates of the run" keeps the length that it started with, whatever max_steps is now
            state.schedule = replace(state.schedule, decay_steps=checkpoint.state["decay_steps"])
            if self.last_step > checkpoint.state.get("last_step", self.last_step):
                self._check_decay(checkpoint.step, state.schedule)
        return checkpoint.step + 1, [
            *notes,
            f"resumed after step {checkpoint.step} from {self.store.folder / f'step_{checkpoint.step}'}",
        ]

    def _restore(self, checkpoint: SavedCheckpoint) -> None:
        """This rank's weights and optimizer state, from the files of whatever strategy they were saved under."""
        actor, optimizer = self.roles.actor, self.roles.actor.optimizer
        saved = strategy_from_json(checkpoint.state["strategy"], f"{checkpoint.folder}/state.json")
        weights, state = saved_tensors(checkpoint.folder, actor, self.roles.model_config.moved, saved)
        self._check_sound(checkpoint, problem_of(weights, state, self._max_weight))
        self.roles.restore(weights, state)
        optimizer.updates_done = checkpoint.state["updates_done"]
        optimizer.loss_scale.restore(checkpoint.state.get("loss_scale", {}))
        if self.roles.critic is not None:
            restore_critic(checkpoint, self.roles.critic, self.roles.residency)
        for role in self._followers():
            with self.roles.residency.phase("restore"):
                model = self.roles.scorers[role].model
                saved = strategy_from_json(checkpoint.state[f"{role}_strategy"], f"{checkpoint.folder}/state.json")
                reader = ShardedReader(checkpoint.folder, self.roles.model_config, saved, f"{role}/")
                for name, values in fill_buffers(model.buffers, reader.read).items():
                    ops.assign(model.named_weights()[name], model.precision.stored(values))

    def _check_sound(self, checkpoint: SavedCheckpoint, problem: str) -> None:
        """Raises UserError, on every rank, for a checkpoint that an older version saved of a ruined model."""
        problems = list(filter(None, self._gather(problem)))
        if problems:
            older = [step for step in self.store.steps() if step < checkpoint.step]
            then = f"remove it to go on from step_{older[0]}" if older else "there is no older one: start a new run"
            raise UserError(f"resume_training: {checkpoint.folder} holds a ruined model: {problems[0]}; {then}")

    def _gather(self, value: Any) -> list[Any]:
        return gather_objects(self.mesh.world, value)
