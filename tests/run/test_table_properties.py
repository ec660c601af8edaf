"""Files of a run: fold results, predictions and attention come back as the numbers that were written."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.config import HILBERT, TaskConfig
from hilbert_ray.document.records import Document
from hilbert_ray.features.arrays import Features
from hilbert_ray.folds.records import Fold
from hilbert_ray.run.evaluation import Evaluation
from hilbert_ray.run.fold_results import FoldResult, TaskPredictions, read_fold_result, write_fold_result
from hilbert_ray.run.folder import RunFile
from hilbert_ray.run.tables import read_columns, read_predictions, write_predictions
from tests import make

TASKS = {
    "state": TaskConfig(kind="multiclass", classes=("a", "b", "c", "d")),
    "heard": TaskConfig(kind="binary", classes=("no", "yes")),
    "signs": TaskConfig(kind="multilabel", classes=("x", "y", "z")),
    "age": TaskConfig(kind="regression"),
}


def labelled(documents: int, seed: int) -> Features:
    """Return documents with targets of four kinds, some of them unlabelled."""
    made, rng = make.features(documents, seed=seed), np.random.default_rng(seed)
    signs = rng.integers(0, 2, (documents, 3)).astype(np.float32)
    signs[rng.random((documents, 3)) < 0.2] = np.nan
    age = rng.normal(50, 9, documents).astype(np.float32)
    age[::5] = np.nan
    targets = {"state": made.targets["state"], "heard": made.targets["heard"], "signs": signs, "age": age}
    return Features(
        doc_ids=made.doc_ids, groups=made.groups, audio=made.audio, text=made.text, targets=targets
    )


HEADS = {
    "state": {
        "both": {"experts": 0.1, "audio": 2.9, "text": 0.0, "temperature": 1.25, "labels": 7, "cases": 2},
        "audio": {"experts": 1.0, "audio": 1.0, "text": 0.0, "temperature": 1.0, "labels": 0, "cases": 0},
    },
    "a/b": {"text": {"experts": 0.5, "audio": 0.0, "text": 1.5, "temperature": 3.0, "labels": 9, "cases": 4}},
}


def result_of(features: Features, fold: Fold, seed: int) -> FoldResult:
    """Return random predictions of one fold, with one weight a segment."""
    rng, rows = np.random.default_rng(seed), len(fold.test)
    p = {name: rng.random((rows, len(task.classes) or 1)).astype(np.float32) for name, task in TASKS.items()}
    p = {
        name: values / values.sum(1, keepdims=True) if name in ("state", "heard") else values
        for name, values in p.items()
    }
    p["age"] = p["age"][:, 0] * 80
    decisions: dict[str, np.ndarray] = {name: p[name].argmax(1) for name in ("state", "heard")}
    decisions |= {"signs": (p["signs"] > 0.5).astype(np.int64), "age": p["age"]}
    return FoldResult(
        variant=HILBERT, repeat=fold.repeat, fold=fold.fold, test=fold.test, trained_on=fold.train,
        probabilities=p, decisions=decisions, heads=HEADS,
        embeddings={m: rng.normal(size=(rows, 5)).astype(np.float32) for m in ("audio", "text", "joint")},
        attention={
            modality: [rng.random(ragged.lengths[i]).astype(np.float32) for i in fold.test]
            for modality, ragged in features.by_modality.items()
        },
        seconds=float(rng.random()),
    )  # fmt: skip


def folds_of(documents: int, repeats: int, seed: int) -> Iterator[Fold]:
    rng = np.random.default_rng(seed)
    for repeat in range(repeats):
        fold_of = rng.permutation(np.arange(documents) % 3)
        for fold in range(3):
            is_test = fold_of == fold
            yield Fold(repeat=repeat, fold=fold, train=np.flatnonzero(~is_test), test=np.flatnonzero(is_test))


def expect_equal(found: Any, written: Any) -> None:  # noqa: ANN401 - arrays by name
    assert list(found) == list(written)
    for name, values in written.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=0)
        assert found[name].dtype == values.dtype


@pytest.mark.parametrize("documents", [3, 12, 31])
def test_a_fold_result_comes_back_to_the_last_bit(tmp_path: Path, documents: int) -> None:
    features = labelled(documents, documents)
    for fold in folds_of(documents, 1, documents):
        result = result_of(features, fold, fold.fold)
        write_fold_result(tmp_path / "fold.npz", result)
        found = read_fold_result(tmp_path / "fold.npz", HILBERT, fold)
        for name in ("probabilities", "decisions", "embeddings"):
            expect_equal(getattr(found, name), getattr(result, name))
        assert found.heads == HEADS
        assert found.seconds == pytest.approx(result.seconds, rel=1e-15)
        for modality, weights in result.attention.items():
            assert [len(row) for row in found.attention[modality]] == [len(row) for row in weights]
            for row, own in zip(found.attention[modality], weights, strict=True):
                np.testing.assert_array_equal(row, own)


def test_predictions_from_one_modality_are_results_of_their_own(tmp_path: Path) -> None:
    features = labelled(9, 0)
    fold = next(folds_of(9, 1, 0))
    full, alone = result_of(features, fold, 0), result_of(features, fold, 1)
    subset = TaskPredictions(probabilities=alone.probabilities, decisions=alone.decisions)
    result = FoldResult(
        **{name: getattr(full, name) for name in FoldResult.__slots__} | {"subsets": {"text": subset}}
    )
    write_fold_result(tmp_path / "fold.npz", result)
    first, second = read_fold_result(tmp_path / "fold.npz", HILBERT, fold).split()
    assert (first.variant, second.variant) == (HILBERT, "hilbert_text")
    expect_equal(first.probabilities, full.probabilities)
    expect_equal(second.probabilities, alone.probabilities)
    expect_equal(second.decisions, alone.decisions)
    # Seconds of the one fit count once.
    assert first.seconds + second.seconds == pytest.approx(full.seconds)


@pytest.mark.parametrize(("documents", "seed"), [(6, 0), (20, 1)])
def test_predictions_are_read_in_order_of_repeat_and_document_as_they_were_made(
    tmp_path: Path, documents: int, seed: int
) -> None:
    features = labelled(documents, seed)
    results = [result_of(features, fold, i) for i, fold in enumerate(folds_of(documents, 2, seed))]
    write(tmp_path, features, results[::-1])
    doc_ids, by_task = read_predictions(tmp_path, TASKS)
    assert doc_ids == features.doc_ids.tolist()
    assert set(by_task) == {(task, HILBERT) for task in TASKS}
    for (task, _), found in by_task.items():
        np.testing.assert_array_equal(found.document, np.tile(np.arange(documents), 2))
        np.testing.assert_array_equal(found.repeat, np.repeat([0, 1], documents))
        np.testing.assert_allclose(found.targets, np.concatenate([features.targets[task]] * 2))
        for result in results:
            rows = result.repeat * documents + result.test
            np.testing.assert_allclose(found.probabilities[rows], result.probabilities[task], rtol=1e-7)
            if found.decisions is not None:
                np.testing.assert_array_equal(found.decisions[rows], result.decisions[task])
            assert (found.fold[rows] == result.fold).all()


def test_attention_has_each_segment_of_the_first_repeat_with_its_weight_and_times(tmp_path: Path) -> None:
    features = labelled(12, 3)
    results = [result_of(features, fold, i) for i, fold in enumerate(folds_of(12, 2, 3))]
    write(tmp_path, features, results)
    columns = read_columns(tmp_path, RunFile.ATTENTION)
    embeddings = read_columns(tmp_path, RunFile.EMBEDDINGS)
    assert columns is not None
    assert embeddings is not None
    tested = np.concatenate([result.test for result in results[:3]])
    assert columns["doc_id"] == embeddings["doc_id"] == features.doc_ids[tested].tolist()
    for modality, ragged in features.by_modality.items():
        weights = [row for result in results[:3] for row in result.attention[modality]]
        for place, i in enumerate(tested):
            span = slice(int(ragged.offsets[i]), int(ragged.offsets[i + 1]))
            np.testing.assert_allclose(columns[f"{modality}_weight"][place], weights[place])
            np.testing.assert_allclose(columns[f"{modality}_start"][place], ragged.start[span])
            np.testing.assert_allclose(columns[f"{modality}_end"][place], ragged.end[span])
        joint = np.concatenate([result.embeddings["joint"] for result in results[:3]])
        np.testing.assert_allclose(embeddings["joint"], joint)


def write(run: Path, features: Features, results: Sequence[FoldResult]) -> None:
    documents = [Document(doc_id=doc_id, group=f"g{i}") for i, doc_id in enumerate(features.doc_ids.tolist())]
    dataset: Any = SimpleNamespace(features=features, documents=documents)
    write_predictions(run, dataset, results)


scores = st.floats(0, 1)


@settings(max_examples=40, deadline=None)
@given(scores, st.none() | scores, st.none() | scores)
def test_the_table_of_headlines_rounds_to_three_digits(
    within: float, low: float | None, high: float | None
) -> None:
    auc = {"within": within, "within_low": low, "within_high": high}
    line = Evaluation({"tasks": {"t": {"audio_only": {"auc": auc}}}}).text().splitlines()[1]
    name, value, *bounds = line.replace("Audio only", "name").split()
    assert name == "name"
    assert float(value) == pytest.approx(within, abs=5.1e-4)
    if low is None or high is None:
        assert bounds == ["no", "interval"]
    else:
        assert [float(bounds[0]), float(bounds[2])] == pytest.approx([low, high], abs=5.1e-4)
