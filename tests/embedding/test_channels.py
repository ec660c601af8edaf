"""Channels as speakers through the store: roles choose among them, and a choice is part of the source."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hilbert_ray.config import Config, SegmentConfig
from hilbert_ray.document.records import DocumentError, parse_document
from hilbert_ray.segmentation import cutting
from hilbert_ray.store import export_store
from hilbert_ray.store.snapshot import FileVersions
from hilbert_ray.store.store import Store
from tests import make
from tests.embedding.in_process import CONFIG, embed_here, planned, rows_of

RATE_HZ = 16000


def call(folder: Path, seconds: float = 3.0) -> dict[str, Any]:
    """Return a row of a call whose agent and customer speak at different pitches."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    sides = np.stack([0.3 * np.sin(2 * np.pi * 200 * time), 0.2 * np.sin(2 * np.pi * 900 * time)], axis=1)
    soundfile.write(folder / "call.wav", sides.astype(np.float32), RATE_HZ, subtype="FLOAT")
    for name, column in (("agent", 0), ("customer", 1)):
        soundfile.write(folder / f"{name}.wav", sides[:, column].astype(np.float32), RATE_HZ, subtype="FLOAT")
    return {"doc_id": "call", "audio": "call.wav", "channels": {"0": "agent", "1": "customer"}}


def embedded(folder: Path, record: dict[str, Any], segment: SegmentConfig, name: str) -> Any:  # noqa: ANN401
    """Return the row of the audio of a manifest with one document."""
    manifest = make.manifest(folder / f"{name}.jsonl", [record])
    store = Store.create(str(folder / name), 2)
    embed_here(manifest, store, replace(CONFIG, segment=segment))
    return rows_of(store.uri)["audio", record["doc_id"]]


def test_features_of_a_role_are_those_of_its_channel_alone(tmp_path: Path) -> None:
    record = call(tmp_path)
    windows = SegmentConfig(window_s=1.0, hop_s=1.0)
    for role in ("agent", "customer"):
        found = embedded(tmp_path, record, replace(windows, roles=(role,)), f"store-{role}")
        alone = {"doc_id": "alone", "audio": f"{role}.wav"}
        expected = embedded(tmp_path, alone, windows, f"alone-{role}")
        np.testing.assert_array_equal(found.features, expected.features)
        assert found.start.tolist() == [0.0, 1.0, 2.0]
        assert (found.roles, expected.roles) == ((role,) * 3, None)
        assert found.seen == pytest.approx(3.0)


def test_both_channels_are_segments_beside_each_other(tmp_path: Path) -> None:
    windows = SegmentConfig(window_s=1.0, hop_s=1.0)
    both = embedded(tmp_path, call(tmp_path), windows, "both")
    assert both.start.tolist() == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
    assert both.roles == ("agent", "customer") * 3
    assert both.seen == pytest.approx(6.0)
    record = {key: value for key, value in call(tmp_path).items() if key != "channels"}
    by_setting = embedded(tmp_path, record, replace(windows, channels="0=agent,1=customer"), "setting")
    np.testing.assert_array_equal(both.features, by_setting.features)
    left = embedded(tmp_path, record, replace(windows, channels="left"), "left")
    np.testing.assert_array_equal(left.features, both.features[::2])
    assert left.roles is None


def test_segments_cut_by_turns_keep_their_speakers_and_features_are_those_without(tmp_path: Path) -> None:
    """Turns that overlap are seen once, whoever speaks, and some may be of nobody known."""
    times = [(0.0, 1.5, "agent"), (1.0, 2.0, "customer"), (2.25, 2.5, None)]
    turns = [{"text": "a", "start": start, "end": end, "role": role} for start, end, role in times]
    record = {key: value for key, value in call(tmp_path).items() if key != "channels"} | {"text": turns}
    config = SegmentConfig(audio="turns", max_s=0.75)
    found = embedded(tmp_path, record, config, "with roles")
    assert list(zip(found.start.tolist(), found.end.tolist(), found.roles, strict=True)) == [
        (0.0, 0.75, "agent"),
        (0.75, 1.5, "agent"),
        (1.0, 1.75, "customer"),
        (1.75, 2.0, "customer"),
        (2.25, 2.5, ""),
    ]
    assert found.seen == pytest.approx(2.25)
    nameless = record | {"text": [{**turn, "role": None} for turn in turns]}
    plain = embedded(tmp_path, nameless, config, "without roles")
    assert plain.roles is None
    np.testing.assert_array_equal(found.features, plain.features)
    np.testing.assert_array_equal(found.start, plain.start)
    assert plain.seen == found.seen
    export_store(Store.open(str(tmp_path / "with roles")), str(tmp_path / "out"), "numpy")
    [file] = (tmp_path / "out").glob("audio-*/call.npz")
    assert np.load(file)["roles"].tolist() == ["agent", "agent", "customer", "customer", ""]


def test_a_document_is_done_again_when_its_channels_change_and_its_neighbours_are_not(
    tmp_path: Path,
) -> None:
    records = [{**call(tmp_path), "doc_id": f"call{number}", "channels": None} for number in range(3)]
    manifest = make.manifest(tmp_path / "m.jsonl", records)
    store = Store.create(str(tmp_path / "store"), 2)
    embed_here(manifest, store)
    records[1]["channels"] = "left"
    make.manifest(tmp_path / "m.jsonl", records)
    _, units = planned(manifest, store)
    assert [doc_id for unit in units["audio"] for doc_id, _ in unit.keys] == ["call1"]
    embed_here(manifest, store)
    assert planned(manifest, store)[1]["audio"] == []
    stored = {item.document.doc_id: str(item.document.channels) for item in store.snapshot().documents()}
    assert stored == {"call0": "None", "call1": "left", "call2": "None"}


def test_without_a_choice_of_channels_sources_and_fingerprints_are_those_of_before() -> None:
    plain = FileVersions("a", "t", None)
    assert plain.source("audio") == "84119c64461b4efc"
    assert plain.source("audio") != FileVersions("a", "t", None, "left").source("audio")
    assert plain.source("text") == FileVersions("a", "t", None, "left").source("text")
    assert "channels" not in cutting(SegmentConfig(), "audio")
    assert cutting(SegmentConfig(channels="left"), "audio")["channels"] == "left"
    assert "channels" not in cutting(SegmentConfig(channels="left"), "text")


def test_what_is_no_choice_of_channels_is_a_fault_of_its_row(tmp_path: Path) -> None:
    record = {"doc_id": "d", "audio": "/a.wav"}
    table = {**record, "channels": {"0": "agent", "1": None}}
    assert str(parse_document(table).channels) == "0=agent"
    assert parse_document({**record, "channels": None}).channels is None
    with pytest.raises(DocumentError, match="document 'd': channels is 2; it must be mix, left"):
        parse_document({**record, "channels": 2})
    assert json.loads(json.dumps(Config().segment.channels)) == "mix"
