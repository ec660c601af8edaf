"""The dry run: what it counts is what the run then does, and it writes nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hilbert_ray.cli import main
from hilbert_ray.config import Config, EmbedConfig, EncoderConfig, SegmentConfig
from hilbert_ray.embedding.driver import embed
from hilbert_ray.embedding.dry_run import estimate
from hilbert_ray.storage.access import StorageError
from hilbert_ray.store.store import Store
from hilbert_ray.units import estimate as units_estimate
from tests import make, models

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

CONFIG = Config(
    segment=SegmentConfig(window_s=1.0, hop_s=1.0),
    embed=EmbedConfig(buckets=4, unit_s=60.0, workers=2, max_quarantined=1.0),
)


def listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.fixture(autouse=True)
def short_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units_estimate, "PROBE_S", 0.5)


def test_the_estimate_counts_what_the_run_does_and_writes_nothing(tmp_path: Path) -> None:
    records = [make.record(tmp_path, number, 20.0) for number in range(12)]
    records += [{"doc_id": "words", "text": "only words"}, {"doc_id": "", "text": "no name"}]
    manifest = make.manifest(tmp_path / "m.jsonl", records)
    store = tmp_path / "store"
    before = listing(tmp_path)
    found = estimate(manifest, str(store), CONFIG)
    assert listing(tmp_path) == before
    audio, text = found.modalities["audio"], found.modalities["text"]
    assert (found.documents, len(found.faults)) == (13, 1)
    assert (audio.planned, audio.already_stored, audio.absent) == (12, 0, 1)
    assert (text.planned, text.absent) == (13, 0)
    assert audio.seconds == pytest.approx(240.0)
    assert audio.rate is not None
    assert audio.rate.workers == audio.workers == 2
    assert audio.time_s == pytest.approx(240.0 / (2 * audio.rate.speed))
    assert text.rate is not None
    assert text.rate.speed > 0, "few texts, all fetched before the first is encoded"
    assert f"12 to embed (0.07 h, {audio.units} units), 0 already stored" in found.text()

    done = embed(manifest, str(store), CONFIG)
    assert done.modalities["audio"].planned == audio.planned
    assert done.modalities["text"].planned == text.planned
    # Compared are features and times; a data file adds what Parquet itself takes.
    fingerprint = done.modalities["audio"].fingerprint
    assert len(list(Store.open(str(store)).commits("audio", fingerprint).read())) == audio.units
    rows = list(Store.open(str(store)).read("audio", fingerprint))
    stored = sum(row.features.nbytes + row.start.nbytes + row.end.nbytes for row in rows)
    assert audio.size_bytes == pytest.approx(stored, rel=0.01)

    make.tone(tmp_path / "d003.wav", 30.0)
    before = listing(tmp_path)
    again = estimate(manifest, str(store), CONFIG)
    assert listing(tmp_path) == before
    assert (again.modalities["audio"].planned, again.modalities["audio"].already_stored) == (1, 11)
    assert again.modalities["audio"].seconds == pytest.approx(30.0)
    assert again.modalities["text"].time_s is None, "nothing is left to measure"
    assert Store.open(str(store)).snapshot().number == 1, "readers see another manifest"


def test_the_size_is_that_of_all_layers(tmp_path: Path) -> None:
    manifest = make.manifest(tmp_path / "m.jsonl", [make.record(tmp_path, 0, 4.0)])
    spec = models.made("whisper", tmp_path / "model")
    config = replace(CONFIG, audio=spec, text="none", audio_encoder=EncoderConfig(precision="float32"))
    found = estimate(manifest, str(tmp_path / "store"), config)
    # Four windows of three layers of 32 float16, and start and end.
    assert found.modalities["audio"].size_bytes == pytest.approx(4 * (3 * 32 * 2 + 8))
    assert "MB (3 layers) and " in found.text()


def test_the_command_plans_hours_and_prices_from_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["embed", "--manifest", make.corpus(tmp_path, 4, 20.0), "--store", str(tmp_path / "store")]
    flags = ["--dry-run", "--plan", "500", "--price", "2", "--storage-price", "10", "--json"]
    assert main([*words, *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    capacity, modalities = found["capacity"], found["modalities"].values()
    assert not (tmp_path / "store").exists()
    scale = 500 * 3600 / 80.0
    hours = sum(one["seconds"] / one["rate"]["speed"] for one in modalities) * scale / 3600
    assert capacity["worker_hours"] == pytest.approx(hours)
    assert capacity["price"] == pytest.approx(2 * hours)
    size = scale * sum(one["size_bytes"] for one in modalities)
    assert capacity["storage_price"] == pytest.approx(10 * size / 1e9)
    assert capacity["times"]["4"] == pytest.approx(hours * 900)
    assert capacity["gpu_hours"] == 0


def test_documents_that_cannot_be_read_give_no_estimate_but_the_reason(tmp_path: Path) -> None:
    (tmp_path / "words.wav").write_text("these are words, not audio")
    manifest = make.manifest(tmp_path / "m.jsonl", [{"doc_id": "a", "audio": "words.wav"}])
    found = estimate(manifest, str(tmp_path / "store"), replace(CONFIG, text="none"))
    assert found.modalities["audio"].time_s is None
    assert "no estimate: no sampled document could be read; " in found.text()
    assert "words.wav" in found.text()


def test_an_encoder_that_does_not_load_is_refused_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, weights = models.made("bert", tmp_path / "bert"), tmp_path / "bert" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    arguments = ["--manifest", make.corpus(tmp_path, 2), "--store", str(tmp_path / "store")]
    assert main(["embed", *arguments, "--audio", "none", "--text", spec, "--dry-run"]) == 2
    shown = capsys.readouterr().err
    assert f"hilbert-ray embed: the weights of encoder {spec} cannot be read: " in shown
    assert "Traceback" not in shown


def test_a_store_of_another_schema_is_refused_as_embed_refuses_it(tmp_path: Path) -> None:
    manifest = make.corpus(tmp_path, 1)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "store.json").write_text('{"schema": 99, "buckets": 4}')
    with pytest.raises(StorageError, match="has schema 99"):
        estimate(manifest, str(tmp_path / "store"), CONFIG)
