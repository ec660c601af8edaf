"""Prediction: what the model says of a new manifest, each document once, and what is wrong with the rest."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.exceptions

from hilbert_ray.cli import main
from hilbert_ray.config import (
    MODALITIES,
    Config,
    ConfigError,
    EmbedConfig,
    FitConfig,
    FoldsConfig,
    ModelConfig,
)
from hilbert_ray.features.arrays import Features
from hilbert_ray.features.dataset import open_dataset
from hilbert_ray.features.reading import read_features
from hilbert_ray.model.hilbert import Hilbert, ModelError
from hilbert_ray.prediction import PredictBucket, PredictSummary, explain, predict, prediction_schema
from hilbert_ray.store.sorting import write_snapshot
from hilbert_ray.store.store import Store
from hilbert_ray.training.loop import fit
from tests import make

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("one_thread", "ray_cluster")]

CONFIG = Config(embed=EmbedConfig(buckets=4, unit_s=16.0, workers=1))
PREDICTED = ("d100", "d101", "d102", "deaf", "mute", "silent", "untimed", "untold")


@pytest.fixture(scope="module")
def published(one_thread: None, embedded: make.Embedded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Publish a model of two small networks that know all five kinds of task."""
    config = Config(
        model=ModelConfig(dim=8, hops=2),
        fit=FitConfig(epochs=2, seeds=2, batch_size=16),
        folds=FoldsConfig(inner=2),
    )
    dataset = open_dataset(embedded.store, config)
    model = fit(dataset.config, dataset.features, np.arange(32)).model(
        {str(m): d for m, d in dataset.encoders.items()}
    )
    return model.save_pretrained(tmp_path_factory.mktemp("published") / "model")


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """One run of `predict` that several tests look at."""

    summary: PredictSummary
    manifest: str
    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "predictions.parquet"

    @property
    def store(self) -> Path:
        return self.folder / "predictions.parquet.store"

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows of the Parquet file by document."""
        return {row["doc_id"]: row for row in pq.read_table(self.out).to_pylist()}


@pytest.fixture(scope="module")
def predicted(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Predicted:
    """Predict good and broken documents; paths are relative, to a folder that Ray was not started in."""
    folder = tmp_path_factory.mktemp("predicted")
    (folder / "words.wav").write_text("these are words, not audio")
    records = [
        *(make.record(folder, number, labels=None) for number in (100, 101, 102)),
        make.record(folder, 103, doc_id="silent", audio=None),
        make.record(folder, 104, doc_id="mute", text=None),
        make.record(folder, 105, doc_id="deaf", audio="words.wav"),
        make.record(folder, 106, doc_id="untold", text=None, text_file="nowhere.txt"),
        {"doc_id": "words", "audio": "words.wav"},
        {"doc_id": "both", "audio": "words.wav", "text_file": "nowhere.txt"},
        {"doc_id": "empty"},
        {"doc_id": "outside", "audio": "/elsewhere/a.wav"},
        make.record(folder, 107, doc_id="untimed", text="It was cold. We talked for hours. Nobody slept."),
    ]
    make.manifest(folder / "manifest.jsonl", records)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        summary = predict(
            str(published), "manifest.jsonl", "predictions.parquet", replace(CONFIG, roots=(".",))
        )
    return Predicted(summary=summary, manifest=str(folder / "manifest.jsonl"), folder=folder)


def features_of(predicted: Predicted, model: Hilbert) -> Features:
    """Return the features that `predict` stored, all documents together."""
    store = Store.open(str(predicted.store))
    snapshot = store.snapshot()
    documents = sorted((item.document for item in snapshot.documents()), key=lambda document: document.doc_id)
    stored = {m: store.locate(m, model.encoders[m]["fingerprint"], snapshot) for m in MODALITIES}
    return read_features(store, stored, {}, documents)


def test_every_document_that_can_be_read_is_predicted_once(predicted: Predicted) -> None:
    assert sorted(pq.read_table(predicted.out)["doc_id"].to_pylist()) == sorted(PREDICTED)
    assert predicted.summary.predicted == len(PREDICTED)
    assert sorted(path.name for path in predicted.folder.iterdir() if path.suffix != ".wav") == [
        "manifest.jsonl",
        "predictions.parquet",
        "predictions.parquet.store",
    ]


def test_rows_say_what_the_model_says_of_the_features_itself(predicted: Predicted, published: Path) -> None:
    model = Hilbert.from_pretrained(published)
    features, tasks = features_of(predicted, model), model.config.tasks
    direct = model.predict(features)
    assert features.doc_ids.tolist() == sorted(PREDICTED)
    for i, doc_id in enumerate(features.doc_ids.tolist()):
        row = predicted.rows[doc_id]
        for name in ("audio", "text", "joint"):
            vector = getattr(direct.embeddings, name)[i]
            np.testing.assert_allclose(row[name] or np.zeros(len(vector)), vector, atol=1e-5)
        for task, settings in tasks.items():
            for k, label in enumerate(settings.classes):
                assert row[f"{task}.{label}"] == pytest.approx(
                    float(direct.probabilities[task][i, k]), abs=1e-5
                )
        assert row["age"] == pytest.approx(float(direct.decisions["age"][i]), rel=1e-4)
        for task in ("topic", "place", "mood"):
            assert row[task] == tasks[task].classes[direct.decisions[task][i]]
        assert row["themes"] == [
            label
            for label, held in zip(tasks["themes"].classes, direct.decisions["themes"][i], strict=True)
            if held
        ]
        if not row["themes.art"] == row["themes.law"] == row["themes.sea"] == 0.5:
            assert sum(row[f"place.{label}"] for label in tasks["place"].classes) == pytest.approx(
                1, abs=1e-5
            )


def test_an_absent_modality_has_no_embedding(predicted: Predicted) -> None:
    rows = predicted.rows
    assert {doc_id for doc_id, row in rows.items() if row["audio"] is None} == {"silent", "deaf"}
    assert {doc_id for doc_id, row in rows.items() if row["text"] is None} == {"mute", "untold"}
    for row in rows.values():
        assert len(row["joint"]) == 2 * 8
        for name in ("audio", "text"):
            assert row[name] is None or np.linalg.norm(row[name]) == pytest.approx(1, abs=1e-5)


def test_the_file_has_a_column_for_each_embedding_decision_probability_and_fault(
    predicted: Predicted,
) -> None:
    vectors = pa.list_(pa.float32())
    classes = {
        "mood": ("0", "1", "2"), "place": ("car", "office", "street"), "themes": ("art", "law", "sea"),
        "topic": ("home", "work"),
    }  # fmt: skip
    fields = [("doc_id", pa.string()), ("audio", vectors), ("text", vectors), ("joint", vectors)]
    heads = pa.struct([(head, pa.float32()) for head in ("experts", "audio", "text")])
    fields += [("age", pa.float32()), ("age_heads", heads)]
    for task, labels in classes.items():
        fields.append((task, pa.list_(pa.string()) if task == "themes" else pa.string()))
        fields += [(f"{task}.{label}", pa.float32()) for label in labels]
        fields.append((f"{task}_heads", heads))
    spans = [(f"{m}_{what}", vectors) for m in MODALITIES for what in ("start", "end", "weight")]
    expected = pa.schema([*fields, *spans, ("fault", pa.string())])
    assert pq.read_schema(predicted.out).equals(expected)


def test_how_much_each_head_counted_sums_to_one_and_leaves_out_what_is_absent(predicted: Predicted) -> None:
    for row in predicted.rows.values():
        for task in ("age", "mood", "place", "themes", "topic"):
            shares = row[f"{task}_heads"]
            assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)
            for modality in MODALITIES:
                assert shares[modality] == 0 or row[modality] is not None


def test_a_document_with_one_broken_modality_is_predicted_with_its_fault(predicted: Predicted) -> None:
    faults = {doc_id: row["fault"] for doc_id, row in predicted.rows.items()}
    assert {doc_id for doc_id, fault in faults.items() if fault is not None} == {"deaf", "untold"}
    assert faults["deaf"].startswith("audio: ")
    assert "words.wav" in faults["deaf"]
    assert faults["untold"].startswith("text: ")
    assert "nowhere.txt" in faults["untold"]
    assert predicted.summary.partly == {doc_id: faults[doc_id] for doc_id in ("deaf", "untold")}
    lines = predicted.summary.text().splitlines()
    assert "predicted from one modality only: 2; --json lists them all" in lines
    [deaf] = [line for line in lines if line.startswith("    'deaf': ")]
    assert "words.wav" in deaf


def test_what_cannot_be_predicted_is_listed_with_every_reason(predicted: Predicted) -> None:
    failed = predicted.summary.failed
    assert sorted(failed) == ["both", "row 10", "row 11", "words"]
    assert "words.wav" in failed["words"]
    sound, words = failed["both"].split("; text: ")
    assert sound.startswith("audio: ")
    assert "nowhere.txt" in words
    assert failed["row 10"] == "document 'empty' has neither audio nor text; it needs at least one"
    assert failed["row 11"].startswith("document 'outside': audio /elsewhere/a.wav is outside ")
    lines = predicted.summary.text().splitlines()
    assert "documents not predicted: 2; --json lists them all" in lines
    assert len([line for line in lines if line.startswith("    'both': ")]) == 2
    assert "invalid rows, not predicted: 2; --json lists them all" in lines
    assert [line.split(":")[0].strip() for line in lines[-3::2]] == ["row 10, 'empty'", "row 11, 'outside'"]
    assert predicted.summary.to_dict()["failed"] == failed


def test_running_again_embeds_nothing_anew_and_writes_the_same(
    predicted: Predicted, published: Path, tmp_path: Path
) -> None:
    """From an empty manifest of new work: all features and faults are those of the first run's store."""

    def stored() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in predicted.store.rglob("*") if path.is_file()}

    before = stored()
    out, config = tmp_path / "again" / "out.parquet", replace(CONFIG, roots=(str(predicted.folder),))
    store = str(predicted.store)
    summary = predict(str(published), predicted.manifest, str(out), config, store=store)
    assert stored() == before
    assert not (tmp_path / "again" / "out.parquet.store").exists()
    assert replace(summary, out=predicted.summary.out) == predicted.summary
    again = {row["doc_id"]: row for row in pq.read_table(out).to_pylist()}
    assert again == predicted.rows


def test_a_run_that_fails_leaves_no_half_written_file(
    predicted: Predicted, published: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(predicted.store, store)
    [*_, damaged] = sorted(store.glob("features/text/*/data/*/*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    out = tmp_path / "out" / "out.parquet"
    out.parent.mkdir()
    out.write_text("what an earlier run wrote")
    with pytest.raises((ray.exceptions.RayError, OSError, ValueError)):
        predict(str(published), predicted.manifest, str(out), CONFIG, store=str(store))
    assert out.read_text() == "what an earlier run wrote"
    assert [path.name for path in out.parent.iterdir()] == ["out.parquet"]


def test_an_encoder_that_is_not_the_models_is_refused_before_anything_is_embedded(
    predicted: Predicted, published: Path, tmp_path: Path
) -> None:
    shutil.copytree(published, tmp_path / "model")
    values = json.loads((published / "config.json").read_text())
    here = values["encoders"]["text"]["fingerprint"]
    values["encoders"]["text"]["fingerprint"] = "0123456789abcdef"
    del values["sha256"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError) as caught:
        predict(str(tmp_path / "model"), predicted.manifest, str(tmp_path / "out.parquet"), CONFIG)
    assert str(caught.value) == (
        f"model {tmp_path / 'model'} was trained on text features of encoder hashing with fingerprint "
        f"0123456789abcdef, but here that encoder has fingerprint {here}; use the same weights, revision and "
        "package versions"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_is_no_model_is_refused(predicted: Predicted, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model folder .* does not exist or is empty"):
        predict(str(tmp_path / "none"), predicted.manifest, str(tmp_path / "out.parquet"), CONFIG)


def test_a_bucket_without_any_feature_gives_no_row_but_all_columns(published: Path, tmp_path: Path) -> None:
    model = Hilbert.from_pretrained(published)
    store = Store.create(str(tmp_path / "store"), 1)
    number = write_snapshot(store, [make.stored("a")]).number
    fingerprints = {m: model.encoders[m]["fingerprint"] for m in MODALITIES}
    for modality in MODALITIES:
        store.add_encoder(modality, fingerprints[modality], model.encoders[modality])
    rows = PredictBucket(str(published), store.uri, number, fingerprints, False)({"bucket": np.array([0])})
    assert rows.num_rows == 0
    assert rows.schema.equals(prediction_schema(model))


def test_each_segment_has_its_times_and_weight(predicted: Predicted, published: Path) -> None:
    model = Hilbert.from_pretrained(published)
    features = features_of(predicted, model)
    expected = model.predict(features)
    for i, doc_id in enumerate(features.doc_ids.tolist()):
        row = predicted.rows[doc_id]
        for modality in MODALITIES:
            ragged, weights = features.by_modality[modality], expected.attention[modality][i]
            if not len(weights):
                assert row[f"{modality}_weight"] is row[f"{modality}_start"] is row[f"{modality}_end"] is None
                continue
            own = slice(ragged.offsets[i], ragged.offsets[i + 1])
            assert row[f"{modality}_start"] == ragged.start[own].tolist()
            assert row[f"{modality}_end"] == ragged.end[own].tolist()
            np.testing.assert_allclose(row[f"{modality}_weight"], weights, atol=1e-6)
            assert sum(row[f"{modality}_weight"]) == pytest.approx(1, abs=1e-5)


def test_an_explanation_lists_the_heaviest_segments_first_and_counts_the_rest(predicted: Predicted) -> None:
    row = predicted.rows["d100"]
    lines = explain(str(predicted.out), "d100").splitlines()[1:]
    for modality in MODALITIES:
        shown = [line for line in lines if line.split()[0] == modality]
        weights = sorted(row[f"{modality}_weight"], reverse=True)
        places = sorted(range(len(weights)), key=lambda i: -row[f"{modality}_weight"][i])
        top = places[0]
        start, end = (row[f"{modality}_{name}"][top] for name in ("start", "end"))
        assert f"{start:.2f} to {end:9.2f} s" in shown[0]
        assert float(shown[0].split()[-1].rstrip("%")) == pytest.approx(100 * weights[0], abs=0.06)
        stated = sum(float(line.split()[-1].rstrip("%")) for line in shown)
        assert stated == pytest.approx(100, abs=0.06 * len(shown))
    with pytest.raises(ConfigError, match="no prediction of document 'nobody'"):
        explain(str(predicted.out), "nobody")


def test_an_explanation_tells_positions_in_a_text_from_seconds(predicted: Predicted) -> None:
    row = predicted.rows["untimed"]
    lines = explain(str(predicted.out), "untimed").splitlines()[1:]
    audio, text = ([line for line in lines if line.split()[0] == modality] for modality in MODALITIES)
    assert all(line.split()[4] == "s" for line in audio)
    assert text[-1].split(maxsplit=1)[1] == "has no times: % are positions in the document"
    shown = sorted((float(line.split()[1]), float(line.split()[3])) for line in text[:-1])
    expected = sorted(zip(row["text_start"], row["text_end"], strict=True))
    np.testing.assert_allclose(shown, 100 * np.array(expected), atol=0.006)
    assert all(line.split()[4] == "%" for line in text[:-1])


def test_a_command_that_predicts_no_document_fails(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next step of a job must not run on nothing; so it is when the command is tried again."""
    (tmp_path / "words.wav").write_text("these are words, not audio")
    rows = [{"doc_id": f"d{number}", "audio": "words.wav"} for number in range(3)]
    manifest = make.manifest(tmp_path / "manifest.jsonl", rows)
    words = ["predict", "--model", str(published), "--manifest", manifest, "--embed.workers", "1"]
    for _ in range(2):
        assert main([*words, "--out", str(tmp_path / "p.parquet")]) == 1
        assert "0 documents predicted" in capsys.readouterr().out
    assert pq.read_table(tmp_path / "p.parquet").num_rows == 0
