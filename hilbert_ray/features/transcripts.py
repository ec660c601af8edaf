"""What is said in the documents of a dataset: their transcripts, read again where a check needs the words."""

import logging
from collections.abc import Sequence
from typing import TypeAlias

from hilbert_ray.document import Document, DocumentError, Utterance
from hilbert_ray.storage import StorageError
from hilbert_ray.store import Snapshot
from hilbert_ray.transcript import load_text

log = logging.getLogger(__name__)
Transcript: TypeAlias = str | tuple[Utterance, ...] | None


def read_transcripts(snapshot: Snapshot, doc_ids: Sequence[str]) -> list[Transcript]:
    """Return the transcript of each of some documents of a store, see `transcripts`."""
    wanted = set(doc_ids)
    stored = {item.document.doc_id: item.document for item in snapshot.documents(doc_ids=wanted)}
    return transcripts([stored[doc_id] for doc_id in doc_ids])


def transcripts(documents: Sequence[Document]) -> list[Transcript]:
    """Return each document's transcript; None where it has none or its file can no longer be read."""
    texts: list[Transcript] = []
    for document in documents:
        try:
            texts.append(load_text(document).text)
        except (DocumentError, StorageError) as error:
            log.warning("a transcript is not checked for shortcuts and duplicates: %s", error)
            texts.append(None)
    return texts


def spoken(transcript: Transcript, roles: Sequence[str]) -> str | None:
    """Return what the speakers of `roles` (empty: all) say as one string; None without a transcript."""
    if transcript is None or isinstance(transcript, str):
        return transcript
    return " ".join(turn.text for turn in transcript if not roles or turn.role in roles)
