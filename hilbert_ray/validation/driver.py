"""`validate`: a whole manifest read twice, first for what takes all rows to know, then to check each row.

The manifest is streamed, by several processes if it is large: first to learn which ids are shared and which
tasks the labels belong to, then to check. Every file is checked to exist; files are opened for all
documents or for a random sample, some recordings are decoded, and the report says how many. `embed` would
quarantine an invalid row and continue; `validate` reports it beforehand. Without tasks in the settings, the
tasks are inferred from the labels.
"""

import hashlib
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Literal, TypeAlias

import numpy as np

from hilbert_ray.config import Config, ConfigError, SegmentConfig, TaskConfig
from hilbert_ray.document import (
    Document,
    InvalidRow,
    LabelSurvey,
    SplitSurvey,
    duplicate_row,
    straddling_row,
    with_labels_of,
)
from hilbert_ray.manifest import Block, files_of, manifest_notes, map_blocks
from hilbert_ray.storage import AccessError, missing_files, place_of
from hilbert_ray.validation.checks import Contents, Hearing, check_document, failed
from hilbert_ray.validation.counts import Counts
from hilbert_ray.validation.report import ValidationReport

Probe: TypeAlias = int | Literal["all"]
"""How many documents have their files opened: a random sample of that many if there are more, or all."""
PROBED = 10_000
"""Default of `Probe`: minutes on an object store, and enough to estimate hours and words to about a
percent."""
LISTENED = 100
"""Default of `listen`, a random sample of the opened recordings: it takes seconds, and what is wrong with
levels or channels is mostly wrong with many."""
_THREADS = 16
"""Files that a process opens at once: opening waits for the disk or the network, not for the processor."""


def validate(
    manifest: str, config: Config | None = None, *, probe: Probe = PROBED, listen: Probe = LISTENED
) -> ValidationReport:
    """Read a whole manifest and report on it.

    Args:
        manifest: path or URI of the manifest.
        config: settings, of which these count: `tasks` (if empty, inferred from the labels), `segment.roles`
            (a transcript without any of these speakers is invalid) and `roots`. Default: `Config()`.
        probe: for how many documents the files are opened.
        listen: of how many of the opened recordings the first 30 s are decoded; `all`: each of them is
            decoded from start to end, as `embed` does.

    Raises:
        ManifestError: if the manifest cannot be read at all.
        ConfigError: if `probe` is below 1, or `listen` below 0.
    """
    if probe != "all" and probe < 1:
        raise ConfigError(f"probe is {probe}; it must be 1 document or more, or `all`")
    if listen != "all" and listen < 0:
        raise ConfigError(f"listen is {listen}; it must be a number of recordings, or `all`")
    config = config or Config()
    tasks, roots = config.tasks, config.roots
    digests = []
    labels, splits = LabelSurvey(), SplitSurvey()
    # Shared ids, inferred tasks and the splits of a group depend on all rows, so a first pass collects them.
    # Keeping its documents for the second would take more memory than the manifest has bytes; it keeps 16
    # bytes per row, and a number per group.
    survey = partial(_survey, is_labelled=not tasks)
    for block_digests, block_labels, block_splits in map_blocks(survey, manifest, roots):
        digests.append(block_digests)
        labels.merge(block_labels)
        splits.merge(block_splits)
    rows = sum(map(len, digests))
    declared, unclear = (tasks, {}) if tasks else labels.infer()
    probed = None if probe == "all" or rows <= probe else _draw(rows, probe)
    opened = range(1, rows + 1) if probed is None else sorted(probed)
    check = partial(
        _check_block,
        tasks=declared,
        segment=config.segment,
        shared=_shared(np.concatenate([np.zeros(0, _DIGEST), *digests])),
        straddling=splits.straddling(),
        probed=probed,
        heard="all"
        if listen == "all"
        else frozenset(random.Random(1).sample(opened, min(len(opened), listen))),
    )
    counts = Counts()
    for block_counts in map_blocks(check, manifest, roots):
        counts.merge(block_counts)
    for name in unclear:
        counts.undeclared.pop(name, None)  # reported as a problem
    report = counts.report(manifest, rows, declared, not tasks, manifest_notes(manifest))
    return replace(report, problems=(*counts.unusable_places(), *unclear.values()))


# 128 bits: among a billion ids, two have the same digest with a chance of 1e-21; that would report valid rows
# as duplicates.
_DIGEST = np.dtype("S16")


def _digest(doc_id: str) -> bytes:
    """Return a 16-byte stand-in for an id, so that millions fit in memory; empty if there is no id."""
    return hashlib.blake2b(doc_id.encode(), digest_size=16).digest() if doc_id else b""


def _survey(block: Block, is_labelled: bool) -> tuple[np.ndarray, LabelSurvey, SplitSurvey]:
    """Return the digest of each row's id, labels of the documents if `is_labelled`, and splits of groups."""
    labels, splits = LabelSurvey(), SplitSurvey()
    digests = []
    # Where the settings declare the tasks, labels do not matter: the second pass checks the rest of each row.
    if not is_labelled:
        for doc_id, group, split in block.places():
            digests.append(_digest(doc_id))
            if group:
                splits.add(group, split)
        return np.array(digests, _DIGEST), labels, splits
    for _, item in block.rows():
        digests.append(_digest(item.doc_id))
        if isinstance(item, Document):
            # What keeps odd labels from being surveyed is found again, and reported, in the second pass.
            with suppress(Exception):
                labels.add(item)
            splits.add(item.group, item.split)
    return np.array(digests, _DIGEST), labels, splits


def _shared(digests: np.ndarray) -> dict[bytes, list[int]]:
    """Return the digests of ids that several rows use, each with all its rows (from 1)."""
    # Sorted in one array, since a dict of millions of ids would take ten times the memory. Rows without an id
    # are invalid by themselves and not duplicates of each other.
    distinct, counts = np.unique(digests, return_counts=True)
    rows = np.flatnonzero(np.isin(digests, distinct[(counts > 1) & (distinct != b"")]))
    shared: dict[bytes, list[int]] = {}
    for row in rows.tolist():
        shared.setdefault(bytes(digests[row]), []).append(row + 1)
    return shared


def _draw(rows: int, probe: int) -> frozenset[int]:
    """Return the rows whose files are opened: random, but the same in every process and every call."""
    # Random, because manifests are often sorted, by site or date; the same each time, so that a second call
    # checks what was fixed after the first. Of rows, as which of them are valid is not known yet.
    return frozenset(random.Random(0).sample(range(1, rows + 1), probe))


def _missing(files: Iterable[str], unusable: dict[str, str]) -> set[str]:
    """Return those of these files that do not exist, or of which nobody can tell whether they do.

    Those at places that cannot be used from here are not looked up; `unusable` gets what is wrong with them.
    """
    by_place: dict[str, list[str]] = {}
    for file in files:
        by_place.setdefault(place_of(file), []).append(file)
    missing: set[str] = set()
    for place, listed in by_place.items():
        if _unusable(place, unusable) is None:
            missing |= _missing_at(listed, unusable)
    return missing


def _unusable(uri: str, unusable: Mapping[str, str]) -> str | None:
    """Return what keeps a file from being opened from here at all; None where nothing is known to do so."""
    messages = (message for begin, message in unusable.items() if place_of(uri).startswith(begin))
    return next(messages, None)


def _missing_at(listed: Sequence[str], unusable: dict[str, str]) -> set[str]:
    try:
        return missing_files(listed)
    except AccessError as error:
        if error.place:
            unusable[error.place] = str(error)
            return set()
        return set(listed)
    # One by one then: a URI that no library understands must not keep other rows from being checked. Opening
    # the file says what is wrong.
    except Exception:
        if len(listed) < 2:
            return set(listed)
        return set().union(*(_missing_at([file], unusable) for file in listed))


def _check_block(
    block: Block,
    tasks: Mapping[str, TaskConfig],
    segment: SegmentConfig,
    shared: Mapping[bytes, list[int]],
    straddling: Mapping[str, Sequence[str]],
    probed: Collection[int] | None,
    heard: Collection[int] | Literal["all"],
) -> Counts:
    """Count what the documents of a block hold, and collect its invalid rows."""
    counts = Counts()
    documents: list[tuple[int, Document]] = []
    for row, item in block.rows():
        # NumPy drops zero bytes at the end of a string, so the keys of `shared` lack them too.
        rows = shared.get(_digest(item.doc_id).rstrip(b"\0")) if shared else None
        if isinstance(item, InvalidRow):
            counts.faults.append(item)
        elif rows is not None:
            counts.faults.append(duplicate_row(row, item.doc_id, rows))
        elif item.group in straddling:
            counts.faults.append(straddling_row(row, item, straddling[item.group]))
        else:
            try:
                documents.append((row, with_labels_of(item, tasks)))
            except Exception as error:
                counts.faults.append(failed(row, item, "labels", error))
    unopened = [] if probed is None else [(row, item) for row, item in documents if row not in probed]
    # What is wrong with places that cannot be used from here: each is asked once and not for every file.
    unusable: dict[str, str] = {}
    # By block, because whole folders are listed: a request per file would take hours on a network disk.
    missing = _missing(files_of(unopened), unusable)
    # A missing file is opened all the same, which fails with the same message as in the sample.
    present = {row for row, document in unopened if missing.isdisjoint(document.files)}

    def check(row: int, document: Document) -> Contents | InvalidRow:
        hearing: Hearing = "all" if heard == "all" else "beginning" if row in heard else "header"
        is_opened = row not in present and not any(_unusable(file, unusable) for file in document.files)
        try:
            return check_document(row, document, tasks, segment, is_opened=is_opened, hearing=hearing)
        except AccessError as error:
            unusable[error.place] = str(error)
            return check_document(row, document, tasks, segment, is_opened=False)

    opened = [(row, document) for row, document in documents if row not in present]
    with ThreadPoolExecutor(_THREADS) as pool:
        # In the order of `opened`, so that the results can be taken one by one below.
        outcomes = iter(pool.map(check, *zip(*opened, strict=True))) if opened else iter(())
        for row, document in documents:
            outcome = check(row, document) if row in present else next(outcomes)
            if isinstance(outcome, InvalidRow):
                counts.faults.append(outcome)
            else:
                counts.add(document, outcome, tasks)
                messages = (_unusable(file, unusable) for file in document.files)
                counts.unusable.update({message for message in messages if message is not None})
    counts.faults.sort(key=lambda invalid: invalid.row)
    return counts
