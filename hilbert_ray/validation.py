"""A check of a whole manifest before anything is computed: what it holds, and each row that is invalid.

The manifest is streamed twice, by several processes if it is large: first to learn which ids are shared and
which tasks the labels belong to, then to check. Every file is checked to exist; files are opened (audio: only
headers) for all documents or for a random sample, and the report says for how many. `embed` would quarantine
an invalid row and continue; `validate` reports it beforehand. Without tasks in the settings, the tasks are
inferred from the labels.
"""

import hashlib
import random
import statistics
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np

from hilbert_ray import audio
from hilbert_ray.config import Config, ConfigError, FoldsConfig, TaskConfig, to_dict
from hilbert_ray.document import (
    Block,
    Document,
    DocumentError,
    InvalidRow,
    Label,
    LabelSurvey,
    Seconds,
    SplitSurvey,
    Utterance,
    check_text_kind,
    check_times,
    class_name,
    duplicate_row,
    encode_label,
    files_of,
    load_text,
    map_blocks,
    straddling_row,
)
from hilbert_ray.storage import missing_files

Probe: TypeAlias = int | Literal["all"]
"""How many documents have their files opened: a random sample of that many if there are more, or all."""
PROBED = 10_000
"""Default of `Probe`: minutes on an object store, and enough to estimate hours and words to about a
percent."""
_THREADS = 16
"""Files that a process opens at once: opening waits for the disk or the network, not for the processor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskReport:
    """A task: its kind, whether it was inferred, and the number of documents and groups of each class.

    `unlabelled` documents take part in training all the same, in every term that needs no label.
    """

    kind: str
    classes: tuple[str, ...]
    is_inferred: bool
    labelled: int
    unlabelled: int
    documents: Mapping[str, int]
    groups: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationReport:
    """What a manifest holds. Counts are of valid documents; times are in seconds; `faults` are invalid rows.

    `unopened` documents have files that were not opened. If there are any, hours, utterances and words are
    estimates from the others, a random sample, and shortest, median and longest are those of the sample. A
    value that no sampled file allows to estimate is None.
    """

    manifest: str
    rows: int
    documents: int
    unopened: int
    with_audio: int
    with_text: int
    with_both: int
    audio_s: Seconds | None
    shortest_s: Seconds
    median_s: Seconds
    longest_s: Seconds
    utterances: int | None
    words: int | None
    groups: int
    largest_group: int
    splits: Mapping[str, int]
    tasks: Mapping[str, TaskReport]
    warnings: tuple[str, ...]
    faults: tuple[InvalidRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return to_dict(self)

    def text(self) -> str:
        """Return the report as text for a terminal."""
        return "\n".join(_lines(self))


class ValidationError(DocumentError):
    """A document that can be read but contradicts itself or the settings."""


def validate(manifest: str, config: Config | None = None, *, probe: Probe = PROBED) -> ValidationReport:
    """Read a whole manifest and report on it.

    Args:
        manifest: path or URI of the manifest.
        config: settings, of which these count: `tasks` (if empty, inferred from the labels), `segment.roles`
            (a transcript without any of these speakers is invalid) and `roots`. Default: `Config()`.
        probe: for how many documents the files are opened.

    Raises:
        ManifestError: if the manifest cannot be read at all.
        ConfigError: if `probe` is below 1, or the kind of a task cannot be inferred from its labels.
    """
    if probe != "all" and probe < 1:
        raise ConfigError(f"probe is {probe}; it must be 1 document or more, or `all`")
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
    declared = tasks or labels.tasks()
    check = partial(
        _check_block,
        tasks=declared,
        roles=config.segment.roles,
        shared=_shared(np.concatenate([np.zeros(0, _DIGEST), *digests])),
        straddling=splits.straddling(),
        probed=None if probe == "all" or rows <= probe else _draw(rows, probe),
    )
    counts = _Counts()
    for block_counts in map_blocks(check, manifest, roots):
        counts.merge(block_counts)
    return counts.report(manifest, rows, declared, not tasks)


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
            if doc_id:
                splits.add(group, split)
        return np.array(digests, _DIGEST), labels, splits
    for _, item in block.rows():
        digests.append(_digest(item.doc_id))
        if isinstance(item, Document):
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Contents:
    """What a document holds; None if it takes a file that was not opened to know."""

    duration_s: Seconds | None
    utterances: int | None
    words: int | None


def _check_block(
    block: Block,
    tasks: Mapping[str, TaskConfig],
    roles: Sequence[str],
    shared: Mapping[bytes, list[int]],
    straddling: Mapping[str, Sequence[str]],
    probed: Collection[int] | None,
) -> "_Counts":
    """Count what the documents of a block hold, and collect its invalid rows."""
    counts = _Counts()
    documents: list[tuple[int, Document]] = []
    for row, item in block.rows():
        # NumPy drops zero bytes at the end of a string, so the keys of `shared` lack them too.
        rows = shared.get(_digest(item.doc_id).rstrip(b"\0")) if shared else None
        if rows is not None:
            counts.faults.append(duplicate_row(row, item.doc_id, rows))
        elif isinstance(item, InvalidRow):
            counts.faults.append(item)
        elif item.group in straddling:
            counts.faults.append(straddling_row(row, item, straddling[item.group]))
        else:
            documents.append((row, item))
    unopened = [] if probed is None else [(row, item) for row, item in documents if row not in probed]
    # By block, because whole folders are listed: a request per file would take hours on a network disk.
    missing = missing_files(files_of(unopened))
    # A missing file is opened all the same, which fails with the same message as in the sample.
    present = {
        row
        for row, document in unopened
        if document.audio not in missing and document.text_file not in missing
    }

    def check(row: int, document: Document) -> _Contents | InvalidRow:
        return _check(row, document, tasks, roles, is_opened=row not in present)

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
    counts.faults.sort(key=lambda invalid: invalid.row)
    return counts


def _check(
    row: int, document: Document, tasks: Mapping[str, TaskConfig], roles: Sequence[str], is_opened: bool
) -> _Contents | InvalidRow:
    """Check a document, including the content of its files if `is_opened`."""
    duration: Seconds | None = None
    text: str | tuple[Utterance, ...] | None = None
    is_read = is_opened or document.text_file is None  # an inline transcript costs nothing to read
    stage = "audio"
    try:
        # Audio first: the transcript's times are checked against its length.
        if is_opened and document.audio is not None:
            duration = audio.probe(document.audio).duration_s
        stage = "text"
        check_text_kind(document)
        if is_read:
            text = load_text(document)
        utterances = text if isinstance(text, tuple) else ()
        if duration is not None:
            check_times(document, utterances, duration)
        if is_read:
            _check_roles(document, utterances, roles)
        stage = "labels"
        for name, label in document.labels.items():
            if name in tasks:
                _check_label(document, name, tasks[name], label)
    except (DocumentError, OSError) as error:
        # Other exceptions are bugs, which must show their traceback.
        return InvalidRow(
            row=row, doc_id=document.doc_id, stage=stage, error=type(error).__name__, message=str(error)
        )
    words = len(text.split()) if isinstance(text, str) else sum(len(turn.text.split()) for turn in utterances)
    return _Contents(
        duration_s=duration,
        utterances=len(utterances) if is_read else None,
        words=words if is_read else None,
    )


def _check_roles(document: Document, utterances: Sequence[Utterance], roles: Sequence[str]) -> None:
    if not roles or not document.has_text:
        return
    present = sorted({turn.role for turn in utterances if turn.role is not None})
    # One of the roles is enough: not every recording has all speakers, but one with none has nothing to
    # embed.
    if set(roles) & set(present):
        return
    raise ValidationError(
        f"document {document.doc_id!r} has no utterance of segment.roles = {list(roles)}; its roles are "
        f"{present or 'unknown'}: name roles that it has, or remove the document"
    )


def _check_label(document: Document, name: str, task: TaskConfig, label: Label) -> None:
    try:
        encode_label(task, label)
    except ValueError as error:
        raise ValidationError(f"document {document.doc_id!r}, task `{name}`: {error}") from None


@dataclass(kw_only=True, slots=True)
class _Counts:
    """Counts over valid documents, and the invalid rows (`faults`); the counts of all blocks are merged.

    `inline` and `filed` count the transcripts that were read and their utterances and words, by where they
    are; `unread` counts those in files that were not opened.
    """

    audio: int = 0
    text: int = 0
    both: int = 0
    unopened: int = 0
    unread: int = 0
    inline: Counter[str] = field(default_factory=Counter)
    filed: Counter[str] = field(default_factory=Counter)
    # All lengths, for the median: no more than the sample, unless all files are opened.
    durations: list[Seconds] = field(default_factory=list)
    groups: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    labelled: Counter[str] = field(default_factory=Counter)
    undeclared: Counter[str] = field(default_factory=Counter)
    classes: Counter[tuple[str, str]] = field(default_factory=Counter)
    # Sets and not numbers, since a group may have documents in several blocks.
    groups_of: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    faults: list[InvalidRow] = field(default_factory=list)

    def add(self, document: Document, contents: _Contents, tasks: Mapping[str, TaskConfig]) -> None:
        """Count a valid document."""
        self.audio += document.audio is not None
        self.text += document.has_text
        self.both += document.audio is not None and document.has_text
        is_unheard = document.audio is not None and contents.duration_s is None
        self.unopened += is_unheard or contents.words is None
        if contents.duration_s is not None:
            self.durations.append(contents.duration_s)
        if contents.words is None:
            self.unread += 1
        elif document.has_text:
            transcripts = self.inline if document.text_file is None else self.filed
            transcripts["documents"] += 1
            transcripts["utterances"] += contents.utterances or 0
            transcripts["words"] += contents.words
        self.groups[document.group] += 1
        self.splits[document.split or "none"] += 1
        for name, label in document.labels.items():
            if name not in tasks:
                self.undeclared[name] += 1
                continue
            # `{"art": null}` says only that nobody knows.
            if not isinstance(label, Mapping) or any(value is not None for value in label.values()):
                self.labelled[name] += 1
            for class_ in _classes_of(tasks[name], label):
                self.classes[name, class_] += 1
                self.groups_of.setdefault((name, class_), set()).add(document.group)

    def merge(self, other: "_Counts") -> None:
        """Add the counts of another block."""
        # By type, so that a counter added later cannot be forgotten here.
        for attribute in fields(self):
            mine, others = getattr(self, attribute.name), getattr(other, attribute.name)
            if isinstance(mine, int):
                setattr(self, attribute.name, mine + others)
            elif isinstance(mine, list):
                mine.extend(others)
            elif isinstance(mine, Counter):
                mine.update(others)
            else:
                for key, groups in others.items():
                    mine.setdefault(key, set()).update(groups)

    def _estimate(self, unit: str) -> int | None:
        """Return the number of `utterances` or `words`, estimated if files were not opened.

        Only transcripts in files are scaled up: inline ones were all read, and may well be of another length.
        """
        if self.unread and not self.filed["documents"]:
            return None
        unread_per_read = self.unread / self.filed["documents"] if self.unread else 0
        return self.inline[unit] + round(self.filed[unit] * (1 + unread_per_read))

    def report(
        self, manifest: str, rows: int, tasks: Mapping[str, TaskConfig], is_inferred: bool
    ) -> ValidationReport:
        documents = sum(self.groups.values())
        audio_s = None
        # The opened files are a random sample, so the sum scales by number; it is exact if all were opened.
        if self.durations or not self.audio:
            audio_s = sum(self.durations) * (self.audio / len(self.durations) if self.durations else 1.0)
        return ValidationReport(
            manifest=manifest,
            rows=rows,
            documents=documents,
            unopened=self.unopened,
            with_audio=self.audio,
            with_text=self.text,
            with_both=self.both,
            audio_s=audio_s,
            shortest_s=min(self.durations, default=0.0),
            median_s=statistics.median(self.durations) if self.durations else 0.0,
            longest_s=max(self.durations, default=0.0),
            utterances=self._estimate("utterances"),
            words=self._estimate("words"),
            groups=len(self.groups),
            largest_group=max(self.groups.values(), default=0),
            splits=dict(sorted(self.splits.items())),
            tasks={
                name: TaskReport(
                    kind=task.kind,
                    classes=task.classes,
                    is_inferred=is_inferred,
                    labelled=self.labelled[name],
                    unlabelled=documents - self.labelled[name],
                    documents={class_: self.classes[name, class_] for class_ in task.classes},
                    groups={class_: len(self.groups_of.get((name, class_), ())) for class_ in task.classes},
                )
                for name, task in tasks.items()
            },
            warnings=tuple(self._warnings(tasks, is_inferred)),
            faults=tuple(self.faults),
        )

    def _warnings(self, tasks: Mapping[str, TaskConfig], is_inferred: bool) -> Iterator[str]:
        if self.unopened:
            opened = sum(self.groups.values()) - self.unopened
            yield (
                f"the files of {self.unopened} documents exist but were not opened: hours, utterances and "
                f"words are estimates from the other {opened}, a random sample, and damage inside the "
                "unopened files is not detected; `--probe all` opens all files"
            )
        for name, count in sorted(self.undeclared.items()):
            reason = "all its labels are the same" if is_inferred else "the settings do not declare it"
            yield f"task `{name}` ({count} labels) is ignored: {reason}"
        for name, task in tasks.items():
            for class_ in task.classes:
                groups = len(self.groups_of.get((name, class_), ()))
                # With one group, the class is either trained on or tested, never both.
                if groups < 2:
                    yield (
                        f"task `{name}`: class {class_!r} occurs in {groups} group"
                        f"{'' if groups == 1 else 's'}; cross-validation needs at least 2, one to train on "
                        "and one to test"
                    )
        if len(self.groups) < FoldsConfig().folds:
            yield (
                f"the manifest has only {len(self.groups)} groups; folds keep groups together, so there "
                "cannot be more folds than groups"
            )


def _classes_of(task: TaskConfig, label: Label) -> list[str]:
    """Return the classes that a label counts for; none for a number."""
    if isinstance(label, list):
        return [class_name(item) for item in label]
    if isinstance(label, (dict, Mapping)):
        return [class_name(key) for key, value in label.items() if value]
    return [class_name(label)] if task.classes else []


def _lines(report: ValidationReport) -> Iterator[str]:
    """Yield the lines of `ValidationReport.text`."""
    about, sample = ("about ", ", of the sample") if report.unopened else ("", "")
    hours = "unknown" if report.audio_s is None else f"{about}{report.audio_s / 3600:.2f}"
    utterances, words = (
        "unknown" if count is None else f"{about}{count}" for count in (report.utterances, report.words)
    )
    yield (
        f"{report.manifest}: {report.rows} rows, {report.documents} valid documents, "
        f"{len(report.faults)} invalid rows"
    )
    yield f"  audio        {report.with_audio} documents, {hours} h"
    if report.with_audio:
        yield (
            f"  durations    {report.shortest_s:.1f} s to {report.longest_s:.1f} s, median "
            f"{report.median_s:.1f} s{sample}"
        )
    yield f"  text         {report.with_text} documents, {utterances} utterances, {words} words"
    yield f"  both         {report.with_both} documents"
    yield f"  groups       {report.groups}, the largest with {report.largest_group} documents"
    yield "  splits       " + (
        ", ".join(f"{name} {count}" for name, count in report.splits.items()) or "none"
    )
    for name, task in report.tasks.items():
        origin = ", inferred from the labels" if task.is_inferred else ""
        yield f"task {name} ({task.kind}{origin}): {task.labelled} labelled, {task.unlabelled} unlabelled"
        width = max((len(class_) for class_ in task.classes), default=0)
        for class_ in task.classes:
            count = task.documents[class_]
            # Unlabelled documents say nothing about how frequent a class is.
            prevalence, groups = count / max(1, task.labelled), task.groups[class_]
            yield f"  {class_:{width}}  {count:6d} documents {prevalence:6.1%}  in {groups} groups"
    yield from (f"warning: {warning}" for warning in report.warnings)
    yield from (
        f"invalid row {row.row}, {row.doc_id!r} ({row.stage}, {row.error}): {row.message}"
        for row in report.faults
    )
