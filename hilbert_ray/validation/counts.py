"""Counts over the documents of a manifest, by block and merged, and what to warn about."""

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

from hilbert_ray.config import FoldsConfig, TaskConfig
from hilbert_ray.document import (
    Attribute,
    Document,
    InvalidRow,
    doubtful_name,
    is_labelled,
    label_classes,
)
from hilbert_ray.transcript import FlawCounts
from hilbert_ray.validation.checks import Contents
from hilbert_ray.validation.recordings import Recording, warnings_of
from hilbert_ray.validation.report import AttributeReport, TaskReport, ValidationReport

VALUES_COUNTED = 1000
"""Distinct values of an attribute that are counted; more are ids or measurements rather than subgroups."""
_CLASSES_NAMED = 3


@dataclass(kw_only=True, slots=True)
class Counts:
    """Counts over valid documents, and the invalid rows (`faults`); the counts of all blocks are merged.

    `inline` and `filed` count the transcripts that were read and their utterances and words, by where they
    are; `unread` counts those in files that were not opened; `flaws`, what was odd in those read. `unusable`
    counts documents with files at places that cannot be used from here, by what is wrong with the place.
    `untranscribed` counts documents with a recording and no transcript, and `automatic` the transcripts that
    were read and are automatic, by the name of their recogniser.
    """

    audio: int = 0
    text: int = 0
    both: int = 0
    untranscribed: int = 0
    automatic: Counter[str] = field(default_factory=Counter)
    unopened: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    unread: int = 0
    inline: Counter[str] = field(default_factory=Counter)
    filed: Counter[str] = field(default_factory=Counter)
    flaws: FlawCounts = field(default_factory=FlawCounts)
    # All of them, for medians: no more than the sample, unless all files are opened.
    recordings: list[tuple[str, Recording]] = field(default_factory=list)
    groups: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    labelled: Counter[str] = field(default_factory=Counter)
    undeclared: Counter[str] = field(default_factory=Counter)
    classes: Counter[tuple[str, str]] = field(default_factory=Counter)
    # Sets and not numbers, since a group may have documents in several blocks.
    groups_of: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    attributes: Counter[str] = field(default_factory=Counter)
    # At most one more than is counted of each.
    values_of: dict[str, set[Attribute]] = field(default_factory=dict)
    grouped: int = 0
    faults: list[InvalidRow] = field(default_factory=list)

    def add(self, document: Document, contents: Contents, tasks: Mapping[str, TaskConfig]) -> None:
        """Count a valid document."""
        self.audio += document.audio is not None
        self.text += document.has_text
        self.both += document.audio is not None and document.has_text
        self.untranscribed += document.audio is not None and not document.has_text
        if contents.recognition is not None:
            self.automatic[contents.recognition.name] += 1
        is_unopened = document.audio is not None and contents.recording is None
        self.unopened += is_unopened or contents.words is None
        if contents.recording is not None:
            self.recordings.append((document.doc_id, contents.recording))
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
        self.grouped += document.group != document.doc_id
        for name, value in document.attributes.items():
            self.attributes[name] += 1
            values = self.values_of.get(name)
            if values is None:
                values = self.values_of[name] = set()
            if len(values) <= VALUES_COUNTED:
                values.add(value)
        for name, label in document.labels.items():
            if name not in tasks:
                self.undeclared[name] += 1
                continue
            self.labelled[name] += is_labelled(tasks[name], label)
            for class_ in label_classes(tasks[name], label):
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
        self,
        manifest: str,
        rows: int,
        tasks: Mapping[str, TaskConfig],
        is_inferred: bool,
        notes: Sequence[str] = (),
    ) -> ValidationReport:
        """Return the report of a manifest of `rows` rows; its first warnings are the `notes`."""
        documents = sum(self.groups.values())
        audio_s = None
        durations = [recording.duration_s for _, recording in self.recordings]
        # The opened files are a random sample, so the sum scales by number; it is exact if all were opened.
        if durations or not self.audio:
            audio_s = sum(durations) * (self.audio / len(durations) if durations else 1.0)
        return ValidationReport(
            manifest=manifest,
            rows=rows,
            documents=documents,
            unopened=self.unopened,
            with_audio=self.audio,
            with_text=self.text,
            with_both=self.both,
            untranscribed=self.untranscribed,
            automatic=dict(self.automatic.most_common()),
            audio_s=audio_s,
            shortest_s=min(durations, default=0.0),
            median_s=statistics.median(durations) if durations else 0.0,
            longest_s=max(durations, default=0.0),
            recordings=dict(self.recordings),
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
            attributes={
                name: AttributeReport(
                    documents=self.attributes[name],
                    missing=documents - self.attributes[name],
                    values=len(values) if len(values) <= VALUES_COUNTED else None,
                )
                for name, values in sorted(self.values_of.items())
            },
            warnings=(*notes, *self._warnings(tasks, is_inferred)),
            faults=tuple(self.faults),
        )

    def unusable_places(self) -> Iterator[str]:
        """Yield what keeps files from being opened at all, a line for each place."""
        for message, count in self.unusable.most_common():
            plural = "document is" if count == 1 else "documents are"
            yield f"{message}; {count} {plural} not checked for that"

    def _warnings(self, tasks: Mapping[str, TaskConfig], is_inferred: bool) -> Iterator[str]:
        if (existing := self.unopened - self.unusable.total()) > 0:
            opened = sum(self.groups.values()) - self.unopened
            yield (
                f"the files of {existing} documents exist but were not opened: hours, utterances and "
                f"words are estimates from the other {opened}, a random sample, and damage inside the "
                "unopened files is not detected; `--probe all` opens all files"
            )
        yield from self.flaws.lines()
        yield from warnings_of(dict(self.recordings))
        for name, count in sorted(self.undeclared.items()):
            reason = "all its labels are the same" if is_inferred else "the settings do not declare it"
            yield f"task `{name}` ({count} labels) is ignored: {reason}"
        for name, task in tasks.items():
            yield from self._class_warnings(name, task)
            if is_inferred and task.kind == "regression":
                yield (
                    f"task `{name}` is inferred as a regression, since its labels are many numbers; if they "
                    "are classes, declare the task in the settings"
                )
        # What no document has: a column may be there and be empty.
        absent = [] if self.grouped else ["group"]
        absent += [] if set(self.splits) - {"none"} else ["split"]
        for name in sorted(self.attributes):
            doubt = doubtful_name(name, absent)
            if doubt is not None:
                yield doubt
        # Without a valid document there are no folds to speak of; what is wrong with the rows is said below.
        if 0 < len(self.groups) < FoldsConfig().folds:
            yield (
                f"the manifest has only {len(self.groups)} groups; folds keep groups together, so there "
                "cannot be more folds than groups"
            )

    def _class_warnings(self, name: str, task: TaskConfig) -> Iterator[str]:
        """Yield what is wrong with the classes of a task: too few groups, and names that are alike."""
        rare = {
            class_: groups
            for class_ in task.classes
            # With one group, the class is either trained on or tested, never both.
            if (groups := len(self.groups_of.get((name, class_), ()))) < 2
        }
        needed = "cross-validation needs at least 2, one to train on and one to test"
        if len(rare) <= _CLASSES_NAMED:
            for class_, groups in rare.items():
                plural = "" if groups == 1 else "s"
                yield f"task `{name}`: class {class_!r} occurs in {groups} group{plural}; {needed}"
        else:
            named = ", ".join(map(repr, [*rare][:_CLASSES_NAMED]))
            yield (
                f"task `{name}`: {len(rare)} of {len(task.classes)} classes (such as {named}) occur in fewer "
                f"than 2 groups; {needed}. If they are numbers or free text, declare the task in the "
                "settings, or name the column otherwise"
            )
        alike: dict[str, list[str]] = {}
        for class_ in task.classes:
            alike.setdefault(" ".join(class_.lower().split()), []).append(class_)
        for names in alike.values():
            if len(names) > 1:
                listed = " and ".join(map(repr, names))
                yield f"task `{name}`: the classes {listed} differ in case or spaces only; are they one?"
