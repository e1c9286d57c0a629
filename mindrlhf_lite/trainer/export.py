"""The trained model as a Hugging Face folder: whole under its name, or not there; never lost to a full disk."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_lite.checkpoint.sharded import ShardedReader
from mindrlhf_lite.checkpoint.store import rank_file, together
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.files.durable import place
from mindrlhf_lite.files.text_file import say
from mindrlhf_lite.models.fingerprint import model_fingerprint
from mindrlhf_lite.models.hf_weights import Read, WeightReader, write_hf_model
from mindrlhf_lite.models.peft_folder import ADAPTER, MergedReader, write_peft_folder
from mindrlhf_lite.models.score_head import scoring_reader
from mindrlhf_lite.parallel.mesh import Mesh, gather_objects
from mindrlhf_lite.roles.models import TrainedRoles
from mindrlhf_lite.trainer.soundness import problem_of, refuse_ruined

_STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True)
class Export:
    """Every rank calls `run`."""

    roles: TrainedRoles
    mesh: Mesh
    tokenizer: Tokenizer
    end_token_ids: int | list[int] | None
    dtype: str = "float32"  # of the tensors
    max_weight: float = 0.0  # largest absolute one of a model that is sound; 0: any finite one
    base: str = ""  # folder of the model that adapters belong to

    def run(self, folder: Path) -> None:
        """Writes the actor's weights and the tokenizer into `folder`, with adapters merged and in a folder of their own
        beside them; into the system's scratch folder if there is no
        room: the trained weights are worth more than the place.

        Raises:
            OSError: on every rank, if they are not in `folder`; the message says where they are.
            RuinedModel: on every rank, if the weights are not sound; nothing is written.
        """
        try:
            self._write(folder)
            return
        except OSError as error:
            failure = error
        rescue = (
            Path(self._gather(tempfile.mkdtemp(prefix="mindrlhf_lite_rescued_") if self.mesh.is_main else "")[0]) / "hf"
        )
        try:
            self._write(rescue)
        except OSError as error:
            raise OSError(
                f"the trained model could not be written, neither to {folder} ({failure}) nor to {rescue} ({error})"
            ) from None
        raise OSError(
            f"the trained model could not be written to {folder} ({failure}); it is in {rescue}: move it before "
            "that folder is cleared"
        )

    def _write(self, folder: Path) -> None:
        """Every rank leaves its shard in a scratch folder, from which one rank writes the whole model, a tensor at a
        time.
        """
        actor, scratch = self.roles.actor, folder.with_name(f".{folder.name}.tmp")
        own = rank_file(self.mesh.rank)

        def prepare() -> None:
            shutil.rmtree(scratch, ignore_errors=True)
            (scratch / "shards").mkdir(parents=True)

        try:
            together(self._gather, self.mesh.is_main, prepare)
            with self.roles.saved(has_state=False) as (weights, _):
                refuse_ruined(self.mesh, problem_of(weights, {}, self.max_weight))
                if actor.model.config.adapters is None:  # else their base is in its folder
                    weights = {**weights, **actor.model.weights_as_numpy(frozen_only=True)}
                together(self._gather, actor.mesh.at.data == 0, lambda: _write_shard(weights, scratch / "shards" / own))
            together(self._gather, self.mesh.is_main, lambda: self._write_model(scratch, folder))
        finally:
            if self.mesh.is_main:
                shutil.rmtree(scratch, ignore_errors=True)

    def _write_model(self, scratch: Path, folder: Path) -> None:
        config, dtype = self.roles.model_config, _STORED[self.dtype]
        shards = ShardedReader(scratch / "shards", config.moved, self.roles.actor.model.strategy, "")
        read: Read = shards.read
        if config.adapters is not None:
            write_peft_folder(scratch / "hf" / ADAPTER, config, read, self.base, self.roles.base_fingerprint)
            if not self._base_is_there():
                say(
                    f"warning: {self.base} no longer holds the model that the run began with: nothing was merged, and "
                    f"{folder / ADAPTER} has the adapters alone"
                )
                place(scratch / "hf", folder)
                return
            of_base = scoring_reader(self.base) if config.has_score else WeightReader(self.base, config.base).read
            read = MergedReader(of_base, read, config).read
        write_hf_model(
            scratch / "hf",
            config.base,
            read,
            self.end_token_ids,
            self.tokenizer.pad_token_id,
            dtype=lambda name: dtype,
        )
        self.tokenizer.save(scratch / "hf")
        place(scratch / "hf", folder)

    def _base_is_there(self) -> bool:
        try:
            return model_fingerprint(self.base) == self.roles.base_fingerprint
        except (OSError, ValueError):
            return False

    def _gather(self, value: Any) -> list[Any]:
        return gather_objects(self.mesh.world, value)


def _write_shard(weights: dict[str, np.ndarray], path: Path) -> None:
    from safetensors.numpy import save_file

    try:
        save_file(weights, path)
    except Exception as error:  # the native writer reports a full disk as its own exception type
        raise OSError(str(error)) from None
