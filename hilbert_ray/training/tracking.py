"""A training run in MLflow: its settings and every epoch's numbers. Needs the extra `mlflow`.

The driver begins the run, or resumes the one that it noted in its folder; rank 0 logs to it. A tracking URI
may hold a password: it is never logged, saved or shown.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from hilbert_ray.config import ConfigError
from hilbert_ray.storage import Files

log = logging.getLogger(__name__)
EXPERIMENT = "hilbert-ray"
"""Name of the experiment, unless MLFLOW_EXPERIMENT_NAME is set."""
ANSWER_S = "10"
"""How long a server may take to answer, seconds, before it is asked once more, and then given up."""
_PARAMETERS_PER_CALL = 100
"""The most that MLflow accepts in one request."""


class MlflowRun(NamedTuple):
    """A run of an MLflow server: the server's tracking URI, which may hold a password, and the run's id."""

    uri: str
    run_id: str


def require_mlflow() -> Any:  # noqa: ANN401 - a module that may be absent
    """Return the module `mlflow`.

    Raises:
        ConfigError: when it is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a run is reported to its own server only
    # Its own bounds let a server that does not answer hold up each epoch for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", ANSWER_S)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    try:
        import mlflow
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"train.mlflow is set, but {error.name} is not installed; run `pip install "
            "'hilbert-ray[mlflow]'`, or remove train.mlflow"
        ) from None
    return mlflow


@contextmanager
def mlflow_run(uri: str, note: Path, name: str, settings: Mapping[str, Any]) -> Iterator[MlflowRun | None]:
    """Yield the MLflow run that a training logs to, and close it when the context ends.

    Args:
        uri: of the tracking server; empty for none, which yields None.
        note: file with the id of the run to resume; without it, a run begins and is noted there.
        name: of a new run; its experiment is `hilbert-ray`, or the one that MLFLOW_EXPERIMENT_NAME names.
        settings: parameters of a new run, nested; saved by dotted name.

    Raises:
        ConfigError: when the server cannot be used.
    """
    if not uri:
        yield None
        return
    mlflow = require_mlflow()
    log.info("connecting to the MLflow server at train.mlflow")
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        # The note is in the run folder: a rerun, also on another machine, continues the same MLflow run.
        if note.exists():
            run_id = note.read_text()
            client.update_run(run_id, status="RUNNING")
        else:
            run_id = _begin(mlflow, client, name, settings)
            Files(str(note.parent)).put(note.name, run_id.encode())
    except (mlflow.MlflowException, OSError) as error:
        raise ConfigError(
            f"MLflow at train.mlflow cannot be used: {_without_secrets(error, uri)}; correct the URI, start "
            f"the server, or delete {note} if its run no longer exists"
        ) from None  # the cause's message may hold the password
    # FAILED unless the training ends: also a killed run's status, which the rerun sets back to RUNNING.
    status = "FAILED"
    try:
        yield MlflowRun(uri, run_id)
        status = "FINISHED"
    finally:
        # A server that has gone must not turn a finished training into a failed one.
        try:
            client.set_terminated(run_id, status)
        except (mlflow.MlflowException, OSError) as error:
            log.warning("MLflow run %s could not be closed: %s", run_id, _without_secrets(error, uri))


def _begin(mlflow: Any, client: Any, name: str, settings: Mapping[str, Any]) -> str:  # noqa: ANN401
    """Begin a run with the settings as its parameters, and return its id."""
    experiment_name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    experiment = client.get_experiment_by_name(experiment_name)
    number = experiment.experiment_id if experiment else client.create_experiment(experiment_name)
    run_id = str(client.create_run(number, run_name=name).info.run_id)
    parameters = [mlflow.entities.Param(key, value) for key, value in flat(settings).items()]
    for at in range(0, len(parameters), _PARAMETERS_PER_CALL):
        client.log_batch(run_id, params=parameters[at : at + _PARAMETERS_PER_CALL])
    return run_id


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings by dotted name, as text; without those that are empty, which MLflow refuses."""
    by_name: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            by_name |= flat(value, f"{prefix}{name}.")
        elif value not in ("", [], ()):
            by_name[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return by_name


def _without_secrets(error: Exception, uri: str) -> str:
    """Return an error's text without what may be secret in the URI: user, password and query."""
    # Also unquoted: libraries print the password as they send it, not as the URI writes it.
    parts = urlsplit(uri)
    user = parts.netloc.rpartition("@")[0]
    text = str(error)
    for secret in (user, unquote(user), parts.password, unquote(parts.password or ""), parts.query):
        if secret:
            text = text.replace(secret, "***")
    return text


class MlflowTracker:
    """Logs records of epochs to an MLflow run, each once: MLflow keeps every value that it is sent."""

    def __init__(self, run: MlflowRun) -> None:
        """Open a run that the driver has begun."""
        self.run = run
        self.mlflow = require_mlflow()
        self.client = self.mlflow.MlflowClient(tracking_uri=run.uri)
        self.last_epoch: dict[str, int] = {}
        """The last epoch that the server has of each network."""

    def write(self, network: str, record: Mapping[str, Any]) -> None:
        """Log each number of an epoch as `<name>/<network>`; a server that fails does not stop training."""
        epoch, now = int(record["epoch"]), int(time.time() * 1000)
        numbers = {f"{name}/{network}": x for name, x in record.items() if isinstance(x, float)}
        try:
            if network not in self.last_epoch:
                # Of a killed run: the server may have more epochs than the checkpoint.
                earlier = self.client.get_metric_history(self.run.run_id, f"loss/{network}")
                self.last_epoch[network] = max((metric.step for metric in earlier), default=-1)
            if epoch > self.last_epoch[network]:
                metrics = [self.mlflow.entities.Metric(key, x, now, epoch) for key, x in numbers.items()]
                self.client.log_batch(self.run.run_id, metrics=metrics)
                self.last_epoch[network] = epoch
        except (self.mlflow.MlflowException, OSError) as error:
            reason = _without_secrets(error, self.run.uri)
            log.warning("MLflow did not log %s, epoch %d: %s", network, epoch, reason)
