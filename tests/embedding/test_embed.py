"""Embedding: nothing lost, nothing twice, whatever dies; and the numbers of a plain run."""

import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import ray
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray import segmentation as segment
from hilbert_ray.config import Config, EmbedConfig, EncoderConfig, Modality, SegmentConfig
from hilbert_ray.document.manifest import read_manifest
from hilbert_ray.document.records import AudioSegment, Document, Segment
from hilbert_ray.embedding import worker as working
from hilbert_ray.embedding.driver import embed
from hilbert_ray.embedding.features import _covered, embed_documents
from hilbert_ray.embedding.plan import (
    ABSENT,
    EncodingJob,
    Unit,
    _cut,
    plan_job,
    single_document_units,
    version_or_absent,
    versioned_rows,
)
from hilbert_ray.embedding.pool import TooManyQuarantinedError, pool
from hilbert_ray.embedding.reading import draw_ahead
from hilbert_ray.embedding.resolve import EmbedError, resolve_encoders
from hilbert_ray.embedding.worker import DEATHS, EmbedUnits, UnitResult, configured_encoder
from hilbert_ray.segmentation.audio import audio_segments
from hilbert_ray.store.features import Commit, FeatureRow
from hilbert_ray.store.snapshot import StoredDocument
from hilbert_ray.store.store import Store, reads_turns
from tests import fatal, make, models
from tests.faulty import Request, faulty_object_store

MODALITIES: tuple[Modality, Modality] = ("audio", "text")
CONFIG = Config(embed=EmbedConfig(buckets=4, unit_s=6.0, workers=2))


def planned(manifest: str, store: Store, config: Config = CONFIG) -> tuple[int, dict[Modality, list[Unit]]]:
    """Plan a manifest as `embed` does; return the snapshot's number and the units of each modality."""
    snapshot = store.write_documents(
        versioned_rows(manifest, config.embed.content_hash), config.segment.roles
    )
    units: dict[Modality, list[Unit]] = {}
    for modality in MODALITIES:
        encoder = configured_encoder(config, modality)
        store.add_encoder(modality, encoder.fingerprint, encoder.describe())
        by_turns = reads_turns(modality, encoder.describe())
        job = EncodingJob(modality=modality, fingerprint=encoder.fingerprint, reads_turns=by_turns)
        [buckets] = snapshot.blocks()
        units[modality] = list(plan_job(store, snapshot, job, buckets, config.embed.unit_s, False).units)
    return snapshot.number, units


def worker_of(store: Store, number: int, config: Config = CONFIG) -> EmbedUnits:
    """Return an encoder actor as Ray makes it, in this process."""
    fingerprints = {modality: configured_encoder(config, modality).fingerprint for modality in MODALITIES}
    return EmbedUnits(store, number, config, fingerprints)


def embed_one(worker: EmbedUnits, unit: Unit) -> Commit:
    [(done, commit)] = worker.embed([unit])
    assert done == unit
    return commit


def embed_here(manifest: str, store: Store, config: Config = CONFIG) -> None:
    """Do all of a manifest's units in this process, without Ray."""
    number, units = planned(manifest, store, config)
    for _ in worker_of(store, number, config).embed([*units["audio"], *units["text"]]):
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
        store.write_documents(versioned_rows(manifest, content_hash=False))
        return sorted(store.stored_documents(), key=lambda item: item.row)


class Plain:
    """An encoder whose feature is a segment's mean and length; `fail` makes it refuse a loud segment."""

    modality: Modality = "audio"
    dim = 2
    fingerprint = "plain"
    name = "plain"
    rate_hz = 16000
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

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def split(self, text: str, limit: int) -> list[str]:
        words = text.split()
        return [" ".join(words[i : i + limit]) for i in range(0, len(words), limit)]


# Planning


@given(
    st.lists(st.floats(0.0, 100.0), min_size=1, max_size=30),
    st.floats(1.0, 50.0),
)
def test_units_hold_every_document_once_in_order_and_are_bounded(weights: list[float], unit_s: float) -> None:
    items = [((f"d{i:02d}", "s"), seconds) for i, seconds in enumerate(weights)]
    units = list(_cut(items, unit_s))
    assert [key for keys, _ in units for key in keys] == [key for key, _ in items]
    weight = dict(items)
    for keys, seconds in units:
        assert seconds == pytest.approx(sum(weight[key] for key in keys))
        assert seconds <= unit_s or len(keys) == 1


def test_a_plan_depends_on_the_pending_documents_alone(tmp_path: Path) -> None:
    manifest = make.corpus(tmp_path, 12)
    one, other = Store.create(str(tmp_path / "one"), 2), Store.create(str(tmp_path / "other"), 2)
    _, units = planned(manifest, one)
    _, again = planned(manifest, other)
    assert units == again
    assert sorted(key[0] for unit in units["audio"] for key in unit.keys) == [f"d{i:03d}" for i in range(12)]
    assert all(unit.seconds == pytest.approx(2.0 * len(unit.keys)) for unit in units["audio"])
    assert max(len(unit.keys) for unit in units["audio"]) == 3
    assert 6.0 < max(unit.seconds for unit in units["text"]) <= 8 * 6.0, "a unit of text is of more speech"
    assert [Unit.from_json(unit.to_json()) for unit in units["audio"]] == units["audio"]


def test_a_document_with_a_missing_file_is_planned_and_changes_when_the_file_appears(tmp_path: Path) -> None:
    manifest = make.manifest(tmp_path / "m.jsonl", [{"doc_id": "a", "audio": "a.wav", "text_file": "a.txt"}])
    [before] = stored_of(manifest)
    assert (before.audio_version, before.text_version) == (ABSENT, ABSENT)
    make.tone(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_text("hello")
    [after] = stored_of(manifest)
    for modality in MODALITIES:
        assert after.source(modality) != before.source(modality)


def test_a_snapshot_made_by_many_processes_is_that_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [make.record(tmp_path, i % 3, doc_id=f"d{i:02d}", labels={"b": i, "a": "x"}) for i in range(40)]
    records[4] = {"doc_id": "d05", "text": "shared"}
    records[7] = {"doc_id": "d07"}
    manifest = make.manifest(tmp_path / "m.jsonl", records)
    one, other = Store.create(str(tmp_path / "one"), 4), Store.create(str(tmp_path / "other"), 4)
    plain = one.write_documents(versioned_rows(manifest, content_hash=False))
    assert [fault.row for fault in plain.faults] == [5, 6, 8]
    monkeypatch.setattr("hilbert_ray.document.manifest._BLOCK_BYTES", 2000)
    monkeypatch.setattr("hilbert_ray.store.documents._RUN_BYTES", 3000)
    assert other.write_documents(versioned_rows(manifest, content_hash=False)) == plain
    assert one.files.read(plain.file) == other.files.read(plain.file)


def test_objects_are_planned_from_listings_with_the_versions_that_workers_will_find(
    tmp_path: Path, object_store: str
) -> None:
    import fsspec

    place = f"{object_store}/{tmp_path.name}"
    content = {f"{place}/audio/{i:02d}.wav": b"%d" % i for i in range(60)}
    content.update({f"{place}/text/{i:02d}.txt": b"t%d" % i for i in range(59)})
    fsspec.filesystem("s3").pipe(content)
    rows = [
        {"doc_id": f"d{i}", "audio": f"audio/{i:02d}.wav", "text_file": f"text/{i:02d}.txt"}
        for i in range(60)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    fsspec.filesystem("s3").pipe(f"{place}/m.jsonl", lines.encode())
    requests: Counter[str] = Counter()

    def count(request: Request) -> None:
        requests["list" if "list-type=2" in request.path else request.method] += 1

    store = Store.create(str(tmp_path / "store"), 4)
    with faulty_object_store(count):
        snapshot = store.write_documents(versioned_rows(f"{place}/m.jsonl", content_hash=False))
    assert requests["list"] <= 3
    assert requests["HEAD"] <= 3
    found = {item.document.doc_id: item for item in store.stored_documents(snapshot)}
    assert found["d59"].text_version == ABSENT
    assert len({item.audio_version for item in found.values()}) == 60
    for item in found.values():
        assert item.audio_version == version_or_absent(item.document.audio or "", False)
        assert item.text_version == version_or_absent(item.document.text_file or "", False)


def test_a_unit_tried_alone_has_an_id_that_does_not_depend_on_its_neighbours() -> None:
    keys = (("a", "1"), ("b", "2"))
    both = Unit(modality="audio", fingerprint="f", bucket=1, unit_id="u", keys=keys, seconds=1.0)
    one = replace(both, unit_id="v", keys=(("a", "1"),))
    assert single_document_units(both)[0].unit_id == single_document_units(one)[0].unit_id
    assert [unit.keys for unit in single_document_units(both)] == [keys[:1], keys[1:]]
    assert (
        single_document_units(replace(one, earlier=("w",)))[0].unit_id
        != single_document_units(one)[0].unit_id
    )


# One worker


def test_stored_features_are_those_of_the_plain_encoder(tmp_path: Path) -> None:
    manifest = make.corpus(tmp_path, 5, seconds=23.0)
    store = Store.create(str(tmp_path / "store"), 2)
    embed_here(manifest, store)
    found = rows_of(store.uri)
    assert len(found) == 10
    for _, document in read_manifest(manifest):
        assert isinstance(document, Document)
        assert document.audio is not None
        samples, _ = soundfile.read(document.audio, dtype="float32")
        windows = [
            AudioSegment(
                start=s, end=min(s + 10.0, 23.0), samples=samples[int(s * 16000) : int((s + 10) * 16000)]
            )
            for s in (0.0, 10.0, 20.0)
        ]
        row = found["audio", document.doc_id]
        expected = configured_encoder(CONFIG, "audio").encode(windows)
        np.testing.assert_allclose(row.features.astype(np.float32), expected, rtol=2e-3, atol=1e-3)
        assert row.start.tolist() == [0.0, 10.0, 20.0]
        assert row.end.tolist() == [10.0, 20.0, 23.0]
        assert row.seen == row.present == pytest.approx(23.0)
        texts = found["text", document.doc_id]
        assert texts.seen == texts.present > 0
        assert texts.timed
        assert texts.end[-1] == pytest.approx(23.0)


def test_only_the_kept_speakers_are_embedded_and_going_back_to_all_needs_nothing(tmp_path: Path) -> None:
    manifest = make.corpus(tmp_path, 3, seconds=8.0)
    store = Store.create(str(tmp_path / "store"), 2)
    embed_here(manifest, store)
    everyone = rows_of(store.uri)
    one_role = replace(CONFIG, segment=SegmentConfig(roles=("participant",)))
    _, units = planned(manifest, store, one_role)
    assert {modality: sum(len(unit.keys) for unit in units[modality]) for modality in MODALITIES} == {
        "audio": 3,
        "text": 3,
    }
    embed_here(manifest, store, one_role)
    kept = rows_of(store.uri)
    for key, row in kept.items():
        assert row.start.tolist() == [2.0, 6.0]
        assert row.end.tolist() == [4.0, 8.0]
        assert row.seen == row.present < everyone[key].present
    assert kept["audio", "d000"].seen == pytest.approx(4.0)
    _, units = planned(manifest, store)
    assert units == {"audio": [], "text": []}
    assert_same_rows(rows_of(store.uri), everyone)


def test_audio_cut_by_turns_is_done_again_when_a_turn_moves_and_windows_are_not(tmp_path: Path) -> None:
    records = [make.record(tmp_path, number, seconds=8.0) for number in range(3)]
    manifest = make.manifest(tmp_path / "m.jsonl", records)
    by_turns = replace(CONFIG, segment=SegmentConfig(audio="turns"))
    store = Store.create(str(tmp_path / "store"), 2)
    for config in (CONFIG, by_turns):
        embed_here(manifest, store, config)
    assert len(store.encoders("audio")) == 2
    records[1]["text"][0]["end"] = 1.0
    make.manifest(tmp_path / "m.jsonl", records)
    _, units = planned(manifest, store)
    assert units["audio"] == []
    _, units = planned(manifest, store, by_turns)
    assert [doc_id for unit in units["audio"] for doc_id, _ in unit.keys] == ["d001"]
    embed_here(manifest, store, by_turns)
    fingerprint = configured_encoder(by_turns, "audio").fingerprint
    rows = {row.doc_id: row for row in store.read("audio", fingerprint)}
    assert rows["d001"].end.tolist() == [1.0, 4.0, 6.0, 8.0]
    assert rows["d001"].seen == pytest.approx(7.0)
    assert rows["d000"].seen == pytest.approx(8.0)


def test_a_unit_done_twice_gives_the_same_bytes_and_one_commit(tmp_path: Path) -> None:
    manifest = make.corpus(tmp_path, 4)
    one, other = Store.create(str(tmp_path / "one"), 1), Store.create(str(tmp_path / "other"), 1)
    for store in (one, one, other):
        embed_here(manifest, store)
    files = [name for name in one.files.names("features") if "/data/" in name]
    assert files == [name for name in other.files.names("features") if "/data/" in name] != []
    for name in files:
        assert one.files.read(name) == other.files.read(name)
    assert list(one.verify()) == []


def test_two_runs_over_one_store_at_once_store_each_document_once(tmp_path: Path) -> None:
    """Both planned before either wrote, with other units: the rows of one, or of the other, never of both."""
    manifest = make.corpus(tmp_path, 10)
    store = Store.create(str(tmp_path / "store"), 2)
    plans = [planned(manifest, store, Config(embed=replace(CONFIG.embed, unit_s=s))) for s in (4.0, 4.0, 9.0)]
    workers = [worker_of(store, number) for number, _ in plans]

    def work(worker: EmbedUnits, units: Sequence[Unit]) -> None:
        assert [unit for unit, _ in worker.embed(units)] == units

    threads = [
        threading.Thread(target=work, args=(worker, [*units["audio"], *units["text"]]))
        for worker, (_, units) in zip(workers, plans, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plain = Store.create(str(tmp_path / "plain"), 2)
    embed_here(manifest, plain)
    assert_same_rows(rows_of(store.uri), rows_of(plain.uri))
    assert list(store.verify()) == []


def test_a_store_on_an_object_store_holds_the_rows_of_a_local_one(tmp_path: Path, object_store: str) -> None:
    """Audio and manifest are objects too, and half of the work is done by a second run."""
    import fsspec

    manifest = make.corpus(tmp_path, 6)
    uri = f"{object_store}/{tmp_path.name}"
    fsspec.filesystem("s3").put(f"{tmp_path}/", uri, recursive=True)
    remote, local = Store.create(f"{uri}/store", 2), Store.create(str(tmp_path / "store"), 2)
    number, units = planned(f"{uri}/manifest.jsonl", remote)
    for _ in worker_of(remote, number).embed(units["audio"][::2]):
        pass
    _, left = planned(f"{uri}/manifest.jsonl", remote)
    assert 0 < len(left["audio"]) < len(units["audio"])
    embed_here(f"{uri}/manifest.jsonl", remote)
    embed_here(manifest, local)
    found, expected = rows_of(remote.uri), rows_of(local.uri)
    assert sorted(found) == sorted(expected)
    for key, row in expected.items():
        np.testing.assert_array_equal(found[key].features, row.features)
    assert list(remote.verify()) == []


def loud(folder: Path, name: str, seconds: float = 2.0) -> dict[str, Any]:
    """Return a manifest row with audio that `Plain` may refuse."""
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / f"{name}.wav", np.full(round(seconds * 16000), 0.95, np.float32), 16000)
    return {"doc_id": name, "audio": f"{name}.wav"}


@pytest.mark.parametrize(
    ("fail", "stage", "error", "message"),
    [
        ("raise", "encode", "RuntimeError", "too loud"),
        (
            "nan",
            "check",
            "FeatureError",
            "the features of segment 0 (0.00 to 2.00 s) are not finite or beyond 65504",
        ),
        (
            "large",
            "check",
            "FeatureError",
            "the features of segment 0 (0.00 to 2.00 s) are not finite or beyond 65504",
        ),
    ],
)
def test_a_document_that_the_encoder_fails_on_is_filed_and_its_neighbours_are_stored(
    tmp_path: Path, fail: str, stage: str, error: str, message: str
) -> None:
    records = [make.record(tmp_path, 0), loud(tmp_path, "d000x"), make.record(tmp_path, 1)]
    items = stored_of(make.manifest(tmp_path / "m.jsonl", records))
    rows, [failure] = embed_documents(items, ["k0", "k1", "k2"], "audio", Plain(fail), CONFIG)
    assert [row.doc_id for row in rows] == ["d000", "d001"]
    assert (failure.doc_id, failure.key, failure.stage, failure.error) == ("d000x", "k1", stage, error)
    assert message in failure.message
    expected, none = embed_documents([items[0], items[2]], ["k0", "k2"], "audio", Plain(), CONFIG)
    assert not none
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(row.features, other.features)


def test_features_of_the_wrong_shape_are_refused(tmp_path: Path) -> None:
    items = stored_of(make.corpus(tmp_path, 1))
    _, [failure] = embed_documents(items, ["k"], "audio", Plain("shape"), CONFIG)
    assert failure.message == "encoder plain gave features of shape (1, 1) for 1 segments; it must be (1, 2)"


def test_batches_are_bounded_and_do_not_depend_on_how_fast_anything_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "_BATCH_S", 40.0)
    items = stored_of(make.corpus(tmp_path, 3, seconds=33.0))
    encoder = Plain()
    rows, _ = embed_documents(items, ["k"] * 3, "audio", encoder, CONFIG)
    assert encoder.batches == [5, 5, 2]
    assert [len(row.features) for row in rows] == [4, 4, 4]


def test_a_file_replaced_after_planning_fails_with_that_reason(tmp_path: Path) -> None:
    records = [make.record(tmp_path, 0), make.record(tmp_path, 1, text=None, text_file="t.txt")]
    (tmp_path / "t.txt").write_text("before")
    items = stored_of(make.manifest(tmp_path / "m.jsonl", records))
    make.tone(tmp_path / "d000.wav", seconds=3.0)
    (tmp_path / "t.txt").write_text("after it changed")
    rows, [failure] = embed_documents(items, ["k0", "k1"], "audio", Plain(), CONFIG)
    assert [row.doc_id for row in rows] == ["d001"]
    assert failure.error == "ChangedError"
    assert f"d000.wav was version {items[0].audio_version} when the run was planned and is" in failure.message
    _, [failure] = embed_documents(items, ["k0", "k1"], "text", configured_encoder(CONFIG, "text"), CONFIG)
    assert (failure.doc_id, failure.error) == ("d001", "ChangedError")


def test_a_document_in_which_no_speaker_is_kept_says_so(tmp_path: Path) -> None:
    items = stored_of(make.corpus(tmp_path, 1))
    config = replace(CONFIG, segment=SegmentConfig(roles=("judge",)))
    for modality in MODALITIES:
        _, [failure] = embed_documents(items, ["k"], modality, configured_encoder(config, modality), config)
        assert "judge" in failure.message or "no audio left to embed" in failure.message
        assert "d000" in failure.message


def test_segments_that_lose_the_tail_or_overlap_unseen_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = stored_of(make.corpus(tmp_path, 1, seconds=25.0))
    plain = audio_segments

    def without_tail(*arguments: Any) -> Iterator[AudioSegment]:  # noqa: ANN401
        yield from list(plain(*arguments))[:-1]

    monkeypatch.setattr(segment, "audio_segments", without_tail)
    _, [failure] = embed_documents(items, ["k"], "audio", Plain(), CONFIG)
    assert failure.error == "TruncatedError"
    assert "segments cover 20.000 of 25.000 seconds of audio; nothing may be cut off" in failure.message


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), max_size=8))
def test_stretches_that_overlap_count_once(spans: list[tuple[int, int]]) -> None:
    expected = len({second for start, length in spans for second in range(start, start + length)})
    assert _covered([(start, start + length) for start, length in spans]) == expected


def test_reading_ahead_is_bounded_keeps_the_order_and_stops_when_nobody_reads() -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for i in range(1000):
            drawn.append(i)
            yield i

    ahead = draw_ahead(items(), 4)
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    deadline = time.monotonic() + 5
    while len(drawn) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(drawn) <= 3 + 4 + 2
    ahead.close()
    assert list(draw_ahead(iter(range(50)), 4)) == list(range(50))


def test_a_fault_of_the_reader_itself_reaches_the_caller() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(draw_ahead(items(), 4))


def test_a_document_that_took_three_workers_with_it_is_suspected_until_a_retry(
    tmp_path: Path,
) -> None:
    manifest = make.corpus(tmp_path, 1)
    store = Store.create(str(tmp_path / "store"), 1)
    number, units = planned(manifest, store)
    [unit] = single_document_units(units["audio"][0])
    worker = worker_of(store, number)
    for _ in range(DEATHS):
        store.note_attempt(unit.modality, unit.fingerprint, unit.bucket, unit.unit_id)
    commit = embed_one(worker, unit)
    assert commit.file is None
    [failure] = commit.quarantined
    assert (failure.stage, failure.error) == ("worker", "suspected")
    assert "document 'd000' was alone in progress when its worker died, 3 times; look at" in failure.message
    [buckets] = store.snapshot().blocks()
    job = EncodingJob(modality="audio", fingerprint=unit.fingerprint, reads_turns=False)
    assert plan_job(store, store.snapshot(), job, buckets, 6.0, False).quarantined == 1
    [again] = plan_job(store, store.snapshot(), job, buckets, 6.0, True).units
    assert again.earlier == (unit.unit_id,)
    embed_one(worker, again)
    assert store.quarantined("audio", unit.fingerprint) == []
    assert ("audio", "d000") in rows_of(store.uri)


def test_two_deaths_do_not_make_a_suspect(tmp_path: Path) -> None:
    manifest = make.corpus(tmp_path, 1)
    store = Store.create(str(tmp_path / "store"), 1)
    number, units = planned(manifest, store)
    [unit] = single_document_units(units["audio"][0])
    for _ in range(DEATHS - 1):
        store.note_attempt(unit.modality, unit.fingerprint, unit.bucket, unit.unit_id)
    assert len(embed_one(worker_of(store, number), unit).stored) == 1
    assert [name for name in store.files.names("features") if "/attempts/" in name] == []


# Whole runs


def broken_corpus(folder: Path) -> tuple[str, dict[str, str]]:
    """Write a manifest of six good and of broken documents; return it and what each reason must mention."""
    records = [make.record(folder, number) for number in range(6)]
    make.tone(folder / "whole.flac", seconds=5.0)
    data = (folder / "whole.flac").read_bytes()
    (folder / "truncated.flac").write_bytes(data[: len(data) // 2])
    (folder / "words.wav").write_text("these are words, not audio")
    slow = bytearray(make.tone(folder / "slow.wav").read_bytes())
    slow[24:28] = (1).to_bytes(4, "little")
    (folder / "slow.wav").write_bytes(bytes(slow))
    records += [
        {"doc_id": "truncated", "audio": "truncated.flac"},
        {"doc_id": "words", "audio": "words.wav"},
        {"doc_id": "missing", "audio": "nowhere.wav"},
        {"doc_id": "slow", "audio": "slow.wav"},
        {"doc_id": "untold", "audio": "whole.flac", "text_file": "nowhere.txt"},
        {"doc_id": "d000", "text": "this id is used twice"},
        {"doc_id": "empty"},
        {"doc_id": "silent", "text": "only words here"},
    ]
    reasons = {
        "truncated": "truncated.flac",
        "words": "words.wav",
        "missing": "nowhere.wav",
        "slow": "1 Hz",
        "untold": "nowhere.txt",
    }
    return make.manifest(folder / "manifest.jsonl", records), reasons


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_gpus_that_a_cluster_does_not_have_yet_are_asked_for_by_number_only() -> None:
    wanted = Config(embed=EmbedConfig(gpu="yes", workers=3, gpus_per_worker=0.5))
    assert pool(wanted, 10) == (3, {"num_gpus": 0.5})
    assert pool(wanted, 2) == (2, {"num_gpus": 0.5})
    unsaid = Config(embed=EmbedConfig(gpu="yes"))
    with pytest.raises(
        EmbedError, match=r"embed.workers is 0 and the cluster has 0 GPUs now; set embed.work"
    ):
        pool(unsaid, 10)
    assert set(pool(Config(embed=EmbedConfig(workers=3)), 10)[1]) == {"num_cpus"}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_every_document_is_stored_or_quarantined_and_later_runs_do_what_changed(
    tmp_path: Path,
) -> None:
    manifest, reasons = broken_corpus(tmp_path)
    store = str(tmp_path / "store")
    summary = embed(manifest, store, replace(CONFIG, embed=replace(CONFIG.embed, max_quarantined=1.0)))
    sound, words = summary.modalities["audio"], summary.modalities["text"]
    assert (summary.documents, len(summary.faults)) == (11, 3)
    assert sorted(fault.doc_id for fault in summary.faults) == ["d000", "d000", "empty"]
    assert (sound.planned, sound.embedded, sound.absent, len(sound.quarantined)) == (10, 6, 1, 4)
    assert (words.planned, words.embedded, words.absent, len(words.quarantined)) == (7, 6, 4, 1)
    assert sound.planned + sound.absent == words.planned + words.absent == summary.documents
    failures = {failure.doc_id: failure for failure in (*sound.quarantined, *words.quarantined)}
    assert sorted(failures) == sorted(reasons)
    for doc_id, mentioned in reasons.items():
        assert mentioned in failures[doc_id].message
        assert failures[doc_id].message in summary.text()
    assert sound.amount == pytest.approx((5 * 2.0 + 5.0) / 3600)
    assert len(rows_of(store)) == 12
    assert list(Store.open(store).verify()) == []

    began = time.monotonic()
    again = embed(manifest, store, CONFIG)
    assert time.monotonic() - began < 3
    assert again.embedded == 0
    assert again.modalities["audio"].already_stored == 6
    assert again.modalities["audio"].quarantined == sound.quarantined
    assert "nothing to embed" in again.text()

    before = rows_of(store)
    make.tone(tmp_path / "d001.wav", seconds=3.0, seed=99)
    make.tone(tmp_path / "nowhere.wav")
    records = [json.loads(line) for line in Path(manifest).read_text().splitlines()]
    records[2]["text"][0]["text"] = "something else was said"
    make.manifest(Path(manifest), [record for record in records if record["doc_id"] != "d005"])
    third = embed(manifest, store, CONFIG)
    assert (third.modalities["audio"].planned, third.modalities["audio"].embedded) == (2, 2)
    assert (third.modalities["text"].planned, third.modalities["text"].embedded) == (1, 1)
    after = rows_of(store)
    assert set(after) == {*before, ("audio", "missing")} - {("audio", "d005"), ("text", "d005")}
    changed = [key for key in set(after) & set(before) if after[key].source != before[key].source]
    assert sorted(changed) == [("audio", "d001"), ("text", "d002")]
    assert after["audio", "d001"].seen == pytest.approx(3.0)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_too_many_failures_stop_the_run_and_what_is_committed_stays(tmp_path: Path) -> None:
    records = [make.record(tmp_path, number, text=None) for number in range(3)]
    for number in range(60):
        (tmp_path / f"b{number}.wav").write_text("no audio")
        records.append({"doc_id": f"b{number}", "audio": f"b{number}.wav"})
    manifest = make.manifest(tmp_path / "manifest.jsonl", records)
    config = replace(CONFIG, embed=replace(CONFIG.embed, unit_s=0.001, max_quarantined=0.3))
    with pytest.raises(
        TooManyQuarantinedError, match=r"of 63 planned documents failed, more than embed"
    ) as caught:
        embed(manifest, str(tmp_path / "store"), config)
    assert 20 <= int(str(caught.value).split()[0]) < 60
    store = Store.open(str(tmp_path / "store"))
    assert list(store.verify()) == []
    assert len(rows_of(store.uri)) == 3, "longest first: the good ones were done before the run stopped"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_document_that_kills_its_worker_is_quarantined_and_all_others_are_stored(tmp_path: Path) -> None:
    records = [make.record(tmp_path, number, text=None) for number in range(5)]
    records[2]["audio"] = f"fatal://{tmp_path}/d002.wav"
    fatal.arm(tmp_path, point="open", match="d002.wav", times=100)
    manifest = make.manifest(tmp_path / "manifest.jsonl", records)
    config = replace(CONFIG, embed=replace(CONFIG.embed, buckets=1, unit_s=100.0, workers=1))
    summary = embed(manifest, str(tmp_path / "store"), config)
    sound = summary.modalities["audio"]
    assert (sound.planned, sound.embedded) == (5, 4)
    [failure] = sound.quarantined
    assert (failure.doc_id, failure.stage, failure.error) == ("d002", "worker", "suspected")
    assert sorted(doc_id for _, doc_id in rows_of(str(tmp_path / "store"))) == [
        "d000",
        "d001",
        "d003",
        "d004",
    ]
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU", 0.0) < 4:
        assert time.monotonic() < deadline, "an actor outlived the run and keeps its CPU"
        time.sleep(0.2)


def test_a_manifest_without_any_valid_document_is_refused_before_ray_starts(tmp_path: Path) -> None:
    manifest = make.manifest(tmp_path / "m.jsonl", [{"doc_id": "a"}, {"doc_id": ""}])
    with pytest.raises(EmbedError, match=r"has no valid document \(2 rows are at fault\); `hilbert-"):
        embed(manifest, str(tmp_path / "store"), CONFIG)


def test_a_worker_whose_encoder_is_another_than_planned_ends_the_run(tmp_path: Path) -> None:
    """Other weights or versions on one node: nothing of them is stored."""
    manifest = make.corpus(tmp_path, 2)
    store = Store.create(str(tmp_path / "store"), 2)
    number, units = planned(manifest, store)
    worker = EmbedUnits(store, number, CONFIG, {"audio": "0123456789abcdef"})
    [batch] = worker({"unit": np.array([unit.to_json() for unit in units["audio"]])})
    [result] = [UnitResult.from_json(text) for text in batch["result"]]
    assert result.fault is not None
    assert f"audio encoder mfcc has fingerprint {units['audio'][0].fingerprint} on node" in result.fault
    assert "but the run was planned with 0123456789abcdef; features of both must not mix" in result.fault
    assert rows_of(store.uri) == {}


@pytest.mark.parametrize(
    ("modality", "encoder", "library"),
    [("audio", "mfcc", "torchaudio"), ("text", "hashing", "sklearn.feature_extraction.text")],
)
def test_a_library_that_a_node_cannot_load_ends_the_run_and_is_no_documents_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modality: Modality, encoder: str, library: str
) -> None:
    manifest = make.corpus(tmp_path, 2)
    store = Store.create(str(tmp_path / "store"), 2)
    number, units = planned(manifest, store)
    monkeypatch.setitem(sys.modules, library, None)  # importing it raises ImportError
    worker = EmbedUnits(store, number, CONFIG, {modality: units[modality][0].fingerprint})
    [batch] = worker({"unit": np.array([unit.to_json() for unit in units[modality]])})
    [result] = [UnitResult.from_json(text) for text in batch["result"]]
    assert result.fault is not None
    assert f"{modality} encoder {encoder} cannot load what it computes with on node" in result.fault
    assert "`hilbert-ray doctor` there checks the libraries" in result.fault
    assert result.quarantined == ()
    assert rows_of(store.uri) == {}


def test_weights_that_do_not_load_end_the_run_and_are_no_documents_fault(tmp_path: Path) -> None:
    config = replace(CONFIG, text=models.made("bert", tmp_path / "bert"))
    weights = tmp_path / "bert" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    store = Store.create(str(tmp_path / "store"), 2)
    number, units = planned(make.corpus(tmp_path, 2), store, config)
    worker = EmbedUnits(store, number, config, {"text": units["text"][0].fingerprint})
    loaded: Any = worker.encoders["text"]
    assert "model" not in vars(loaded), "a death in the constructor is no try at a unit"
    [batch] = worker({"unit": np.array([unit.to_json() for unit in units["text"]])})
    [result] = [UnitResult.from_json(text) for text in batch["result"]]
    assert result.fault is not None
    assert f"text encoder {config.text} cannot load what it computes with on node" in result.fault
    assert f"(ConfigError: the weights of encoder {config.text} cannot be read: " in result.fault
    assert result.quarantined == ()
    assert rows_of(store.uri) == {}


def test_settings_are_settled_before_they_go_to_other_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "encoder").mkdir()
    monkeypatch.chdir(tmp_path)
    config = resolve_encoders(replace(CONFIG, text="hf:encoder"))
    assert config.text == f"hf:{tmp_path}/encoder"
    assert config.text_encoder.precision in ("bf16", "float32")
    assert config.audio_encoder.precision == "auto", "a built-in encoder has no precision to settle"
    exact = replace(CONFIG, text="hf:./encoder/", text_encoder=EncoderConfig(precision="float32"))
    assert resolve_encoders(exact).text_encoder.precision == "float32"


@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(1, 200_000),
    cut=st.sampled_from(["window", "turns", "pause"]),
    window=st.floats(0.05, 4.0),
    overlap=st.floats(0.1, 1.0),
    ends=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6),
    roles=st.sampled_from([(), ("participant",)]),
    data=st.data(),
)
def test_every_second_and_every_token_that_is_present_is_seen(
    samples: int,
    cut: Literal["window", "turns", "pause"],
    window: float,
    overlap: float,
    ends: list[float],
    roles: tuple[str, ...],
    data: st.DataObject,
) -> None:
    """Random recordings and transcripts, overlaps and tails included, through the whole of a unit's work."""
    duration = samples / 16000
    turns: list[dict[str, Any]] = []
    begin = 0.0
    for number, share in enumerate(ends):
        end = begin + share * (duration - begin)
        words = " ".join(data.draw(st.lists(st.sampled_from(make.SPEECH), min_size=1, max_size=3)))
        turns.append(
            {"text": words, "start": begin, "end": end, "role": ("participant", "other")[number % 2]}
        )
        begin = end
    config = Config(
        segment=SegmentConfig(
            audio=cut, window_s=window, hop_s=window * overlap, max_s=window, roles=roles, target_tokens=8
        )
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noise = 0.1 * np.random.default_rng(0).standard_normal(samples)
        soundfile.write(folder / "a.wav", noise.astype(np.float32), 16000, subtype="FLOAT")
        items = stored_of(
            make.manifest(folder / "m.jsonl", [{"doc_id": "a", "audio": "a.wav", "text": turns}])
        )
        [row], none = embed_documents(items, ["k"], "audio", Plain(), config)
        assert none == []
        kept = [turn for turn in turns if not roles or turn["role"] in roles]
        spoken = sum(turn["end"] - turn["start"] for turn in kept)
        wanted = spoken if cut == "turns" or roles else duration
        assert row.seen == row.present == pytest.approx(wanted, abs=(1 + len(turns)) / 16000)
        encoder = configured_encoder(config, "text")
        [row], none = embed_documents(items, ["k"], "text", encoder, config)
        assert none == []
        assert row.seen == row.present == sum(encoder.count_tokens([turn["text"] for turn in kept]))
