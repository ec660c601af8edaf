"""The typed results of `evaluate`: attributes read what metrics.json holds, and writing gives it back."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilbert_ray.run.evaluation import Evaluation, read_metrics, write_metrics
from hilbert_ray.run.folder import NOT_COPIED, RESUME_ONLY, RunDir, RunError, RunFile
from hilbert_ray.storage import DamagedError

AUC = {
    "within": 0.75, "pooled": 0.7, "mean": 0.72, "folds": 4, "within_low": 0.5, "within_high": 0.9,
    "low": 0.45, "high": 0.85, "classes": {"yes": {"within": 0.75, "positives": 7, "groups": 5}},
}  # fmt: skip
VALUES: dict[str, Any] = {
    "tasks": {"outcome": {"hilbert": {"auc": AUC, "brier": {"pooled": None}}}},
    "comparisons": {"outcome": {"audio_only": {"metric": "auc", "difference": 0.1, "groups": 12}}},
    "permutation": {"outcome": {"metric": "auc", "value": 0.75, "p": 0.02, "permutations": 1000}},
    "embedding": {"audio_to_text_mrr": {"pooled": 0.3, "chance": 0.1, "gallery": 10.0}},
    "data": {
        "documents": 20, "groups": 12, "segments": {"audio": 90}, "with": {"audio": 19},
        "quarantined": {"audio": 1}, "labels": {"outcome": {"labelled": 18, "classes": {"no": 11, "yes": 7}}},
    },
    "shortcuts": {
        "turns of interviewer": {"outcome": {"within": 0.6, "within_low": None, "within_high": None}},
        "shared_sentences": {"sentences": 3, "documents": 2, "of": 20},
    },
    "splits": {"documents": 20, "held_out": {"test": 4}},
    "duplicates": {
        "found": 1, "documents": 2, "groups": 2, "are_joined": False, "checked": {"audio": 19, "text": 20},
        "pairs": [{"first": "d1", "second": "d2", "audio": 1.0, "text": None}],
    },
    "folds": {"repeats": 2, "folds": 2, "distinct_test_sets": 4, "sizes": [[10, 10], [9, 11]]},
    "run": {"seconds": 1.0, "fold_seconds": 2.0, "fits": 8, "reused": 0},
}  # fmt: skip
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_attributes_are_the_values_of_the_file() -> None:
    evaluation = Evaluation(VALUES)
    auc = evaluation.tasks["outcome"]["hilbert"]["auc"]
    assert (auc.within, auc.within_low, auc.within_high, auc.mean, auc.folds) == (0.75, 0.5, 0.9, 0.72, 4)
    assert (auc.classes["yes"].positives, auc.classes["yes"].groups, auc.classes["yes"].low) == (7, 5, None)
    assert evaluation.tasks["outcome"]["hilbert"]["brier"].pooled is None
    assert evaluation.comparisons["outcome"]["audio_only"].difference == 0.1
    assert evaluation.permutation["outcome"].p == 0.02
    assert evaluation.embedding["audio_to_text_mrr"].gallery == 10.0
    assert evaluation.data is not None
    assert evaluation.data.documents_with == {"audio": 19}
    assert evaluation.data.labels["outcome"].classes == {"no": 11, "yes": 7}
    assert evaluation.shortcuts is not None
    assert list(evaluation.shortcuts.scores) == ["turns of interviewer"]
    assert evaluation.shortcuts.shared_sentences.of == 20
    assert evaluation.splits is not None
    assert (evaluation.splits.documents, evaluation.splits.held_out) == (20, {"test": 4})
    assert evaluation.duplicates is not None
    assert evaluation.duplicates.checked == {"audio": 19, "text": 20}
    [pair] = evaluation.duplicates.pairs
    assert (pair.first, pair.second, pair.audio, pair.text) == ("d1", "d2", 1.0, None)
    assert evaluation.folds is not None
    assert evaluation.folds.sizes == [[10, 10], [9, 11]]
    assert evaluation.cost is not None
    assert evaluation.cost.fits == 8
    assert evaluation.text().splitlines()[1].split() == ["HILBERT", "0.750", "0.500", "to", "0.900"]


@given(st.dictionaries(st.text(), plain, max_size=4))
def test_what_is_written_is_what_was_scored_byte_for_byte(values: dict[str, Any]) -> None:
    """Key order and keys that this version does not know survive."""
    assert json.dumps(Evaluation(values).to_dict(), indent=1) == json.dumps(values, indent=1)


def test_metrics_are_read_back_as_written(tmp_path: Path) -> None:
    write_metrics(tmp_path, Evaluation(VALUES))
    values = json.loads((tmp_path / "metrics.json").read_text())
    checksum = values.pop("checksum")
    text = json.dumps(VALUES, indent=1)
    assert (values, checksum) == (VALUES, hashlib.sha256(text.removesuffix("\n}").encode()).hexdigest())
    assert read_metrics(tmp_path) == Evaluation(VALUES)


def test_a_file_without_parts_has_empty_attributes() -> None:
    evaluation = Evaluation({"tasks": {}})
    assert (evaluation.data, evaluation.folds, evaluation.shortcuts, evaluation.cost) == (None,) * 4
    assert (evaluation.splits, evaluation.duplicates) == (None, None)
    assert (evaluation.comparisons, evaluation.permutation, evaluation.embedding) == ({}, {}, {})
    assert evaluation.text() == ""


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"has no metrics\.json; run `hilbert-ray evaluate --store STORE --out"
    ):
        read_metrics(tmp_path)
    (tmp_path / RunFile.METRICS).write_text("{")
    with pytest.raises(DamagedError, match=r"metrics\.json is damaged .*; rerun `hilbert-ray evaluate`"):
        read_metrics(tmp_path)


def test_names_of_a_run_folder_are_those_that_older_runs_have() -> None:
    assert [str(name) for name in RunFile] == [
        "config.json", "folds.parquet", "predictions.parquet", "embeddings.parquet", "attention.parquet",
        "metrics.json", "metrics.jsonl", "training.json", "tune.json", "trials.jsonl", "best.yaml",
        "report.html",
    ]  # fmt: skip
    assert [str(name) for name in RunDir] == [
        "folds", "search", "checkpoints", "model", "tensorboard", "mlflow"
    ]  # fmt: skip
    assert (NOT_COPIED, RESUME_ONLY) == (("checkpoints",), ("checkpoints", "folds", "search"))
    assert str(Path("run") / RunFile.METRICS) == "run/metrics.json"
