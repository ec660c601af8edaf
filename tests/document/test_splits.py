"""Groups of several splits: found whatever the order, merged over blocks, named in the message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilbert_ray.document.records import SPLITS, Document
from hilbert_ray.document.splits import SplitError, SplitSurvey, check_splits, is_held_out, split_of

placed = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([None, *SPLITS])), max_size=12)


def survey_of(places: list[tuple[str, str | None]]) -> SplitSurvey:
    survey = SplitSurvey()
    for group, split in places:
        survey.add(group, split)
    return survey


@given(placed, st.integers(0, 12))
def test_groups_of_several_splits_are_those_of_a_plain_count(
    places: list[tuple[str, str | None]], cut: int
) -> None:
    splits = {group: {split or "train" for g, split in places if g == group} for group, _ in places}
    expected = {group: found for group, found in splits.items() if len(found) > 1}
    merged = survey_of(places[:cut])
    merged.merge(survey_of(places[cut:]))
    assert {group: set(found) for group, found in merged.straddling().items()} == expected
    documents = [Document(doc_id=str(i), group=g, split=s) for i, (g, s) in enumerate(places)]
    if not expected:
        check_splits(documents)
        return
    with pytest.raises(SplitError) as refused:
        check_splits(documents)
    first = min(expected)
    assert all(f" {split}" in str(refused.value) for split in expected[first])
    assert str(refused.value).startswith(f"group '{first}' has documents of the splits ")
    assert (f"({len(expected)} groups are of several splits)" in str(refused.value)) == (len(expected) > 1)


def test_validation_and_test_are_held_out_and_none_is_of_train() -> None:
    found = {split: is_held_out(Document(doc_id="d", split=split)) for split in (None, *SPLITS)}
    assert found == {None: False, "train": False, "validation": True, "test": True}
    assert split_of(Document(doc_id="d")) == "train"
