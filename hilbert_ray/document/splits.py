"""The field `split`: which documents are learned from, and groups whose documents are of several splits."""

from collections.abc import Collection, Iterable

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


def check_splits(documents: Iterable[Document]) -> None:
    """Check that all documents of a group are of the same split.

    Raises:
        SplitError: naming the first group that is not, its splits, and how many such groups there are.
    """
    splits: dict[str, set[str]] = {}
    for document in documents:
        splits.setdefault(document.group, set()).add(split_of(document))
    straddling = sorted(group for group, found in splits.items() if len(found) > 1)
    if straddling:
        message = straddle_message(straddling[0], splits[straddling[0]])
        more = f" ({len(straddling)} groups are of several splits)" if len(straddling) > 1 else ""
        raise SplitError(f"{message}{more}")


def straddle_message(group: str, splits: Collection[str]) -> str:
    """Return what is wrong with a group whose documents are of several `splits`, and what to do."""
    named = " and ".join(split for split in SPLITS if split in splits)
    return (
        f"group {group!r} has documents of the splits {named}; a group must be of one split, or what is held "
        "out is learned from: give all its documents the same `split` in the manifest (none counts as "
        "train), and embed it again"
    )
