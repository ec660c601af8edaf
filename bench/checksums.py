"""What does it cost to compare every byte of a store with its checksum, over reading it without?

A store as in `bench.features`, in units that `embed` would make. Opening reads the manifest, locates every
document's commit and reads all features, as `evaluate` and `train` do. Without checksums, the functions that
compare are replaced by ones that pass on the same bytes. Times are of the CPU, which other load on the host
changes little. Everything is in the page cache: from a disk or a network, the share is smaller.

    python -m bench.checksums [--documents 2100] [--dims 120 512] [--repeats 5]
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench.features import commit, make_store, read_store, units
from bench.measure import Bar, Record, turns
from hilbert_ray.config import MODALITIES
from hilbert_ray.store import FeatureRow

MOST = 1.03
"""Reading with checksums over reading without."""


@contextmanager
def without_checksums() -> Iterator[None]:
    """Read what is in a store as it is, while the context lasts."""

    def decoded(decode: Callable[[bytes], Iterator[FeatureRow]], _: str, data: bytes) -> Iterator[FeatureRow]:
        return decode(data)

    def as_is(data: bytes, *_: str) -> bytes:
        return data

    def file_as_is(file: Any, *_: str) -> Any:  # noqa: ANN401 - any binary file
        return file

    with (
        patch("hilbert_ray.store.store._decoded", decoded),
        patch("hilbert_ray.store.commits.without_checksum", as_is),
        patch("hilbert_ray.storage.json_files.without_checksum", as_is),
        patch("hilbert_ray.store.snapshot.CheckedBlocks", file_as_is),
    ):
        yield


def open_store(uri: str) -> tuple[float, float]:
    """Read all features of a store into memory; return CPU seconds of this thread and of the process."""
    of_thread, of_process = time.thread_time(), time.process_time()
    read_store(uri, 0.0)
    return time.thread_time() - of_thread, time.process_time() - of_process


def compare(uri: str, repeats: int, about: str, record: Record) -> None:
    """Read a store with checksums and without, in turn."""
    measured: dict[str, list[tuple[float, float]]] = {"without": [], "with checksums": []}

    def without() -> float:
        with without_checksums():
            measured["without"].append(open_store(uri))
        return 0.0

    def checked() -> float:
        measured["with checksums"].append(open_store(uri))
        return 0.0

    open_store(uri)
    turns({"without": without, "with checksums": checked}, repeats)
    bar = Bar(row="with checksums", against="without", most=MOST)
    for i, whose in enumerate(("the reading thread", "the process")):
        rows = {way: [times[i] for times in all_times] for way, all_times in measured.items()}
        record.table(f"Open {about}, CPU of {whose}", "s", rows, "without", [bar])


def main() -> None:
    """Fill a store and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=2100)
    parser.add_argument("--dims", type=int, nargs=2, default=(120, 512))
    parser.add_argument("--repeats", type=int, default=5)
    settings = parser.parse_args()
    record = Record("checksums")
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(str(Path(folder) / "store"), settings.documents, settings.dims)
        stored_units = [unit for modality in MODALITIES for unit in units(store, modality)]
        size_mb = sum(row.features.nbytes for unit in stored_units for row in unit.rows) / 1e6
        commit(store, stored_units)
        about = f"{settings.documents} documents, {size_mb:.0f} MB of float16 in {len(stored_units)} units"
        compare(store.uri, settings.repeats, about, record)


if __name__ == "__main__":
    main()
