"""A look at a whole manifest before anything is computed: what it holds, and each row that is at fault.

The manifest is read as a stream, by several processes where it is large, and twice: to learn which ids are
shared and which tasks the labels speak of, then to check. That every file exists is looked up; files are
opened, audio by its headers only, of all documents or of a random sample, and the report says of how many.
`embed` would put a faulty row into quarantine and go on; `validate` names it beforehand. Tasks that the
settings do not declare are inferred from the labels.
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
from hilbert_ray.config import ConfigError, TaskConfig, to_dict
from hilbert_ray.document import (
    Block,
    Document,
    DocumentError,
    Fault,
    Label,
    LabelSurvey,
    Seconds,
    Utterance,
    check_text_kind,
    check_times,
    class_name,
    duplicate_fault,
    encode_label,
    files_of,
    load_text,
    map_blocks,
)
from hilbert_ray.storage import missing_files

Probe: TypeAlias = int | Literal["all"]
"""How many documents' files are opened: a random sample of that many where there are more, or all."""
PROBED = 10_000
_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskReport:
    """A task: its kind, whether it was inferred, and documents and groups by class."""

    kind: str
    classes: tuple[str, ...]
    is_inferred: bool
    unlabelled: int
    documents: Mapping[str, int]
    groups: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationReport:
    """What a manifest holds. Counts are of documents without fault; times are seconds.

    `unopened` documents have files that were not opened. Where there are any, hours, utterances and words are
    estimates from the others, a random sample, and the shortest, median and longest are of that sample. What
    no sampled file tells is None.
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
    faults: tuple[Fault, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return to_dict(self)

    def text(self) -> str:
        """Return the report as a table to read."""
        return "\n".join(_lines(self))


class ValidationError(DocumentError):
    """A document that can be read but contradicts itself or the settings."""


def validate(
    manifest: str,
    tasks: Mapping[str, TaskConfig],
    roles: Sequence[str] = (),
    probe: Probe = PROBED,
    roots: Sequence[str] = (),
) -> ValidationReport:
    """Read a whole manifest and report on it.

    Args:
        manifest: path or URI of the manifest.
        tasks: the declared tasks; empty means that they are inferred from the labels.
        roles: the speakers that will be kept; a transcript without any of them is at fault.
        probe: of how many documents the files are opened.
        roots: folders and URI prefixes below which files must lie; none allows any file.

    Raises:
        ManifestError: when the manifest cannot be read at all.
        ConfigError: when tasks are to be inferred and the labels of one cannot be told, or `probe` is no
            number above 0.
    """
    if probe != "all" and probe < 1:
        raise ConfigError(f"probe is {probe}; it must be 1 document or more, or `all`")
    digests = []
    labels = LabelSurvey()
    for of_block in map_blocks(partial(_survey, is_labelled=not tasks), manifest, roots):
        digests.append(of_block[0])
        labels.merge(of_block[1])
    rows = sum(map(len, digests))
    declared = tasks or labels.tasks()
    check = partial(
        _check_block,
        tasks=declared,
        roles=roles,
        shared=_shared(np.concatenate([np.zeros(0, _DIGEST), *digests])),
        probed=None if probe == "all" or rows <= probe else _draw(rows, probe),
    )
    counts = _Counts()
    for found in map_blocks(check, manifest, roots):
        counts.merge(found)
    return counts.report(manifest, rows, declared, not tasks)


_DIGEST = np.dtype("S16")


def _digest(doc_id: str) -> bytes:
    """Return what stands for an id where a million of them are held; empty for none."""
    return hashlib.blake2b(doc_id.encode(), digest_size=16).digest() if doc_id else b""


def _survey(block: Block, is_labelled: bool) -> tuple[np.ndarray, LabelSurvey]:
    """Return the digest of each row's id, and, if asked for, the labels of the documents."""
    labels = LabelSurvey()
    if not is_labelled:
        return np.array([_digest(doc_id) for doc_id in block.ids()], _DIGEST), labels
    digests = []
    for _, item in block.rows():
        digests.append(_digest(item.doc_id))
        if isinstance(item, Document):
            labels.add(item)
    return np.array(digests, _DIGEST), labels


def _shared(digests: np.ndarray) -> dict[bytes, list[int]]:
    """Return the digests of ids that several rows use, each with all its rows."""
    found, counts = np.unique(digests, return_counts=True)
    rows = np.flatnonzero(np.isin(digests, found[(counts > 1) & (found != b"")]))
    shared: dict[bytes, list[int]] = {}
    for row in rows.tolist():
        shared.setdefault(bytes(digests[row]), []).append(row + 1)
    return shared


def _draw(rows: int, probe: int) -> frozenset[int]:
    """Return the rows whose files are opened, at random but always the same."""
    return frozenset(random.Random(0).sample(range(1, rows + 1), probe))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Contents:
    """What a document holds; None where a file tells that was not opened."""

    duration_s: Seconds | None
    utterances: int | None
    words: int | None


def _check_block(
    block: Block,
    tasks: Mapping[str, TaskConfig],
    roles: Sequence[str],
    shared: Mapping[bytes, list[int]],
    probed: Collection[int] | None,
) -> "_Counts":
    """Count what the documents of a block hold, and note each fault with its row."""
    counts = _Counts()
    documents: list[tuple[int, Document]] = []
    for row, item in block.rows():
        rows = shared.get(_digest(item.doc_id).rstrip(b"\0")) if shared else None
        if rows is not None:
            counts.faults.append(duplicate_fault(row, item.doc_id, rows))
        elif isinstance(item, Fault):
            counts.faults.append(item)
        else:
            documents.append((row, item))
    unopened = [] if probed is None else [(row, item) for row, item in documents if row not in probed]
    missing = missing_files(files_of(unopened))
    # A file that is not there is opened as the sampled ones are, to say so in the same words.
    left = {
        row
        for row, document in unopened
        if document.audio not in missing and document.text_file not in missing
    }

    def check(row: int, document: Document) -> _Contents | Fault:
        return _check(row, document, tasks, roles, row not in left)

    opened = [(row, document) for row, document in documents if row not in left]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = iter(pool.map(check, *zip(*opened, strict=True))) if opened else iter(())
        for row, document in documents:
            one = check(row, document) if row in left else next(found)
            if isinstance(one, Fault):
                counts.faults.append(one)
            else:
                counts.add(document, one, tasks)
    counts.faults.sort(key=lambda fault: fault.row)
    return counts


def _check(
    row: int, document: Document, tasks: Mapping[str, TaskConfig], roles: Sequence[str], opens: bool
) -> _Contents | Fault:
    """Check a document, with what its files hold if they are to be opened."""
    duration: Seconds | None = None
    text: str | tuple[Utterance, ...] | None = None
    reads = opens or document.text_file is None
    stage = "audio"
    try:
        if opens and document.audio is not None:
            duration = audio.probe(document.audio).duration_s
        stage = "text"
        check_text_kind(document)
        if reads:
            text = load_text(document)
        utterances = text if isinstance(text, tuple) else ()
        if duration is not None:
            check_times(document, utterances, duration)
        if reads:
            _check_roles(document, utterances, roles)
        stage = "labels"
        for name, label in document.labels.items():
            if name in tasks:
                _check_label(document, name, tasks[name], label)
    except (DocumentError, OSError) as error:
        return Fault(
            row=row, doc_id=document.doc_id, stage=stage, error=type(error).__name__, message=str(error)
        )
    words = len(text.split()) if isinstance(text, str) else sum(len(turn.text.split()) for turn in utterances)
    return _Contents(
        duration_s=duration,
        utterances=len(utterances) if reads else None,
        words=words if reads else None,
    )


def _check_roles(document: Document, utterances: Sequence[Utterance], roles: Sequence[str]) -> None:
    if not roles or not document.has_text:
        return
    present = sorted({turn.role for turn in utterances if turn.role is not None})
    if set(roles) & set(present):
        return
    raise ValidationError(
        f"document {document.doc_id!r} has no utterance of segment.roles = {list(roles)}; its roles are "
        f"{present or 'not given'}: name roles that it has, or leave it out"
    )


def _check_label(document: Document, name: str, task: TaskConfig, label: Label) -> None:
    try:
        encode_label(task, label)
    except ValueError as error:
        raise ValidationError(f"document {document.doc_id!r}, task `{name}`: {error}") from None


@dataclass(kw_only=True, slots=True)
class _Counts:
    """Counts over documents without fault, and the faults; those of all blocks are merged.

    `inline` and `filed` count transcripts that were read, and their utterances and words; `unread` those in
    files that were not opened.
    """

    audio: int = 0
    text: int = 0
    both: int = 0
    unopened: int = 0
    unread: int = 0
    inline: Counter[str] = field(default_factory=Counter)
    filed: Counter[str] = field(default_factory=Counter)
    durations: list[Seconds] = field(default_factory=list)
    groups: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    labelled: Counter[str] = field(default_factory=Counter)
    undeclared: Counter[str] = field(default_factory=Counter)
    classes: Counter[tuple[str, str]] = field(default_factory=Counter)
    groups_of: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def add(self, document: Document, found: _Contents, tasks: Mapping[str, TaskConfig]) -> None:
        self.audio += document.audio is not None
        self.text += document.has_text
        self.both += document.audio is not None and document.has_text
        is_unheard = document.audio is not None and found.duration_s is None
        self.unopened += is_unheard or found.words is None
        if found.duration_s is not None:
            self.durations.append(found.duration_s)
        if found.words is None:
            self.unread += 1
        elif document.has_text:
            kind = self.inline if document.text_file is None else self.filed
            kind["documents"] += 1
            kind["utterances"] += found.utterances or 0
            kind["words"] += found.words
        self.groups[document.group] += 1
        self.splits[document.split or "none"] += 1
        for name, label in document.labels.items():
            if name not in tasks:
                self.undeclared[name] += 1
                continue
            self.labelled[name] += 1
            for held in _classes_of(tasks[name], label):
                key = (name, held)
                self.classes[key] += 1
                if key not in self.groups_of:
                    self.groups_of[key] = set()
                self.groups_of[key].add(document.group)

    def merge(self, other: "_Counts") -> None:
        for one in fields(self):
            mine, others = getattr(self, one.name), getattr(other, one.name)
            if isinstance(mine, int):
                setattr(self, one.name, mine + others)
            elif isinstance(mine, list):
                mine.extend(others)
            elif isinstance(mine, Counter):
                mine.update(others)
            else:
                for key, groups in others.items():
                    mine.setdefault(key, set()).update(groups)

    def _total(self, what: str) -> int | None:
        """Return how many utterances or words there are, estimated where files were not opened."""
        if self.unread and not self.filed["documents"]:
            return None
        share = self.unread / self.filed["documents"] if self.unread else 0
        return self.inline[what] + round(self.filed[what] * (1 + share))

    def report(
        self, manifest: str, rows: int, tasks: Mapping[str, TaskConfig], is_inferred: bool
    ) -> ValidationReport:
        documents = sum(self.groups.values())
        audio_s = None
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
            utterances=self._total("utterances"),
            words=self._total("words"),
            groups=len(self.groups),
            largest_group=max(self.groups.values(), default=0),
            splits=dict(sorted(self.splits.items())),
            tasks={
                name: TaskReport(
                    kind=task.kind,
                    classes=task.classes,
                    is_inferred=is_inferred,
                    unlabelled=documents - self.labelled[name],
                    documents={held: self.classes[name, held] for held in task.classes},
                    groups={held: len(self.groups_of.get((name, held), ())) for held in task.classes},
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
                f"the files of {self.unopened} documents are there but were not opened: hours, utterances "
                f"and words are estimates from the other {opened}, a random sample, and what is wrong inside "
                "the files that were not opened is not known; `--probe all` opens them all"
            )
        for name, count in sorted(self.undeclared.items()):
            why = "all its labels are alike" if is_inferred else "the settings do not declare it"
            yield f"task `{name}` ({count} labels) is left out: {why}"
        for name, task in tasks.items():
            for held in task.classes:
                groups = len(self.groups_of.get((name, held), ()))
                if groups < 2:
                    yield (
                        f"task `{name}`: class {held!r} is in {groups} groups; no test fold can hold it "
                        "while training still sees it"
                    )
        if len(self.groups) < 5:
            yield f"there are {len(self.groups)} groups; folds that keep groups apart need at least one each"


def _classes_of(task: TaskConfig, label: Label) -> list[str]:
    if isinstance(label, list):
        return [class_name(item) for item in label]
    if isinstance(label, (dict, Mapping)):
        return [class_name(key) for key, value in label.items() if value]
    return [class_name(label)] if task.classes else []


def _lines(report: ValidationReport) -> Iterator[str]:
    about, sample = ("about ", ", of the sample") if report.unopened else ("", "")
    hours = "unknown" if report.audio_s is None else f"{about}{report.audio_s / 3600:.2f}"
    utterances, words = (
        "unknown" if count is None else f"{about}{count}" for count in (report.utterances, report.words)
    )
    yield f"{report.manifest}: {report.rows} rows, {report.documents} documents, {len(report.faults)} faults"
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
        how = ", inferred from the labels" if task.is_inferred else ""
        yield f"task {name} ({task.kind}{how}): {task.unlabelled} unlabelled"
        width = max((len(held) for held in task.classes), default=0)
        labelled = max(1, report.documents - task.unlabelled)
        for held in task.classes:
            count = task.documents[held]
            share, groups = count / labelled, task.groups[held]
            yield f"  {held:{width}}  {count:6d} documents {share:6.1%}  in {groups} groups"
    yield from (f"warning: {warning}" for warning in report.warnings)
    yield from (
        f"fault in row {fault.row}, {fault.doc_id!r} ({fault.stage}, {fault.error}): {fault.message}"
        for fault in report.faults
    )
