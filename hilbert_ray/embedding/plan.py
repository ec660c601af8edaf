"""What is to embed: the manifest with the versions of its files, less what the store holds, cut into units.

A unit is some documents of one bucket whose audio (or speech, for text) adds up to bounded seconds. Which
documents make a unit depends on the pending documents alone, so runs that overlap make the same units.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from typing import TypeAlias

import fsspec
import msgspec

from hilbert_ray import audio
from hilbert_ray.config import Modality
from hilbert_ray.document import (
    Block,
    Document,
    DocumentError,
    Fault,
    Seconds,
    Utterance,
    files_of,
    map_blocks,
)
from hilbert_ray.storage import file_versions
from hilbert_ray.store import (
    RowBlock,
    Snapshot,
    Store,
    StoredDocument,
    bucket_of,
    digest,
    encode_text,
    row_block,
)

ABSENT = "absent"
"""Version of a file that is not there; when it appears, its document has a new key and runs again."""
CHARACTERS_PER_S = 15.0
"""How much text one second of speech makes (150 words a minute): the weight of a transcript in a unit."""
SPEECH_PER_UNIT = 8
"""How many times `unit_s` of speech make a unit of text: it encodes much faster than audio, and batches from
few texts waste most of that."""
_LOOKS_AT_ONCE = 16
_ROWS_AT_ONCE = 4096
Key: TypeAlias = tuple[str, str]
"""A document's id and its source: the hash of all that its features depend on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodingJob:
    """A modality to embed with an encoder; `reads_turns`: its audio is cut by the transcript's turns."""

    modality: Modality
    fingerprint: str
    reads_turns: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Documents that one encoder actor embeds and commits together.

    `earlier` are the units that quarantined some of them before (a retry is a new unit, with its own commit);
    `is_alone` marks a single document that is tried carefully because workers died.
    """

    modality: Modality
    fingerprint: str
    bucket: int
    unit_id: str
    keys: tuple[Key, ...]
    seconds: Seconds
    earlier: tuple[str, ...] = ()
    is_alone: bool = False

    def to_json(self) -> str:
        """Return the unit as one string, the form in which it travels through Ray Data."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Unit":
        """Read a unit back."""
        values = json.loads(text)
        keys = tuple((doc_id, source) for doc_id, source in values["keys"])
        return cls(**{**values, "keys": keys, "earlier": tuple(values["earlier"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedPlan:
    """Units to do for one job, and counts of the documents that need nothing."""

    job: EncodingJob
    units: tuple[Unit, ...]
    stored: int
    quarantined: int
    absent: int


def versioned_rows(manifest: str, content_hash: bool, roots: Sequence[str] = ()) -> Iterator[RowBlock]:
    """Yield the manifest's rows with the versions that their files have now, in order, streaming.

    A row that names a file outside all of `roots`, if there are any, is a fault.

    Raises:
        ManifestError: when the manifest cannot be read at all.
    """
    return map_blocks(partial(_versioned_block, content_hash=content_hash), manifest, roots)


def _versioned_block(block: Block, content_hash: bool) -> RowBlock:
    rows = list(block.rows())
    found = file_versions(files_of(rows), content_hash)
    return row_block(item if isinstance(item, Fault) else _stored(row, item, found) for row, item in rows)


def _stored(row: int, document: Document, found: Mapping[str, str | None]) -> StoredDocument:
    """Return a document with the versions of its files, as they were found."""
    text = turns = None
    if document.text_file is not None:
        text = turns = found[document.text_file] or ABSENT
    elif document.text is not None:
        text = digest("inline", encode_text(document.text))
        turns = _turns_version(document.text)
    return StoredDocument(
        document=document,
        row=row,
        audio_version=None if document.audio is None else found[document.audio] or ABSENT,
        text_version=text,
        turns_version=turns,
    )


def version_or_absent(uri: str, content_hash: bool) -> str:
    """Return the version of a file, or `ABSENT`."""
    return file_versions([uri], content_hash)[uri] or ABSENT


def _turns_version(text: str | tuple[Utterance, ...]) -> str | None:
    if isinstance(text, str) or text[0].start is None:
        return None
    return digest("turns", msgspec.json.encode([(turn.start, turn.end, turn.role) for turn in text]).decode())


def plan_job(
    store: Store,
    snapshot: Snapshot,
    job: EncodingJob,
    buckets: Collection[int],
    unit_s: Seconds,
    retry_quarantined: bool,
    documents: Store | None = None,
) -> EmbedPlan:
    """Plan one job for some buckets: their documents less those whose keys commits hold.

    Args:
        store: the store.
        snapshot: the manifest to embed.
        job: modality and encoder.
        buckets: which buckets; one process holds their ids and commits.
        unit_s: seconds of a unit of audio (of speech, for text: `SPEECH_PER_UNIT` times as many); a longer
            document is its own unit.
        retry_quarantined: plan again what was quarantined earlier.
        documents: the store that holds the snapshot, where that is another one.
    """
    documents = documents or store
    done: set[Key] = set()
    failed: dict[Key, list[str]] = {}
    for commit in store.commits(job.modality, job.fingerprint, buckets):
        done.update((doc_id, source) for doc_id, source, _, _ in commit.stored)
        for failure in commit.quarantined:
            failed.setdefault((failure.doc_id, failure.key), []).append(commit.unit)
    wanted: dict[str, str] = {}
    stored = quarantined = absent = 0
    for doc_id, source in documents.sources(snapshot, buckets, job.modality, job.reads_turns):
        if source is None:
            absent += 1
        elif (doc_id, source) in done:
            stored += 1
        elif (doc_id, source) in failed and not retry_quarantined:
            quarantined += 1
        else:
            wanted[doc_id] = source
    pending: dict[int, list[tuple[Key, Seconds]]] = {}
    for document, seconds in _weighed(documents, snapshot, buckets, wanted, job.modality):
        key = (document.doc_id, wanted[document.doc_id])
        pending.setdefault(bucket_of(document.doc_id, store.buckets), []).append((key, seconds))
    units = []
    most = unit_s * SPEECH_PER_UNIT if job.modality == "text" else unit_s
    for bucket, items in sorted(pending.items()):
        for keys, seconds in _cut(items, most):
            earlier = tuple(sorted({unit for key in keys for unit in failed.get(key, ())}))
            units.append(
                Unit(
                    modality=job.modality,
                    fingerprint=job.fingerprint,
                    bucket=bucket,
                    unit_id=unit_id(job.fingerprint, keys, earlier),
                    keys=tuple(keys),
                    seconds=seconds,
                    earlier=earlier,
                )
            )
    return EmbedPlan(job=job, units=tuple(units), stored=stored, quarantined=quarantined, absent=absent)


def single_document_units(unit: Unit) -> list[Unit]:
    """Return a unit's documents as units of their own, to be tried carefully after a worker died."""
    base = f"alone {unit.fingerprint}"
    return [
        replace(
            unit,
            unit_id=unit_id(base, [key], unit.earlier),
            keys=(key,),
            seconds=unit.seconds / len(unit.keys),
            is_alone=True,
        )
        for key in unit.keys
    ]


def unit_id(base: str, keys: Sequence[Key], earlier: Sequence[str] = ()) -> str:
    """Return the id of the unit of these keys, a hash."""
    return digest(base, *(part for key in sorted(keys) for part in key), *earlier)


def _cut(items: Sequence[tuple[Key, Seconds]], unit_s: Seconds) -> Iterator[tuple[list[Key], Seconds]]:
    """Cut a bucket's documents, in order of id, into units of at most `unit_s` (one document at least)."""
    keys: list[Key] = []
    total = 0.0
    for key, seconds in items:
        if keys and total + seconds > unit_s:
            yield keys, total
            keys, total = [], 0.0
        keys.append(key)
        total += seconds
    if keys:
        yield keys, total


def _weighed(
    store: Store, snapshot: Snapshot, buckets: Collection[int], doc_ids: Collection[str], modality: Modality
) -> Iterator[tuple[Document, Seconds]]:
    """Yield documents with their seconds, in order of bucket and id."""
    if not doc_ids:
        return
    found = store.stored_documents(snapshot, buckets, doc_ids, words=modality == "text")
    documents = (item.document for item in found)
    seconds = _audio_seconds if modality == "audio" else _text_seconds
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        while part := list(islice(documents, _ROWS_AT_ONCE)):
            is_remote = any(map(_is_remote, part))
            yield from zip(part, (pool.map if is_remote else map)(seconds, part), strict=True)


def _is_remote(item: Document | Fault) -> bool:
    """Whether a look at the document's files means requests, which are better made several at a time."""
    return isinstance(item, Document) and "://" in f"{item.audio}{item.text_file}"


def _audio_seconds(document: Document) -> Seconds:
    """Return the length that the header states; 0 where it cannot be read (the worker will say why)."""
    try:
        return audio.probe(document.audio or "").duration_s
    except (DocumentError, OSError):
        return 0.0


def _text_seconds(document: Document) -> Seconds:
    """Return about how long it takes to speak the transcript."""
    if document.text_file is not None:
        try:
            with fsspec.open(document.text_file, "rb") as file:
                return float(file.seek(0, 2)) / CHARACTERS_PER_S
        except OSError:
            return 0.0
    text = document.text or ""
    characters = len(text) if isinstance(text, str) else sum(len(turn.text) for turn in text)
    return characters / CHARACTERS_PER_S
