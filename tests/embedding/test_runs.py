"""Whole runs on Ray: every document is stored or quarantined, and later runs do what has changed."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from hilbert_ray.config import Config, EmbedConfig
from hilbert_ray.embedding.driver import embed
from hilbert_ray.store.maintenance import verify_store
from hilbert_ray.store.store import Store
from hilbert_ray.units.errors import TooManyQuarantinedError, UnitsError
from hilbert_ray.units.resources import plan_pool
from tests import fatal, make
from tests.embedding.in_process import (
    CONFIG,
    rows_of,
)


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
def test_gpus_that_a_cluster_does_not_have_yet_are_requested_by_number_only() -> None:
    gpus_set = Config(embed=EmbedConfig(gpu="yes", workers=3, gpus_per_worker=0.5))
    assert plan_pool(gpus_set, 10) == (3, {"num_gpus": 0.5})
    assert plan_pool(gpus_set, 2) == (2, {"num_gpus": 0.5})
    unset = Config(embed=EmbedConfig(gpu="yes"))
    with pytest.raises(
        UnitsError, match=r"embed.workers is 0 and the cluster has 0 GPUs now; .* size: set embed.workers to"
    ):
        plan_pool(unset, 10)
    assert set(plan_pool(Config(embed=EmbedConfig(workers=3)), 10)[1]) == {"num_cpus"}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_every_document_is_stored_or_quarantined_and_later_runs_do_what_changed(
    tmp_path: Path,
) -> None:
    manifest, reasons = broken_corpus(tmp_path)
    store = str(tmp_path / "store")
    any_may_fail = replace(CONFIG, embed=replace(CONFIG.embed, max_quarantined=1.0))
    summary = embed(manifest, store, any_may_fail)
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
        # Beside its id, which need not be said twice; faults of one kind share what to do.
        said = failures[doc_id].message.removeprefix(f"document {doc_id!r}").lstrip(": ")
        assert said.rpartition("; ")[0] in summary.text()
    assert sound.amount == pytest.approx((5 * 2.0 + 5.0) / 3600)
    assert len(rows_of(store)) == 12
    assert list(verify_store(Store.open(store))) == []

    again = embed(manifest, store, any_may_fail)
    assert again.embedded == 0
    assert again.modalities["audio"].already_stored == 6
    assert again.modalities["audio"].quarantined == sound.quarantined
    # By default four of ten are too many, also for a run that finds nothing left to embed.
    with pytest.raises(TooManyQuarantinedError, match=r"4 of 10 documents with audio are quarantined \("):
        embed(manifest, store, CONFIG)
    assert "nothing to embed" in again.text()

    before = rows_of(store)
    make.tone(tmp_path / "d001.wav", seconds=3.0, seed=99)
    make.tone(tmp_path / "nowhere.wav")
    records = [json.loads(line) for line in Path(manifest).read_text().splitlines()]
    records[2]["text"][0]["text"] = "something else was said"
    make.manifest(Path(manifest), [record for record in records if record["doc_id"] != "d005"])
    third = embed(manifest, store, any_may_fail)
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
    # By one worker, which has done the good ones, as the longest, before it fails.
    config = replace(CONFIG, embed=replace(CONFIG.embed, unit_s=0.001, max_quarantined=0.3, workers=1))
    with pytest.raises(
        TooManyQuarantinedError, match=r"of 63 planned documents failed, more than embed"
    ) as caught:
        embed(manifest, str(tmp_path / "store"), config)
    assert 20 <= int(str(caught.value).split()[0]) < 60
    store = Store.open(str(tmp_path / "store"))
    assert list(verify_store(store)) == []
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
    with pytest.raises(UnitsError, match=r"has no valid document \(2 invalid rows\); `hilbert-"):
        embed(manifest, str(tmp_path / "store"), CONFIG)
