"""MLflow: the server or store that ``MLFLOW_TRACKING_URI`` names (``sqlite:///runs.db`` works without a server)."""

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from vidtune.training.trackers.base import TrackedRun

ID_TAG = "vidtune.run"
# What one call of the service takes.
MOST_PARAMS, MOST_CHARACTERS = 100, 6000


class MLflow:
    """One run of MLflow per stage, found again by its tag; ``MLFLOW_EXPERIMENT_NAME`` is obeyed."""

    def __init__(self, run: TrackedRun) -> None:
        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", run.project)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        runs = self._client.search_runs([experiment], f"tags.`{ID_TAG}` = '{run.id}'") if run.resumed else []
        if runs:
            self._id = runs[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        self._id = self._client.create_run(experiment, tags={ID_TAG: run.id}, run_name=run.name).info.run_id
        params = [Param(key, str(value)[:MOST_CHARACTERS]) for key, value in _flat(run.config)]
        for start in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self._id, params=params[start : start + MOST_PARAMS])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._id, [Metric(name, float(value), now, step) for name, value in values.items()])

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings and lists by their dotted names."""
    if isinstance(value, Mapping) or (isinstance(value, list | tuple) and value):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in pairs:
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
