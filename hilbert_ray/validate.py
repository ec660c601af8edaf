"""A look at a whole manifest before anything is computed: what it holds, and each row that is at fault.

The manifest is read as a stream, audio by its headers only. `embed` would put a faulty row into quarantine
and go on; `validate` names it beforehand. Tasks that the settings do not declare are inferred from the
labels.
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from hilbert_ray import audio
from hilbert_ray.config import ConfigError, TaskConfig, to_dict
from hilbert_ray.document import (
    Document,
    DocumentError,
    Fault,
    Label,
    Seconds,
    Utterance,
    check_times,
    duplicate_fault,
    find_duplicates,
    load_text,
    read_manifest,
)
from hilbert_ray.labels import class_name, encode_label

ORDINAL_MOST = 10
"""Most distinct whole numbers that are taken for the steps of an ordinal task; more are a regression."""
_AT_ONCE, _ROWS = 16, 1024


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
class Report:
    """What a manifest holds. Counts are of documents without fault; times are seconds."""

    manifest: str
    rows: int
    documents: int
    with_audio: int
    with_text: int
    with_both: int
    audio_s: Seconds
    shortest_s: Seconds
    median_s: Seconds
    longest_s: Seconds
    utterances: int
    words: int
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


def validate(manifest: str, tasks: Mapping[str, TaskConfig], roles: Sequence[str] = ()) -> Report:
    """Read a whole manifest and report on it.

    Args:
        manifest: path or URI of the manifest.
        tasks: the declared tasks; empty means that they are inferred from the labels.
        roles: the speakers that will be kept; a transcript without any of them is at fault.

    Raises:
        ManifestError: when the manifest cannot be read at all.
        ConfigError: when tasks are to be inferred and the labels of one cannot be told.
    """
    duplicates = find_duplicates(read_manifest(manifest))
    declared = tasks or infer_tasks(item for _, item in read_manifest(manifest) if isinstance(item, Document))
    faults: list[Fault] = []
    counts = _Counts()
    rows = 0
    for row, item, found in _look(manifest, declared, roles):
        rows += 1
        if item.doc_id in duplicates:
            faults.append(duplicate_fault(row, item.doc_id, duplicates[item.doc_id]))
        elif isinstance(item, Fault):
            faults.append(item)
        elif isinstance(found, Fault):
            faults.append(found)
        else:
            counts.add(item, found, declared)
    return counts.report(manifest, rows, declared, not tasks, faults)


def infer_tasks(documents: Iterable[Document]) -> dict[str, TaskConfig]:
    """Return the tasks that the labels speak of.

    Truth values, two distinct strings and two whole numbers make a binary task (the last in order is the
    positive class); more strings a multiclass, 3 to 10 whole numbers an ordinal, other numbers a regression,
    lists and mappings a multilabel one. A task whose labels are all alike is left out.

    Raises:
        ConfigError: when the labels of one task are of several sorts.
    """
    values: dict[str, set[Label]] = {}
    sorts: dict[str, set[str]] = {}
    for document in documents:
        for name, label in document.labels.items():
            sorts.setdefault(name, set()).add(_sort_of(label))
            held = label if isinstance(label, list | Mapping) else [label]
            values.setdefault(name, set()).update(held)
    tasks = {}
    for name in sorted(values):
        kinds = sorts[name] - {"float"} if {"int", "float"} <= sorts[name] else sorts[name]
        if len(kinds) > 1:
            raise ConfigError(
                f"task `{name}` has labels of several sorts ({', '.join(sorted(sorts[name]))}), so its kind "
                "cannot be inferred; make them alike, or declare the task in the settings"
            )
        task = _infer("float" if "float" in sorts[name] else kinds.pop(), values[name])
        if task is not None:
            tasks[name] = task
    return tasks


def _sort_of(label: Label) -> str:
    if isinstance(label, list | Mapping):
        return "list"
    return type(label).__name__


def _infer(sort: str, values: set[Label]) -> TaskConfig | None:
    if sort == "list":
        return TaskConfig(kind="multilabel", classes=tuple(sorted(map(class_name, values))))
    if len(values) < 2:
        return None
    if sort == "float" or (sort == "int" and len(values) > ORDINAL_MOST):
        return TaskConfig(kind="regression")
    classes = tuple(class_name(value) for value in sorted(values))  # type: ignore[type-var]
    if len(values) == 2:
        return TaskConfig(kind="binary", classes=classes)
    return TaskConfig(kind="ordinal" if sort == "int" else "multiclass", classes=classes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """What the files of a document hold."""

    duration_s: Seconds | None
    utterances: int
    words: int


def _look(
    manifest: str, tasks: Mapping[str, TaskConfig], roles: Sequence[str]
) -> Iterator[tuple[int, Document | Fault, _Found | Fault | None]]:
    """Yield each row with what its files hold, or with its first fault; several are looked at together."""

    def check(row: int, item: Document | Fault) -> _Found | Fault | None:
        return None if isinstance(item, Fault) else _check(row, item, tasks, roles)

    rows = read_manifest(manifest)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while part := list(islice(rows, _ROWS)):
            found = pool.map(check, *zip(*part, strict=True))
            yield from ((row, item, one) for (row, item), one in zip(part, found, strict=True))


def _check(
    row: int, document: Document, tasks: Mapping[str, TaskConfig], roles: Sequence[str]
) -> _Found | Fault:
    stage = "audio"
    try:
        duration = None if document.audio is None else audio.probe(document.audio).duration_s
        stage = "text"
        text = load_text(document)
        utterances = text if isinstance(text, tuple) else ()
        if duration is not None:
            check_times(document, utterances, duration)
        _check_roles(document, utterances, roles)
        stage = "labels"
        for name, label in document.labels.items():
            if name in tasks:
                _check_label(document, name, tasks[name], label)
    except (DocumentError, OSError) as error:
        return Fault(
            row=row, doc_id=document.doc_id, stage=stage, error=type(error).__name__, message=str(error)
        )
    words = (
        text.split() if isinstance(text, str) else [word for turn in utterances for word in turn.text.split()]
    )
    return _Found(duration_s=duration, utterances=len(utterances), words=len(words))


def _check_roles(document: Document, utterances: Sequence[Utterance], roles: Sequence[str]) -> None:
    present = sorted({turn.role for turn in utterances if turn.role is not None})
    if not roles or not document.has_text or set(roles) & set(present):
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
    """Running counts over documents without fault."""

    audio: int = 0
    text: int = 0
    both: int = 0
    utterances: int = 0
    words: int = 0
    durations: list[Seconds] = field(default_factory=list)
    groups: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    labelled: Counter[str] = field(default_factory=Counter)
    undeclared: Counter[str] = field(default_factory=Counter)
    classes: Counter[tuple[str, str]] = field(default_factory=Counter)
    groups_of: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def add(self, document: Document, found: _Found | None, tasks: Mapping[str, TaskConfig]) -> None:
        self.audio += document.audio is not None
        self.text += document.has_text
        self.both += document.audio is not None and document.has_text
        if found is not None:
            self.utterances += found.utterances
            self.words += found.words
            if found.duration_s is not None:
                self.durations.append(found.duration_s)
        self.groups[document.group] += 1
        self.splits[document.split or "none"] += 1
        for name, label in document.labels.items():
            if name not in tasks:
                self.undeclared[name] += 1
                continue
            self.labelled[name] += 1
            for held in _classes_of(tasks[name], label):
                self.classes[name, held] += 1
                self.groups_of.setdefault((name, held), set()).add(document.group)

    def report(
        self,
        manifest: str,
        rows: int,
        tasks: Mapping[str, TaskConfig],
        is_inferred: bool,
        faults: Sequence[Fault],
    ) -> Report:
        documents = sum(self.groups.values())
        return Report(
            manifest=manifest,
            rows=rows,
            documents=documents,
            with_audio=self.audio,
            with_text=self.text,
            with_both=self.both,
            audio_s=sum(self.durations),
            shortest_s=min(self.durations, default=0.0),
            median_s=statistics.median(self.durations) if self.durations else 0.0,
            longest_s=max(self.durations, default=0.0),
            utterances=self.utterances,
            words=self.words,
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
            faults=tuple(faults),
        )

    def _warnings(self, tasks: Mapping[str, TaskConfig], is_inferred: bool) -> Iterator[str]:
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
    if isinstance(label, Mapping):
        return [class_name(key) for key, value in label.items() if value]
    if isinstance(label, list):
        return [class_name(item) for item in label]
    return [class_name(label)] if task.classes else []


def _lines(report: Report) -> Iterator[str]:
    yield f"{report.manifest}: {report.rows} rows, {report.documents} documents, {len(report.faults)} faults"
    yield f"  audio        {report.with_audio} documents, {report.audio_s / 3600:.2f} h"
    if report.with_audio:
        yield (
            f"  durations    {report.shortest_s:.1f} s to {report.longest_s:.1f} s, median "
            f"{report.median_s:.1f} s"
        )
    yield f"  text         {report.with_text} documents, {report.utterances} utterances, {report.words} words"
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
