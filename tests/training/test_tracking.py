"""Logging to MLflow: one run whatever happens, each epoch once, and no secret anywhere."""

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

from hilbert_ray.config import Config, ConfigError, TrainConfig, to_dict
from hilbert_ray.training.driver import train
from hilbert_ray.training.tracking import (
    ANSWER_S,
    MlflowRun,
    MlflowTracker,
    flat,
    mlflow_run,
    require_mlflow,
)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def record(epoch: int, loss: float, job: str = "seed 0") -> dict[str, Any]:
    return {"job": job, "epoch": epoch, "loss": loss, "rows_both": 16}


def test_a_rerun_resumes_its_mlflow_run_and_logs_each_epoch_once(uri: str, tmp_path: Path) -> None:
    note, client = tmp_path / "run" / "mlflow.txt", mlflow.MlflowClient(tracking_uri=uri)

    def interrupted() -> None:
        with mlflow_run(uri, note, "mine", to_dict(Config())) as logged:
            assert logged is not None
            tracker = MlflowTracker(logged)
            for epoch in range(2):
                tracker.write("seed_0", record(epoch, 0.5 - epoch / 4))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    run = client.get_run(note.read_text())
    assert run.info.status == "FAILED"
    assert run.info.run_name == "mine"
    assert client.get_experiment(run.info.experiment_id).name == "hilbert-ray"
    assert run.data.params["fit.learning_rate"] == "0.002"
    assert run.data.params["audio"] == "mfcc"
    with mlflow_run(uri, note, "mine", {"other": 1}) as logged:
        assert logged == MlflowRun(uri, run.info.run_id)
        tracker = MlflowTracker(logged)
        for epoch in range(1, 3):
            tracker.write("seed_0", record(epoch, 0.5 - epoch / 4))
        tracker.write("seed_1", record(0, 2.0))
    curve = client.get_metric_history(run.info.run_id, "loss/seed_0")
    assert sorted((metric.step, metric.value) for metric in curve) == [(0, 0.5), (1, 0.25), (2, 0.0)]
    finished = client.get_run(run.info.run_id)
    assert finished.info.status == "FINISHED"
    assert finished.data.metrics == {"loss/seed_0": 0.0, "loss/seed_1": 2.0}
    assert "other" not in finished.data.params


def test_settings_are_flat_text_without_what_is_empty() -> None:
    values = {"fit": {"epochs": 3, "precision": "auto"}, "roots": [], "mlflow": "", "on": False, "zero": 0.0}
    assert flat(values) == {
        "fit.epochs": "3", "fit.precision": "auto", "on": "false", "zero": "0.0",
    }  # fmt: skip


SECRET = "http://me:pass%2Fword@127.0.0.1:9/mlflow?token=hidden"


def test_a_server_that_cannot_be_used_ends_the_run_before_training_and_no_secret_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with (
        pytest.raises(
            ConfigError, match=r"MLflow at train\.mlflow cannot be used: .*correct the URI, start"
        ) as caught,
        mlflow_run(SECRET, tmp_path / "mlflow.txt", "mine", {}),
    ):
        pass
    for secret in ("pass%2Fword", "pass/word", "hidden"):
        assert secret not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_server_that_goes_away_does_not_stop_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    MlflowTracker(MlflowRun(SECRET, "some-run")).write("seed_0", record(3, 0.5))
    assert "MLflow did not log seed_0, epoch 3: " in caplog.text
    assert "pass" not in caplog.text
    assert "hidden" not in caplog.text


def test_a_server_that_does_not_answer_is_given_up_soon(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It accepts connections, and says nothing. MLflow itself would try seven times, for two minutes each."""
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    require_mlflow()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == ANSWER_S
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(ConfigError, match=r"MLflow at train\.mlflow cannot be used: .*start the server"):
            mlflow_run(uri, tmp_path / "mlflow.txt", "mine", {}).__enter__()
        assert 1.9 < time.monotonic() - began < 20, "two tries of a second"


def test_without_the_package_the_command_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    config = Config(train=TrainConfig(mlflow="sqlite:////nowhere/mlflow.db"))
    with pytest.raises(
        ConfigError, match=r"mlflow is not installed; run `pip install 'hilbert-ray\[mlflow\]'"
    ):
        train(str(tmp_path / "store"), str(tmp_path / "run"), config)
