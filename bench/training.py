"""How much does the training loop add to its arithmetic, and how much does Ray Train add to the loop?

Step: `fit` on generated documents of 1 to 400 segments, most of them few, against what no loop can omit:
forward pass, objective, backward pass and optimiser step of the same network, on the same batches in the same
order, collated before the clock starts. `fit` also collates, schedules the learning rate, clips gradients,
checks that everything is finite, and writes records and diagnostics. Both run in one process; the first epoch
is warm-up and does not count.

Ranks: `train` with two workers under Ray Train against torchrun with two processes that call the same `fit`
on the same store, with gloo and one thread each. Each has the machine to itself: Ray starts for its turn and
stops after it. The time of a step is that of the records (`documents_per_s`); the time from record to record
also includes diagnostics, metrics, TensorBoard and reports to Ray. The first epoch does not count.

    python -m bench.training [--only step ranks] [--documents 2048] [--repeats 2] [--epochs 2] [--threads 1]
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from bench.features import commit, make_store, units
from bench.measure import Bar, Record, in_process, turns
from hilbert_ray import losses
from hilbert_ray.config import MODALITIES, Config, FitConfig, FoldsConfig, TrainConfig
from hilbert_ray.features import Batch, Features, collate, epoch_batches, open_dataset
from hilbert_ray.model import Network
from hilbert_ray.training import EpochReport, fit, objective_inputs, objective_terms

RANKS = 2
RAY_CPUS = 4  # logical: for the ranks and for Ray Train's own actors


def settings_of(epochs: int) -> Config:
    """Return the default settings for one network, without early stopping or temperature."""
    return Config(
        fit=FitConfig(epochs=epochs, seeds=1, patience=0),
        folds=FoldsConfig(inner=0),
        train=TrainConfig(workers=RANKS),
    )


def steps_of(documents: int) -> int:
    """Return the number of steps in an epoch."""
    return max(round(documents / FitConfig().batch_size), 1)


# Step


def fitted(config: Config, features: Features, starts: list[float]) -> float:
    """Train; return steps per second after the first epoch; append the start-up time, s, to `starts`."""
    ends: list[float] = []
    began = time.perf_counter()

    def report(progress: EpochReport) -> None:
        if not ends:
            starts.append(time.perf_counter() - began - len(features) / progress.record["documents_per_s"])
        ends.append(time.perf_counter())

    fit(config, features, np.arange(len(features)), report)
    return (len(ends) - 1) * steps_of(len(features)) / (ends[-1] - ends[0])


def preloaded(config: Config, features: Features, collating: list[float]) -> float:
    """Take the same steps on ready batches; return steps per second; append ms per step of collating."""
    everyone = np.arange(len(features))
    torch.manual_seed(config.fit.seed)
    network = Network(
        config, {modality: ragged.dim for modality, ragged in features.by_modality.items()}
    ).train()
    network.fit_statistics(features, everyone)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.fit.learning_rate, fused=True)

    def step(batch: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        outputs = objective_inputs(network(batch), batch, config)
        losses.weighted_sum(objective_terms(outputs, network, config), config.loss).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    seconds = padding = 0.0
    for epoch in range(config.fit.epochs):
        generator = np.random.default_rng([config.fit.seed, 0, epoch])  # the same batches as `fit` draws
        order = epoch_batches(everyone, config.fit.batch_size, generator, features.lengths)
        began = time.perf_counter()
        batches = [collate(features, indices) for indices in order]
        collated = time.perf_counter()
        for batch in batches:
            step(batch)
        if epoch:
            padding += collated - began
            seconds += time.perf_counter() - collated
    steps = (config.fit.epochs - 1) * len(order)
    collating.append(1000 * padding / steps)
    return steps / seconds


def compare_step(features: Features, config: Config, repeats: int, threads: int, record: Record) -> None:
    """Compare the loop with its arithmetic alone."""
    torch.set_num_threads(threads)
    starts: list[float] = []
    collating: list[float] = []
    rates = turns(
        {
            "preloaded": partial(preloaded, config, features, collating),
            "fit": partial(fitted, config, features, starts),
        },
        repeats,
    )
    what = f"{len(features)} documents, {threads} threads"
    bars = [Bar(row="fit", against="preloaded", least=0.92)]
    record.table(f"Training steps, {what}", "steps/s", rates, "preloaded", bars)
    times = {name: [1000 / rate for rate in values] for name, values in rates.items()}
    record.table(f"The same, and collating alone, {what}", "ms per step", {**times, "collate": collating})
    record.table(f"Start of `fit` (network, statistics), {what}", "s", {"fit": starts})


# Ranks


def summed_up(seconds: Sequence[float], ends: Sequence[float], began: float, documents: int) -> str:
    """Return the figures of a run of ranks as JSON: ms per step, ms from record to record, start-up in s.

    Args:
        seconds: time of all steps of each epoch.
        ends: when each epoch ended, wall-clock time.
        began: when the command started, wall-clock time.
        documents: documents in an epoch.
    """
    steps = steps_of(documents)
    return json.dumps(
        {
            "step": 1000 * sum(seconds[1:]) / (len(seconds) - 1) / steps,
            "record": 1000 * (ends[-1] - ends[0]) / (len(ends) - 1) / steps,
            "start": ends[0] - seconds[0] - began,
        }
    )


def by_ray(uri: str, epochs: int, began: float) -> None:
    """Start Ray, train under Ray Train, and print the figures."""
    import ray

    from hilbert_ray.training import train

    ray.init(num_cpus=RAY_CPUS, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    with tempfile.TemporaryDirectory() as run:
        documents = train(uri, run, settings_of(epochs)).documents
        records = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
        ends = written(Path(run) / "tensorboard")
    ray.shutdown()
    print(
        summed_up(
            [documents / epoch_record["documents_per_s"] for epoch_record in records], ends, began, documents
        )
    )


def written(board: Path) -> list[float]:
    """Return when each epoch was written to TensorBoard, wall-clock time."""
    from tensorboardX.proto.event_pb2 import Event

    ends: dict[int, float] = {}
    for path in board.iterdir():
        data = path.read_bytes()
        while data:  # a TFRecord: length (8 bytes), checksum (4), event, checksum (4)
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            if any(value.tag.startswith("loss/") for value in event.summary.value):
                ends[event.step] = event.wall_time
            data = data[16 + size :]
    return [ends[epoch] for epoch in sorted(ends)]


def by_torchrun(uri: str, epochs: int, began: float) -> None:
    """Train as one of torchrun's processes; the first prints the figures."""
    dist.init_process_group("gloo")
    assert torch.get_num_threads() == 1
    dataset = open_dataset(uri, settings_of(epochs))
    documents = len(dataset.features)
    seconds: list[float] = []
    ends: list[float] = []

    def report(progress: EpochReport) -> None:
        seconds.append(documents / progress.record["documents_per_s"])
        ends.append(time.time())

    fit(dataset.config, dataset.features, np.arange(documents), report)
    if dist.get_rank() == 0:
        print(summed_up(seconds, ends, began, documents))
    dist.destroy_process_group()


WAYS = {"torchrun": by_torchrun, "Ray Train": by_ray}


def compare_ranks(uri: str, documents: int, epochs: int, repeats: int, record: Record) -> None:
    """Compare two ranks under Ray Train with two under torchrun."""
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS), "-m")
    commands = {"torchrun": (*launcher, "bench.training"), "Ray Train": ("bench.training",)}
    seconds_by_kind: dict[str, dict[str, list[float]]] = {
        kind: {way: [] for way in WAYS} for kind in ("record", "start")
    }

    def run(way: str) -> float:
        values = in_process(*commands[way], "--way", way, uri, str(epochs), str(time.time()))
        for kind, rows in seconds_by_kind.items():
            rows[way].append(values[kind])
        return float(values["step"])

    steps = turns({way: partial(run, way) for way in WAYS}, repeats)
    what = f"{RANKS} ranks of one thread, {documents} documents"
    bars = [Bar(row="Ray Train", against="torchrun", most=1.03)]
    record.table(f"Steps of {what}", "ms per step", steps, "torchrun", bars)
    record.table(f"From record to record, {what}", "ms per step", seconds_by_kind["record"], "torchrun")
    record.table(f"From the command to the first step, {what}", "s", seconds_by_kind["start"], "torchrun")


def main() -> None:
    """Run the requested parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=("step", "ranks"), default=["step", "ranks"])
    parser.add_argument("--documents", type=int, default=2048)
    parser.add_argument(
        "--dims", type=int, nargs=2, default=(120, 512), help="widths of audio and text features"
    )
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2, help="epochs per run; the first does not count")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1], help="torch threads of `step`; ranks have one each"
    )
    parser.add_argument("--way", nargs=4, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.way:
        way, uri, epochs, began = settings.way
        WAYS[way](uri, int(epochs), float(began))
        return
    record = Record("training")
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(f"{folder}/store", settings.documents, settings.dims)
        for modality in MODALITIES:
            commit(store, [*units(store, modality)])
        if "step" in settings.only:
            dataset = open_dataset(store.uri, settings_of(settings.epochs))
            for threads in settings.threads:
                compare_step(dataset.features, dataset.config, settings.repeats, threads, record)
        if "ranks" in settings.only:
            compare_ranks(store.uri, settings.documents, settings.epochs, settings.repeats, record)


if __name__ == "__main__":
    main()
