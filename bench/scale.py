"""How does cost grow with documents, duration, segments, ranks and encoder actors?

Each size runs in its own process, so that it has its own memory peak; imports and Ray's start are not timed.
Below each table are the exponents k of value ~ size ** k: fitted over all sizes, and between the two largest
alone, where fixed costs hide least.

    documents  a manifest of which 99 % is committed: plan the rest (`embed` up to its plan); find the
               documents of one unit in it, as a worker does for each; read the features of all (12 segments
               of 16 numbers per modality), and train one epoch on them
    duration   one recording of noise (FLAC, 22.05 kHz, mono): decode, resample, cut and embed it with `mfcc`
    segments   one training step of 8 documents with this many segments per modality, default model
    ranks      steps of a fixed global batch of 64 documents, 100 segments per modality; gloo, one thread per
               rank. Ranks beyond the cores of the machine share them
    actors     `embed` of one-minute recordings with `mfcc`, decoded by the actors themselves, with one thread
               each; the rate is that of the second half of the commits, when all actors are long running

torch has one thread in every process, so that other work on the machine disturbs least. For documents and
segments, memory is what the process took beyond what it held when the clock started; for the others it is
that of the whole process: the one that embeds, the largest rank, and the driver.

    python -m bench.scale [--only documents segments] [--documents 1000 10000 100000 1000000] [--repeats 1]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import FITTED, LAST, Bar, Record, forget_peak, in_process, peak_bytes, timed

Measured = dict[str, float]
"""Seconds and MB by name, from one repeat at one size."""

LINEAR = (Bar(row=FITTED, most=1.05), Bar(row=LAST, most=1.05))
DIM = 16
FOUND_UNITS = 20
EPOCH_BATCH = 256
STEP_DOCUMENTS, STEPS = 8, 3
GLOBAL_BATCH, RANK_SEGMENTS, EPOCHS = 64, 100, 5
RATE_HZ, NOISE_S = 22_050, 60.0
WARM = "warm"


def measured(action: Callable[[], object]) -> Measured:
    """Return the seconds of a call, the MB that this process held before it, and its peak in MB."""
    forget_peak()
    before = peak_bytes()
    return {"seconds": timed(action), "held": before / 1e6, "peak": peak_bytes() / 1e6}


# Measurements, each in its own process


def measure_plan(folder: str) -> Measured:
    """Plan what is left of a manifest, with Ray and its workers already running."""
    import ray

    from bench.planning import resume
    from hilbert_ray.cluster import connect

    def wake() -> None:
        from hilbert_ray.units import plan_jobs  # noqa: F401

        time.sleep(1.0)

    connect()
    workers = int(ray.cluster_resources()["CPU"])
    ray.get([ray.remote(num_cpus=1)(wake).remote() for _ in range(workers)])
    resume(*_corpus(f"{folder}/{WARM}"))
    return measured(partial(resume, *_corpus(folder)))


def measure_find(folder: str) -> Measured:
    """Find the documents of some units in the manifest; return the time per unit."""
    from bench.planning import DOCUMENT_S, UNIT_S
    from hilbert_ray.store import Store

    store = Store.open(f"{folder}/store")
    snapshot = store.snapshot()
    size = round(UNIT_S / DOCUMENT_S)
    units: list[tuple[int, set[str]]] = []
    for bucket in sorted({owner for owner, _ in snapshot.row_groups})[: FOUND_UNITS + 1]:
        ids = [doc_id for doc_id, _ in snapshot.sources({bucket}, "audio", reads_turns=False)]
        units.append((bucket, set(ids[-size:])))

    def find() -> None:
        for bucket, doc_ids in units[1:]:
            assert len(list(snapshot.documents({bucket}, doc_ids))) == len(doc_ids)

    list(snapshot.documents({units[0][0]}, units[0][1]))
    result = measured(find)
    return {**result, "seconds": result["seconds"] / (len(units) - 1)}


def measure_read(folder: str) -> Measured:
    """Read the features of a store, then train one epoch on them."""
    import torch

    from bench.planning import TASKS
    from hilbert_ray.config import Config, FitConfig, FoldsConfig
    from hilbert_ray.features import Dataset, open_dataset
    from hilbert_ray.training import fit

    torch.set_num_threads(1)
    settings = FitConfig(epochs=1, seeds=1, patience=0, batch_size=EPOCH_BATCH)
    config = Config(tasks=TASKS, fit=settings, folds=FoldsConfig(inner=0))
    datasets: list[Dataset] = []

    def read(place: str) -> None:
        datasets.append(open_dataset(f"{place}/features", config))

    def epoch(dataset: Dataset) -> None:
        fit(config, dataset.features, np.arange(len(dataset.features)))

    read(f"{folder}/{WARM}")
    epoch(datasets[0])
    result = measured(partial(read, folder))
    trained = measured(partial(epoch, datasets[1]))
    return {**result, **{f"epoch {name}": value for name, value in trained.items()}}


def measure_duration(folder: str, minutes: float) -> Measured:
    """Embed one recording as an encoder actor does."""
    import torch

    from hilbert_ray.config import Config
    from hilbert_ray.document import Document
    from hilbert_ray.embedding import configured_encoder, embed_documents
    from hilbert_ray.store import StoredDocument
    from hilbert_ray.units import version_or_absent

    config = Config()
    torch.set_num_threads(config.embed.threads)
    encoder = configured_encoder(config, "audio")

    def embed(minutes: float) -> None:
        uri = recording(folder, minutes)
        item = StoredDocument(
            document=Document(doc_id="noise", audio=uri),
            row=0,
            audio_version=version_or_absent(uri, content_hash=False),
            text_version=None,
            turns_version=None,
        )
        rows, failures = embed_documents([item], ["key"], "audio", encoder, config)
        assert not failures, failures
        assert abs(rows[0].seen - 60 * minutes) < 0.01, rows[0].seen

    embed(0.5)
    return measured(partial(embed, minutes))


def measure_segments(segments: int) -> Measured:
    """Time training steps of documents with this many segments per modality."""
    import torch

    from bench.evaluate import DIMS, synthetic_features
    from hilbert_ray.config import Config, TaskConfig
    from hilbert_ray.model import Network
    from hilbert_ray.training import backward

    torch.set_num_threads(1)
    config = Config(tasks={"state": TaskConfig(classes=("a", "b", "c"))})
    features = synthetic_features(STEP_DOCUMENTS, segments=segments)
    everyone = np.arange(STEP_DOCUMENTS)
    torch.manual_seed(0)
    network = Network(config, DIMS).train()
    network.fit_statistics(features, everyone)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)

    def step(batch_features: Any) -> None:  # noqa: ANN401 - Features, which is imported only in the measuring process
        optimizer.zero_grad(set_to_none=True)
        backward(network, batch_features, everyone, config, config.loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.fit.clip_norm)
        optimizer.step()

    step(synthetic_features(STEP_DOCUMENTS, segments=10))
    results = [measured(partial(step, features)) for _ in range(STEPS)]
    return {
        "seconds": statistics.median(result["seconds"] for result in results),
        "held": results[0]["held"],
        "peak": max(result["peak"] for result in results),
    }


def measure_ranks(ranks: int) -> Measured:
    """Train on a fixed global batch with this many processes."""
    from torch.multiprocessing.spawn import spawn

    with tempfile.TemporaryDirectory() as folder:
        spawn(one_rank, (ranks, folder), nprocs=ranks)  # type: ignore[no-untyped-call]
        results: list[Measured] = [
            json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(ranks)
        ]
    return {
        "seconds": results[0]["seconds"],
        "cpu": sum(result["cpu"] for result in results),
        "peak": max(result["peak"] for result in results),
    }


def one_rank(rank: int, ranks: int, folder: str) -> None:
    """Train as one rank; write the time and CPU time per step to a file, without the first epoch."""
    import torch
    import torch.distributed as dist

    from bench.evaluate import synthetic_features
    from hilbert_ray.config import Config, FitConfig, FoldsConfig, TaskConfig
    from hilbert_ray.training import EpochReport, fit

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    config = Config(
        tasks={"state": TaskConfig(classes=("a", "b", "c"))},
        fit=FitConfig(epochs=EPOCHS, seeds=1, patience=0, batch_size=GLOBAL_BATCH),
        folds=FoldsConfig(inner=0),
    )
    features = synthetic_features(2 * GLOBAL_BATCH, segments=RANK_SEGMENTS)
    steps = len(features) // GLOBAL_BATCH
    ends: list[tuple[float, float]] = []

    def report(progress: EpochReport) -> None:
        ends.append((time.perf_counter(), time.process_time()))

    fit(config, features, np.arange(len(features)), report)
    seconds_per_step = np.diff(ends, axis=0) / steps
    result = {
        "seconds": float(np.median(seconds_per_step[:, 0])),
        "cpu": float(np.median(seconds_per_step[:, 1])),
        "peak": peak_bytes() / 1e6,
    }
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def measure_actors(folder: str, actors: int) -> Measured:
    """Embed with this many actors; this process is the driver."""
    import logging

    import ray

    from bench.embed import commits_of
    from hilbert_ray.config import Config, EmbedConfig
    from hilbert_ray.embedding import embed

    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.WARNING}
    ray.init("local", num_cpus=max(4, actors + 1), **quiet)
    settings = EmbedConfig(workers=actors, unit_s=60.0, threads=1, decoders=0)
    began = time.time()
    with tempfile.TemporaryDirectory(dir=folder) as store:
        embed(f"{folder}/manifest.jsonl", store, Config(audio="mfcc", text="none", embed=settings))
        commits = commits_of(Path(store))
    steady = commits[len(commits) // 2 : len(commits) - actors + 1]
    rate = sum(amount for _, amount in steady[1:]) / (steady[-1][0] - steady[0][0])
    return {
        "rate": rate,
        "seconds": 3600 / rate,
        "start": commits[0][0] - began,
        "peak": peak_bytes() / 1e6,
    }


MEASURES: Mapping[str, Callable[..., Measured]] = {
    "plan": measure_plan,
    "find": measure_find,
    "read": measure_read,
    "duration": measure_duration,
    "segments": measure_segments,
    "ranks": measure_ranks,
    "actors": measure_actors,
}


def measure(name: str, *arguments: object) -> Measured:
    """Run a measurement in its own process."""
    return in_process("bench.scale", "--measure", name, json.dumps(arguments))


def recording(folder: str, minutes: float) -> str:
    """Return the path of a recording of this many minutes."""
    return f"{folder}/{minutes:g}.flac"


def write_recording(folder: str, minutes: float) -> str:
    """Write a recording of repeated noise, block by block; return its path."""
    import soundfile

    left = round(60 * minutes * RATE_HZ)
    generator = np.random.default_rng(0)
    noise = (0.1 * 2**15 * generator.standard_normal(round(NOISE_S * RATE_HZ))).astype(np.int16)
    path = recording(folder, minutes)
    # The lowest level: noise hardly compresses, and the decoder does the same work at any level.
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, "PCM_16", compression_level=0.0) as file:
        while left > 0:
            file.write(noise[:left])
            left -= len(noise)
    return path


def _corpus(folder: str) -> tuple[str, str]:
    """Return the manifest of a corpus and the store to plan into."""
    return f"{folder}/manifest.jsonl", f"{folder}/store"


# The tables


def documents(sizes: Sequence[int], repeats: int, record: Record) -> None:
    """Measure planning, reading and training by number of documents."""
    from bench.planning import write_corpus, write_store

    plans: dict[str, list[Measured]] = {}
    finds: dict[str, list[Measured]] = {}
    reads: dict[str, list[Measured]] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder:
            for place, count in ((folder, size), (f"{folder}/{WARM}", 40)):
                manifest = write_corpus(Path(place), count)
                write_store(manifest, f"{place}/store")
                write_store(manifest, f"{place}/features", dim=DIM)
            row = f"{size} documents"
            plans[row] = [measure("plan", folder) for _ in range(repeats)]
            finds[row] = [measure("find", folder) for _ in range(repeats)]
            reads[row] = [measure("read", folder) for _ in range(repeats)]
    tables(record, "plan a manifest of which 99 % is committed", sizes, plans, beyond=True)
    # Every unit pays this cost, so any growth here multiplies with the number of units.
    seconds = {row: [result["seconds"] for result in repeats_of_row] for row, repeats_of_row in finds.items()}
    record.table("find the documents of one unit", "s", seconds, next(iter(seconds)), (), sizes)
    tables(record, "read the features of a store", sizes, reads, beyond=True)
    tables(record, f"one epoch, batches of {EPOCH_BATCH}", sizes, reads, beyond=True, prefix="epoch ")


def duration(sizes: Sequence[float], repeats: int, record: Record) -> None:
    """Measure embedding one recording, by duration."""
    results: dict[str, list[Measured]] = {}
    for minutes in sizes:
        with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder:
            for length in (0.5, minutes):
                write_recording(folder, length)
            results[f"{minutes:g} min"] = [measure("duration", folder, minutes) for _ in range(repeats)]
    tables(record, "embed one recording (mfcc)", sizes, results, memory=constant(results, 1.1))


def segments(sizes: Sequence[int], repeats: int, record: Record) -> None:
    """Measure training steps by number of segments."""
    results = {f"{size} segments": [measure("segments", size) for _ in range(repeats)] for size in sizes}
    title = f"one training step of {STEP_DOCUMENTS} documents"
    # A few segments take less than the allocator reserves at once: only the last exponent is meaningful.
    tables(record, title, sizes, results, beyond=True, memory=LINEAR[1:])


def ranks(sizes: Sequence[int], repeats: int, record: Record) -> None:
    """Measure steps of a fixed batch by number of ranks."""
    cores = len(os.sched_getaffinity(0))
    results = {
        f"ranks {size}{_shared(size)}": [measure("ranks", size) for _ in range(repeats)] for size in sizes
    }
    title = f"a step of {GLOBAL_BATCH} documents, {cores} cores"
    tables(record, title, sizes, results)
    used = {row: [result["cpu"] for result in repeats_of_row] for row, repeats_of_row in results.items()}
    record.table(f"{title}, CPU time of all ranks", "s", used, next(iter(used)), LINEAR, sizes)


def actors(sizes: Sequence[int], repeats: int, hours: float, record: Record) -> None:
    """Measure `embed` by number of encoder actors."""
    cores = len(os.sched_getaffinity(0))
    results: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder:
        path = write_recording(folder, 1.0)
        rows = [{"doc_id": f"r{i:06d}", "audio": path} for i in range(round(60 * hours))]
        Path(folder, "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for size in sizes:
            row = f"actors {size}{_shared(size)}"
            results[row] = [measure("actors", folder, size) for _ in range(repeats)]
    base = next(iter(results))
    title = f"embed {hours:g} h of one-minute recordings (mfcc), {cores} cores"
    rates = {row: [result["rate"] for result in repeats_of_row] for row, repeats_of_row in results.items()}
    record.table(title, "s of audio per second", rates, base)
    starts = {row: [result["start"] for result in repeats_of_row] for row, repeats_of_row in results.items()}
    record.table(f"{title}: start-up to the first commit", "s", starts, base)
    tables(record, f"{title}: an hour of it, and the driver", sizes, results, memory=constant(results, 1.05))


def constant(rows: Mapping[str, object], most: float) -> list[Bar]:
    """Return a bar: the last row is at most `most` times the first."""
    first, *others = rows
    return [Bar(row=row, against=first, most=most) for row in others[-1:]]


def _shared(processes: int) -> str:
    """Return a remark if there are more processes than cores."""
    return " (more than cores)" if processes > len(os.sched_getaffinity(0)) else ""


def tables(
    record: Record,
    title: str,
    sizes: Sequence[float],
    results: Mapping[str, Sequence[Measured]],
    *,
    beyond: bool = False,
    prefix: str = "",
    memory: Sequence[Bar] = (),
) -> None:
    """Print the table of time, which should grow at most linearly, and that of memory.

    Args:
        record: where the tables go.
        title: what was measured.
        sizes: the size of each row.
        results: the repeats of each row.
        beyond: count memory beyond what the process held before; otherwise all that it held.
        prefix: prefix of the names to read from `results`.
        memory: bars for memory.
    """
    base = next(iter(results))
    seconds = {row: [result[f"{prefix}seconds"] for result in repeats] for row, repeats in results.items()}
    record.table(title, "s", seconds, base, LINEAR, sizes)
    peaks = {
        row: [
            max(result[f"{prefix}peak"] - (result[f"{prefix}held"] if beyond else 0.0), 1.0)
            for result in repeats
        ]
        for row, repeats in results.items()
    }
    named = f"{title}: {'memory taken' if beyond else 'peak memory'}"
    record.table(named, "MB", peaks, base, memory, sizes)


def main() -> None:
    """Run the requested parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("documents", "duration", "segments", "ranks", "actors")
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--documents", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument(
        "--minutes", type=float, nargs="+", default=[1, 6, 60, 600], help="lengths of the recording"
    )
    parser.add_argument("--segments", type=int, nargs="+", default=[10, 100, 1_000, 4_000])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--hours", type=float, default=6.0, help="hours of recordings that the actors embed")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.measure:
        name, arguments = settings.measure
        print(json.dumps(MEASURES[name](*json.loads(arguments))))
        sys.stdout.flush()
        return
    record = Record("scale")
    actions: dict[str, Callable[[], None]] = {
        "documents": partial(documents, settings.documents, settings.repeats, record),
        "duration": partial(duration, settings.minutes, settings.repeats, record),
        "segments": partial(segments, settings.segments, settings.repeats, record),
        "ranks": partial(ranks, settings.ranks, settings.repeats, record),
        "actors": partial(actors, settings.actors, settings.repeats, settings.hours, record),
    }
    for name, action in actions.items():
        if name in settings.only:
            action()


if __name__ == "__main__":
    main()
