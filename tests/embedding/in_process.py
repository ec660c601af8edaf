"""Embedding in this process, without Ray: what the tests of `embedding` share."""

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from hilbert_ray.config import Config, EmbedConfig, Modality
from hilbert_ray.document.records import AudioSegment, Segment
from hilbert_ray.embedding.worker import EmbedUnits, configured_encoder
from hilbert_ray.store.contents import Content
from hilbert_ray.store.features import Commit, FeatureRow
from hilbert_ray.store.snapshot import StoredDocument
from hilbert_ray.store.sorting import write_snapshot
from hilbert_ray.store.store import Store, reads_turns
from hilbert_ray.units.plan import (
    Job,
    Unit,
    plan_jobs,
    versioned_rows,
)

MODALITIES: tuple[Modality, Modality] = ("audio", "text")


CONFIG = Config(embed=EmbedConfig(buckets=4, unit_s=6.0, workers=2))


def planned(manifest: str, store: Store, config: Config = CONFIG) -> tuple[int, dict[Modality, list[Unit]]]:
    """Plan a manifest as `embed` does; return the snapshot's number and the units of each modality."""
    snapshot = write_snapshot(
        store, versioned_rows(manifest, config.embed.content_hash), config.segment.roles
    )
    units: dict[Modality, list[Unit]] = {}
    for modality in MODALITIES:
        encoder = configured_encoder(config, modality)
        store.add_encoder(modality, encoder.fingerprint, encoder.describe())
        by_turns = reads_turns(modality, encoder.describe())
        job = Job(content=modality, fingerprint=encoder.fingerprint, reads_turns=by_turns)
        [buckets] = snapshot.blocks()
        [plan] = plan_jobs(store, snapshot, [job], buckets, config.embed.unit_s, False)
        units[modality] = list(plan.units)
    return snapshot.number, units


def worker_of(store: Store, number: int, config: Config = CONFIG) -> EmbedUnits:
    """Return an encoder actor as Ray makes it, in this process."""
    fingerprints: dict[Content, str] = {
        modality: configured_encoder(config, modality).fingerprint for modality in MODALITIES
    }
    return EmbedUnits(store, number, config, fingerprints)


def embed_one(worker: EmbedUnits, unit: Unit) -> Commit:
    [(done, commit)] = worker.run([unit])
    assert done == unit
    return commit


def embed_here(manifest: str, store: Store, config: Config = CONFIG) -> None:
    """Do all of a manifest's units in this process, without Ray."""
    number, units = planned(manifest, store, config)
    for _ in worker_of(store, number, config).run([*units["audio"], *units["text"]]):
        pass


def rows_of(uri: str) -> dict[tuple[Modality, str], FeatureRow]:
    """Return all that readers see of a store, each row once."""
    store = Store.open(uri)
    rows = [
        ((modality, row.doc_id), row)
        for modality in MODALITIES
        for fingerprint in store.encoders(modality)
        for row in store.read(modality, fingerprint)
    ]
    assert len(rows) == len(dict(rows)), "a document is stored twice"
    return dict(rows)


def assert_same_rows(
    found: dict[tuple[Modality, str], FeatureRow], expected: dict[tuple[Modality, str], FeatureRow]
) -> None:
    """Check that two stores hold the same rows, features to the last bit."""
    assert sorted(found) == sorted(expected)
    for key, row in expected.items():
        np.testing.assert_array_equal(found[key].features, row.features, err_msg=str(key))
        np.testing.assert_array_equal(found[key].start, row.start)
        np.testing.assert_array_equal(found[key].end, row.end)
        assert (found[key].source, found[key].seen, found[key].timed) == (row.source, row.seen, row.timed)


def stored_of(manifest: str) -> list[StoredDocument]:
    """Return a manifest's documents with the versions of their files, by row."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(folder, 1)
        write_snapshot(store, versioned_rows(manifest, content_hash=False))
        return sorted(store.snapshot().documents(), key=lambda entry: entry.row)


class PlainEncoder:
    """An encoder whose feature is a segment's mean and length; `fail` makes it refuse a loud segment."""

    modality: Modality = "audio"
    dim = 2
    fingerprint = "plain"
    name = "plain"
    rate_hz = 16000
    fill = 0
    max_tokens: int | None = None

    def __init__(self, fail: str = "") -> None:
        self.fail = fail
        self.batches: list[int] = []

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "dim": self.dim}

    def encode(self, segments: Sequence[Segment]) -> np.ndarray:
        assert all(isinstance(one, AudioSegment) for one in segments)
        self.batches.append(len(segments))
        samples = [one.samples for one in segments if isinstance(one, AudioSegment)]
        loud = np.array([np.abs(one).max() > 0.9 for one in samples])
        if self.fail == "raise" and loud.any():
            raise RuntimeError("too loud")
        features = np.array([[one.mean(), len(one) / 16000] for one in samples], np.float32)
        if self.fail in ("nan", "large"):
            features[loud] = np.nan if self.fail == "nan" else 1e6
        return features[:, :1] if self.fail == "shape" else features

    def rehearse(self) -> None:
        """Load without fault."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def split(self, text: str, limit: int) -> list[str]:
        words = text.split()
        return [" ".join(words[i : i + limit]) for i in range(0, len(words), limit)]
