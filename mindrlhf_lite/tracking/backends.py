"""The trackers' own libraries behind one form. Runs in a tracker's process, under a Python that need not have this
project or MindSpore: only the standard library and the tracker's are imported.

Every one is offline unless its own variable says otherwise (WANDB_MODE, SWANLAB_MODE, MLFLOW_TRACKING_URI,
TRACKIO_SPACE_ID), and goes on with the run of an earlier process by `run["id"]`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

Values = dict[str, float]
Rows = list[list[Any]]


class Backend(Protocol):
    """Opened by (folder for its files, {"project", "name", "id", "config"})."""

    def metrics(self, step: int, values: Values) -> None: ...
    def samples(self, step: int, columns: list[str], rows: Rows) -> None: ...
    def summary(self, values: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


class Wandb:
    def __init__(self, folder: Path, run: dict[str, Any]):
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=run["project"],
            name=run["name"],
            id=run["id"],
            config=run["config"],
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def metrics(self, step: int, values: Values) -> None:
        self._run.log(values, step=step)

    def samples(self, step: int, columns: list[str], rows: Rows) -> None:
        self._run.log({"samples": self._wandb.Table(columns=columns, data=rows)}, step=step)

    def summary(self, values: dict[str, Any]) -> None:
        self._run.summary.update(values)

    def close(self) -> None:
        self._run.finish()


class SwanLab:
    def __init__(self, folder: Path, run: dict[str, Any]):
        import swanlab

        self._swanlab = swanlab
        swanlab.init(
            project=run["project"],
            experiment_name=run["name"],
            id=run["id"],
            config=run["config"],
            logdir=str(folder),
            mode=os.environ.get("SWANLAB_MODE", "offline"),
            resume="allow",
        )

    def metrics(self, step: int, values: Values) -> None:
        self._swanlab.log(values, step=step)

    def samples(self, step: int, columns: list[str], rows: Rows) -> None:
        texts = ["\n".join(f"{name}: {value}" for name, value in zip(columns, row)) for row in rows]
        self._swanlab.log({"samples": [self._swanlab.Text(text) for text in texts]}, step=step)

    def summary(self, values: dict[str, Any]) -> None:
        self._swanlab.config.update({"summary": values})

    def close(self) -> None:
        self._swanlab.finish()


class Mlflow:
    def __init__(self, folder: Path, run: dict[str, Any]):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", f"file:{folder.resolve()}"))
        kept = folder / "run_id"  # given by its server
        if kept.is_file():
            self._id = kept.read_text(encoding="utf-8")
            self._client.update_run(self._id, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(run["project"])
        place = found.experiment_id if found else self._client.create_experiment(run["project"])
        self._id = self._client.create_run(place, run_name=run["name"]).info.run_id
        kept.write_text(self._id, encoding="utf-8")
        settings = [Param(key, str(value)[:500]) for key, value in _flat(run["config"])]
        for start in range(0, len(settings), 100):  # its limit
            self._client.log_batch(self._id, params=settings[start : start + 100])

    def metrics(self, step: int, values: Values) -> None:
        import time

        now = int(1000 * time.time())
        self._client.log_batch(self._id, [self._metric(key, value, now, step) for key, value in values.items()])

    def samples(self, step: int, columns: list[str], rows: Rows) -> None:
        table = {"columns": columns, "data": rows}
        self._client.log_text(self._id, json.dumps(table, ensure_ascii=False), f"samples/step_{step:06d}.json")

    def summary(self, values: dict[str, Any]) -> None:
        self._client.log_text(self._id, json.dumps(values, indent=1), "summary.json")

    def close(self) -> None:
        self._client.set_terminated(self._id)


class Trackio:
    def __init__(self, folder: Path, run: dict[str, Any]):
        os.environ.setdefault("TRACKIO_DIR", str(folder))
        import trackio

        self._trackio = trackio
        trackio.init(project=run["project"], name=run["name"], config=dict(_flat(run["config"])), resume="allow")

    def metrics(self, step: int, values: Values) -> None:
        self._trackio.log(values, step=step)

    def samples(self, step: int, columns: list[str], rows: Rows) -> None:
        self._trackio.log({"samples": self._trackio.Table(columns=columns, data=rows)}, step=step)

    def summary(self, values: dict[str, Any]) -> None:
        self._trackio.log({f"summary/{key}": value for key, value in _flat(values) if isinstance(value, int | float)})

    def close(self) -> None:
        self._trackio.finish()


BACKENDS: dict[str, type[Backend]] = {"wandb": Wandb, "swanlab": SwanLab, "mlflow": Mlflow, "trackio": Trackio}


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return found
