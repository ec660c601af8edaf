"""Folds: partitions that no group straddles, balanced, distinct, repeatable; files of them are checked."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.config import ConfigError, FoldsConfig, TaskConfig
from hilbert_ray.folds.draw import choose_strata, inner_folds, make_folds
from hilbert_ray.folds.file import read_folds, write_folds
from hilbert_ray.folds.records import Folds, FoldsError
from hilbert_ray.storage.files import DamagedError


def ids(count: int) -> list[str]:
    return [f"d{i:05d}" for i in range(count)]


def skewed(documents: int, groups: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return groups of uneven size and three skewed classes with some documents unlabelled."""
    rng = np.random.default_rng(seed)
    group = np.concatenate([np.arange(groups), rng.integers(0, groups, documents - groups) ** 2 // groups])
    return group, rng.choice([-1, 0, 1, 2], documents, p=[0.1, 0.6, 0.2, 0.1])


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    folds = draw(st.integers(2, 5))
    size = draw(st.integers(folds, 12))
    extra = draw(st.lists(st.integers(0, size - 1), max_size=30))
    group = np.array([*range(size), *extra])
    # Classes are dealt over groups, so that each is in two of them at least.
    strata = np.array([draw(st.sampled_from([-1, 0, 1])) for _ in group])
    strata[:2] = 0
    strata[strata == 1] = 1 if len(np.unique(group[strata == 1])) > 1 else -1
    return group, strata, folds


@settings(max_examples=40, deadline=None)
@given(cohorts(), st.integers(0, 10))
def test_each_repeat_is_a_partition_that_no_group_straddles(
    cohort: tuple[np.ndarray, np.ndarray, int], seed: int
) -> None:
    group, strata, count = cohort
    folds = make_folds(ids(len(group)), group, strata, FoldsConfig(folds=count, repeats=2), seed)
    assert (folds.repeats, folds.folds, len(folds)) == (2, count, 2 * count)
    for repeat in range(2):
        splits = [folds.split(repeat, fold) for fold in range(count)]
        assert sorted(np.concatenate([fold.test for fold in splits])) == list(range(len(group)))
        for fold in splits:
            assert len(fold.test)
            assert sorted(np.concatenate([fold.train, fold.test])) == list(range(len(group)))
            assert not set(group[fold.train]) & set(group[fold.test])


@pytest.mark.parametrize("size", [20, 21, 37])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_two_of_25_test_sets_are_equal_from_20_groups_on(size: int, seed: int) -> None:
    group, strata = skewed(3 * size, size, seed)
    folds = make_folds(ids(len(group)), group, strata, FoldsConfig(folds=5, repeats=5), seed)
    assert folds.distinct == 25
    assert len({frozenset(group[fold.test]) for fold in folds}) == 25
    assert not any("distinct" in warning for warning in folds.warnings)


def test_test_sets_are_distinct_with_ten_groups_where_scikit_learn_repeats_five() -> None:
    group = np.repeat(np.arange(10), 4)
    folds = make_folds(ids(40), group, np.arange(40) % 2, FoldsConfig(folds=5, repeats=5), 0)
    assert folds.distinct == 25


def test_repeated_test_sets_are_a_warning_where_the_groups_allow_no_others() -> None:
    group = np.repeat(np.arange(5), 4)
    folds = make_folds(ids(20), group, np.arange(20) % 2, FoldsConfig(folds=5, repeats=5), 0)
    assert folds.distinct == 5
    assert folds.warnings == (
        "only 5 of 25 test sets are distinct: no others were drawn for 5 groups in 5 folds and 5 repeats, so "
        "later repeats add little to earlier ones",
    )
    assert folds.describe(np.arange(20) % 2)["distinct_test_sets"] == 5


def test_classes_and_sizes_are_spread_far_better_than_by_chance() -> None:
    group, strata = skewed(300, 80)
    folds = make_folds(ids(300), group, strata, FoldsConfig(), 0)
    rng = np.random.default_rng(0)
    chance = np.stack([(rng.permutation(80) % 5)[group] for _ in range(5)])
    blind = Folds(doc_ids=folds.doc_ids, groups=group, assignment=chance)

    def worst(candidate: Folds) -> np.ndarray:
        members = np.column_stack([strata == 0, strata == 1, strata == 2, np.ones(300, bool)])
        counts = candidate.counts(members)
        return np.asarray(np.abs(counts - members.sum(0) / 5).max((0, 1)))

    assert (worst(folds) <= [2, 2, 2, 3]).all()
    assert (worst(blind) > 2 * worst(folds)).all()


def test_a_class_in_as_many_groups_as_folds_reaches_every_fold() -> None:
    group = np.repeat(np.arange(30), 3)
    strata = np.zeros(90, np.int64)
    strata[group < 5] = 1
    folds = make_folds(ids(90), group, strata, FoldsConfig(), 3)
    assert (folds.counts(strata)[:, :, 1] == 3).all()


def test_the_seed_alone_decides() -> None:
    group, strata = skewed(120, 40)
    first, again, other = (make_folds(ids(120), group, strata, FoldsConfig(), seed) for seed in (7, 7, 8))
    assert np.array_equal(first.assignment, again.assignment)
    assert not np.array_equal(first.assignment, other.assignment)


def test_groups_may_have_names() -> None:
    group, strata = skewed(120, 40)
    named = np.array([f"g{g:02d}" for g in group])
    numbered = make_folds(ids(120), group, strata, FoldsConfig(), 0)
    assert np.array_equal(
        numbered.assignment, make_folds(ids(120), named, strata, FoldsConfig(), 0).assignment
    )


def test_ten_thousand_documents_are_balanced_to_one_document() -> None:
    rng = np.random.default_rng(0)
    group, strata = np.arange(10_000), rng.choice(4, 10_000, p=[0.7, 0.2, 0.09, 0.01])
    folds = make_folds(ids(10_000), group, strata, FoldsConfig(), 0)
    counts = folds.counts(strata)
    assert (counts.max((0, 1)) - counts.min((0, 1)) <= 1).all()
    assert folds.distinct == 25


def test_documents_without_labels_are_put_in_folds_too() -> None:
    strata = np.full(40, -1)
    folds = make_folds(ids(40), np.arange(40), strata, FoldsConfig(), 0)
    assert [len(fold.test) for fold in folds] == [8] * 25
    assert "rarest_class" not in folds.describe(strata)


def test_positives_of_the_rarest_class_are_described() -> None:
    strata = np.array([0] * 30 + [1] * 10)
    folds = make_folds(ids(40), np.arange(40), strata, FoldsConfig(repeats=2), 0, ("common", "rare"))
    described = folds.describe(strata, ("common", "rare"))
    assert described["rarest_class"] == "rare"
    assert described["positives"] == [[2] * 5] * 2
    assert described["sizes"] == [[8] * 5] * 2
    assert (described["documents"], described["groups"]) == (40, 40)


def test_fewer_groups_than_folds_are_refused() -> None:
    message = "5 folds were requested, but the 12 documents have only 3 groups.*set folds.folds to at most"
    with pytest.raises(FoldsError, match=message):
        make_folds(ids(12), np.arange(12) % 3, np.arange(12) % 2, FoldsConfig(), 0)


def test_a_class_of_one_group_is_refused_by_name() -> None:
    strata = np.zeros(40, np.int64)
    strata[:3] = 1
    message = r"class 'rare' occurs in only one group \(3 documents\).*at least 2 groups.*add documents"
    with pytest.raises(FoldsError, match=message):
        make_folds(ids(40), np.arange(40) // 4, strata, FoldsConfig(), 0, ("common", "rare"))


def test_a_class_in_fewer_groups_than_folds_is_a_warning() -> None:
    strata = np.zeros(40, np.int64)
    strata[:3] = 1
    folds = make_folds(ids(40), np.arange(40), strata, FoldsConfig(), 0, ("common", "rare"))
    assert folds.warnings == (
        "class 'rare' occurs in 3 groups, fewer than the 5 folds: at least 2 test sets of each repeat lack "
        "it and do not count in its mean",
    )
    assert (folds.counts(strata)[:, :, 1].sum(1) == 3).all()
    assert folds.counts(strata)[:, :, 1].max() == 1


def test_a_class_without_documents_is_a_warning() -> None:
    members = np.zeros((40, 2), bool)
    members[:, 0] = True
    folds = make_folds(ids(40), np.arange(40), members, FoldsConfig(), 0, ("a", "b"))
    assert folds.warnings == ("class 'b' has no documents, so it can be neither learned nor scored",)


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(
        FoldsError, match="there are 3 documents, 4 groups and 4 strata; pass arrays of the same"
    ):
        make_folds(ids(3), np.arange(4), np.zeros(4, np.int64), FoldsConfig(), 0)


def test_equal_ids_are_refused() -> None:
    with pytest.raises(
        FoldsError, match="folds of 4 documents with 3 different ids: ids must be unique; remove"
    ):
        make_folds(["a", "b", "c", "a"], np.arange(4), np.zeros(4, np.int64), FoldsConfig(folds=2), 0)


def test_inner_folds_stay_inside_the_training_part() -> None:
    group, strata = skewed(120, 40)
    outer = make_folds(ids(120), group, strata, FoldsConfig(), 0).split(0, 0)
    inner = inner_folds(outer.train, group, strata, FoldsConfig(inner=3), 0)
    assert len(inner) == 3
    assert sorted(np.concatenate([fold.test for fold in inner])) == sorted(outer.train)
    for fold in inner:
        assert not set(group[fold.train]) & set(group[fold.test])
        assert not set(group[fold.train]) & set(group[outer.test])
        assert sorted([*fold.train, *fold.test]) == sorted(outer.train)


def test_inner_folds_are_as_many_as_groups_at_most_and_do_not_refuse_rare_classes() -> None:
    group = np.array([0, 0, 1, 1, 2, 2])
    inner = inner_folds(np.arange(4), group, np.array([0, 0, 0, 1, 0, 0]), FoldsConfig(inner=3), 0)
    assert len(inner) == 2
    assert inner_folds(np.arange(4), group, np.zeros(6, np.int64), FoldsConfig(inner=0), 0) == []
    with pytest.raises(FoldsError, match=r"2 folds were requested, but the 2 documents have only 1 group,"):
        inner_folds(np.arange(2), group, np.zeros(6, np.int64), FoldsConfig(), 0)


def test_the_task_with_the_rarest_class_is_spread_unless_one_is_named() -> None:
    tasks = {
        "mood": TaskConfig(kind="multiclass", classes=("low", "mid", "high")),
        "signs": TaskConfig(kind="multilabel", classes=("tremor", "ataxia")),
    }
    signs = np.full((12, 2), np.nan)
    signs[:6] = [[1, 0], [0, 1], [1, 1], [0, 0], [1, np.nan], [0, 0]]
    targets = {"mood": np.arange(12) % 3, "signs": signs}
    chosen = choose_strata(tasks, targets, np.arange(12), FoldsConfig())
    assert (chosen.task, chosen.names) == ("signs", ("tremor", "ataxia"))
    assert chosen.members.sum(0).tolist() == [3, 2]
    named = choose_strata(tasks, targets, np.arange(12), FoldsConfig(stratify="mood"))
    assert (named.task, named.members.sum(0).tolist()) == ("mood", [4, 4, 4])
    with pytest.raises(ConfigError, match=r"folds.stratify is 'age'; the tasks are mood, signs"):
        choose_strata(tasks, targets, np.arange(12), FoldsConfig(stratify="age"))


def test_numbers_are_spread_in_bands_of_two_groups_at_least() -> None:
    tasks = {"age": TaskConfig(kind="regression")}
    ages = np.arange(20.0)
    ages[0] = np.nan
    bands = choose_strata(tasks, {"age": ages}, np.arange(20), FoldsConfig())
    assert bands.members.shape == (20, 5)
    assert bands.members.sum() == 19
    few = choose_strata(tasks, {"age": ages}, np.arange(20) // 7, FoldsConfig())
    assert few.names == ("band 1 of 2", "band 2 of 2")
    assert choose_strata({}, {}, np.arange(20), FoldsConfig()).members.shape == (20, 0)


def test_saved_folds_come_back_in_the_order_of_the_documents(tmp_path: Path) -> None:
    group, strata = skewed(60, 20)
    folds = make_folds(ids(60), group, strata, FoldsConfig(repeats=3), 0)
    write_folds(folds, str(tmp_path / "folds.parquet"))
    table = pq.read_table(tmp_path / "folds.parquet")
    assert table.column_names == ["repeat", "fold", "doc_id", "group"]
    assert table.num_rows == 180
    order = np.random.default_rng(0).permutation(60)
    back = read_folds(str(tmp_path / "folds.parquet"), np.array(ids(60))[order], group[order])
    assert np.array_equal(back.assignment, folds.assignment[:, order])


def written(folder: Path, **changes: list[object]) -> str:
    """Write a folds file for four documents with some columns changed."""
    columns = {
        "repeat": [0, 0, 0, 0],
        "fold": [0, 0, 1, 1],
        "doc_id": ["a", "b", "c", "d"],
    } | changes
    pq.write_table(pa.table({k: v for k, v in columns.items() if v}), folder / "f.parquet")
    return str(folder / "f.parquet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"doc_id": []}, "has columns repeat, fold; it needs repeat, fold and doc_id"),
        ({"fold": [0, None, 1, 1]}, "column fold: 1 of 4 rows are empty"),
        ({"fold": ["0", "0", "1", "1"]}, "its type is string; repeat and fold must be whole numbers"),
        ({"doc_id": ["a", "b", "c", "x"]}, "names 1 documents that are not evaluated here, such as 'x'"),
        ({"doc_id": ["a", "b", "c", "c"]}, r"document 'c' is in 2 folds \(2 such documents\)"),
        ({"repeat": [0, 0, 0, 1]}, r"repeat 0: document 'd' is in 0 folds"),
        ({"repeat": [1, 1, 1, 1]}, r"has repeats \[1\]; they must be numbered 0, 1"),
        ({"fold": [0, 0, 2, 2]}, r"repeat 0: folds are \[0, 2\]; each repeat needs the same folds"),
        ({"fold": [0, 0, 0, 0]}, "and at least 2"),
        (
            {"fold": [0, 1, 1, 0]},
            r"repeat 0: group '7' is in folds \[0, 1\]; a group must not straddle folds",
        ),
    ],
)
def test_a_folds_file_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(FoldsError, match=message):
        read_folds(written(tmp_path, **changes), ["a", "b", "c", "d"], np.array([7, 7, 8, 9]))


def test_an_absent_or_foreign_folds_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FoldsError, match=r"no folds file at .*; fix folds.file, or leave it empty"):
        read_folds(str(tmp_path / "none.parquet"), ["a"], np.array([0]))
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DamagedError, match=r"folds file .*text\.parquet is damaged .*write it again"):
        read_folds(str(tmp_path / "text.parquet"), ["a"], np.array([0]))
