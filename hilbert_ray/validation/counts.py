"""Counts over the documents of a manifest, by block and merged, and what to warn about."""

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields

from hilbert_ray.config import FoldsConfig, TaskConfig
from hilbert_ray.document import Document, InvalidRow, Label, Seconds, class_name
from hilbert_ray.transcript import FlawCounts
from hilbert_ray.validation.checks import Contents
from hilbert_ray.validation.report import TaskReport, ValidationReport


@dataclass(kw_only=True, slots=True)
class Counts:
    """Counts over valid documents, and the invalid rows (`faults`); the counts of all blocks are merged.

    `inline` and `filed` count the transcripts that were read and their utterances and words, by where they
    are; `unread` counts those in files that were not opened; `flaws`, what was odd in those read.
    """

    audio: int = 0
    text: int = 0
    both: int = 0
    unopened: int = 0
    unread: int = 0
    inline: Counter[str] = field(default_factory=Counter)
    filed: Counter[str] = field(default_factory=Counter)
    flaws: FlawCounts = field(default_factory=FlawCounts)
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

    def add(self, document: Document, contents: Contents, tasks: Mapping[str, TaskConfig]) -> None:
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
        self.flaws.add(document.doc_id, contents.flaws)
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

    def merge(self, other: "Counts") -> None:
        """Add the counts of another block."""
        # By type, so that a counter added later cannot be forgotten here.
        for attribute in fields(self):
            mine, others = getattr(self, attribute.name), getattr(other, attribute.name)
            if isinstance(mine, int):
                setattr(self, attribute.name, mine + others)
            elif isinstance(mine, list):
                mine.extend(others)
            elif isinstance(mine, FlawCounts):
                mine.merge(others)
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
        """Return the report of a manifest of `rows` rows."""
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
        yield from self.flaws.lines()
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
