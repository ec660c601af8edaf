"""One encoder actor: nothing lost, nothing twice, and the numbers of the plain encoder."""

import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hilbert_ray.config import Config, Modality, SegmentConfig
from hilbert_ray.document.records import AudioSegment, Document
from hilbert_ray.embedding.worker import EmbedUnits, configured_encoder
from hilbert_ray.manifest import read_manifest
from hilbert_ray.store.maintenance import verify_store
from hilbert_ray.store.store import Store
from hilbert_ray.units.plan import (
    Job,
    Unit,
    plan_jobs,
    single_document_units,
)
from hilbert_ray.units.worker import MAX_DEATHS, UnitResult
from tests import make, models
from tests.embedding.in_process import (
    CONFIG,
    MODALITIES,
    assert_same_rows,
    embed_here,
    embed_one,
    planned,
    rows_of,
    worker_of,
)


@pytest.mark.parametrize("audio", ["mfcc", "mfcc+prosody"])
def test_stored_features_are_those_of_the_plain_encoder(audio: str, tmp_path: Path) -> None:
    config = replace(CONFIG, audio=audio)
    manifest = make.corpus(tmp_path, 5, seconds=23.0)
    store = Store.create(str(tmp_path / "store"), 2)
    embed_here(manifest, store, config)
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
        expected = configured_encoder(config, "audio").encode(windows)
        np.testing.assert_allclose(row.features.astype(np.float32), expected, rtol=2e-3, atol=1e-3)
        assert row.start.tolist() == [0.0, 10.0, 20.0]
        assert row.end.tolist() == [10.0, 20.0, 23.0]
        assert row.seen == row.present == pytest.approx(23.0)
        texts = found["text", document.doc_id]
        assert texts.seen == texts.present > 0
        assert texts.timed
        assert texts.end[-1] == pytest.approx(23.0)


def test_only_the_selected_speakers_are_embedded_and_going_back_to_all_needs_nothing(tmp_path: Path) -> None:
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
    assert list(verify_store(one)) == []


def test_two_runs_over_one_store_at_once_store_each_document_once(tmp_path: Path) -> None:
    """Both planned before either wrote, with other units: the rows of one, or of the other, never of both."""
    manifest = make.corpus(tmp_path, 10)
    store = Store.create(str(tmp_path / "store"), 2)
    plans = [planned(manifest, store, Config(embed=replace(CONFIG.embed, unit_s=s))) for s in (4.0, 4.0, 9.0)]
    workers = [worker_of(store, number) for number, _ in plans]

    def work(worker: EmbedUnits, units: Sequence[Unit]) -> None:
        assert [unit for unit, _ in worker.run(units)] == units

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
    assert list(verify_store(store)) == []


def test_a_store_on_an_object_store_holds_the_rows_of_a_local_one(tmp_path: Path, object_store: str) -> None:
    """Audio and manifest are objects too, and half of the work is done by a second run."""
    import fsspec

    manifest = make.corpus(tmp_path, 6)
    uri = f"{object_store}/{tmp_path.name}"
    fsspec.filesystem("s3").put(f"{tmp_path}/", uri, recursive=True)
    remote, local = Store.create(f"{uri}/store", 2), Store.create(str(tmp_path / "store"), 2)
    number, units = planned(f"{uri}/manifest.jsonl", remote)
    for _ in worker_of(remote, number).run(units["audio"][::2]):
        pass
    _, left = planned(f"{uri}/manifest.jsonl", remote)
    assert 0 < len(left["audio"]) < len(units["audio"])
    embed_here(f"{uri}/manifest.jsonl", remote)
    embed_here(manifest, local)
    found, expected = rows_of(remote.uri), rows_of(local.uri)
    assert sorted(found) == sorted(expected)
    for key, row in expected.items():
        np.testing.assert_array_equal(found[key].features, row.features)
    assert list(verify_store(remote)) == []


def test_a_document_that_took_three_workers_with_it_is_suspected_until_a_retry(
    tmp_path: Path,
) -> None:
    manifest = make.corpus(tmp_path, 1)
    store = Store.create(str(tmp_path / "store"), 1)
    number, units = planned(manifest, store)
    [unit] = single_document_units(units["audio"][0])
    worker = worker_of(store, number)
    for _ in range(MAX_DEATHS):
        store.note_attempt(unit.content, unit.fingerprint, unit.bucket, unit.unit_id)
    commit = embed_one(worker, unit)
    assert commit.file is None
    [failure] = commit.quarantined
    assert (failure.stage, failure.error) == ("worker", "suspected")
    assert "3 workers died while they embedded document 'd000' alone; look for the cause" in failure.message
    [buckets] = store.snapshot().blocks()
    job = Job(content="audio", fingerprint=unit.fingerprint, reads_turns=False)
    [plan] = plan_jobs(store, store.snapshot(), [job], buckets, 6.0, False)
    assert plan.quarantined == 1
    [plan] = plan_jobs(store, store.snapshot(), [job], buckets, 6.0, True)
    [again] = plan.units
    assert again.earlier == (unit.unit_id,)
    embed_one(worker, again)
    assert store.quarantined("audio", unit.fingerprint) == []
    assert ("audio", "d000") in rows_of(store.uri)


def test_two_deaths_do_not_make_a_suspect(tmp_path: Path) -> None:
    manifest = make.corpus(tmp_path, 1)
    store = Store.create(str(tmp_path / "store"), 1)
    number, units = planned(manifest, store)
    [unit] = single_document_units(units["audio"][0])
    for _ in range(MAX_DEATHS - 1):
        store.note_attempt(unit.content, unit.fingerprint, unit.bucket, unit.unit_id)
    assert len(embed_one(worker_of(store, number), unit).stored) == 1
    assert [name for name in store.files.names("features") if "/attempts/" in name] == []


def test_a_worker_whose_encoder_is_not_the_planned_one_ends_the_run(tmp_path: Path) -> None:
    """Other weights or versions on one node: nothing of them is stored."""
    manifest = make.corpus(tmp_path, 2)
    store = Store.create(str(tmp_path / "store"), 2)
    number, units = planned(manifest, store)
    worker = EmbedUnits(store, number, CONFIG, {"audio": "0123456789abcdef"})
    [batch] = worker({"unit": np.array([unit.to_json() for unit in units["audio"]])})
    [result] = [UnitResult.from_json(text) for text in batch["result"]]
    assert result.error is not None
    assert f"audio encoder mfcc has fingerprint {units['audio'][0].fingerprint} on node" in result.error
    assert "but the run was planned with 0123456789abcdef; features of both must not mix" in result.error
    assert rows_of(store.uri) == {}


@pytest.mark.parametrize(
    ("modality", "encoder", "library"),
    [("audio", "mfcc", "torchaudio"), ("text", "hashing", "sklearn.feature_extraction.text")],
)
def test_a_library_that_a_node_cannot_load_ends_the_run_and_quarantines_no_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modality: Modality, encoder: str, library: str
) -> None:
    manifest = make.corpus(tmp_path, 2)
    store = Store.create(str(tmp_path / "store"), 2)
    number, units = planned(manifest, store)
    monkeypatch.setitem(sys.modules, library, None)  # importing it raises ImportError
    worker = EmbedUnits(store, number, CONFIG, {modality: units[modality][0].fingerprint})
    [batch] = worker({"unit": np.array([unit.to_json() for unit in units[modality]])})
    [result] = [UnitResult.from_json(text) for text in batch["result"]]
    assert result.error is not None
    assert f"{modality} encoder {encoder} cannot load its libraries or weights on node" in result.error
    assert "`hilbert-ray doctor` on that node checks the libraries" in result.error
    assert result.quarantined == ()
    assert rows_of(store.uri) == {}


def test_weights_that_do_not_load_end_the_run_and_quarantine_no_document(tmp_path: Path) -> None:
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
    assert result.error is not None
    assert f"text encoder {config.text} cannot load its libraries or weights on node" in result.error
    assert f"(ConfigError: the weights of encoder {config.text} cannot be read: " in result.error
    assert result.quarantined == ()
    assert rows_of(store.uri) == {}
