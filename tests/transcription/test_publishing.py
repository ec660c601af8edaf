"""What is left for other programs: the manifest is the one that was given, with the texts that it lacked."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from hilbert_ray.config import Config, ConfigError, EmbedConfig
from hilbert_ray.document.records import Document
from hilbert_ray.manifest import read_manifest
from hilbert_ray.store import Store
from hilbert_ray.transcription import transcribe as transcribe_by_name
from hilbert_ray.transcription.publishing import publish, transcript_name
from hilbert_ray.transcription.resolve import job_of
from hilbert_ray.units import Unit, plan_all, take_snapshot
from hilbert_ray.validation import validate
from tests import make
from tests.transcription.stand_in import (
    CONFIG,
    HashingRecognizer,
    HashingUnits,
    rows_of,
    spoken,
    transcripts_of,
)


def transcribe_here(manifest: str, out: str, config: Config = CONFIG) -> tuple[int, int]:
    """Transcribe and publish in this process, without Ray."""
    job = job_of(HashingRecognizer(), config)
    store = Store.create(f"{out}/work", 4)
    snapshot = take_snapshot(manifest, store, config)
    store.add_encoder("transcript", job.fingerprint, HashingRecognizer().describe())
    [plan] = plan_all(store, snapshot, [job], config, plan_here=True)
    worker = HashingUnits(store, snapshot.number, config, {"transcript": job.fingerprint})
    units: list[Unit] = list(plan.units)
    assert [unit for unit, _ in worker.run(units)] == units
    return publish(out, store, job.fingerprint, snapshot)


def documents_of(manifest: str) -> list[Document]:
    documents = [document for _, document in read_manifest(manifest)]
    assert all(isinstance(document, Document) for document in documents)
    return [document for document in documents if isinstance(document, Document)]


@pytest.fixture
def mixed(tmp_path: Path) -> list[dict[str, Any]]:
    """Return rows of every kind: without text, with text of all forms, silent, text alone."""
    rows = spoken(tmp_path, 6, silent=[4])
    rows[0] |= {
        "split": "train", "attributes": {"age": 41, "site": "Łódź"}, "channels": "left",
        "labels": {"topic": "a", "scores": [1, 2.5], "flags": {"x": 1, "y": None}},
    }  # fmt: skip
    (tmp_path / "d001.txt").write_text("words of one that has them")
    rows[1]["text_file"] = "d001.txt"
    rows[2]["text"] = [
        {"text": "so it was", "start": 0.5, "end": 1.5, "role": "judge"},
        {"text": "ja", "start": 2, "end": 3},
    ]
    rows[3]["text"] = "[inaudible] naïve words"
    (tmp_path / "d005.rttm").write_text("SPEAKER d005 1 0.0 4.0 <NA> <NA> anna <NA> <NA>\n")
    rows[5]["diarization"] = "d005.rttm"
    return [*rows, {"doc_id": "words/../alone", "text": "no recording"}]


def test_the_manifest_is_the_one_given_with_the_texts_that_it_lacked(
    tmp_path: Path, mixed: list[dict[str, Any]]
) -> None:
    manifest = make.manifest(tmp_path / "m.jsonl", [*mixed, {"doc_id": "", "text": "invalid"}])
    out = tmp_path / "out"
    assert transcribe_here(manifest, str(out)) == (3, 1)
    given = [one for _, one in read_manifest(manifest) if isinstance(one, Document)]
    found = documents_of(str(out / "manifest.jsonl"))
    assert [one.doc_id for one in found] == [row["doc_id"] for row in mixed]
    for before, after in zip(given, found, strict=True):
        if before.has_text or before.doc_id == "d004":
            assert after == before
        else:
            assert after == replace(before, text_file=after.text_file)
            assert after.text_file is not None
            said = json.loads(Path(after.text_file).read_bytes())
            assert said["document"] == before.doc_id
            assert said["utterances"]
    assert len(list(out.glob("transcripts/*"))) == 3
    [silent] = out.glob("transcripts/d004-*")
    assert json.loads(silent.read_bytes())["utterances"] == []
    report = validate(str(out / "manifest.jsonl"))
    assert report.ok, report.text()
    speaker = rows_of(str(out / "manifest.jsonl"))[5]["diarization"]
    assert speaker.endswith("d005.rttm")


def test_a_rerun_writes_nothing_and_a_correction_by_hand_stays(tmp_path: Path) -> None:
    rows = spoken(tmp_path, 3)
    manifest, out = make.manifest(tmp_path / "m.jsonl", rows), tmp_path / "out"
    transcribe_here(manifest, str(out))
    [corrected, *_] = sorted(out.glob("transcripts/*"))
    corrected.write_text(corrected.read_text().replace('"text"', '"text" '))
    states = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*") if path.is_file()}
    transcribe_here(manifest, str(out))
    assert states == {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*") if path.is_file()
    }


def test_what_a_killed_publication_left_out_is_written_by_the_next(tmp_path: Path) -> None:
    manifest, out = make.manifest(tmp_path / "m.jsonl", spoken(tmp_path, 3)), tmp_path / "out"
    transcribe_here(manifest, str(out))
    whole = transcripts_of(out)
    for path in (*sorted(out.glob("transcripts/*"))[1:], out / "manifest.jsonl"):
        path.unlink()
    transcribe_here(manifest, str(out))
    assert transcripts_of(out) == whole


def test_a_recording_that_changes_gets_another_transcript(tmp_path: Path) -> None:
    rows = spoken(tmp_path, 2)
    manifest, out = make.manifest(tmp_path / "m.jsonl", rows), tmp_path / "out"
    transcribe_here(manifest, str(out))
    before = rows_of(str(out / "manifest.jsonl"))
    (tmp_path / "d001.wav").write_bytes((tmp_path / "d000.wav").read_bytes())
    transcribe_here(manifest, str(out))
    after = rows_of(str(out / "manifest.jsonl"))
    assert after[0] == before[0]
    assert after[1]["text_file"] != before[1]["text_file"]
    said = [json.loads((out / row["text_file"]).read_bytes())["utterances"] for row in after]
    assert said[0] == said[1]


def test_ids_of_any_kind_give_names_of_their_own() -> None:
    ids = ["a/b", "a b", "a_b", "..", "a..b", "Ä", "ä" * 400, "x" * 400, "x" * 401, "A", "a"]
    names = [transcript_name(doc_id, "f", "s") for doc_id in ids]
    assert len({name.lower() for name in names}) == len(ids)
    for name in names:
        assert len(name) < 120
        assert name.isascii()
        assert not set("%:\\") & set(name)
        assert ".." not in name


def test_an_object_store_holds_what_a_local_folder_does(
    tmp_path: Path, object_store: str, mixed: list[dict[str, Any]]
) -> None:
    manifest = make.manifest(tmp_path / "m.jsonl", mixed)
    local, uri = tmp_path / "out", f"{object_store}/{tmp_path.name}/out"
    transcribe_here(manifest, str(local))
    transcribe_here(manifest, uri)
    remote = fsspec.filesystem("s3", use_listings_cache=False)
    names = remote.glob(f"{uri}/transcripts/*")
    found = {
        name.partition("/out/")[2]: remote.cat_file(name)
        for name in [*names, f"{uri.removeprefix('s3://')}/manifest.jsonl"]
    }
    assert found == transcripts_of(local)
    read = [document for document in documents_of(f"{uri}/manifest.jsonl") if document.doc_id == "d000"]
    assert str(read[0].text_file).startswith(f"{uri}/transcripts/d000-")


def test_the_manifest_that_is_written_is_not_taken_for_the_one_to_read(tmp_path: Path) -> None:
    make.manifest(tmp_path / "out" / "manifest.jsonl", spoken(tmp_path, 1))
    with pytest.raises(ConfigError, match=r"the file that `transcribe` writes in .*; choose another --out"):
        transcribe_by_name(f"{tmp_path}/out/manifest.jsonl", f"{tmp_path}/out")


def test_what_is_not_of_transcribe_is_replaced_by_nothing(tmp_path: Path) -> None:
    """Neither a manifest that somebody wrote there, nor labels that were typed into the one written."""
    rows = spoken(tmp_path, 2)
    manifest, out = make.manifest(tmp_path / "m.jsonl", rows), tmp_path / "out"
    mine = make.manifest(out / "manifest.jsonl", [{"doc_id": "mine", "text": "words", "labels": {"x": "a"}}])
    before = Path(mine).read_bytes()
    config = replace(CONFIG, asr="hf:nobody/knows")
    with pytest.raises(
        ConfigError, match=r"out/manifest\.jsonl is not as `transcribe` wrote it and would be"
    ):
        transcribe_by_name(manifest, str(out), config)
    with pytest.raises(ConfigError, match="is not as `transcribe` wrote it"):
        transcribe_here(manifest, str(out))
    assert Path(mine).read_bytes() == before
    Path(mine).unlink()
    transcribe_here(manifest, str(out))
    written = rows_of(mine)
    make.manifest(Path(mine), [{**row, "labels": {"topic": "a"}} for row in written])
    edited = Path(mine).read_bytes()
    with pytest.raises(ConfigError, match=r"Labels and corrections belong in the manifest that --manifest"):
        transcribe_by_name(manifest, str(out), config)
    assert Path(mine).read_bytes() == edited
    Path(mine).rename(tmp_path / "labelled.jsonl")
    transcribe_here(manifest, str(out))
    assert rows_of(mine) == written


def test_a_feature_store_is_no_place_for_transcripts(tmp_path: Path) -> None:
    manifest = make.manifest(tmp_path / "m.jsonl", spoken(tmp_path, 1))
    store = Store.create(str(tmp_path / "store"), 4)
    with pytest.raises(ConfigError, match="is a feature store; name another folder for the transcripts"):
        transcribe_by_name(manifest, store.uri, CONFIG)
    assert not (tmp_path / "store" / "work").exists()


def test_a_recogniser_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="asr is `none`; name the recogniser with --asr, such as --asr hf:"):
        transcribe_by_name(make.manifest(tmp_path / "m.jsonl", spoken(tmp_path, 1)), str(tmp_path / "out"))


def test_channels_and_language_are_part_of_what_a_transcript_depends_on() -> None:
    fingerprints = {
        job_of(HashingRecognizer(), config).fingerprint
        for config in (
            CONFIG,
            replace(CONFIG, segment=replace(CONFIG.segment, channels="left")),
            replace(CONFIG, recognition=replace(CONFIG.recognition, language="ur")),
        )
    }
    assert len(fingerprints) == 3
    assert job_of(HashingRecognizer(), CONFIG).fingerprint in fingerprints
    other = replace(CONFIG, embed=EmbedConfig(workers=7))
    assert job_of(HashingRecognizer(), other) == job_of(HashingRecognizer(), CONFIG)
