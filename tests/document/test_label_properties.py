"""Labels to numbers against scikit-learn, and the tasks that any labels imply."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import LabelEncoder, MultiLabelBinarizer

from hilbert_ray.config import TaskConfig
from hilbert_ray.document.labels import ORDINAL_MOST, LabelSurvey, encode_labels, infer_tasks
from hilbert_ray.document.records import Document, Label


def labelled(labels: Sequence[Label | None]) -> list[Document]:
    """Return a document for each label; None is unlabelled."""
    return [
        Document(doc_id=f"d{i}", text="a", labels={} if label is None else {"t": label})
        for i, label in enumerate(labels)
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=30))
def test_the_number_of_distinct_whole_numbers_decides_between_the_kinds(labels: list[int]) -> None:
    distinct = sorted(set(labels))
    tasks = infer_tasks(labelled(labels))
    if len(distinct) == 1:
        assert tasks == {}
        return
    kind = "binary" if len(distinct) == 2 else "ordinal" if len(distinct) <= ORDINAL_MOST else "regression"
    assert tasks["t"].kind == kind
    assert tasks["t"].classes == (() if kind == "regression" else tuple(map(str, distinct)))
    targets = encode_labels("t", tasks["t"], labelled(labels))
    expected = labels if kind == "regression" else [distinct.index(label) for label in labels]
    np.testing.assert_allclose(targets, expected)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6) | st.integers(-30, 30) | st.none(), max_size=40),
    st.lists(st.integers(0, 40), max_size=4),
)
def test_surveys_of_parts_merge_to_that_of_the_whole(labels: list[float | None], cuts: list[int]) -> None:
    documents, merged = labelled(labels), LabelSurvey()
    for part in np.split(np.arange(len(documents)), sorted(min(cut, len(documents)) for cut in cuts)):
        survey = LabelSurvey()
        for i in part:
            survey.add(documents[i])
        merged.merge(survey)
    assert merged.tasks() == infer_tasks(documents)
    distinct = {label for label in labels if label is not None}
    assert ("t" in merged.tasks()) == (len(distinct) > 1)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.none() | st.floats(-(2.0**100), 2.0**100, width=32) | st.integers(-1000, 1000), max_size=20)
)
def test_numbers_are_targets_in_float32_with_nan_for_none(labels: list[float | None]) -> None:
    targets = encode_labels("t", TaskConfig(kind="regression"), labelled(labels))
    expected = np.array([np.nan if label is None else label for label in labels], np.float32)
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, expected)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from("zyxwv"), min_size=3, max_size=30))
def test_inferred_classes_are_numbered_as_scikit_learn_does(labels: list[str]) -> None:
    tasks = infer_tasks(labelled(labels))
    if len(set(labels)) < 2:
        assert tasks == {}
        return
    encoder = LabelEncoder().fit(labels)
    assert tasks["t"].classes == tuple(encoder.classes_)
    np.testing.assert_array_equal(encode_labels("t", tasks["t"], labelled(labels)), encoder.transform(labels))


@settings(max_examples=30, deadline=None)
@example([[]])
@given(st.lists(st.lists(st.sampled_from("edcba"), unique=True), min_size=1, max_size=20))
def test_lists_of_labels_are_binarised_as_scikit_learn_does(labels: list[list[str]]) -> None:
    """Where every list is empty there is no label to predict, and so no task."""
    tasks = infer_tasks(labelled(labels))
    if not any(labels):
        assert tasks == {}
        return
    binarizer = MultiLabelBinarizer().fit(labels)
    assert tasks["t"].classes == tuple(binarizer.classes_)
    targets = encode_labels("t", tasks["t"], labelled(labels))
    np.testing.assert_allclose(targets, binarizer.transform(labels))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.none() | st.dictionaries(st.sampled_from("abc"), st.sampled_from([0, 1, None]))))
def test_mappings_leave_unlabelled_what_they_do_not_name(
    labels: list[dict[str, int | None] | None],
) -> None:
    task = TaskConfig(kind="multilabel", classes=("a", "b", "c"))
    targets = encode_labels("t", task, labelled(labels))
    expected = np.full((len(labels), 3), np.nan)
    for i, held in enumerate(labels):
        for name, value in (held or {}).items():
            if value is not None:
                expected[i, "abc".index(name)] = value
    np.testing.assert_allclose(targets, expected)
    assert np.nansum(targets) == pytest.approx(sum(list((held or {}).values()).count(1) for held in labels))
