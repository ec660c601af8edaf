"""Decoding in Ray tasks: the same parts in the same order, bounded, whatever becomes of the tasks."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from hilbert_ray.config import SegmentConfig
from hilbert_ray.embedding.reading import PieceReader
from hilbert_ray.store.features import Quarantined
from hilbert_ray.store.store import Store
from hilbert_ray.units import remote_decoding
from hilbert_ray.units import worker as worker_module
from hilbert_ray.units.reading import DocumentEnd, DocumentProgress, read
from hilbert_ray.units.remote_decoding import BLOCK_S, BLOCKS_AHEAD, read_remotely
from tests import fatal, make
from tests.embedding.in_process import (
    CONFIG,
    assert_same_rows,
    embed_here,
    planned,
    rows_of,
    stored_of,
    worker_of,
)

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

READER = PieceReader(modality="audio", rate_hz=16000, fill=0, config=CONFIG)


def documents_of(folder: Path, records: list[dict[str, Any]]) -> list[DocumentProgress]:
    entries = stored_of(make.manifest(folder / "m.jsonl", records))
    return [DocumentProgress(unit=0, entry=entry, source=entry.document.doc_id) for entry in entries]


def assert_same_parts(found: Iterator[Any], expected: Iterator[Any]) -> None:
    """Check that two readings give equal parts of the same documents, sample by sample."""
    pairs = list(zip(found, expected, strict=True))
    assert any(isinstance(part, tuple) for (_, part), _ in pairs)
    for (document, part), (same, other) in pairs:
        assert document is same
        if isinstance(other, tuple):
            for mine, theirs in zip(part, other, strict=True):
                assert (mine.start, mine.end, mine.offset) == (theirs.start, theirs.end, theirs.offset)
                np.testing.assert_array_equal(mine.samples, theirs.samples)
                # One array for all of a fill arrives as one, or each segment would be computed by itself.
                assert mine.fill is part[0].fill
                np.testing.assert_array_equal(mine.fill, theirs.fill)
        else:
            assert part == other
            assert isinstance(part, DocumentEnd | Quarantined)


def test_tasks_give_the_parts_of_plain_reading_in_its_order(tmp_path: Path) -> None:
    """Long and short documents, one of them broken; several objects for the long ones."""
    records = [
        make.record(tmp_path, number, seconds) for number, seconds in enumerate((150.0, 2.0, 65.0, 0.5))
    ]
    (tmp_path / "words.wav").write_text("these are words, not audio")
    documents = documents_of(
        tmp_path, [*records[:2], {"doc_id": "words", "audio": "words.wav"}, *records[2:]]
    )
    for tasks in (1, 3):
        assert_same_parts(read_remotely(documents, READER, tasks), read(documents, READER))
    filling = replace(READER, fill=480_000)
    assert_same_parts(read_remotely(documents, filling, 2), read(documents, filling))
    turns = replace(READER, config=replace(CONFIG, segment=SegmentConfig(audio="turns")))
    assert_same_parts(read_remotely(documents, turns, 2), read(documents, turns))


def test_what_a_dying_task_did_not_send_is_read_by_the_actor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_decoding, "PATIENCE_S", 300.0)  # it starts, however late
    records = [make.record(tmp_path, number, 2.0) for number in range(3)]
    records[1]["audio"] = f"fatal://{tmp_path}/d001.wav"
    documents = documents_of(tmp_path, records)
    fatal.arm(tmp_path, point="open", match="d001.wav", times=100)
    assert_same_parts(read_remotely(documents, READER, 3), read(documents, READER))
    assert fatal.accidents(tmp_path) == 1, "the task did not die, or was tried again"


def test_an_actor_reads_by_itself_where_no_cpu_is_free_for_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hog:
        def here(self) -> bool:
            return True

    documents = documents_of(tmp_path, [make.record(tmp_path, number, 2.0) for number in range(2)])
    monkeypatch.setattr(remote_decoding, "PATIENCE_S", 0.3)
    hog = ray.remote(num_cpus=4)(Hog).remote()
    try:
        assert ray.get(hog.here.remote(), timeout=60)
        assert_same_parts(read_remotely(documents, READER, 2), read(documents, READER))
    finally:
        ray.kill(hog)


def test_tasks_wait_when_nobody_takes_what_they_decoded(tmp_path: Path) -> None:
    documents = documents_of(tmp_path, [make.record(tmp_path, 0, 1200.0)])
    before = object_store_mb()
    parts = read_remotely(documents, READER, 1)
    next(parts)  # and no more
    held = []
    for _ in range(6):
        time.sleep(0.5)
        held.append(object_store_mb() - before)
    block_mb = BLOCK_S * 16000 * 4 / 2**20
    assert 0 < max(held) < (BLOCKS_AHEAD + 2) * block_mb + 1


def object_store_mb() -> float:
    """Return what Ray's objects take of memory on this machine, MiB."""
    from ray._private.internal_api import memory_summary

    shown = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    found = re.search(r"Plasma memory usage (\d+) MiB", shown)
    return float(found.group(1)) if found else 0.0


def test_an_actor_that_waits_for_its_decoder_lets_tasks_decode_and_stores_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_MAX_WAITING", 0.0)
    monkeypatch.setattr(worker_module, "_MIN_MEASURED_S", 0.0)
    manifest = make.corpus(tmp_path, 12)
    store, plain = Store.create(str(tmp_path / "store"), 4), Store.create(str(tmp_path / "plain"), 4)
    config = replace(CONFIG, embed=replace(CONFIG.embed, decoders=3))
    number, units = planned(manifest, store, config)
    worker = worker_of(store, number, config)
    used = [worker.decoding_tasks]
    for unit in [*units["audio"], *units["text"]]:
        [_] = worker.run([unit])
        used.append(worker.decoding_tasks)
    assert used[:4] == [0, 1, 2, 3]
    assert max(used) == 3
    embed_here(manifest, plain, replace(CONFIG, embed=replace(CONFIG.embed, decoders=0)))
    assert_same_rows(rows_of(store.uri), rows_of(plain.uri))
