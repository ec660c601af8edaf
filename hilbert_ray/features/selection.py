"""Which documents of a store are learned from: those that are not held out by their `split`."""

import logging
from collections import Counter
from collections.abc import Sequence

from hilbert_ray.config import ConfigError
from hilbert_ray.document import Document, check_splits, is_held_out, split_of

log = logging.getLogger(__name__)


def without_held_out(store: str, documents: Sequence[Document]) -> tuple[list[Document], dict[str, int]]:
    """Return the documents to learn from, and the number of the others by split; log both.

    Raises:
        ConfigError: when all documents are held out.
        SplitError: when documents of one group are of several splits.
    """
    check_splits(documents)
    kept = [document for document in documents if not is_held_out(document)]
    counts = Counter(split_of(document) for document in documents if is_held_out(document))
    if not kept and documents:
        raise ConfigError(
            f"all {len(documents)} documents of store {store} are of the splits validation and test, and "
            "nothing is learned from those; correct `split` in the manifest and embed it again"
        )
    if counts:
        listed = " and ".join(f"{count} of split {split}" for split, count in sorted(counts.items()))
        log.info("%d documents take part; %s are held out", len(kept), listed)
    return kept, dict(sorted(counts.items()))
