"""How does cost grow with documents, duration, segments, ranks and encoder actors?

Each size is measured in a process of its own, whose memory is so its own peak; what is imported, and Ray, are
started before the clock. Under a table stand the exponents k of value ~ size ** k: least squares of the
logarithms over all sizes, and between the two largest alone, since what does not grow hides what does.

    documents  a manifest of which 99 % is committed: plan the rest (`embed` up to its plan); find the
               documents of one unit in it, as a worker does for each; read the features of all (12 segments
               of 16 numbers each modality), and train one epoch on them
    duration   one recording of noise (FLAC, 22.05 kHz, mono): decode, resample, cut and embed it by `mfcc`
    segments   one training step of 8 documents with so many segments of each modality, default model
    ranks      steps of a fixed global batch of 64 documents, 100 segments each modality; gloo, one thread a
               rank. Ranks beyond the cores of the machine share them
    actors     `embed` of one-minute recordings by `mfcc`, decoded by the actors themselves, one thread each:
               the rate is that of the second half of the commits, when all actors have long begun

torch has one thread in every process, so that other work on the machine disturbs least.
Memory of documents and segments is what the process took beyond what it held before the clock; of the others
the whole of a process: the one that embeds, the largest rank, and the driver.

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

Found = dict[str, float]
"""Seconds and MB by name, of one size and repeat."""

LINEAR = (Bar(row=FITTED, most=1.05), Bar(row=LAST, most=1.05))
DIM = 16
FOUND_UNITS = 20
EPOCH_BATCH = 256
STEP_DOCUMENTS, STEPS = 8, 3
GLOBAL_BATCH, RANK_SEGMENTS, EPOCHS = 64, 100, 5
RATE_HZ, NOISE_S = 22_050, 60.0
WARM = "warm"


def measured(action: Callable[[], object]) -> Found:
    """Return the seconds of a call, the MB that this process held before, and the most that it held."""
    forget_peak()
    before = peak_bytes()
    return {"seconds": timed(action), "held": before / 1e6, "peak": peak_bytes() / 1e6}


# What a process of its own measures


def measure_plan(folder: str) -> Found:
    """Plan what is left of a manifest, with Ray and its workers running already."""
    import ray

    from bench.planning import resume
    from hilbert_ray.cluster import connect

    def wake() -> None:
        from hilbert_ray.embedding import plan_job  # noqa: F401

        time.sleep(1.0)

    connect()
    workers = int(ray.cluster_resources()["CPU"])
    ray.get([ray.remote(num_cpus=1)(wake).remote() for _ in range(workers)])
    resume(*_corpus(f"{folder}/{WARM}"))
    return measured(partial(resume, *_corpus(folder)))


def measure_find(folder: str) -> Found:
    """Find the documents of a unit in the manifest, for some units; return the time of one."""
    from bench.planning import DOCUMENT_S, UNIT_S
    from hilbert_ray.store import Store

    store = Store.open(f"{folder}/store")
    snapshot = store.snapshot()
    size = round(UNIT_S / DOCUMENT_S)
    units: list[tuple[int, set[str]]] = []
    for bucket in sorted({owner for owner, _ in snapshot.groups})[: FOUND_UNITS + 1]:
        ids = [doc_id for doc_id, _ in store.sources(snapshot, {bucket}, "audio", reads_turns=False)]
        units.append((bucket, set(ids[-size:])))

    def find() -> None:
        for bucket, doc_ids in units[1:]:
            assert len(list(store.stored_documents(snapshot, {bucket}, doc_ids))) == len(doc_ids)

    list(store.stored_documents(snapshot, {units[0][0]}, units[0][1]))
    found = measured(find)
    return {**found, "seconds": found["seconds"] / (len(units) - 1)}


def measure_read(folder: str) -> Found:
    """Read the features of a store, then train for an epoch on them."""
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
    found = measured(partial(read, folder))
    trained = measured(partial(epoch, datasets[1]))
    return {**found, **{f"epoch {name}": value for name, value in trained.items()}}


def measure_duration(folder: str, minutes: float) -> Found:
    """Embed one recording as an encoder actor does."""
    import torch

    from hilbert_ray.config import Config
    from hilbert_ray.document import Document
    from hilbert_ray.embedding import configured_encoder, embed_documents, version_or_absent
    from hilbert_ray.store import StoredDocument

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


def measure_segments(segments: int) -> Found:
    """Make training steps of documents with so many segments."""
    import torch

    from bench.evaluate import DIMS, made_up
    from hilbert_ray.config import Config, TaskConfig
    from hilbert_ray.model import Network
    from hilbert_ray.training import backward

    torch.set_num_threads(1)
    config = Config(tasks={"state": TaskConfig(classes=("a", "b", "c"))})
    features = made_up(STEP_DOCUMENTS, segments=segments)
    everyone = np.arange(STEP_DOCUMENTS)
    torch.manual_seed(0)
    network = Network(config, DIMS).train()
    network.fit_statistics(features, everyone)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)

    def step(given: Any) -> None:  # noqa: ANN401 - Features; the library is imported here alone
        optimizer.zero_grad(set_to_none=True)
        backward(network, given, everyone, config, config.loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.fit.clip_norm)
        optimizer.step()

    step(made_up(STEP_DOCUMENTS, segments=10))
    found = [measured(partial(step, features)) for _ in range(STEPS)]
    return {
        "seconds": statistics.median(one["seconds"] for one in found),
        "held": found[0]["held"],
        "peak": max(one["peak"] for one in found),
    }


def measure_ranks(ranks: int) -> Found:
    """Train on a fixed global batch by so many processes."""
    from torch.multiprocessing.spawn import spawn

    with tempfile.TemporaryDirectory() as folder:
        spawn(one_rank, (ranks, folder), nprocs=ranks)  # type: ignore[no-untyped-call]
        found: list[Found] = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(ranks)]
    return {
        "seconds": found[0]["seconds"],
        "cpu": sum(one["cpu"] for one in found),
        "peak": max(one["peak"] for one in found),
    }


def one_rank(rank: int, ranks: int, folder: str) -> None:
    """Train as one of some ranks; note the time and CPU time of a step, without the first epoch."""
    import torch
    import torch.distributed as dist

    from bench.evaluate import made_up
    from hilbert_ray.config import Config, FitConfig, FoldsConfig, TaskConfig
    from hilbert_ray.training import EpochProgress, fit

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    config = Config(
        tasks={"state": TaskConfig(classes=("a", "b", "c"))},
        fit=FitConfig(epochs=EPOCHS, seeds=1, patience=0, batch_size=GLOBAL_BATCH),
        folds=FoldsConfig(inner=0),
    )
    features = made_up(2 * GLOBAL_BATCH, segments=RANK_SEGMENTS)
    steps = len(features) // GLOBAL_BATCH
    ends: list[tuple[float, float]] = []

    def report(progress: EpochProgress) -> None:
        ends.append((time.perf_counter(), time.process_time()))

    fit(config, features, np.arange(len(features)), report)
    took = np.diff(ends, axis=0) / steps
    found = {
        "seconds": float(np.median(took[:, 0])),
        "cpu": float(np.median(took[:, 1])),
        "peak": peak_bytes() / 1e6,
    }
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def measure_actors(folder: str, actors: int) -> Found:
    """Embed by so many actors; this process is the driver."""
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


MEASURES: Mapping[str, Callable[..., Found]] = {
    "plan": measure_plan,
    "find": measure_find,
    "read": measure_read,
    "duration": measure_duration,
    "segments": measure_segments,
    "ranks": measure_ranks,
    "actors": measure_actors,
}


def measure(name: str, *arguments: object) -> Found:
    """Measure in a process of its own."""
    return in_process("bench.scale", "--measure", name, json.dumps(arguments))


def recording(folder: str, minutes: float) -> str:
    """Return the path of a recording of so many minutes."""
    return f"{folder}/{minutes:g}.flac"


def write_recording(folder: str, minutes: float) -> str:
    """Write a recording block by block, the same noise again and again; return its path."""
    import soundfile

    left = round(60 * minutes * RATE_HZ)
    generator = np.random.default_rng(0)
    noise = (0.1 * 2**15 * generator.standard_normal(round(NOISE_S * RATE_HZ))).astype(np.int16)
    path = recording(folder, minutes)
    # Of all levels the lowest: noise hardly shrinks, and the decoder does the same work.
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
    """Plan, read and train by number of documents."""
    from bench.planning import write_corpus, write_store

    plans: dict[str, list[Found]] = {}
    finds: dict[str, list[Found]] = {}
    reads: dict[str, list[Found]] = {}
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
    # Every unit pays this: what grows here grows once more with the number of units.
    took = {row: [one["seconds"] for one in ones] for row, ones in finds.items()}
    record.table("find the documents of one unit", "s", took, next(iter(took)), (), sizes)
    tables(record, "read the features of a store", sizes, reads, beyond=True)
    tables(record, f"one epoch, batches of {EPOCH_BATCH}", sizes, reads, beyond=True, prefix="epoch ")


def duration(sizes: Sequence[float], repeats: int, record: Record) -> None:
    """Embed one recording by duration."""
    found: dict[str, list[Found]] = {}
    for minutes in sizes:
        with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder:
            for length in (0.5, minutes):
                write_recording(folder, length)
            found[f"{minutes:g} min"] = [measure("duration", folder, minutes) for _ in range(repeats)]
    tables(record, "embed one recording (mfcc)", sizes, found, memory=constant(found, 1.1))


def segments(sizes: Sequence[int], repeats: int, record: Record) -> None:
    """Make training steps by number of segments."""
    found = {f"{size} segments": [measure("segments", size) for _ in range(repeats)] for size in sizes}
    title = f"one training step of {STEP_DOCUMENTS} documents"
    # A few segments take less than the allocator takes at once: only the last step tells.
    tables(record, title, sizes, found, beyond=True, memory=LINEAR[1:])


def ranks(sizes: Sequence[int], repeats: int, record: Record) -> None:
    """Make steps of a fixed batch by number of ranks."""
    cores = len(os.sched_getaffinity(0))
    found = {
        f"ranks {size}{_shared(size)}": [measure("ranks", size) for _ in range(repeats)] for size in sizes
    }
    title = f"a step of {GLOBAL_BATCH} documents, {cores} cores"
    tables(record, title, sizes, found)
    used = {row: [one["cpu"] for one in ones] for row, ones in found.items()}
    record.table(f"{title}, CPU time of all ranks", "s", used, next(iter(used)), LINEAR, sizes)


def actors(sizes: Sequence[int], repeats: int, hours: float, record: Record) -> None:
    """Embed by number of encoder actors."""
    cores = len(os.sched_getaffinity(0))
    found: dict[str, list[Found]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder:
        path = write_recording(folder, 1.0)
        rows = [{"doc_id": f"r{i:06d}", "audio": path} for i in range(round(60 * hours))]
        Path(folder, "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for size in sizes:
            row = f"actors {size}{_shared(size)}"
            found[row] = [measure("actors", folder, size) for _ in range(repeats)]
    base = next(iter(found))
    title = f"embed {hours:g} h of one-minute recordings (mfcc), {cores} cores"
    rates = {row: [one["rate"] for one in ones] for row, ones in found.items()}
    record.table(title, "s of audio a second", rates, base)
    starts = {row: [one["start"] for one in ones] for row, ones in found.items()}
    record.table(f"{title}: start-up to the first commit", "s", starts, base)
    tables(record, f"{title}: an hour of it, and the driver", sizes, found, memory=constant(found, 1.05))


def constant(found: Mapping[str, object], most: float) -> list[Bar]:
    """Return the bar that the last row is at most so many times the first."""
    first, *others = found
    return [Bar(row=row, against=first, most=most) for row in others[-1:]]


def _shared(processes: int) -> str:
    """Return a remark where processes have less than a core each."""
    return " (more than cores)" if processes > len(os.sched_getaffinity(0)) else ""


def tables(
    record: Record,
    title: str,
    sizes: Sequence[float],
    found: Mapping[str, Sequence[Found]],
    *,
    beyond: bool = False,
    prefix: str = "",
    memory: Sequence[Bar] = (),
) -> None:
    """Print the table of time, which is to grow linearly at most, and that of memory.

    Args:
        record: where to.
        title: what was measured.
        sizes: what each row was measured at.
        found: repeats of each row.
        beyond: memory is what was taken beyond what the process held before, else all that it held.
        prefix: of the names in `found`.
        memory: bars of memory.
    """
    base = next(iter(found))
    took = {row: [one[f"{prefix}seconds"] for one in ones] for row, ones in found.items()}
    record.table(title, "s", took, base, LINEAR, sizes)
    most = {
        row: [max(one[f"{prefix}peak"] - (one[f"{prefix}held"] if beyond else 0.0), 1.0) for one in ones]
        for row, ones in found.items()
    }
    named = f"{title}: {'memory taken' if beyond else 'peak memory'}"
    record.table(named, "MB", most, base, memory, sizes)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("documents", "duration", "segments", "ranks", "actors")
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--documents", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 6, 60, 600], help="of a recording")
    parser.add_argument("--segments", type=int, nargs="+", default=[10, 100, 1_000, 4_000])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--hours", type=float, default=6.0, help="of recordings that the actors embed")
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
