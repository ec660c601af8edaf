"""Records of folds: one split, all partitions of a run, and the strata that are balanced over them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from hilbert_ray.errors import HilbertError


class FoldsError(HilbertError, ValueError):
    """Folds that cannot be drawn, or a folds file that does not fit the documents."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fold:
    """One split: documents to train on and to test, as sorted indices int64."""

    repeat: int
    fold: int
    train: Int[np.ndarray, " train"]
    test: Int[np.ndarray, " test"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Folds:
    """Partitions of N documents, one per repeat.

    doc_ids: str [N]; groups: int or str [N]; assignment: int64 [repeats, N], the fold whose test set contains
    the document; warnings: what readers of the scores should know about the folds.
    """

    doc_ids: np.ndarray
    groups: np.ndarray
    assignment: Int[np.ndarray, "repeats documents"]
    warnings: tuple[str, ...] = ()

    @property
    def repeats(self) -> int:
        """Number of partitions."""
        return len(self.assignment)

    @property
    def folds(self) -> int:
        """Number of test sets in a partition."""
        return int(self.assignment.max()) + 1

    def __len__(self) -> int:
        return self.repeats * self.folds

    def __iter__(self) -> Iterator[Fold]:
        for repeat in range(self.repeats):
            for fold in range(self.folds):
                yield self.split(repeat, fold)

    def split(self, repeat: int, fold: int) -> Fold:
        """Return one of the splits."""
        is_test = self.assignment[repeat] == fold
        return Fold(repeat=repeat, fold=fold, train=np.flatnonzero(~is_test), test=np.flatnonzero(is_test))

    @property
    def distinct(self) -> int:
        """Number of different test sets; at best repeats times folds."""
        # Across repeats too: a test set drawn twice under other fold numbers is still the same evidence.
        return len({fold.test.tobytes() for fold in self})

    def counts(self, strata: np.ndarray) -> Int[np.ndarray, "repeats folds classes"]:
        """Return how many documents of each class each test set has; strata as `make_folds` takes them."""
        members = strata_members(strata)
        return np.stack(
            [[members[fold_of == k].sum(0) for k in range(self.folds)] for fold_of in self.assignment]
        )

    def describe(self, strata: np.ndarray, names: Sequence[str] = ()) -> dict[str, Any]:
        """Return what a report says about the folds, with the rarest class's documents in each test set."""
        counts = self.counts(strata)
        description: dict[str, Any] = {
            "repeats": self.repeats,
            "folds": self.folds,
            "documents": self.assignment.shape[1],
            "groups": len(np.unique(self.groups)),
            "distinct_test_sets": self.distinct,
            "sizes": [np.bincount(fold_of, minlength=self.folds).tolist() for fold_of in self.assignment],
            "warnings": list(self.warnings),
        }
        # A class without documents would always be the rarest and say nothing; warnings name it.
        present = np.flatnonzero(counts.sum((0, 1)))
        if len(present):
            rarest = int(present[counts.sum((0, 1))[present].argmin()])
            description["rarest_class"] = names[rarest] if rarest < len(names) else str(rarest)
            description["positives"] = counts[:, :, rarest].tolist()
        return description


@dataclass(frozen=True, kw_only=True, slots=True)
class Strata:
    """What is balanced over folds: bool `members` [N, C] says which document has which class.

    `task` names the task that the classes come from, `names` its C classes or bands; empty without a task.
    """

    task: str
    names: tuple[str, ...]
    members: Bool[np.ndarray, "documents classes"]


def strata_members(strata: np.ndarray) -> Bool[np.ndarray, "documents classes"]:
    """Return strata, int [N] or bool [N, C], as bool [N, C]."""
    if strata.ndim == 2:
        return strata.astype(bool)
    # -1, unlabelled, equals no class: such a document belongs to no stratum and only counts for fold sizes.
    return np.asarray(strata[:, None] == np.arange(int(strata.max(initial=-1)) + 1))
