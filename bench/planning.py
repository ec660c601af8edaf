"""How long do planning a resumed embedding and validating take for a manifest of a million documents?

The benchmark writes a manifest of short rows (half of the transcripts inline, half in files), folders of
1,000 files each, and a store that holds 99 % of the documents. What is real and what is not: the audio and
text files are hard links to a few real files of two seconds, so every name is looked up in its folder but few
inodes are read. The store's commits are complete, and as many as units of 30 minutes make of documents of two
minutes, but the data files that they name are not written, because planning opens none. Each of these runs in
its own process:

    plain     `json.loads` of each line and nothing else: the least that reading the manifest costs
    validate  the whole report, with 10,000 documents opened
    resume    all that `embed` does before its encoders start: check files, write the snapshot, plan
    compacted the same after `store compact` (which is measured too)
    first     the same with an empty store: everything is pending, and the header of each file is read

"peak" is the peak memory of the process itself (`VmHWM`, Linux), "CPU" the time of the process and its
children. With `--objects N` a corpus of N documents is also put on an S3 server on this machine, and the
requests are counted of a resumed run, of `validate` (which opens one in a hundred documents), and of a worker
that embeds one unit of 10 recordings.

    python -m bench.planning [--documents 1000000] [--objects 2000] [--folder FOLDER] [--first]
"""

import argparse
import json
import logging
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import soundfile

from bench.measure import Record, in_process, peak_bytes
from hilbert_ray.config import Config, EmbedConfig, TaskConfig
from hilbert_ray.embedding import EmbedUnits, chosen_encoders, jobs_of
from hilbert_ray.storage import is_uri
from hilbert_ray.store import Commit, FeatureRow, Store, compact_store, encode_rows, sha256_of, write_snapshot
from hilbert_ray.units import plan_all, versioned_rows
from hilbert_ray.validation import PROBED, validate

COMMITTED = 0.99
DOCUMENT_S, UNIT_S = 120.0, 1800.0
UNIT_FILES = 10  # recordings of the unit whose requests are counted
SEGMENTS = 12  # per document and modality
FILES_IN_FOLDER = 1000
LINKS = 50_000  # hard links to one file; ext4 allows 65,000
TASKS = {
    "topic": TaskConfig(kind="binary", classes=("home", "work")),
    "mood": TaskConfig(kind="ordinal", classes=("0", "1", "2", "3")),
}
CUES = "WEBVTT\n\n00:00.000 --> 00:01.000\n<v participant>well I went there\n"


def rows(documents: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of the manifest."""
    for number in range(documents):
        folder = f"{number // FILES_IN_FOLDER:04d}"
        row: dict[str, Any] = {"doc_id": f"speaker-{number // 4:06d}/session-{number % 4}"}
        row["audio"] = f"audio/{folder}/{number:07d}.wav"
        if number % 2:
            row["text_file"] = f"text/{folder}/{number:07d}.vtt"
        else:
            row["text"] = [
                {"text": f"how was day {number}", "start": 0.0, "end": 0.8, "role": "interviewer"},
                {"text": "it was fine and nothing happened", "start": 0.9, "end": 1.9, "role": "participant"},
            ]
        row["group"] = f"speaker-{number // 4:06d}"
        row["labels"] = {"topic": ("work", "home")[number % 3 > 0], "mood": number % 4}
        yield row


def write_corpus(folder: Path, documents: int) -> str:
    """Write the manifest and the files that it names; return the manifest's path."""
    manifest = folder / "manifest.jsonl"
    samples = 0.1 * np.random.default_rng(0).standard_normal(2 * 16000)
    (folder / "real").mkdir(parents=True)
    for number in range(0, documents, FILES_IN_FOLDER):
        for kind in ("audio", "text"):
            (folder / kind / f"{number // FILES_IN_FOLDER:04d}").mkdir(parents=True)
    with manifest.open("w") as file:
        for number, row in enumerate(rows(documents)):
            real = folder / "real" / str(number // LINKS)
            if number % LINKS == 0:
                soundfile.write(f"{real}.wav", samples.astype(np.float32), 16000)
                Path(f"{real}.vtt").write_text(CUES)
            for path in (row["audio"], row.get("text_file")):
                if path is not None:
                    os.link(f"{real}.{path[-3:]}", folder / path)
            file.write(json.dumps(row) + "\n")
    return str(manifest)


def write_store(manifest: str, uri: str, buckets: int = 256, dim: int = 0) -> int:
    """Create a store in which 99 % of the manifest's documents are committed; return the number of commits.

    With `dim`, data files are written too, with noise of that width instead of the encoder's features.
    """
    store, config = Store.create(uri, buckets), Config()
    snapshot = write_snapshot(store, versioned_rows(manifest, content_hash=False))
    size = max(1, round(UNIT_S / DOCUMENT_S))
    noise = np.random.default_rng(0).standard_normal((1000, SEGMENTS, max(dim, 1))).astype(np.float16)
    start_s = np.linspace(0, DOCUMENT_S, SEGMENTS, endpoint=False, dtype=np.float32)
    commits = 0
    for modality, encoder in chosen_encoders(config).items():
        description = encoder.describe()
        store.add_encoder(modality, encoder.fingerprint, {**description, "dim": dim or description["dim"]})
        folder = f"features/{modality}/{encoder.fingerprint}"
        for bucket in range(store.buckets):
            keys = [key for key in snapshot.sources({bucket}, modality, False) if key[1] is not None]
            keys = [key for i, key in enumerate(keys) if i % 100 < 100 * COMMITTED]
            for start in range(0, len(keys), size):
                here = [(doc_id, str(source)) for doc_id, source in keys[start : start + size]]
                commits += 1
                unit = f"{bucket:04x}{start:012x}"
                data, sha256 = b"0", f"{0:064x}"
                if dim:
                    made = [
                        FeatureRow(
                            doc_id=doc_id, source=source, features=noise[(commits + i) % len(noise)],
                            start=start_s, end=start_s + DOCUMENT_S / SEGMENTS, timed=True,
                            seen=DOCUMENT_S, present=DOCUMENT_S,
                        )
                        for i, (doc_id, source) in enumerate(here)
                    ]  # fmt: skip
                    data = encode_rows(modality, made)
                    sha256 = sha256_of(data)
                commit = Commit(
                    unit=unit,
                    bucket=bucket,
                    file=f"{folder}/data/bucket={bucket:04d}/{unit}-{sha256[:16]}.parquet",
                    sha256=sha256,
                    size_bytes=len(data),
                    stored=tuple((*key, SEGMENTS, DOCUMENT_S) for key in here),
                    quarantined=(),
                    versions={"torch": "2.13.0+cpu", "transformers": "5.17.0"},
                )
                if dim:
                    write_file(store, str(commit.file), data)
                write_file(store, f"{folder}/commits/bucket={bucket:04d}/{unit}.json", commit.to_json())
    return commits


def write_file(store: Store, name: str, data: bytes) -> None:
    """Write a file of a store without the syncs of a local store, which would take hours here."""
    if is_uri(store.uri):
        store.files.create(name, data)
        return
    path = Path(store.uri, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def plain(manifest: str, store: str) -> dict[str, Any]:
    """Parse each line of the manifest."""
    del store
    with open(manifest, encoding="utf-8") as file:
        return {"rows": sum(1 for line in file if json.loads(line))}


def report(manifest: str, store: str) -> dict[str, Any]:
    """Validate the manifest."""
    del store
    result = validate(manifest, Config(tasks=TASKS), probe=PROBED)
    return {"rows": result.rows, "faults": len(result.faults), "unopened": result.unopened}


def resume(manifest: str, store: str) -> dict[str, Any]:
    """Do what `embed` does up to and including its plan."""
    config = Config()
    began = time.monotonic()
    chosen = chosen_encoders(config)
    target = Store.create(store)
    snapshot = write_snapshot(target, versioned_rows(manifest, content_hash=False))
    checked = time.monotonic()
    for modality, encoder in chosen.items():
        target.add_encoder(modality, encoder.fingerprint, encoder.describe())
    plans = plan_all(target, snapshot, jobs_of(chosen), config)
    return {
        "rows": snapshot.num_documents,
        "look_s": checked - began,
        "plan_s": time.monotonic() - checked,
        "stored": sum(plan.stored for plan in plans),
        "pending": sum(len(unit.keys) for plan in plans for unit in plan.units),
        "units": sum(len(plan.units) for plan in plans),
    }


def compact(manifest: str, store: str) -> dict[str, Any]:
    """Merge the commits of the store into indexes."""
    del manifest
    target = Store.open(store)
    return {"rows": target.snapshot().num_documents, "indexes": len(compact_store(target))}


def first(manifest: str, store: str) -> dict[str, Any]:
    """Plan into an empty store."""
    try:
        return resume(manifest, f"{store}-empty")
    finally:
        shutil.rmtree(f"{store}-empty")


MEASURES: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "plain": plain,
    "validate": report,
    "resume": resume,
    "compact": compact,
    "compacted": resume,
    "first": first,
}
FORMATS = {"seconds": ".1f", "rows/s": ".0f", "ratio": ".1f", "CPU s": ".1f", "peak MB": ".0f"}


def cpu_s() -> float:
    """Return the CPU time of this process and its descendants, running or ended, seconds (Linux)."""
    times: dict[int, float] = {}
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # the process has just ended
            continue
        parents[int(path.parent.name)] = int(fields[1])
        times[int(path.parent.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    family = {os.getpid()}
    while children := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= children
    return sum(times[pid] for pid in family)


def measure_here(name: str, manifest: str, store: str) -> None:
    """Run one measurement in this process and print it as JSON."""
    imported_s = cpu_s()
    began = time.monotonic()
    result = MEASURES[name](manifest, store)
    result |= {"seconds": time.monotonic() - began, "cpu_s": cpu_s() - imported_s, "peak": peak_bytes()}
    print(json.dumps(result))


def bench_local(record: Record, folder: Path, documents: int, names: list[str]) -> None:
    """Measure each action on a corpus on this machine's disk."""
    manifest, store = write_corpus(folder, documents), str(folder / "store")
    commits = write_store(manifest, store)
    print(f"{documents} documents, {commits} commits in the store, load {os.getloadavg()[0]:.1f}")
    print(f"{'':10}{'seconds':>9}{'rows/s':>9}{'ratio':>7}{'CPU s':>8}{'peak MB':>9}", flush=True)
    base = 0.0
    table = {}
    for name in names:
        result = in_process("bench.planning", "--measure", name, manifest, store)
        rows, seconds, used_s, peak = (result.pop(key) for key in ("rows", "seconds", "cpu_s", "peak"))
        base = base or seconds
        table[name] = {
            "seconds": seconds, "rows/s": rows / seconds, "ratio": seconds / base, "CPU s": used_s,
            "peak MB": peak / 1e6, **result,
        }  # fmt: skip
        details = ", ".join(f"{key} {round(value, 1)}" for key, value in result.items())
        print(
            f"{name:10}{seconds:9.1f}{rows / seconds:9.0f}{seconds / base:7.1f}{used_s:8.1f}{peak / 1e6:9.0f}"
            f"  {details}",
            flush=True,
        )
    record.keep(f"{documents} documents, {commits} commits in the store", table, formats=FORMATS)


def bench_objects(record: Record, folder: Path, documents: int) -> None:
    """Count the requests of each action with corpus and store on an object store."""
    from aiobotocore.session import AioSession  # type: ignore[import-untyped]
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    requests: Counter[str] = Counter()

    def count(event_name: str, **details: object) -> None:
        requests[event_name.rpartition(".")[2]] += 1

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
    os.environ["AWS_ACCESS_KEY_ID"] = os.environ["AWS_SECRET_ACCESS_KEY"] = "bench"
    os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
    session = AioSession()
    session.register("before-send.s3", count)
    fsspec.config.conf["s3"] = {"session": session}
    bucket = fsspec.filesystem("s3")
    bucket.mkdir("bench")
    write_corpus(folder, documents)
    bucket.put(f"{folder}/", "s3://bench/", recursive=True)
    manifest, store = "s3://bench/manifest.jsonl", "s3://bench/store"
    commits = write_store(manifest, store, buckets=4)
    print(f"\n{documents} documents as objects, {commits} commits in the store; requests of each")
    table = {}
    for name in ("validate", "resume", "one unit", "compact", "compacted"):
        requests.clear()
        if name == "validate":
            validate(manifest, Config(tasks=TASKS), probe=documents // 100)
        elif name == "one unit":
            embed_unit(manifest, f"{store}-empty", requests)
        else:
            MEASURES[name](manifest, store)
        table[name] = dict(requests)
        listed = ", ".join(f"{key} {number}" for key, number in requests.most_common())
        print(f"{name:10}{listed}", flush=True)
    print(f"objects in the store {len(Store.open(store).files.names(''))}")
    record.keep(f"{documents} documents as objects, {commits} commits in the store, requests", table)
    server.stop()


def embed_unit(manifest: str, uri: str, requests: Counter[str]) -> None:
    """Embed one unit of audio into an empty store, as a worker does; `requests` then counts only that."""
    config = Config(text="none")
    store = Store.create(uri, 4)
    snapshot = write_snapshot(store, versioned_rows(manifest, content_hash=False))
    chosen = chosen_encoders(config)
    [plan] = plan_all(
        store, snapshot, jobs_of(chosen), replace(config, embed=EmbedConfig(unit_s=UNIT_FILES * 2.0))
    )
    worker = EmbedUnits(store, snapshot.number, config, {m: one.fingerprint for m, one in chosen.items()})
    requests.clear()
    [(_, commit)] = worker.run(plan.units[:1])
    assert len(commit.stored) == UNIT_FILES


def main() -> None:
    """Create the corpus and the store, measure, and print tables."""
    parser = argparse.ArgumentParser(description="planning and validating a large manifest")
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--objects", type=int, default=2_000, help="documents on the S3 server; 0: none")
    parser.add_argument("--folder", help="parent folder of the temporary files")
    parser.add_argument("--first", action="store_true", help="also plan everything into an empty store")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure_here(*arguments.measure)
        return
    names = [name for name in MEASURES if name != "first" or arguments.first]
    record = Record("planning")
    with tempfile.TemporaryDirectory(prefix="bench-planning-", dir=arguments.folder) as folder:
        if arguments.documents:
            bench_local(record, Path(folder, "local"), arguments.documents, names)
        if arguments.objects:
            bench_objects(record, Path(folder, "objects"), arguments.objects)


if __name__ == "__main__":
    main()
