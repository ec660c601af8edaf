"""What `transcribe` leaves for other programs: a file per transcript, and the manifest that names them.

    OUT/manifest.jsonl                        the manifest, with `text_file` where there was no text
    OUT/transcripts/<document>-<hash>.json    one transcript
    OUT/work                                  the state of the run, a store

The hash is of the document's id, the recording and the recogniser. So a file is written once and never again,
may be corrected by hand, and makes way for another when its recording changes. A manifest is replaced only if
it is as `transcribe` wrote it: the state has an empty file for each, named by its SHA-256.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from hilbert_ray.config import ConfigError
from hilbert_ray.document import Document
from hilbert_ray.storage import Files, absolute
from hilbert_ray.store import Snapshot, Store, TranscriptRow, digest, encode_text

MANIFEST, TRANSCRIPTS, WORK = "manifest.jsonl", "transcripts", "work"
_WRITTEN = f"{WORK}/manifests"
_LONGEST_NAME = 60
_WRITES_AT_ONCE = 16
_HASHED_BYTES = 4 * 2**20


def require_place(out: str, manifest: str) -> None:
    """Check that `out` holds nothing that would be lost.

    Raises:
        ConfigError: when `out` is a feature store, or its manifest is the one to read, or not one that
            `transcribe` has written there.
    """
    files = Files(out)
    if absolute(manifest) == f"{absolute(out)}/{MANIFEST}":
        raise ConfigError(
            f"manifest {manifest} is the file that `transcribe` writes in {out}; choose another --out, or "
            "name the manifest that it was made from"
        )
    if files.exists("store.json"):
        raise ConfigError(f"--out {out} is a feature store; name another folder for the transcripts")
    _require_own_manifest(files)


def _require_own_manifest(files: Files) -> str | None:
    """Return the SHA-256 of the manifest in a folder, None if there is none.

    Raises:
        ConfigError: when it is not as `transcribe` wrote it.
    """
    found = _sha256(files, MANIFEST)
    if found is not None and not files.exists(f"{_WRITTEN}/{found}"):
        raise ConfigError(
            f"{files.path(MANIFEST)} is not as `transcribe` wrote it and would be replaced; move it away, or "
            "name another --out. Labels and corrections belong in the manifest that --manifest names, or in "
            "a copy beside this one; transcripts may be corrected where they are"
        )
    return found


def publish(out: str, store: Store, fingerprint: str, snapshot: Snapshot) -> tuple[int, int]:
    """Write the transcripts of a run that are not there yet, and its manifest if it is another.

    Args:
        out: folder or URI to write to.
        store: the state of the run.
        fingerprint: of the job whose transcripts to write.
        snapshot: the manifest that was transcribed.

    Returns:
        How many documents have been transcribed, now or earlier, and in how many of them nobody speaks.

    Raises:
        ConfigError: when the manifest there is not as `transcribe` wrote it.
    """
    files = Files(out)
    present = set(files.names(TRANSCRIPTS))
    named: dict[str, str] = {}
    silent = 0
    # Commits say what is stored: of data files only those are read from which a transcript is missing.
    missing: set[str] = set()
    for block in store.current_blocks("transcript", fingerprint, snapshot):
        for doc_id, location in block.locations().items():
            name = transcript_name(doc_id, fingerprint, block.sources[doc_id])
            if name not in present:
                missing.add(doc_id)
            if location.segments:
                named[doc_id] = name
            else:
                silent += 1
    if missing:
        _write_transcripts(files, fingerprint, store.transcripts(fingerprint, snapshot, missing))
    # After the transcripts: whoever finds a manifest finds all that it names.
    _write_manifest(files, snapshot, named)
    return len(named) + silent, silent


def _write_transcripts(files: Files, fingerprint: str, rows: Iterator[TranscriptRow]) -> None:
    def write(row: TranscriptRow) -> None:
        files.put(transcript_name(row.doc_id, fingerprint, row.source), row.transcript)

    # Each waits for a disk or a server; a few hundred at a time, since all may not fit into memory.
    with ThreadPoolExecutor(_WRITES_AT_ONCE) as threads:
        while batch := list(islice(rows, 16 * _WRITES_AT_ONCE)):
            list(threads.map(write, batch))


def transcript_name(doc_id: str, fingerprint: str, source: str) -> str:
    """Return the name of a transcript's file: readable, and the document's own whatever its id."""
    # No dots and nothing that URIs escape: `--root` refuses what could lead out of a folder.
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", doc_id)[:_LONGEST_NAME]
    return f"{TRANSCRIPTS}/{readable}-{digest(doc_id, fingerprint, source)}.json"


def _write_manifest(files: Files, snapshot: Snapshot, named: Mapping[str, str]) -> None:
    """Write the documents of a snapshot as a manifest in the order of its rows, unless it is there."""
    with tempfile.TemporaryDirectory(prefix="hilbert-ray-") as folder:
        unsorted, path = Path(folder) / "unsorted.jsonl", Path(folder) / MANIFEST
        places: list[tuple[int, int, int]] = []
        # Through a file, since inline transcripts of all documents may not fit into memory.
        with unsorted.open("wb") as file:
            for entry in snapshot.documents():
                line = _line(entry.document, named.get(entry.document.doc_id))
                places.append((entry.row, file.tell(), file.write(line)))
        with unsorted.open("rb") as source, path.open("wb") as target:
            for _, offset, size in sorted(places):
                source.seek(offset)
                target.write(source.read(size))
        with path.open("rb") as file:
            fresh = hashlib.file_digest(file, "sha256").hexdigest()
        if _require_own_manifest(files) != fresh:
            # Before the file: a kill in between must not make it that of somebody else.
            files.create(f"{_WRITTEN}/{fresh}", b"")
            files.put_from(MANIFEST, str(path))


def _line(document: Document, text_file: str | None) -> bytes:
    """Return a document as a line of a manifest; `text_file` is relative to it."""
    row: dict[str, Any] = {
        "doc_id": document.doc_id,
        "audio": document.audio,
        "text": None if document.text is None else json.loads(encode_text(document.text)),
        "text_file": document.text_file or text_file,
        "diarization": document.diarization,
        "group": document.group,
        "split": document.split,
        "labels": document.labels,
        "attributes": document.attributes,
        "channels": None if document.channels is None else str(document.channels),
    }
    fields = {name: value for name, value in row.items() if value is not None and value != {}}
    return f"{json.dumps(fields, ensure_ascii=False)}\n".encode()


def _sha256(files: Files, name: str) -> str | None:
    """Return the SHA-256 of a file; None where there is none."""
    hasher = hashlib.sha256()
    try:
        with files.open(name) as file:
            while block := file.read(_HASHED_BYTES):
                hasher.update(block)
    except FileNotFoundError:
        return None
    return hasher.hexdigest()
