"""Planning: what is left to embed, in units that depend on the pending documents alone."""

import hashlib
import json
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilbert_ray.config import Config, ConfigError, EncoderConfig
from hilbert_ray.embedding.resolve import jobs_of, resolve_encoders, warn_of_other_layer
from hilbert_ray.embedding.worker import configured_encoder
from hilbert_ray.features.dataset import open_dataset
from hilbert_ray.storage.files import Files
from hilbert_ray.store.features import Quarantined
from hilbert_ray.store.snapshot import bucket_of
from hilbert_ray.store.sorting import write_snapshot
from hilbert_ray.store.store import Store
from hilbert_ray.units.driver import plan_all
from hilbert_ray.units.plan import (
    ABSENT,
    Job,
    Unit,
    _group,
    plan_jobs,
    single_document_units,
    unit_id,
    version_or_absent,
    versioned_rows,
)
from tests import make, models
from tests.embedding.in_process import (
    CONFIG,
    MODALITIES,
    embed_here,
    planned,
    stored_of,
)
from tests.faulty import Request, faulty_object_store


@given(
    st.lists(st.floats(0.0, 100.0), min_size=1, max_size=30),
    st.floats(1.0, 50.0),
)
def test_units_hold_every_document_once_in_order_and_are_bounded(weights: list[float], unit_s: float) -> None:
    items = [((f"d{i:02d}", "s"), seconds) for i, seconds in enumerate(weights)]
    units = list(_group(items, unit_s))
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
    plain = write_snapshot(one, versioned_rows(manifest, content_hash=False))
    assert [fault.row for fault in plain.faults] == [5, 6, 8]
    monkeypatch.setattr("hilbert_ray.manifest.blocks._BLOCK_BYTES", 2000)
    monkeypatch.setattr("hilbert_ray.store.sorting._RUN_BYTES", 3000)
    assert write_snapshot(other, versioned_rows(manifest, content_hash=False)) == plain
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
        snapshot = write_snapshot(store, versioned_rows(f"{place}/m.jsonl", content_hash=False))
    assert requests["list"] <= 3
    assert requests["HEAD"] <= 3
    found = {item.document.doc_id: item for item in snapshot.documents()}
    assert found["d59"].text_version == ABSENT
    assert len({item.audio_version for item in found.values()}) == 60
    for item in found.values():
        assert item.audio_version == version_or_absent(item.document.audio or "", False)
        assert item.text_version == version_or_absent(item.document.text_file or "", False)


def test_an_isolated_unit_has_an_id_that_does_not_depend_on_its_neighbours() -> None:
    keys = (("a", "1"), ("b", "2"))
    both = Unit(content="audio", fingerprint="f", bucket=1, unit_id="u", keys=keys, seconds=1.0)
    one = replace(both, unit_id="v", keys=(("a", "1"),))
    assert single_document_units(both)[0].unit_id == single_document_units(one)[0].unit_id
    assert [unit.keys for unit in single_document_units(both)] == [keys[:1], keys[1:]]
    assert (
        single_document_units(replace(one, earlier=("w",)))[0].unit_id
        != single_document_units(one)[0].unit_id
    )


def test_settings_are_resolved_before_they_go_to_other_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "encoder").mkdir()
    monkeypatch.chdir(tmp_path)
    config = resolve_encoders(replace(CONFIG, text="hf:encoder"))
    assert config.text == f"hf:{tmp_path}/encoder"
    assert config.text_encoder.precision in ("bf16", "float32")
    assert config.audio_encoder.precision == "auto", "a built-in encoder has no precision to resolve"
    exact = replace(CONFIG, text="hf:./encoder/", text_encoder=EncoderConfig(precision="float32"))
    assert resolve_encoders(exact).text_encoder.precision == "float32"


def test_features_of_the_earlier_default_layer_are_not_passed_over_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = models.made("whisper", tmp_path / "model")
    auto = replace(CONFIG, audio=spec, audio_encoder=EncoderConfig(precision="float32"))
    last = replace(auto, audio_encoder=replace(auto.audio_encoder, layer="last"))
    manifest = make.manifest(tmp_path / "m.jsonl", [make.record(tmp_path, 0)])
    store = Store.create(str(tmp_path / "store"), 4)

    def still_planned(config: Config) -> int:
        caplog.clear()
        encoders = {modality: configured_encoder(config, modality) for modality in MODALITIES}
        plans = plan_all(store, store.snapshot(), jobs_of(encoders), config)
        for (modality, encoder), plan in zip(encoders.items(), plans, strict=True):
            warn_of_other_layer(store, modality, plan, encoder, config)
        return sum(len(plan.units) for plan in plans)

    embed_here(manifest, store, last)
    assert still_planned(last) == 0
    assert not caplog.messages
    assert still_planned(auto) == 1
    assert caplog.messages == [
        f"store {store.uri} holds features of audio encoder {spec} with layer last; by default it is all "
        "now, and all documents are embedded again: set audio_encoder.layer to last to go on with what is "
        "stored"
    ]
    assert still_planned(replace(auto, audio_encoder=replace(auto.audio_encoder, layer="all"))) == 1
    assert not caplog.messages, "whoever chose the layer knows"
    embed_here(manifest, store, auto)
    assert still_planned(auto) == 0
    assert not caplog.messages
    with pytest.raises(
        ConfigError, match=r"\(fingerprint \w+, layer (all|last)\), hf:.*, layer (all|last)\)"
    ):
        open_dataset(store.uri, auto)


def test_ids_of_units_stay_what_they_were() -> None:
    """Commits and notes of attempts are stored under them: other ids would embed documents again."""

    def digest(*parts: str) -> str:
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()

    keys = [("b", "2"), ("a", "1")]
    assert unit_id("f", keys) == digest("f", "a", "1", "b", "2")
    assert unit_id("f", keys, ["e"]) == digest("f", "a", "1", "b", "2", "e")
    unit = Unit(
        content="audio", fingerprint="f", bucket=1, unit_id="u", keys=(keys[0],), seconds=1.0, earlier=("e",)
    )
    [single] = single_document_units(unit)
    assert single.unit_id == digest("alone f", "b", "2", "e")
    assert (single.keys, single.seconds, single.is_isolated) == (unit.keys, 1.0, True)


def test_jobs_planned_together_are_those_planned_apart_and_the_manifest_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some documents lack a modality, some are stored or quarantined in one of the two."""
    documents = [
        make.stored(f"d{i}", audio=None, audio_version=None) if i % 5 == 0 else make.stored(f"d{i}")
        for i in range(40)
    ]
    store = Store.create(str(tmp_path), 4)
    snapshot = write_snapshot(store, documents)
    for item in documents[1:20]:
        doc_id, bucket = item.document.doc_id, bucket_of(item.document.doc_id, 4)
        if item.has("audio"):
            row = make.feature_row(doc_id, item.source("audio"))
            store.commit("audio", "f00d", unit=doc_id, bucket=bucket, rows=[row])
        failure = Quarantined(doc_id=doc_id, source=item.source("text"), stage="s", error="E", message="m")
        store.commit("text", "beef", unit=doc_id, bucket=bucket, rows=[], quarantined=[failure])
    jobs = [
        Job(content="audio", fingerprint="f00d", reads_turns=True),
        Job(content="text", fingerprint="beef", reads_turns=False),
        Job(content="audio", fingerprint="f00d", reads_turns=False),
    ]
    [block] = snapshot.blocks()
    opened: list[str] = []
    plain = Files.open

    def listen(files: Files, name: str) -> AbstractContextManager[Any]:
        opened.append(name)
        return plain(files, name)

    monkeypatch.setattr(Files, "open", listen)
    for retry in (False, True):
        apart = [plan_jobs(store, snapshot, [job], block, 6.0, retry)[0] for job in jobs]
        opened.clear()
        assert plan_jobs(store, snapshot, jobs, block, 6.0, retry) == apart
        assert opened == [snapshot.file, snapshot.file], "versions of all, then those left to embed"
        assert [plan.absent for plan in apart] == [8, 0, 8]
        assert [plan.stored for plan in apart] == [0, 0, 16]
        assert [plan.quarantined for plan in apart] == [0, 0 if retry else 19, 0]
