"""One record per epoch: RUN/metrics.jsonl, TensorBoard, MLflow, and the line in the log."""

import json
import logging
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

from hilbert_ray.run import RunDir, RunFile
from hilbert_ray.storage import Workspace, json_line, write_errors
from hilbert_ray.terminal import duration
from hilbert_ray.training.tracking import MlflowTracker

log = logging.getLogger(__name__)

PROGRESS_S = 5.0
"""Seconds between two lines in the log and, on an object store, two uploads of the records."""


@contextmanager
def logged_progress(run: Workspace, every_s: float = PROGRESS_S) -> Iterator[None]:
    """Log the newest record that rank 0 has written, every few seconds, as long as the context lasts.

    Through the file and not a message: rank 0 may be another process on another machine.
    """
    done = threading.Event()

    def follow() -> None:
        seen = 0
        # The newest only: a fast training would fill the log, and metrics.jsonl has every record.
        while not done.wait(every_s):
            written = run.read(RunFile.HISTORY).decode()
            lines = written.rpartition("\n")[0].splitlines()  # the last may be half written
            if len(lines) > seen:
                log.info("%s", record_line(json.loads(lines[-1])))
            seen = len(lines)

    # training.json counts the records of a finished training. Those of an earlier attempt would be logged as
    # news; rank 0 writes those up to the checkpoint again.
    (run.path / RunFile.TRAINING).unlink(missing_ok=True)
    (run.path / RunFile.HISTORY).unlink(missing_ok=True)
    run.save()
    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        done.set()
        follower.join()


class RecordWriter:
    """Writes a run's records, one per epoch and network, to RUN/metrics.jsonl, RUN/tensorboard and MLflow."""

    def __init__(
        self, run: Path, history: Sequence[Mapping[str, Any]], tracker: MlflowTracker | None = None
    ) -> None:
        """Write the records up to the checkpoint again, and nothing after it: those epochs are repeated."""
        self.path, board = run / RunFile.HISTORY, run / RunDir.TENSORBOARD
        # A killed attempt may have written epochs after the checkpoint: all files start again there.
        with write_errors(str(self.path)):
            self.path.write_text("")
        shutil.rmtree(board, ignore_errors=True)
        with write_errors(str(board)):
            board.mkdir(exist_ok=True)
            # Not `SummaryWriter`, which writes on another thread: when that dies, as on a full disk, it
            # waits for ever.
            self.board = EventsWriter(str(board / "events"))
        self.tracker = tracker
        for record in history:
            self.write(record)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record; TensorBoard and MLflow show each number over epochs, one curve per network."""
        with write_errors(str(self.path)), self.path.open("a") as file:
            file.write(json_line(record))
        network = record["job"].replace(" ", "_")  # TensorBoard's names have no spaces
        with write_errors(str(self.path.parent / RunDir.TENSORBOARD)):
            # Floats are measurements; integers, such as counts of rows, only explain them.
            for name, value in record.items():
                if isinstance(value, float):
                    shown = scalar(f"{name}/{network}", value)
                    self.board.write_event(Event(wall_time=time.time(), step=record["epoch"], summary=shown))
            self.board.flush()  # a reader should see the epoch while training runs
        if self.tracker:
            self.tracker.write(network, record)

    def close(self) -> None:
        """Finish the TensorBoard files."""
        self.board.close()


def record_line(record: Mapping[str, Any]) -> str:
    """Return what a person wants to know of one epoch: loss, validation loss, time left for all networks."""
    names = {"loss": "loss", "validation_loss": "validation loss"}
    losses = ", ".join(f"{shown} {record[name]:.4g}" for name, shown in names.items() if name in record)
    return f"{record['job']}, epoch {record['epoch']}: {losses}, {duration(record['left_s'])} left"
