"""What is left to do: the manifest with the versions of its files, minus what the store holds, in units.

A unit is some documents of one bucket whose audio (or speech, for text) adds up to bounded seconds. Which
documents form a unit depends on the pending documents alone, so runs that overlap form the same units.
"""

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TypeAlias

import fsspec
import msgspec

from hilbert_ray import audio
from hilbert_ray.document import Document, DocumentError, InvalidRow, Seconds, Utterance
from hilbert_ray.manifest import Block, files_of, manifest_notes, map_blocks
from hilbert_ray.storage import StorageError, access_errors, file_versions, is_local
from hilbert_ray.store import (
    Content,
    RowBlock,
    Snapshot,
    Store,
    StoredDocument,
    bucket_of,
    digest,
    encode_text,
    row_block,
)

log = logging.getLogger(__name__)
ABSENT = "absent"
"""Version of a missing file. When it appears, its document gets a new source and is done again."""
CHARACTERS_PER_S = 15.0
"""How much text one second of speech makes (150 words per minute): the weight of a transcript in a unit."""
SPEECH_PER_UNIT = 8
"""A unit of text holds this many times `unit_s` of speech: text encodes much faster than audio, and batches
of few texts would waste most of that."""
_PROBES_AT_ONCE = 16
"""Headers read at a time where files are objects: each waits for the network, hardly for a CPU."""
_PROBED_AHEAD = 4096
"""Documents in memory while their lengths are read."""
DocumentKey: TypeAlias = tuple[str, str]
"""A document's id and its source: the hash of everything that the work on it depends on but for the job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to make of each document, and the fingerprint of all that it depends on besides the document.

    `reads_turns`: audio is cut by the transcript's turns.
    """

    content: Content
    fingerprint: str
    reads_turns: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Documents that one worker does and commits together.

    keys: the documents. seconds: their weight in the plan, seconds of audio or speech. earlier: the units
    that quarantined some of them before (a retry is a new unit, with its own commit). is_isolated: a single
    document that is done alone, with a note of each attempt, because workers died on its unit.
    """

    content: Content
    fingerprint: str
    bucket: int
    unit_id: str
    keys: tuple[DocumentKey, ...]
    seconds: Seconds
    earlier: tuple[str, ...] = ()
    is_isolated: bool = False

    def to_json(self) -> str:
        """Return the unit as a string, the form in which it passes through Ray Data."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Unit":
        """Return the unit that `to_json` wrote."""
        values = json.loads(text)
        keys = tuple((doc_id, source) for doc_id, source in values["keys"])
        return cls(**{**values, "keys": keys, "earlier": tuple(values["earlier"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Units of one job, and counts of documents that need nothing; `absent` have nothing to do it with."""

    job: Job
    units: tuple[Unit, ...]
    stored: int
    quarantined: int
    absent: int


def versioned_rows(manifest: str, content_hash: bool, roots: Sequence[str] = ()) -> Iterator[RowBlock]:
    """Yield the manifest's rows in order with the versions that their files have now, as a stream.

    Args:
        manifest: path or URI of the manifest.
        content_hash: identify files by their content, not by size and time of change.
        roots: folders or URI prefixes outside of which a file makes its row invalid; none: no restriction.

    Raises:
        ManifestError: when the manifest cannot be read at all.
    """
    for note in manifest_notes(manifest):
        log.warning("manifest %s: %s", manifest, note)
    return map_blocks(partial(_versioned_block, content_hash=content_hash), manifest, roots)


def _versioned_block(block: Block, content_hash: bool) -> RowBlock:
    rows = list(block.rows())
    versions = file_versions(files_of(rows), content_hash)  # of the whole block, so folders are listed once
    return row_block(
        item if isinstance(item, InvalidRow) else _with_versions(row, item, versions) for row, item in rows
    )


def _with_versions(row: int, document: Document, versions: Mapping[str, str | None]) -> StoredDocument:
    """Return a document with the versions of its files."""
    text, turns = transcript_versions(document, versions)
    return StoredDocument(
        document=document,
        row=row,
        audio_version=None if document.audio is None else versions[document.audio] or ABSENT,
        text_version=text,
        turns_version=turns,
    )


def transcript_versions(
    document: Document, versions: Mapping[str, str | None]
) -> tuple[str | None, str | None]:
    """Return the versions of a transcript, and of its times and roles; None where there are none.

    Args:
        document: with its inline transcript, if it has one.
        versions: of its files, None for those that do not exist.
    """
    text = turns = None
    if document.text_file is not None:
        # The turns of a file are only known once it is read, so any change of the file counts as theirs.
        text = turns = versions[document.text_file] or ABSENT
    elif document.text is not None:
        text = digest("inline", encode_text(document.text))
        turns = _turns_version(document.text)
    if document.diarization is None:
        return text, turns
    speakers = versions[document.diarization] or ABSENT
    return (
        None if text is None else digest("diarization", text, speakers),
        None if turns is None else digest("diarization", turns, speakers),
    )


def version_or_absent(uri: str, content_hash: bool) -> str:
    """Return the version of a file, or `ABSENT`."""
    return file_versions([uri], content_hash)[uri] or ABSENT


def _turns_version(text: str | tuple[Utterance, ...]) -> str | None:
    """Return the version of the times and roles of an inline transcript; None where it has no times."""
    # Without the words: a corrected spelling must not embed the audio again that is cut by these turns.
    if isinstance(text, str) or text[0].start is None:
        return None
    return digest("turns", msgspec.json.encode([(turn.start, turn.end, turn.role) for turn in text]).decode())


@dataclass(kw_only=True, slots=True)
class _DraftPlan:
    """The plan of one job while the manifest is read.

    done: documents that commits store. failed: those that were quarantined, with the units that did so.
    sources: of the documents that are left, by id. pending: the same by bucket, with their seconds.
    """

    job: Job
    done: set[DocumentKey] = field(default_factory=set)
    failed: dict[DocumentKey, list[str]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    pending: dict[int, list[tuple[DocumentKey, Seconds]]] = field(default_factory=dict)
    stored: int = 0
    quarantined: int = 0
    absent: int = 0

    def add(self, doc_id: str, source: str | None, retry_quarantined: bool) -> None:
        """Count a document, whose source is None where the job has nothing to do with it."""
        # The source hash covers file versions: a changed file is another key, so it is done again
        # although its id is stored.
        if source is None:
            self.absent += 1
        elif (doc_id, source) in self.done:
            self.stored += 1
        elif (doc_id, source) in self.failed and not retry_quarantined:
            self.quarantined += 1
        else:
            self.sources[doc_id] = source


def plan_jobs(
    store: Store,
    snapshot: Snapshot,
    jobs: Sequence[Job],
    buckets: Collection[int],
    unit_s: Seconds,
    retry_quarantined: bool,
) -> list[Plan]:
    """Plan jobs for some buckets: their documents minus those that commits hold. Return a plan per job.

    The manifest is read once for all jobs.

    Args:
        store: the store whose commits say what is done.
        snapshot: the manifest; it may be in another store.
        jobs: what to do.
        buckets: which buckets; this process holds the ids and commits of their documents in memory.
        unit_s: seconds of a unit of audio (of speech, for text: `SPEECH_PER_UNIT` times as many); a longer
            document is a unit of its own.
        retry_quarantined: plan again what was quarantined earlier.
    """
    # Commits first, then the manifest as a stream: only pending documents stay in memory.
    drafts = [_draft(store, job, buckets) for job in jobs]
    for doc_id, versions in snapshot.versions(buckets):
        for draft in drafts:
            job = draft.job
            source = None
            if versions.has(job.content):
                source = versions.source(job.content, reads_turns=job.reads_turns, roles=snapshot.roles)
            draft.add(doc_id, source, retry_quarantined)
    _add_seconds(drafts, snapshot, buckets, store.buckets)
    plans = []
    for draft in drafts:
        largest = unit_s * SPEECH_PER_UNIT if draft.job.content == "text" else unit_s
        plans.append(
            Plan(
                job=draft.job,
                units=tuple(_units(draft.job, draft.pending, largest, draft.failed)),
                stored=draft.stored,
                quarantined=draft.quarantined,
                absent=draft.absent,
            )
        )
    return plans


def _draft(store: Store, job: Job, buckets: Collection[int]) -> _DraftPlan:
    """Return a plan that knows what commits hold, and no document of the manifest yet."""
    draft = _DraftPlan(job=job)
    for commit in store.commits(job.content, job.fingerprint).read(buckets):
        draft.done.update((doc_id, source) for doc_id, source, _, _ in commit.stored)
        for failure in commit.quarantined:
            draft.failed.setdefault((failure.doc_id, failure.source), []).append(commit.unit)
    return draft


def _units(
    job: Job,
    pending: Mapping[int, Sequence[tuple[DocumentKey, Seconds]]],
    largest: Seconds,
    failed: Mapping[DocumentKey, Sequence[str]],
) -> Iterator[Unit]:
    """Yield the units of pending documents, by bucket."""
    for bucket, documents in sorted(pending.items()):
        for keys, seconds in _group(documents, largest):
            # Part of the id, so that a retry is a new unit: the commit that quarantined its documents must
            # not answer for it.
            earlier = tuple(sorted({unit for key in keys for unit in failed.get(key, ())}))
            yield Unit(
                content=job.content,
                fingerprint=job.fingerprint,
                bucket=bucket,
                unit_id=unit_id(job.fingerprint, keys, earlier),
                keys=tuple(keys),
                seconds=seconds,
                earlier=earlier,
            )


def single_document_units(unit: Unit) -> list[Unit]:
    """Return a unit's documents as isolated units, to find out which of them workers died on.

    Their ids do not depend on which unit they come from: attempts that another run noted count too.
    """
    base = f"alone {unit.fingerprint}"  # names commits and notes of attempts in stores: must not change
    return [
        replace(
            unit,
            unit_id=unit_id(base, [key], unit.earlier),
            keys=(key,),
            seconds=unit.seconds / len(unit.keys),
            is_isolated=True,
        )
        for key in unit.keys
    ]


def unit_id(base: str, keys: Sequence[DocumentKey], earlier: Sequence[str] = ()) -> str:
    """Return the id of a unit of documents: a hash, the same for the same documents in any run."""
    # Sorted, since the order of documents does not change what is done.
    return digest(base, *(text for key in sorted(keys) for text in key), *earlier)


def _group(
    documents: Sequence[tuple[DocumentKey, Seconds]], largest: Seconds
) -> Iterator[tuple[list[DocumentKey], Seconds]]:
    """Group a bucket's documents, in order, into units of at most `largest` seconds (or one document)."""
    # Greedy in order of id, not packed as tightly as possible: a document that is added or done then only
    # changes the units near it, and runs that overlap mostly agree.
    keys: list[DocumentKey] = []
    unit_seconds = 0.0
    for key, seconds in documents:
        # A document longer than a unit is not split: it is committed whole or not at all.
        if keys and unit_seconds + seconds > largest:
            yield keys, unit_seconds
            keys, unit_seconds = [], 0.0
        keys.append(key)
        unit_seconds += seconds
    if keys:
        yield keys, unit_seconds


def _add_seconds(
    drafts: Sequence[_DraftPlan], snapshot: Snapshot, buckets: Collection[int], store_buckets: int
) -> None:
    """Fill `pending`: read the documents that are left, in order of bucket and id, and their lengths."""
    doc_ids = set().union(*(draft.sources for draft in drafts))
    if not doc_ids:
        return
    # Inline transcripts are most of a manifest: they are read only where their lengths count.
    with_text = any(draft.job.content == "text" and draft.sources for draft in drafts)
    documents = (entry.document for entry in snapshot.documents(buckets, doc_ids, with_text))
    with ThreadPoolExecutor(_PROBES_AT_ONCE) as threads:
        while batch := list(islice(documents, _PROBED_AHEAD)):
            # Local headers are read faster by one thread than handed to several.
            map_documents = threads.map if any(map(_is_remote, batch)) else map
            for draft in drafts:
                chosen = [document for document in batch if document.doc_id in draft.sources]
                seconds_of = _text_seconds if draft.job.content == "text" else _audio_seconds
                for document, seconds in zip(chosen, map_documents(seconds_of, chosen), strict=True):
                    key = (document.doc_id, draft.sources[document.doc_id])
                    bucket = bucket_of(document.doc_id, store_buckets)
                    draft.pending.setdefault(bucket, []).append((key, seconds))


def _is_remote(document: Document) -> bool:
    """Whether reading the document's files means requests to a server."""
    return not all(map(is_local, document.files))


def _audio_seconds(document: Document) -> Seconds:
    """Return the length that the header states; 0 where it cannot be read (the worker will report why)."""
    try:
        return audio.probe(document.audio or "").duration_s
    except (DocumentError, OSError, StorageError):
        return 0.0


def _text_seconds(document: Document) -> Seconds:
    """Return about how long it takes to speak the transcript."""
    if document.text_file is not None:
        try:
            with access_errors(document.text_file), fsspec.open(document.text_file, "rb") as file:
                # Bytes for characters, and markup counts too: a weight need not be exact, and must be quick.
                return float(file.seek(0, 2)) / CHARACTERS_PER_S
        except (OSError, StorageError):
            return 0.0
    text = document.text or ""
    characters = len(text) if isinstance(text, str) else sum(len(turn.text) for turn in text)
    return characters / CHARACTERS_PER_S
