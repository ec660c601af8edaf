"""Labels to targets."""

import numpy as np
import pytest

from hilbert_ray.config import ConfigError, TaskConfig
from hilbert_ray.document.labels import encode_label, encode_labels
from hilbert_ray.document.records import Document


def document(doc_id: str, **labels: object) -> Document:
    return Document(doc_id=doc_id, text="a", labels=labels)  # type: ignore[arg-type]


def test_classes_become_their_numbers_and_absent_labels_minus_one() -> None:
    task = TaskConfig(kind="ordinal", classes=("low", "mid", "high"))
    found = encode_labels(
        "level", task, [document("a", level="high"), document("b"), document("c", level="low")]
    )
    assert found.tolist() == [2, -1, 0]
    assert found.dtype == np.int64


def test_truth_values_and_numbers_are_classes_by_their_name() -> None:
    assert encode_label(TaskConfig(kind="binary", classes=("false", "true")), True) == 1
    assert encode_label(TaskConfig(kind="ordinal", classes=("0", "1", "2")), 2) == 2


def test_multilabel_takes_lists_and_mappings() -> None:
    task = TaskConfig(kind="multilabel", classes=("a", "b", "c"))
    assert encode_label(task, ["a", "c"]) == [1, 0, 1]
    assert encode_label(task, []) == [0, 0, 0]
    partly = encode_label(task, {"a": 1, "b": None})
    assert isinstance(partly, list)
    assert partly[0] == 1
    assert np.isnan(partly[1:]).all()


def test_a_label_outside_the_task_names_document_label_and_classes() -> None:
    task = TaskConfig(classes=("x", "y"))
    with pytest.raises(ConfigError, match=r"document 'b', task `t`: unknown class 'z', expected one of x, y"):
        encode_labels("t", task, [document("a", t="x"), document("b", t="z")])


def test_a_regression_label_must_be_a_finite_number() -> None:
    task = TaskConfig(kind="regression")
    assert encode_label(task, 3) == 3.0
    for wrong in ("3", True, float("nan")):
        with pytest.raises(ValueError, match="finite number"):
            encode_label(task, wrong)


@pytest.mark.parametrize("wrong", [["d"], {"d": 1}, {"a": 2}, "a"])
def test_a_wrong_multilabel_label_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"must be|must list"):
        encode_label(TaskConfig(kind="multilabel", classes=("a", "b")), wrong)  # type: ignore[arg-type]
