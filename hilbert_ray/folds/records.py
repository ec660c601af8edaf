"""What folds are: one split, all partitions of a run, and the strata that are spread over them."""

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
    """Partitions of N documents, one a repeat.

    doc_ids: str [N]; groups: int or str [N]; assignment: int64 [repeats, N], the fold whose test set holds
    the document; warnings: what a reader of the scores should know about them.
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
        tested = self.assignment[repeat] == fold
        return Fold(repeat=repeat, fold=fold, train=np.flatnonzero(~tested), test=np.flatnonzero(tested))

    @property
    def distinct(self) -> int:
        """Number of different test sets; at best repeats times folds."""
        return len({part.test.tobytes() for part in self})

    def counts(self, strata: np.ndarray) -> Int[np.ndarray, "repeats folds classes"]:
        """Return the documents of each class in each test set; strata as `make_folds` takes them."""
        members = strata_members(strata)
        return np.stack([[members[part == k].sum(0) for k in range(self.folds)] for part in self.assignment])

    def describe(self, strata: np.ndarray, names: Sequence[str] = ()) -> dict[str, Any]:
        """Return what a report says about the folds, with the rarest class's documents in each test set."""
        counts = self.counts(strata)
        described: dict[str, Any] = {
            "repeats": self.repeats,
            "folds": self.folds,
            "documents": self.assignment.shape[1],
            "groups": len(np.unique(self.groups)),
            "distinct_test_sets": self.distinct,
            "sizes": [np.bincount(part, minlength=self.folds).tolist() for part in self.assignment],
            "warnings": list(self.warnings),
        }
        present = np.flatnonzero(counts.sum((0, 1)))
        if len(present):
            rarest = int(present[counts.sum((0, 1))[present].argmin()])
            described["rarest_class"] = names[rarest] if rarest < len(names) else str(rarest)
            described["positives"] = counts[:, :, rarest].tolist()
        return described


@dataclass(frozen=True, kw_only=True, slots=True)
class Strata:
    """What is spread evenly over folds: bool `members` [N, C] says which document counts for which class."""

    task: str
    names: tuple[str, ...]
    members: Bool[np.ndarray, "documents classes"]


def strata_members(strata: np.ndarray) -> Bool[np.ndarray, "documents classes"]:
    """Return strata as membership, whichever way they are given."""
    if strata.ndim == 2:
        return strata.astype(bool)
    return np.asarray(strata[:, None] == np.arange(int(strata.max(initial=-1)) + 1))
