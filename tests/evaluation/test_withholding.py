"""Labels withheld from training groups: whole groups, nested, every class kept, and nothing else touched."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from hilbert_ray.config import TaskConfig
from hilbert_ray.evaluation.cross_validation import run_fold
from hilbert_ray.evaluation.withholding import withhold
from hilbert_ray.features import Features
from hilbert_ray.features.arrays import is_labelled
from hilbert_ray.folds.records import Fold
from tests import make
from tests.evaluation.cases import FEATURES, FOLD, TASKS, TINY, variant

SHARES = (0.05, 0.1, 0.25, 0.5, 0.9, 1.0)
KINDS = {
    "rare": TaskConfig(kind="binary", classes=("no", "yes")),
    "state": TaskConfig(classes=("a", "b", "c", "d")),
    "themes": TaskConfig(kind="multilabel", classes=("art", "law", "sea")),
    "age": TaskConfig(kind="regression"),
}
GROUPS = 60


def mixed(seed: int) -> tuple[Features, Fold]:
    """Return 240 documents of 60 groups with tasks of all kinds; a quarter of the groups has no label.

    Three groups have class `yes` of `rare`, and one document has the theme `sea`.
    """
    rng = np.random.default_rng(seed)
    features = make.features(240, groups=GROUPS, seed=seed)
    rare = np.isin(features.groups, (3, 17, 31)).astype(np.int64)
    themes = rng.integers(0, 2, (240, 3)).astype(np.float32)
    themes[:, 2] = np.arange(240) == 93
    themes[rng.random(240) < 0.2] = np.nan
    themes[93] = (0, 1, 1)
    age = rng.normal(40, 9, 240).astype(np.float32)
    age[rng.random(240) < 0.3] = np.nan
    targets = {"rare": rare, "state": features.targets["state"].copy(), "themes": themes, "age": age}
    unlabelled = features.groups % 4 == 0
    for name, y in targets.items():
        y[unlabelled] = -1 if name in ("rare", "state") else np.nan
    features = replace(features, targets=targets)
    tested = np.isin(features.groups, np.arange(40, 52))
    fold = Fold(repeat=1, fold=2, train=np.flatnonzero(~tested), test=np.flatnonzero(tested))
    return features, fold


def labelled_groups(features: Features, fold: Fold, tasks: Mapping[str, TaskConfig]) -> set[int]:
    """Return the training groups with a label of any task."""
    some = np.any([is_labelled(features.targets[name]) for name in tasks], 0)
    return set(features.groups[fold.train[some[fold.train]]].tolist())


@pytest.mark.parametrize("seed", range(5))
def test_groups_lose_all_labels_or_none_and_smaller_shares_are_subsets(seed: int) -> None:
    features, fold = mixed(seed)
    all_groups = labelled_groups(features, fold, KINDS)
    before: set[int] = set()
    for share in SHARES:
        left = withhold(features, KINDS, fold, share, seed=seed)
        kept = labelled_groups(left, fold, KINDS)
        assert before <= kept <= all_groups, "shares are not nested"
        assert len(kept) >= round(share * len(all_groups))
        # Ten classes, two answers and two halves: that many groups have all of them between them.
        assert len(kept) <= max(round(share * len(all_groups)), 14)
        of_kept = np.isin(features.groups, list(kept)) | np.isin(np.arange(240), fold.test)
        for name, y in features.targets.items():
            np.testing.assert_array_equal(left.targets[name][of_kept], y[of_kept])
            assert not is_labelled(left.targets[name])[~of_kept].any(), name
            assert left.targets[name].dtype == y.dtype
        before = kept
    assert before == all_groups


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.02, 0.1])
def test_every_class_of_every_task_keeps_a_labelled_group(seed: int, share: float) -> None:
    features, fold = mixed(seed)
    left = withhold(features, KINDS, fold, share, seed=seed).targets
    for name in ("rare", "state"):
        of_training = set(features.targets[name][fold.train]) - {-1}
        assert set(left[name][fold.train]) - {-1} == of_training
    for answer in (0, 1):
        assert (left["themes"][fold.train] == answer).any(0).all()
    ages = left["age"][fold.train]
    median = np.nanmedian(features.targets["age"][fold.train])
    assert np.nanmin(ages) <= median < np.nanmax(ages)


def test_labels_left_have_the_classes_in_their_proportion() -> None:
    """A quarter of 200 groups of one document: each class keeps a quarter, to the document."""
    features = make.features(200, groups=200)
    y = np.repeat([0, 1, 2], [20, 60, 120])
    features = replace(features, targets={"state": np.random.default_rng(0).permutation(y)})
    tasks = {"state": TaskConfig(classes=("a", "b", "c"))}
    fold = Fold(repeat=0, fold=0, train=np.arange(200), test=np.zeros(0, np.int64))
    for share in (0.25, 0.5, 0.75):
        left = withhold(features, tasks, fold, share, seed=0).targets["state"]
        counts = np.bincount(left[left >= 0], minlength=3)
        np.testing.assert_allclose(counts, share * np.array([20, 60, 120]), atol=1)


def test_which_groups_are_kept_is_random_and_every_group_has_the_same_chance() -> None:
    features = make.features(20, groups=20)
    heard = np.arange(20) % 2
    features = replace(features, targets={"heard": heard})
    tasks = {"heard": TASKS["heard"]}
    kept = np.zeros(20)
    for repeat in range(400):
        fold = Fold(repeat=repeat, fold=0, train=np.arange(20), test=np.zeros(0, np.int64))
        kept += is_labelled(withhold(features, tasks, fold, 0.3, seed=7).targets["heard"])
    # 120 of 400 expected, with a standard deviation of 9.2; 20 groups, four of them.
    assert kept.sum() == 400 * 6
    assert np.abs(kept - 120).max() < 4 * 9.2


def test_the_draw_depends_on_seed_repeat_and_fold_alone() -> None:
    features, fold = mixed(0)

    def kept(fold: Fold, seed: int) -> frozenset[int]:
        return frozenset(labelled_groups(withhold(features, KINDS, fold, 0.5, seed), fold, KINDS))

    same = kept(fold, 0)
    assert same == kept(fold, 0)
    others = {kept(replace(fold, repeat=0), 0), kept(replace(fold, fold=0), 0), kept(fold, 1)}
    assert len({same, *others}) == 4
    # What is tested, and its labels, have no say.
    changed = {name: y.copy() for name, y in features.targets.items()}
    for y in changed.values():
        y[fold.test] = y[fold.test[::-1]]
    there = withhold(replace(features, targets=changed), KINDS, fold, 0.5, 0)
    assert frozenset(labelled_groups(there, fold, KINDS)) == same


def test_the_features_given_are_left_as_they_are() -> None:
    features, fold = mixed(1)
    before = {name: y.copy() for name, y in features.targets.items()}
    assert withhold(features, KINDS, fold, 1.0, 0) is features
    left = withhold(features, KINDS, fold, 0.1, 0)
    assert (left.audio, left.text, left.groups) == (features.audio, features.text, features.groups)
    for name, y in before.items():
        np.testing.assert_array_equal(features.targets[name], y)


def test_training_groups_without_any_label_change_nothing() -> None:
    features, fold = mixed(0)
    targets = {name: np.full_like(y, -1 if y.dtype == np.int64 else np.nan)
               for name, y in features.targets.items()}  # fmt: skip
    bare = replace(features, targets=targets)
    assert withhold(bare, KINDS, fold, 0.5, 0) is bare


@pytest.mark.parametrize("name", ["hilbert", "late_fusion", "mean_std_logistic"])
def test_a_fold_with_labels_withheld_is_a_fold_of_documents_that_never_had_them(
    name: str, one_thread: None
) -> None:
    config = replace(TINY, folds=replace(TINY.folds, inner=0))
    plainly = variant(name, config)
    few = replace(plainly, labels=0.4)
    result = run_fold(FEATURES, few, FOLD)
    bare = withhold(FEATURES, TASKS, FOLD, 0.4, config.fit.seed)
    assert labelled_groups(bare, FOLD, TASKS) < labelled_groups(FEATURES, FOLD, TASKS)
    plain, whole = run_fold(bare, plainly, FOLD), run_fold(FEATURES, plainly, FOLD)
    assert (result.labels, plain.labels) == (0.4, 1.0)
    assert not result.embeddings
    for task, probabilities in result.probabilities.items():
        np.testing.assert_array_equal(probabilities, plain.probabilities[task])
        assert not np.allclose(probabilities, whole.probabilities[task])
