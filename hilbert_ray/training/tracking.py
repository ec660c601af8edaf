"""A training run in MLflow: its settings and every epoch's numbers. Needs the extra `mlflow`.

The driver begins the run, or goes on with the one that it noted in its folder; rank 0 logs to it. A
tracking URI may hold a password: it is never logged, saved or shown.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from hilbert_ray.config import ConfigError

log = logging.getLogger(__name__)
EXPERIMENT = "hilbert-ray"
_AT_ONCE = 100  # parameters, the most that MLflow takes


def require_mlflow() -> Any:  # noqa: ANN401 - a module that may be absent
    """Return the module `mlflow`.

    Raises:
        ConfigError: when it is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing of a run goes to anyone else
    try:
        import mlflow
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"train.mlflow is set, but {error.name} is not installed; run `pip install "
            "'hilbert-ray[mlflow]'`, or leave train.mlflow out"
        ) from None
    return mlflow


@contextmanager
def mlflow_run(uri: str, note: Path, name: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Give the id of the MLflow run that a training logs to, and close it when the context ends.

    Args:
        uri: of the tracking server; empty for none, the id is empty then.
        note: file that holds the id of a run to go on with; without it, one begins and is noted there.
        name: of a new run; its experiment is `hilbert-ray`, or what MLFLOW_EXPERIMENT_NAME says.
        settings: parameters of a new run, nested; saved by dotted name.

    Raises:
        ConfigError: when the server cannot be used.
    """
    if not uri:
        yield ""
        return
    mlflow = require_mlflow()
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        if note.exists():
            run_id = note.read_text()
            client.update_run(run_id, status="RUNNING")
        else:
            run_id = _begin(mlflow, client, name, settings)
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(run_id)
    except (mlflow.MlflowException, OSError) as error:
        raise ConfigError(
            f"MLflow at train.mlflow cannot be used: {_masked(error, uri)}; mend the URI or start the "
            f"server, or delete {note} where its run is gone"
        ) from None
    status = "FAILED"
    try:
        yield run_id
        status = "FINISHED"
    finally:
        try:
            client.set_terminated(run_id, status)
        except (mlflow.MlflowException, OSError) as error:
            log.warning("MLflow run %s could not be closed: %s", run_id, _masked(error, uri))


def _begin(mlflow: Any, client: Any, name: str, settings: Mapping[str, Any]) -> str:  # noqa: ANN401
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(experiment)
    number = found.experiment_id if found else client.create_experiment(experiment)
    run_id = str(client.create_run(number, run_name=name).info.run_id)
    parameters = [mlflow.entities.Param(key, value) for key, value in flat(settings).items()]
    for at in range(0, len(parameters), _AT_ONCE):
        client.log_batch(run_id, params=parameters[at : at + _AT_ONCE])
    return run_id


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings by dotted name, as text; those that are empty are left out."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif value not in ("", [], ()):
            found[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return found


def _masked(error: Exception, uri: str) -> str:
    """Return an error's text without what may be secret in the URI: user, password and query."""
    parts = urlsplit(uri)
    user = parts.netloc.rpartition("@")[0]
    text = str(error)
    for secret in (user, unquote(user), parts.password, unquote(parts.password or ""), parts.query):
        if secret:
            text = text.replace(secret, "***")
    return text


class Tracker:
    """Logs records of epochs to an MLflow run; one that is there already is not logged again."""

    def __init__(self, uri: str, run_id: str) -> None:
        """Open a run that the driver has begun."""
        self.uri = uri
        self.run_id = run_id
        self.mlflow = require_mlflow()
        self.client = self.mlflow.MlflowClient(tracking_uri=uri)
        self.logged: dict[str, int] = {}
        """Last epoch that the server has of each network."""

    def write(self, network: str, record: Mapping[str, Any]) -> None:
        """Log each number of an epoch as `<name>/<network>`; training goes on where the server fails."""
        epoch, now = int(record["epoch"]), int(time.time() * 1000)
        numbers = {f"{name}/{network}": x for name, x in record.items() if isinstance(x, float)}
        try:
            if network not in self.logged:
                earlier = self.client.get_metric_history(self.run_id, f"loss/{network}")
                self.logged[network] = max((metric.step for metric in earlier), default=-1)
            if epoch > self.logged[network]:
                metrics = [self.mlflow.entities.Metric(key, x, now, epoch) for key, x in numbers.items()]
                self.client.log_batch(self.run_id, metrics=metrics)
                self.logged[network] = epoch
        except (self.mlflow.MlflowException, OSError) as error:
            log.warning("MLflow took no record of %s, epoch %d: %s", network, epoch, _masked(error, self.uri))
