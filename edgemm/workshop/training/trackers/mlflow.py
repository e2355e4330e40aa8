"""MLflow: mlflow:URI, such as mlflow:http://127.0.0.1:5000, mlflow:sqlite:///mlflow.db or mlflow:FOLDER, in the experiment edgemm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgemm.contracts.modality import needing
from edgemm.contracts.tracker import Tracker, numbers_of
from edgemm.errors import OutputError

EXPERIMENT = "edgemm"
LONGEST = 500  # characters of a parameter's value that every server takes


class Mlflow(Tracker):
    """A run with curves as metrics by step, options as parameters, and the report as an artifact."""

    def __init__(self, place: str) -> None:
        with needing("tracker 'mlflow'"):
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        self._refusals = (MlflowException, OSError)
        self._place, self._client = place, MlflowClient(place if ":" in place else Path(place).resolve().as_uri())

    def begin(self, name: str, options: Mapping[str, Any]) -> None:
        try:
            found = self._client.get_experiment_by_name(EXPERIMENT)
            experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT)
            self._run = self._client.create_run(experiment, run_name=name).info.run_id
            for key, value in options.items():
                self._client.log_param(self._run, key, str(value)[:LONGEST])
        except self._refusals as err:
            why = str(err).splitlines()[0] if str(err) else type(err).__name__
            raise OutputError(
                f"MLflow at {self._place} takes no record.", why=why, fix="check the address behind mlflow:, and its server."
            ) from err

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=epoch)

    def end(self, metrics: Mapping[str, Mapping[str, Mapping[str, Any]]], files: Sequence[Path]) -> None:
        for name, value in numbers_of(metrics).items():
            self._client.log_metric(self._run, f"final/{name}", value)
        for file in files:
            self._client.log_artifact(self._run, str(file))
        self._client.set_terminated(self._run, "FINISHED")

    def fail(self) -> None:
        self._client.set_terminated(self._run, "FAILED")
