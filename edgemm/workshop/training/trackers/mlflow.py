"""MLflow, in the experiment edgemm: mlflow:http://HOST:5000, mlflow:sqlite:///FILE, or mlflow:FOLDER (sqlite in it)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
        self._place, self._refusals = place, (MlflowException, OSError)
        self._artifacts: str | None = None
        with self._asking():
            if ":" not in place:
                folder = Path(place).resolve()
                folder.mkdir(parents=True, exist_ok=True)
                place, self._artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
            self._client = MlflowClient(place)

    def begin(self, name: str, options: Mapping[str, Any]) -> None:
        with self._asking():
            there = self._client.get_experiment_by_name(EXPERIMENT)
            experiment = there.experiment_id if there else self._client.create_experiment(EXPERIMENT, self._artifacts)
            self._run = self._client.create_run(experiment, run_name=name).info.run_id
            for key, value in options.items():
                self._client.log_param(self._run, key, str(value)[:LONGEST])

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Raises OutputError where MLflow refuses, or is not there."""
        try:
            yield
        except self._refusals as err:
            why, fix = str(err).splitlines()[0] if str(err) else type(err).__name__, "check the address behind mlflow:, and its server."
            raise OutputError(f"MLflow at {self._place} takes no record.", why=why, fix=fix) from err

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
