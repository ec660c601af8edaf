"""What do the store's write and commit cost compared with np.save, and its read compared with a memory map?

Generated documents have 1 to 400 audio segments, most of them few (log-uniform), and four fifths as many text
segments, in the units that `embed` would make of them.

Write: `Store.commit` of every unit, against np.save of the same arrays, one file per unit, synced like ours.
Read: `open_dataset` and one epoch of padded batches of similar length, as in `train`, against a NumPy memory
map of one flat array per modality (in document order, float16 as in the store), copied document by document
into buffers that are allocated once; a second peer holds float32, which takes twice the bytes and needs no
conversion. The peers return features and masks only; ours also returns positions, mean and deviation over
segments, targets and groups, and opening it reads the manifest and locates each document's commit. `store,
mapped` sets a `fit.memory_gib` so small that features are mapped from a file, which is written while the
store is read. Everything is in the page cache.

    python -m bench.features [--documents 2100] [--dims 120 512] [--repeats 3]
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from bench.measure import Bar, Record, timed, turns
from hilbert_ray.config import MODALITIES, Config, FitConfig, Modality
from hilbert_ray.document import Document
from hilbert_ray.encoders import build_encoder
from hilbert_ray.features import Features, collate, epoch_batches, open_dataset
from hilbert_ray.store import FeatureRow, Store, StoredDocument, bucket_of, write_snapshot
from hilbert_ray.units import SPEECH_PER_UNIT

LONGEST = 400  # audio segments of a document
TEXT_SHARE = 0.8  # text segments per audio segment
BATCH_SIZE = 32
PEERS: dict[str, type[np.floating]] = {"memory map": np.float16, "memory map, float32": np.float32}
STORES = {"store": 0.0, "store, mapped": 1e-9}  # fit.memory_gib


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """What one commit stores."""

    modality: Modality
    fingerprint: str
    bucket: int
    name: str
    rows: Sequence[FeatureRow]


def make_store(uri: str, documents: int, dims: Sequence[int]) -> Store:
    """Create a store with a manifest and encoders but no features; one task of four classes."""
    store, config = Store.create(uri), Config()
    rows = (
        StoredDocument(
            document=Document(
                doc_id=f"d{i:07d}", audio=f"/{i}.wav", text="words", group=f"g{i}",
                labels={"topic": "abcd"[i % 4]},
            ),
            row=i + 1, audio_version="1", text_version="1", turns_version="1",
        )
        for i in range(documents)
    )  # fmt: skip
    write_snapshot(store, rows)
    for modality, dim in zip(MODALITIES, dims, strict=True):
        options = getattr(config, f"{modality}_encoder")
        encoder = build_encoder(getattr(config, modality), modality, options, config.segment)
        store.add_encoder(modality, encoder.fingerprint, {**encoder.describe(), "dim": dim})
    return store


def units(store: Store, modality: Modality) -> Iterator[Unit]:
    """Yield units of noise for all documents of a store, each filled from one bucket."""
    ((fingerprint, described),) = store.encoders(modality).items()
    config, rng = Config(), np.random.default_rng(0)
    noise = np.random.default_rng(described["dim"])
    most_s = config.embed.unit_s * (SPEECH_PER_UNIT if modality == "text" else 1)
    rows: list[FeatureRow] = []
    number = bucket = 0

    def unit() -> Unit:
        name = f"{number:016x}"
        return Unit(modality=modality, fingerprint=fingerprint, bucket=bucket, name=name, rows=rows)

    for item in store.snapshot().documents(with_text=False):  # by bucket and id
        longest = int(np.exp(rng.uniform(0, np.log(LONGEST + 1))))
        n = longest if modality == "audio" else max(1, round(TEXT_SHARE * longest))
        seconds = config.segment.hop_s * longest
        ends = np.linspace(0, seconds, n + 1, dtype=np.float32)
        row = FeatureRow(
            doc_id=item.document.doc_id, source=item.source(modality),
            features=noise.standard_normal((n, described["dim"]), np.float32).astype(np.float16),
            start=ends[:-1], end=ends[1:], timed=True, seen=seconds, present=seconds,
        )  # fmt: skip
        own = bucket_of(row.doc_id, store.buckets)
        if rows and (own != bucket or sum(row.seen for row in rows) + seconds > most_s):
            yield unit()
            rows, number = [], number + 1
        rows, bucket = [*rows, row], own
    yield unit()


def commit(store: Store, stored_units: Sequence[Unit]) -> None:
    """Commit units to the store."""
    for unit in stored_units:
        store.commit(unit.modality, unit.fingerprint, unit=unit.name, bucket=unit.bucket, rows=unit.rows)


def save(folder: Path, stored_units: Sequence[Unit]) -> None:
    """Write the arrays of each unit with np.save, as one synced file per unit."""
    for unit in stored_units:
        place = folder / unit.modality / f"{unit.bucket:04d}"
        place.mkdir(parents=True, exist_ok=True)
        with (place / f"{unit.name}.npy").open("xb") as file:
            np.save(file, np.concatenate([row.features for row in unit.rows]))
            np.save(file, np.concatenate([row.start for row in unit.rows]))
            np.save(file, np.concatenate([row.end for row in unit.rows]))
            np.save(file, np.array([len(row.features) for row in unit.rows]))
            file.flush()
            os.fsync(file.fileno())
        entry = os.open(place, os.O_RDONLY)
        os.fsync(entry)
        os.close(entry)


def compare_write(folder: Path, documents: int, dims: Sequence[int], repeats: int, record: Record) -> str:
    """Compare the cost of writing; return the URI of a filled store."""
    store = make_store(str(folder / "store"), documents, dims)
    stored_units = [unit for modality in MODALITIES for unit in units(store, modality)]
    size_mb = sum(row.features.nbytes for unit in stored_units for row in unit.rows) / 1e6

    def by_store() -> float:
        fresh = make_store(str(folder / "fresh"), documents, dims)
        seconds = timed(partial(commit, fresh, stored_units))
        shutil.rmtree(folder / "fresh")
        return size_mb / seconds

    def by_save() -> float:
        seconds = timed(partial(save, folder / "saved", stored_units))
        shutil.rmtree(folder / "saved")
        return size_mb / seconds

    rates = turns({"np.save": by_save, "write and commit": by_store}, repeats)
    title = (
        f"Write {documents} documents, {size_mb:.0f} MB of float16 in {len(stored_units)} units, all synced"
    )
    record.table(title, "MB/s", rates, "np.save")
    commit(store, stored_units)
    return store.uri


def flatten(features: Features, folder: Path) -> None:
    """Write the peers' files: per modality all rows in document order, in both dtypes, and the offsets."""
    folder.mkdir()
    for modality in MODALITIES:
        part = getattr(features, modality)
        np.save(folder / f"{modality}-offsets.npy", part.offsets)
        for kind in PEERS.values():
            np.save(folder / f"{modality}-{kind.__name__}.npy", part.values.astype(kind))


class Mapped:
    """A peer: per modality a memory-mapped flat array with offsets, and buffers for one batch."""

    def __init__(self, folder: Path, kind: type[np.floating]) -> None:
        self.parts = []
        for modality in MODALITIES:
            values = np.load(folder / f"{modality}-{kind.__name__}.npy", mmap_mode="r")
            offsets = np.load(folder / f"{modality}-offsets.npy")
            # A small last batch is part of the one before.
            most = 2 * BATCH_SIZE * int(np.diff(offsets).max())
            pads = np.empty(most * values.shape[1], np.float32), np.empty(most, bool)
            self.parts.append((values, offsets, *pads))

    @property
    def lengths(self) -> np.ndarray:
        """Length of each document's longest sequence."""
        return np.asarray(np.maximum.reduce([np.diff(offsets) for _, offsets, _, _ in self.parts]))

    def pad(self, indices: np.ndarray) -> None:
        """Copy the documents at `indices` into the buffers."""
        for values, offsets, flat, flat_mask in self.parts:
            spans = [(int(offsets[i]), int(offsets[i + 1])) for i in indices]
            longest = max(end - start for start, end in spans)
            cells = len(spans) * longest
            padded = flat[: cells * values.shape[1]].reshape(len(spans), longest, -1)
            mask = flat_mask[:cells].reshape(len(spans), longest)
            for row, (start, end) in enumerate(spans):
                n = end - start
                padded[row, :n] = values[start:end]
                padded[row, n:] = 0
                mask[row, :n] = True
                mask[row, n:] = False


def order(lengths: np.ndarray) -> list[np.ndarray]:
    """Return the batches of an epoch; all ways use the same."""
    return epoch_batches(np.arange(len(lengths)), BATCH_SIZE, np.random.default_rng(0), lengths)


def read_store(uri: str, memory_gib: float) -> Features:
    """Open a store as `evaluate` and `train` do."""
    return open_dataset(uri, replace(Config(), fit=FitConfig(memory_gib=memory_gib))).features


def batches_of_store(features: Features) -> None:
    """Make all batches of an epoch."""
    for indices in order(features.lengths):
        collate(features, indices)


def batches_of_peer(peer: Mapped) -> None:
    """Make all batches of an epoch."""
    for indices in order(peer.lengths):
        peer.pad(indices)


def compare_read(uri: str, folder: Path, repeats: int, record: Record) -> None:
    """Compare the cost of reading: opening and one epoch, then epochs alone."""
    features = read_store(uri, 0.0)
    flatten(features, folder)
    size_mb = float(sum(getattr(features, m).values.nbytes for m in MODALITIES) / 1e6)
    del features

    def rate(action: partial[None]) -> float:
        return size_mb / timed(action)

    def whole_store(memory_gib: float) -> None:
        batches_of_store(read_store(uri, memory_gib))

    def whole_peer(kind: type[np.floating]) -> None:
        batches_of_peer(Mapped(folder, kind))

    whole = {name: partial(rate, partial(whole_peer, kind)) for name, kind in PEERS.items()}
    whole |= {name: partial(rate, partial(whole_store, gib)) for name, gib in STORES.items()}
    base, title = next(iter(PEERS)), f"{size_mb:.0f} MB of float32 segments, page cache warm"
    bars = [Bar(row=name, against=base, least=0.7) for name in STORES]
    for action in whole.values():
        action()
    record.table(f"Open and read one epoch, {title}", "MB/s", turns(whole, repeats), base, bars)

    peers = {name: Mapped(folder, kind) for name, kind in PEERS.items()}
    opened = {name: read_store(uri, memory_gib) for name, memory_gib in STORES.items()}
    assert [len(features.mapped_files) for features in opened.values()] == [0, len(MODALITIES)]
    epoch = {name: partial(rate, partial(batches_of_peer, peer)) for name, peer in peers.items()}
    epoch |= {name: partial(rate, partial(batches_of_store, features)) for name, features in opened.items()}
    for action in epoch.values():
        action()
    record.table(f"An epoch of batches of what is open, {title}", "MB/s", turns(epoch, repeats), base, bars)


def main() -> None:
    """Compare writing, then reading."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=2100)
    parser.add_argument(
        "--dims", type=int, nargs=2, default=(120, 512), help="widths of audio and text features"
    )
    parser.add_argument("--repeats", type=int, default=3)
    settings = parser.parse_args()
    record = Record("features")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        uri = compare_write(folder, settings.documents, settings.dims, settings.repeats, record)
        compare_read(uri, folder / "flat", settings.repeats, record)


if __name__ == "__main__":
    main()
