"""How fast is cross-validation as Ray tasks, compared with the same folds one after another in one process?

Both take turns on documents already in memory and with Ray already started, so only the folds are compared.
The documents are those of the sample corpus with the built-in encoders, or synthetic ones. A watcher records
how much Ray's object store grows at most, compared with the size of the features.

    python -m bench.evaluate [--documents 1000] [--folds 5] [--repeats 5] [--rounds 2] [--epochs 20]
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import ray

from bench.measure import Bar, Record, turns
from hilbert_ray.cluster import connect
from hilbert_ray.config import Config, FitConfig, FoldsConfig, Modality, TaskConfig, from_dict, load_file
from hilbert_ray.embedding import embed
from hilbert_ray.evaluation import choose_variants, run_fold_on_one_thread, run_folds
from hilbert_ray.features import Features, Ragged, mean_std, open_dataset
from hilbert_ray.folds import Folds, make_folds
from hilbert_ray.storage import Workspace

DIMS: dict[Modality, int] = {"audio": 120, "text": 512}
TASKS, PLAIN = "Ray tasks", "one process"
SEGMENTS = 40  # default number per document and modality


def synthetic_features(documents: int, seed: int = 0, segments: int = SEGMENTS) -> Features:
    """Return documents with noise as features and three classes, four documents to a group."""
    rng = np.random.default_rng(seed)
    offsets = np.arange(documents + 1) * segments
    place = np.tile((np.arange(segments) + 0.5) / segments, documents).astype(np.float32)
    by_modality = {}
    for modality, dim in DIMS.items():
        values = rng.normal(size=(documents * segments, dim)).astype(np.float32)
        wide = np.stack([mean_std(document) for document in np.split(values, documents)])
        by_modality[modality] = Ragged(
            values=values, position=place, start=place, end=place, offsets=offsets, wide=wide
        )
    return Features(
        doc_ids=np.array([f"d{i:05d}" for i in range(documents)]),
        groups=np.arange(documents) // 4,
        audio=by_modality["audio"],
        text=by_modality["text"],
        targets={"state": rng.integers(0, 3, documents)},
    )


def corpus(config: Config) -> tuple[Config, Features]:
    """Embed the sample corpus; return the settings, with its tasks, and the features."""
    folder = Path(__file__).parents[1] / "examples" / "corpus"
    config = from_dict(Config, load_file(folder / "tasks.yaml"), config)
    with tempfile.TemporaryDirectory() as scratch:
        embed(str(folder / "manifest.jsonl"), f"{scratch}/store", config)
        dataset = open_dataset(f"{scratch}/store", config)
    return dataset.config, dataset.features


def size_of(features: Features) -> int:
    """Return the bytes of all feature arrays."""
    parts = [part for part in (features.audio, features.text) if part is not None]
    names = ("values", "position", "start", "end", "offsets", "wide")
    return sum(getattr(part, name).nbytes for part in parts for name in names)


def object_store_bytes() -> int:
    """Return the bytes in use in Ray's object store."""
    total, free = ray.cluster_resources(), ray.available_resources()
    return int(total["object_store_memory"] - free.get("object_store_memory", 0))


def as_tasks(features: Features, folds: Folds, config: Config) -> tuple[float, int]:
    """Return how long the folds take as Ray tasks (s) and how much the object store grows at most (bytes)."""
    before, peak, done = object_store_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.1):
            peak = max(peak, object_store_bytes() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        variants = choose_variants(config, features, compare=False)
        work = [(variant, fold) for variant in variants for fold in folds]
        run_folds(ray.put(features), work, Workspace(scratch, Path(scratch)), "bench")
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    return seconds, peak


def in_one_process(features: Features, folds: Folds, config: Config) -> float:
    """Return how long the folds take one after another in this process, seconds."""
    began = time.perf_counter()
    for variant in choose_variants(config, features, compare=False):
        for fold in folds:
            run_fold_on_one_thread(features, variant, fold)
    return time.perf_counter() - began


def main() -> None:
    """Compare the times of both ways, and the peak of shared memory with the features."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--documents", type=int, default=0, help="number of synthetic ones; 0: the sample corpus"
    )
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=FitConfig().epochs)
    parser.add_argument("--rounds", type=int, default=2, help="how often each way runs, in turn")
    settings = parser.parse_args()
    connect()
    config = Config(
        fit=FitConfig(epochs=settings.epochs),
        folds=FoldsConfig(folds=settings.folds, repeats=settings.repeats),
    )
    if settings.documents:
        features = synthetic_features(settings.documents)
        config = replace(config, tasks={"state": TaskConfig(classes=("a", "b", "c"))})
    else:
        config, features = corpus(config)
    strata = features.targets[next(iter(config.tasks))]
    folds = make_folds(features.doc_ids, features.groups, strata, config.folds, 0)
    record = Record("evaluate")
    peaks: list[float] = []

    def tasks() -> float:
        seconds, peak = as_tasks(features, folds, config)
        peaks.append(peak / size_of(features))
        return seconds

    ways: dict[str, Callable[[], float]] = {
        TASKS: tasks,
        PLAIN: partial(in_one_process, features, folds, config),
    }
    times = turns(ways, settings.rounds)
    cpus = ray.cluster_resources()["CPU"]
    title = f"{len(folds)} folds, {len(features)} documents, {cpus:g} CPUs"
    bars = [Bar(row=PLAIN, against=TASKS, least=1.8), Bar(row=TASKS, most=240)]  # set for 25 folds
    record.table(title, "s", times, PLAIN, bars if len(folds) >= 25 else [])
    title = f"most shared memory, over the features' {size_of(features) / 1e6:.1f} MB"
    record.table(title, "times", {TASKS: peaks}, bars=[Bar(row=TASKS, most=1.3)])


if __name__ == "__main__":
    main()
