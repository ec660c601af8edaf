"""What `validate` found: counts of a manifest, warnings and invalid rows, as plain values and as text."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hilbert_ray.config import to_dict
from hilbert_ray.document import InvalidRow, Seconds, one_line, reason_lines, reasons_of
from hilbert_ray.validation.recordings import Recording, lines_of, to_values


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
class AttributeReport:
    """An attribute: the documents that have it and those that lack it, and its values (None: above 1000)."""

    documents: int
    missing: int
    values: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationReport:
    """What a manifest holds. Counts are of valid documents; times are in seconds.

    `faults` are invalid rows, `problems` what keeps the labels of a task from being used.

    `unopened` documents have files that were not opened. If there are any, hours, utterances and words are
    estimates from the others, a random sample, and shortest, median and longest are those of the sample. A
    value that no sampled file allows to estimate is None. `recordings` are those that were opened, by id.

    `untranscribed` documents have a recording and no text. `automatic` counts the transcripts of the opened
    files that `transcribe` wrote, by recogniser.
    """

    manifest: str
    rows: int
    documents: int
    unopened: int
    with_audio: int
    with_text: int
    with_both: int
    untranscribed: int
    automatic: Mapping[str, int]
    audio_s: Seconds | None
    shortest_s: Seconds
    median_s: Seconds
    longest_s: Seconds
    recordings: Mapping[str, Recording]
    utterances: int | None
    words: int | None
    groups: int
    largest_group: int
    splits: Mapping[str, int]
    tasks: Mapping[str, TaskReport]
    attributes: Mapping[str, AttributeReport]
    warnings: tuple[str, ...]
    faults: tuple[InvalidRow, ...]
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all rows are valid, and what their labels are can be told."""
        return not self.faults and not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values; `reasons` counts the faults by what is wrong."""
        recordings = {"recordings": to_values(self.recordings)}
        return {
            **to_dict(self),
            **recordings,
            "reasons": [reason.to_dict() for reason in reasons_of(self.faults)],
        }

    def text(self) -> str:
        """Return the report as text for a terminal."""
        # Names of tasks, classes and attributes are whatever a file says.
        return "\n".join(map(one_line, _lines(self)))


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
    if report.recordings:
        yield from lines_of(report.recordings)
    yield f"  text         {report.with_text} documents, {utterances} utterances, {words} words"
    if report.automatic:
        named = ", ".join(f"{count} by {name}" for name, count in report.automatic.items())
        yield f"  automatic    {sum(report.automatic.values())} transcripts{sample}: {named}"
    yield f"  both         {report.with_both} documents"
    if report.untranscribed:
        yield (
            f"  no text      {report.untranscribed} documents with a recording; `hilbert-ray transcribe "
            f"--manifest {shlex.quote(report.manifest)} --out FOLDER` transcribes them"
        )
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
    for name, attribute in report.attributes.items():
        values = "more than 1000" if attribute.values is None else attribute.values
        plural = "" if attribute.values == 1 else "s"
        yield f"attribute {name}: {values} value{plural}, missing in {attribute.missing} documents"
    yield from (f"warning: {warning}" for warning in report.warnings)
    yield from (f"problem: {problem}" for problem in report.problems)
    if report.faults:
        yield f"invalid rows: {len(report.faults)} of {report.rows}; --json lists them all"
        yield from reason_lines(report.faults, "row")
