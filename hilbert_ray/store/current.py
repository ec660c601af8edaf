"""Which stored features count: the sources that a snapshot gives, joined with what commits hold.

A row of features is current when its source equals the document's source in the snapshot. Where several units
hold current features of one document, the unit with the lowest id counts, so that every reader in every
process takes the same row.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from hilbert_ray.document import Recognition
from hilbert_ray.store.features import Commit, Quarantined


class DataLocation(NamedTuple):
    """Where a document's features are: a data file, which never changes, its size, and how many segments."""

    file: str
    size_bytes: int
    segments: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFeatures:
    """What a store has of a snapshot's documents, by one encoder.

    `locations` has the stored documents, by id; `quarantined` counts those that could not be embedded,
    and `recognized` has those whose transcript is automatic, by id.
    """

    fingerprint: str
    locations: Mapping[str, DataLocation]
    quarantined: int
    recognized: Mapping[str, Recognition] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CurrentBlock:
    """Some buckets of a snapshot with what one encoder's commits hold of them.

    `sources` has the source of each document that has the modality, by id; `commits` are in rising order of
    units.
    """

    buckets: Collection[int]
    sources: Mapping[str, str]
    commits: Sequence[Commit]

    @cached_property
    def owners(self) -> Mapping[str, str]:
        """The unit whose row counts for each stored document, by id."""
        owners: dict[str, str] = {}
        for commit in self.commits:
            for doc_id, source, _, _ in commit.stored:
                if self.sources.get(doc_id) == source:
                    owners.setdefault(doc_id, commit.unit)  # the first is the lowest
        return owners

    @cached_property
    def failures(self) -> Mapping[str, Quarantined]:
        """The quarantined documents whose source is current and that no commit stores, by id."""
        return {
            failure.doc_id: failure
            for commit in self.commits
            for failure in commit.quarantined
            if self.sources.get(failure.doc_id) == failure.source and failure.doc_id not in self.owners
        }

    def locations(self, doc_ids: Collection[str] | None = None) -> dict[str, DataLocation]:
        """Return where the row is that counts for each stored document, of all or some ids."""
        return {
            doc_id: DataLocation(str(commit.file), commit.size_bytes, segments)
            for commit in self.commits
            for row, (doc_id, _, segments, _) in enumerate(commit.stored)
            if self._counts(commit, row) and (doc_ids is None or doc_id in doc_ids)
        }

    def recognized(self) -> dict[str, Recognition]:
        """Return the recognisers of the stored documents whose transcript is automatic, by id."""
        return {
            commit.stored[row][0]: recognition
            for commit in self.commits
            for row, recognition in commit.recognized.items()
            if self._counts(commit, row)
        }

    def _counts(self, commit: Commit, row: int) -> bool:
        """Whether a stored row is the one that counts for its document."""
        # A unit may hold two rows of a document, of an old and of the current source.
        doc_id, source, _, _ = commit.stored[row]
        return self.owners.get(doc_id) == commit.unit and self.sources[doc_id] == source
