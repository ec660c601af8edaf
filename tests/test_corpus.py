"""The sample corpus: what it promises, that it can be made again, and that no broken document is lost."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ray

from hilbert_ray import audio, metrics
from hilbert_ray.config import Config, EmbedConfig, FitConfig, FoldsConfig, from_dict, load_file
from hilbert_ray.config.presets import ablations
from hilbert_ray.document.records import Document
from hilbert_ray.embedding.driver import embed
from hilbert_ray.evaluation.cross_validation import gather, run_fold_remotely
from hilbert_ray.evaluation.variants import Variant
from hilbert_ray.features.dataset import open_dataset
from hilbert_ray.folds.draw import choose_strata, make_folds
from hilbert_ray.manifest import read_manifest
from hilbert_ray.store.store import Store
from hilbert_ray.validation import validate

EXAMPLES = Path(__file__).parent.parent / "examples"
CORPUS = EXAMPLES / "corpus"


def records(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CORPUS / name).read_text().splitlines()]


def test_the_corpus_is_what_its_readme_says() -> None:
    rows = records("manifest.jsonl")
    assert len(rows) >= 96
    assert len({row["group"] for row in rows}) >= 12
    assert len({row["doc_id"] for row in rows}) == len(rows)
    for row in rows:
        assert row["audio"] or row["text"]
        if row["audio"]:
            assert 40 <= audio.probe(str(CORPUS / row["audio"])).duration_s <= 80
        if row["text"]:
            assert {turn["role"] for turn in row["text"]} == {"interviewer", "participant"}
    assert 0 < sum(row["audio"] is None for row in rows) < len(rows) / 10
    assert 0 < sum(row["text"] is None for row in rows) < len(rows) / 10
    for task in ("pattern", "callback", "pace"):
        labels = [row["labels"][task] for row in rows]
        assert labels.count(None) == pytest.approx(0.1 * len(rows), abs=1)
    counts = Counter(row["labels"]["pattern"] for row in rows if row["labels"]["pattern"])
    shares = [count / sum(counts.values()) for _, count in counts.most_common()]
    assert shares == pytest.approx([0.55, 0.25, 0.14, 0.06], abs=0.03)
    assert sum(file.stat().st_size for file in CORPUS.rglob("*") if file.is_file()) <= 10e6


def test_the_corpus_is_valid_for_its_declared_tasks() -> None:
    report = validate(str(CORPUS / "manifest.jsonl"), Config.from_file(CORPUS / "tasks.yaml"))
    assert report.faults == ()
    assert {name: task.kind for name, task in report.tasks.items()} == {
        "pattern": "multiclass",
        "callback": "binary",
        "pace": "ordinal",
    }


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_the_same_seed_gives_the_same_bytes_of_both_manifests(tmp_path: Path) -> None:
    script = str(EXAMPLES / "make_corpus.py")
    options = ["--documents", "4", "--seed", "3"]
    runs = [
        subprocess.Popen([sys.executable, script, "--out", str(tmp_path / name), *options])
        for name in ("one", "two")
    ]
    assert [run.wait() for run in runs] == [0, 0]
    for manifest in ("manifest.jsonl", "broken.jsonl"):
        first, second = ((tmp_path / name / manifest).read_bytes() for name in ("one", "two"))
        assert first == second
    documents = [item for _, item in read_manifest(str(tmp_path / "one" / "manifest.jsonl"))]
    assert all(isinstance(document, Document) for document in documents)
    assert len(documents) == 4


BROKEN = {
    ("audio", "truncated-flac"): "CorruptAudioError",
    ("audio", "missing-file"): "AudioNotFoundError",
    ("audio", "text-named-wav"): "UnsupportedAudioError",
    ("audio", "one-hertz-header"): "RateError",
    ("audio", "not-finite-samples"): "NonFiniteAudioError",
    ("audio", "no-samples"): "EmptyAudioError",
    ("text", "times-beyond-recording"): "TimesError",
}
FAULTY_ROWS = {
    "duplicate-id": "ids must be unique",
    "times-for-half-of-the-turns": "1 of 2 utterances have times",
    "neither-audio-nor-text": "has neither audio nor text",
    "": "must be",
}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_every_broken_document_is_in_quarantine_with_its_reason_and_every_good_one_is_stored(
    tmp_path: Path,
) -> None:
    manifest, store = str(CORPUS / "broken.jsonl"), str(tmp_path / "store")
    config = Config(embed=EmbedConfig(buckets=4, workers=1, max_quarantined=1.0))
    summary = embed(manifest, store, config)

    rows = len((CORPUS / "broken.jsonl").read_text().splitlines())
    assert summary.documents + len(summary.faults) == rows
    for fault in summary.faults:
        assert FAULTY_ROWS[fault.doc_id] in fault.message
    assert Counter(fault.doc_id for fault in summary.faults) == {**dict.fromkeys(FAULTY_ROWS, 1),
                                                                 "duplicate-id": 2, "": 2}  # fmt: skip
    found = {
        (modality, failure.doc_id): failure.error
        for modality, one in summary.modalities.items()
        for failure in one.quarantined
    }
    assert found == BROKEN
    for one in summary.modalities.values():
        assert one.embedded + one.absent + len(one.quarantined) == summary.documents
    documents = {
        item.document.doc_id: item.document
        for item in Store.open(store).snapshot().documents(with_text=False)
    }
    for modality, one in summary.modalities.items():
        stored = {row.doc_id for row in Store.open(store).read(modality, one.fingerprint)}
        has = {i for i, d in documents.items() if (d.audio if modality == "audio" else d.has_text)}
        assert stored == has - {doc_id for m, doc_id in BROKEN if m == modality}

    again = embed(manifest, store, config)
    assert again.embedded == 0
    assert {m: one.already_stored for m, one in again.modalities.items()} == {
        m: one.embedded for m, one in summary.modalities.items()
    }
    assert "nothing to embed" in again.text()
    for (_, doc_id), error in BROKEN.items():
        assert doc_id in again.text()
        assert error in again.text()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_on_the_corpus_the_model_is_not_below_logistic_regression_on_mean_and_std(tmp_path: Path) -> None:
    tasks = {"pattern": from_dict(Config, load_file(CORPUS / "tasks.yaml")).tasks["pattern"]}
    config = Config(tasks=tasks, fit=FitConfig(seeds=1), folds=FoldsConfig(repeats=1, inner=0))
    store = str(tmp_path / "store")
    embed(str(CORPUS / "manifest.jsonl"), store, config)
    dataset = open_dataset(store, config)
    features, config = dataset.features, dataset.config
    strata = choose_strata(config.tasks, features.targets, features.groups, config.folds)
    folds = make_folds(features.doc_ids, features.groups, strata.members, config.folds, seed=0)
    shared, scores = ray.put(features), {}
    for method in ("network", "logistic"):
        variant = Variant(name="", config=config, method=method)
        results = ray.get([run_fold_remotely.remote(shared, variant, part) for part in folds])
        predictions = gather(features, tasks["pattern"], "pattern", results)
        scores[method] = metrics.evaluate_predictions(predictions)["auc"]["within"]
    assert scores["network"] >= scores["logistic"] > 0.6


@pytest.mark.parametrize(("name", "change"), [("no_fusion", {"model": {"layers": 0}}),
                                              ("mlp_head", {"moe": {"kind": "mlp"}})])  # fmt: skip
def test_no_fusion_and_the_plain_head_are_one_setting_away(name: str, change: dict[str, Any]) -> None:
    assert ablations(Config())[name] == from_dict(Config, change)
