"""The field `split`: which documents are learned from, and groups whose documents are of several splits."""

from collections.abc import Iterable, Sequence

from hilbert_ray.document.records import SPLITS, Document
from hilbert_ray.errors import HilbertError

TRAIN = SPLITS[0]
"""The split of documents that name none."""


class SplitError(HilbertError, ValueError):
    """A group whose documents are of several splits; the message names it, its splits and what to do."""


def split_of(document: Document) -> str:
    """Return the split of a document; one that names none is of split train."""
    return document.split or TRAIN


def is_held_out(document: Document) -> bool:
    """Tell whether a document is of split validation or test: nothing is fitted, searched or scored on it."""
    return split_of(document) != TRAIN


class SplitSurvey:
    """The splits of each group, for groups whose documents are of several; the surveys of blocks merge."""

    def __init__(self) -> None:
        """Begin without documents."""
        # A number per group and not a set: a manifest may have millions of groups.
        self._splits: dict[str, int] = {}

    def add(self, group: str, split: str | None) -> None:
        """Count a document of a group; None counts as train, and what is no split is invalid elsewhere."""
        if split is None or split in SPLITS:
            self._splits[group] = self._splits.get(group, 0) | 1 << SPLITS.index(split or TRAIN)

    def merge(self, other: "SplitSurvey") -> None:
        """Add the documents of another survey."""
        for group, splits in other._splits.items():
            self._splits[group] = self._splits.get(group, 0) | splits

    def straddling(self) -> dict[str, tuple[str, ...]]:
        """Return the groups of several splits, sorted, each with its splits in the order of `SPLITS`."""
        found = sorted((group, bits) for group, bits in self._splits.items() if bits.bit_count() > 1)
        return {group: tuple(s for i, s in enumerate(SPLITS) if bits >> i & 1) for group, bits in found}


def check_splits(documents: Iterable[Document]) -> None:
    """Check that all documents of a group are of the same split.

    Raises:
        SplitError: naming the first group that is not, its splits, and how many such groups there are.
    """
    survey = SplitSurvey()
    for document in documents:
        survey.add(document.group, document.split)
    straddling = survey.straddling()
    for group, splits in straddling.items():
        more = f" ({len(straddling)} groups are of several splits)" if len(straddling) > 1 else ""
        raise SplitError(f"{straddle_message(group, splits)}{more}")


def straddle_message(group: str, splits: Sequence[str]) -> str:
    """Return what is wrong with a group whose documents are of several `splits`, and what to do."""
    return (
        f"group {group!r} has documents of the splits {' and '.join(splits)}; a group must be of one split, "
        "or what is held out is learned from: give all its documents the same `split` in the manifest (none "
        "counts as train), and embed it again"
    )
