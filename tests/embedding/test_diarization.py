"""A diarization beside a transcript, through the store: its speakers choose, and it is part of the source."""

from dataclasses import replace
from pathlib import Path

import pytest

from hilbert_ray.config import Config, SegmentConfig
from hilbert_ray.embedding.reading import _read_transcript
from hilbert_ray.store.store import Store
from hilbert_ray.units.reading import ChangedError
from hilbert_ray.validation import validate
from tests import make
from tests.embedding.in_process import CONFIG, embed_here, planned, rows_of, stored_of


def test_a_changed_diarization_embeds_what_depends_on_its_speakers(tmp_path: Path) -> None:
    """The words with roles, and audio only where these choose of it; neighbours keep what they have."""
    turns = [{"text": "hello", "start": 0.0, "end": 1.0}, {"text": "hi", "start": 1.0, "end": 2.0}]
    rttm = "SPEAKER d 1 0 1 <NA> <NA> Ana <NA> <NA>\nSPEAKER d 1 1 1 <NA> <NA> Bo <NA> <NA>\n"
    records = []
    for number in range(2):
        (tmp_path / f"{number}.rttm").write_text(rttm)
        records.append(make.record(tmp_path, number, text=turns, diarization=f"{number}.rttm"))
    manifest = make.manifest(tmp_path / "m.jsonl", records)
    roles = replace(CONFIG, segment=SegmentConfig(roles=("Bo",)))
    for name, config, again in (("all", CONFIG, ["text"]), ("bo", roles, ["audio", "text"])):
        store = Store.create(str(tmp_path / name), 2)
        (tmp_path / "1.rttm").write_text(rttm)
        embed_here(manifest, store, config)
        rows = rows_of(store.uri)
        assert len(rows) == 4
        if config is roles:
            assert [rows["audio", "d001"].start.tolist(), rows["text", "d001"].start.tolist()] == [
                [1.0],
                [1.0],
            ]
        (tmp_path / "1.rttm").write_text(rttm.replace("Ana", "Bob"))
        _, units = planned(manifest, store, config)
        pending = {m: [doc_id for unit in of for doc_id, _ in unit.keys] for m, of in units.items()}
        assert pending == {m: ["d001"] if m in again else [] for m in ("audio", "text")}
    [entry] = [one for one in Store.open(store.uri).snapshot().documents() if one.row == 1]
    assert entry.document.diarization == str(tmp_path / "0.rttm")


def test_a_diarization_that_changes_during_the_run_fails_its_document(tmp_path: Path) -> None:
    (tmp_path / "a.rttm").write_text("SPEAKER d 1 0 1 <NA> <NA> Ana <NA> <NA>\n")
    [entry] = stored_of(make.manifest(tmp_path / "m.jsonl", [make.record(tmp_path, 0, diarization="a.rttm")]))
    _read_transcript(entry, CONFIG)
    (tmp_path / "a.rttm").write_text("SPEAKER d 1 0 2 <NA> <NA> Ana <NA> <NA>\n")
    with pytest.raises(ChangedError, match=r"document 'd000': .*a\.rttm was version"):
        _read_transcript(entry, CONFIG)


def test_validate_says_what_a_diarization_gives_and_what_not(tmp_path: Path) -> None:
    turns = [{"text": "hello", "start": 0.0, "end": 1.0}, {"text": "hi there", "start": 1.0, "end": 2.0}]
    (tmp_path / "a.rttm").write_text("SPEAKER d 1 0 1 <NA> <NA> Ana <NA> <NA>\n")
    rows = [make.record(tmp_path, number, text=turns, diarization="a.rttm") for number in range(6)]
    manifest = make.manifest(tmp_path / "m.jsonl", rows)
    report = validate(manifest, Config(segment=SegmentConfig(roles=("Ana",))))
    assert report.faults == ()
    assert any("6 utterances that no turn of the diarization overlaps" in line for line in report.warnings)
    [fault, *others] = validate(manifest, Config(segment=SegmentConfig(roles=("Bo",)))).faults
    assert (len(others), fault.stage, "its roles are ['Ana']" in fault.message) == (5, "text", True)
    # Unopened, nothing is known of its speakers, and its words are counted all the same.
    sampled = validate(manifest, Config(segment=SegmentConfig(roles=("Ana",))), probe=1)
    assert (sampled.documents, sampled.words) == (6, 18)
    make.manifest(tmp_path / "m.jsonl", [*rows, make.record(tmp_path, 7, text=turns, diarization="no.rttm")])
    [fault] = validate(manifest, probe=1).faults
    assert (fault.doc_id, "there is no diarization" in fault.message) == ("d007", True)
