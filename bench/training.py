"""What does the training loop add to its arithmetic, and what does Ray Train add to the loop?

Step: `fit` on generated documents of 1 to 400 segments, most of them short, against what no loop can leave
out: forward, objective, backward and the optimiser's step of the same network, on the same batches in the
same order, collated before the clock starts. What `fit` does besides: collate, the learning rate's schedule,
clipping, the check that all is finite, records and diagnostics. Both run in one process; the first epoch is
start and does not count.

Ranks: `train` with two workers under Ray Train against torchrun with two processes that call the same `fit`
on the same store, by gloo, one thread each. Either has the machine to itself: Ray starts for its turn and
ends with it. Seconds of a step are those of the records (`documents_per_s`); from record to record there are
also diagnostics, metrics and TensorBoard, and what Ray is told. The first epoch does not count.

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
from hilbert_ray.training import EpochProgress, columns, fit, objective_terms

RANKS = 2
RAY_CPUS = 4  # logical: the ranks, and what steers them


def settings_of(epochs: int) -> Config:
    """Return the default settings, for one network."""
    return Config(
        fit=FitConfig(epochs=epochs, seeds=1, patience=0),
        folds=FoldsConfig(inner=0),
        train=TrainConfig(workers=RANKS),
    )


def steps_of(documents: int) -> int:
    """Return the steps of an epoch."""
    return max(round(documents / FitConfig().batch_size), 1)


# Step


def fitted(config: Config, features: Features, started: list[float]) -> float:
    """Train; return steps a second from the end of the first epoch to that of the last; note the start."""
    ends: list[float] = []
    began = time.perf_counter()

    def report(progress: EpochProgress) -> None:
        if not ends:
            started.append(time.perf_counter() - began - len(features) / progress.record["documents_per_s"])
        ends.append(time.perf_counter())

    fit(config, features, np.arange(len(features)), report)
    return (len(ends) - 1) * steps_of(len(features)) / (ends[-1] - ends[0])


def preloaded(config: Config, features: Features, collating: list[float]) -> float:
    """Take the same steps on batches that are there; return steps a second; note those of collating."""
    everyone = np.arange(len(features))
    torch.manual_seed(config.fit.seed)
    network = Network(config, {modality: getattr(features, modality).dim for modality in MODALITIES}).train()
    network.fit_statistics(features, everyone)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.fit.learning_rate, fused=True)

    def step(batch: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        given = columns(network(batch), batch, config)
        losses.total(objective_terms(given, network, config), config.loss).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    seconds = padding = 0.0
    for epoch in range(config.fit.epochs):
        generator = np.random.default_rng([config.fit.seed, 0, epoch])  # as `fit` draws them
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
    """Print what the loop adds to its arithmetic, with so many threads."""
    torch.set_num_threads(threads)
    started: list[float] = []
    collating: list[float] = []
    found = turns(
        {
            "preloaded": partial(preloaded, config, features, collating),
            "fit": partial(fitted, config, features, started),
        },
        repeats,
    )
    what = f"{len(features)} documents, {threads} threads"
    bars = [Bar(row="fit", against="preloaded", least=0.92)]
    record.table(f"Training steps, {what}", "steps/s", found, "preloaded", bars)
    parts = {name: [1000 / rate for rate in rates] for name, rates in found.items()}
    record.table(f"The same, and collating alone, {what}", "ms a step", {**parts, "collate": collating})
    record.table(f"Start of `fit` (network, statistics), {what}", "s", {"fit": started})


# Ranks


def summed_up(seconds: Sequence[float], ends: Sequence[float], began: float, documents: int) -> str:
    """Return what a run of ranks found, as JSON.

    Args:
        seconds: of each epoch's steps.
        ends: when each epoch was over, wall-clock time.
        began: when the command was given.
        documents: in an epoch.
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
    """Train under Ray, which is started here, and print what was found."""
    import ray

    from hilbert_ray.training import train

    ray.init(num_cpus=RAY_CPUS, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    with tempfile.TemporaryDirectory() as run:
        documents = train(uri, run, settings_of(epochs)).documents
        records = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
        ends = written(Path(run) / "tensorboard")
    ray.shutdown()
    print(summed_up([documents / one["documents_per_s"] for one in records], ends, began, documents))


def written(board: Path) -> list[float]:
    """Return when each epoch was written to TensorBoard, wall-clock time."""
    from tensorboardX.proto.event_pb2 import Event

    ends: dict[int, float] = {}
    for path in board.iterdir():
        data = path.read_bytes()
        while data:  # length (8 bytes), its checksum (4), an event, its checksum (4)
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            if any(value.tag.startswith("loss/") for value in event.summary.value):
                ends[event.step] = event.wall_time
            data = data[16 + size :]
    return [ends[epoch] for epoch in sorted(ends)]


def by_torchrun(uri: str, epochs: int, began: float) -> None:
    """Be one of torchrun's processes; the first prints what was found."""
    dist.init_process_group("gloo")
    assert torch.get_num_threads() == 1
    dataset = open_dataset(uri, settings_of(epochs))
    documents = len(dataset.features)
    seconds: list[float] = []
    ends: list[float] = []

    def report(progress: EpochProgress) -> None:
        seconds.append(documents / progress.record["documents_per_s"])
        ends.append(time.time())

    fit(dataset.config, dataset.features, np.arange(documents), report)
    if dist.get_rank() == 0:
        print(summed_up(seconds, ends, began, documents))
    dist.destroy_process_group()


WAYS = {"torchrun": by_torchrun, "Ray Train": by_ray}


def compare_ranks(uri: str, documents: int, epochs: int, repeats: int, record: Record) -> None:
    """Print what Ray Train adds to two ranks."""
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS), "-m")
    commands = {"torchrun": (*launcher, "bench.training"), "Ray Train": ("bench.training",)}
    found: dict[str, dict[str, list[float]]] = {
        kind: {way: [] for way in WAYS} for kind in ("record", "start")
    }

    def run(way: str) -> float:
        values = in_process(*commands[way], "--way", way, uri, str(epochs), str(time.time()))
        for kind, rows in found.items():
            rows[way].append(values[kind])
        return float(values["step"])

    steps = turns({way: partial(run, way) for way in WAYS}, repeats)
    what = f"{RANKS} ranks of one thread, {documents} documents"
    bars = [Bar(row="Ray Train", against="torchrun", most=1.03)]
    record.table(f"Steps of {what}", "ms a step", steps, "torchrun", bars)
    record.table(f"From record to record, {what}", "ms a step", found["record"], "torchrun")
    record.table(f"From the command to the first step, {what}", "s", found["start"], "torchrun")


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=("step", "ranks"), default=["step", "ranks"])
    parser.add_argument("--documents", type=int, default=2048)
    parser.add_argument("--dims", type=int, nargs=2, default=(120, 512), help="of audio and text features")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2, help="of each run; the first does not count")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="of a step; ranks have one each")
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
