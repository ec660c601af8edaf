"""Drawn folds against brute force: balance, numbers of distinct partitions, counts and strata."""

import random
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.config import FoldsConfig, TaskConfig
from hilbert_ray.folds.draw import choose_strata, inner_folds, make_folds
from hilbert_ray.folds.file import read_folds, write_folds
from hilbert_ray.folds.records import Folds


def drawn(groups: np.ndarray, strata: np.ndarray, folds: int, repeats: int = 1, seed: int = 0) -> Folds:
    ids = [f"d{i:03d}" for i in range(len(groups))]
    return make_folds(ids, groups, strata, FoldsConfig(folds=folds, repeats=repeats), seed)


def imbalance(fold_of_group: np.ndarray, groups: np.ndarray, strata: np.ndarray, folds: int) -> float:
    """Return the summed squared deviation of each class's and of all documents' shares from 1 / folds."""
    fold_of = fold_of_group[groups]
    total = 0.0
    for members in (*(strata == k for k in np.unique(strata)), np.ones(len(groups), bool)):
        shares = np.array([(members & (fold_of == k)).sum() / members.sum() for k in range(folds)])
        total += float(((shares - 1 / folds) ** 2).sum())
    return total


@pytest.mark.parametrize("seed", range(8))
def test_the_balance_of_few_groups_is_the_best_of_all_partitions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.concatenate([np.arange(7), rng.integers(0, 7, 23)])
    strata = rng.permutation(np.arange(30) % 3)
    folds = drawn(groups, strata, 3, seed=seed)
    fold_of_group = np.array([folds.assignment[0][groups == g][0] for g in range(7)])
    # Group 0 stays in fold 0: other numberings of the folds are the same partitions.
    partitions = [np.array([0, *rest]) for rest in product(range(3), repeat=6) if len({0, *rest}) == 3]
    best = min(imbalance(partition, groups, strata, 3) for partition in partitions)
    assert imbalance(fold_of_group, groups, strata, 3) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize(("size", "seed"), list(product((4, 6), range(3))))
def test_repeats_use_up_all_even_halves_before_one_comes_back(size: int, seed: int) -> None:
    """Of 2 n equal groups there are (2 n over n) halves, two to a partition: as many test sets."""
    halves = {frozenset(half) for half in combinations(range(size), size // 2)}
    folds = drawn(np.arange(size), np.full(size, -1), 2, len(halves) // 2 + 2, seed)
    assert {frozenset(fold.test.tolist()) for fold in folds} == halves
    assert folds.distinct == len(halves) == {4: 6, 6: 20}[size]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 7), st.integers(0, 60), st.integers(0, 5))
def test_test_sets_of_single_documents_differ_by_at_most_one(folds: int, extra: int, seed: int) -> None:
    count = folds + extra
    sizes = [len(fold.test) for fold in drawn(np.arange(count), np.full(count, -1), folds, seed=seed)]
    assert max(sizes) - min(sizes) <= 1
    assert np.mean(sizes) == pytest.approx(count / folds)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(2, 5), st.integers(1, 6), st.integers(0, 5))
def test_classes_of_equal_groups_are_dealt_out_exactly(
    classes: int, folds: int, each: int, seed: int
) -> None:
    """Each class has `each` groups of two documents for every fold, so an exact balance exists."""
    strata = np.repeat(np.arange(classes), 2 * folds * each)
    counts = drawn(np.arange(len(strata)) // 2, strata, folds, seed=seed).counts(strata)
    np.testing.assert_array_equal(counts, np.full((1, folds, classes), 2 * each))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 3))
def test_the_number_of_distinct_test_sets_is_that_of_sets_of_ids(
    folds: int, extra: list[int], repeats: int
) -> None:
    groups = np.array([*range(10), *extra])
    made = drawn(groups, np.full(len(groups), -1), folds, repeats, len(extra))
    tests = {
        frozenset(made.doc_ids[made.assignment[r] == k]) for r, k in product(range(repeats), range(folds))
    }
    assert made.distinct == len(tests)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 3), st.integers(2, 4), st.integers(0, 9))
def test_counts_are_those_of_a_plain_loop(documents: int, repeats: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assignment = rng.integers(0, 3, (repeats, documents))
    assignment[0, 0] = 2
    strata = rng.integers(-1, classes, documents)
    strata[-1] = classes - 1
    expected = np.zeros((repeats, 3, classes))
    for r, i in product(range(repeats), range(documents)):
        if strata[i] >= 0:
            expected[r, assignment[r, i], strata[i]] += 1
    folds = Folds(
        doc_ids=np.arange(documents).astype(str), groups=np.arange(documents), assignment=assignment
    )
    np.testing.assert_array_equal(folds.counts(strata), expected)
    np.testing.assert_array_equal(folds.counts(strata[:, None] == np.arange(classes)), expected)
    described = folds.describe(strata)
    assert described["sizes"] == [[int((row == k).sum()) for k in range(3)] for row in assignment]
    present = expected.sum((0, 1))
    rarest = min((n, k) for k, n in enumerate(present) if n)[1]
    assert described["positives"] == expected[:, :, rarest].tolist()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(2, 12), st.integers(0, 5))
def test_inner_folds_of_single_documents_are_near_equal_parts_of_the_training_documents(
    inner: int, train: int, seed: int
) -> None:
    chosen = np.random.default_rng(seed).permutation(30)[:train]
    folds = inner_folds(chosen, np.arange(30), np.full(30, -1), FoldsConfig(inner=inner), seed)
    assert len(folds) == min(inner, train)
    sizes = np.array([len(fold.test) for fold in folds])
    assert sorted(np.concatenate([fold.test for fold in folds])) == sorted(chosen)
    assert np.ptp(sizes) <= 1
    np.testing.assert_allclose(sizes + [len(fold.train) for fold in folds], train)


def test_forty_seeds_draw_forty_different_partitions() -> None:
    groups, strata = np.arange(60) // 2, np.arange(60) % 3
    partitions = {
        frozenset(frozenset(fold.test.tolist()) for fold in drawn(groups, strata, 5, seed=seed))
        for seed in range(40)
    }
    assert len(partitions) == 40


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=10, max_size=60, unique=True), st.lists(st.booleans(), max_size=9)
)
def test_bands_of_distinct_numbers_are_fifths_in_rising_order(
    numbers: list[float], lacking: list[bool]
) -> None:
    target = np.array([*numbers, *(np.nan for _ in lacking)])
    strata = choose_strata(
        {"age": TaskConfig(kind="regression")}, {"age": target}, np.arange(len(target)), FoldsConfig()
    )
    assert strata.members.shape == (len(target), 5)
    np.testing.assert_array_equal(strata.members.sum(1), np.isfinite(target))
    assert np.ptp(strata.members.sum(0)) <= 1
    ordered = [sorted(target[inside]) for inside in strata.members.T]
    assert np.concatenate(ordered).tolist() == sorted(numbers)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 3)), min_size=1, max_size=30))
def test_the_stratified_task_is_the_one_with_the_fewest_documents_in_a_class(
    labels: list[tuple[int, int]],
) -> None:
    tasks = {"first": TaskConfig(classes=("a", "b", "c")), "second": TaskConfig(classes=("a", "b", "c", "d"))}
    targets = dict(zip(tasks, np.array(labels).T, strict=True))
    rarest = {
        name: min(sum(y == k for y in targets[name]) for k in range(len(task.classes)))
        for name, task in tasks.items()
    }
    strata = choose_strata(tasks, targets, np.arange(len(labels)), FoldsConfig())
    assert rarest[strata.task] == min(rarest.values())
    assert strata.task == ("first" if rarest["first"] <= rarest["second"] else "second")
    np.testing.assert_array_equal(
        strata.members.sum(0),
        [np.count_nonzero(targets[strata.task] == k) for k in range(strata.members.shape[1])],
    )


@settings(max_examples=8, deadline=None)
@given(st.integers(2, 4), st.integers(4, 15), st.integers(1, 3), st.randoms(use_true_random=False))
def test_any_folds_come_back_from_their_file_for_documents_in_any_order(
    folds: int, groups: int, repeats: int, shuffler: random.Random
) -> None:
    group = np.arange(2 * groups) // 2
    made = drawn(group, np.full(2 * groups, -1), folds, repeats)
    uri = "memory://folds/properties.parquet"
    write_folds(made, uri)
    order = list(range(2 * groups))
    shuffler.shuffle(order)
    back = read_folds(uri, made.doc_ids[order], group[order])
    np.testing.assert_array_equal(back.assignment, made.assignment[:, order])
    assert (back.folds, back.repeats) == (folds, repeats)
