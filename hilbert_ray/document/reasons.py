"""Faults of many documents by reason: how often each occurs, a few examples, and the lines that show them.

Two faults have one reason when their messages say the same but for what differs from document to document:
ids, paths, quoted values, numbers.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

EXAMPLES = 3
"""Faults of a reason that are shown."""
_COMPARED_CHARACTERS = 1000
"""How much of a message decides its reason: a value in it may have any length."""
_SHOWN_CHARACTERS = 400
_SHOWN_ID_CHARACTERS = 80
_VALUE = re.compile(r"'[^']*'|\"[^\"]*\"|[^\s'\"]*/[^\s'\"]*|\d+(?:[.,:]\d+)*")
_NESTED = re.compile(r"[\[{(]+[…\s,:\[\]{}()]*…[…\s,:\[\]{}()]*[\]})]+")
_VALUES = re.compile(r"…(?:(?:, | and )…)+")
_MORE = re.compile(r" and … more\b")


class Fault(Protocol):
    """What is wrong with one document: an `InvalidRow`, or a document that is quarantined."""

    @property
    def doc_id(self) -> str:
        """Id of the document; empty if it has none."""

    @property
    def stage(self) -> str:
        """What failed, such as `audio` or `text`."""

    @property
    def error(self) -> str:
        """Name of the exception."""

    @property
    def message(self) -> str:
        """What is wrong and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Faults of one reason. `text` is their message with `…` in place of what differs between them."""

    stage: str
    error: str
    text: str
    count: int
    examples: tuple[Fault, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the reason as plain values, its examples by id."""
        return {
            "stage": self.stage,
            "error": self.error,
            "reason": self.text,
            "count": self.count,
            "examples": [fault.doc_id for fault in self.examples],
        }


def reason_of(fault: Fault) -> tuple[str, str, str]:
    """Return what faults of one reason share: stage, error, and the message without its values."""
    text = _said(fault)[:_COMPARED_CHARACTERS]
    text = _VALUES.sub("…", _NESTED.sub("…", _MORE.sub("", _VALUE.sub("…", text))))
    return fault.stage, fault.error, text


def reasons_of(faults: Iterable[Fault]) -> list[Reason]:
    """Return the reasons of some faults, the most frequent first; of as many, the one met first."""
    counts: dict[tuple[str, str, str], int] = {}
    examples: dict[tuple[str, str, str], list[Fault]] = {}
    for fault in faults:
        key = reason_of(fault)
        counts[key] = counts.get(key, 0) + 1
        if counts[key] <= EXAMPLES:
            examples.setdefault(key, []).append(fault)
    return [
        Reason(stage=key[0], error=key[1], text=key[2], count=count, examples=tuple(examples[key]))
        for key, count in sorted(counts.items(), key=lambda item: -item[1])
    ]


def reason_lines(faults: Sequence[Fault], unit: str = "document") -> Iterator[str]:
    """Yield lines to read: each reason with its count, and below it examples.

    Args:
        faults: of any number; invalid rows are named by their number too.
        unit: what each of them is, in the singular.
    """
    for reason in reasons_of(faults):
        number = f"{reason.count} {unit}{'' if reason.count == 1 else 's'}"
        yield f"  {number} ({reason.stage}, {reason.error})" + (
            f", the first {len(reason.examples)}:" if reason.count > EXAMPLES else ":"
        )
        advice = ""
        for fault in reason.examples:
            said = _said(fault)
            # What to do is the same for all of them and need not be read again.
            problem, _, remedy = said.rpartition("; ")
            shown = problem if problem and remedy == advice else said
            advice = remedy
            yield f"    {_name(fault)}: {_printable(shown, _SHOWN_CHARACTERS)}"


def _name(fault: Fault) -> str:
    row = getattr(fault, "row", None)
    names = [] if row is None else [f"row {row}"]
    if fault.doc_id:
        names.append(_printable(repr(fault.doc_id), _SHOWN_ID_CHARACTERS))
    return ", ".join(names)


def _said(fault: Fault) -> str:
    """Return the message without the document's name and row, which are shown beside it."""
    said = fault.message
    for name in (f"row {getattr(fault, 'row', None)}", f"document {fault.doc_id!r}"):
        if said.startswith(name):
            said = said[len(name) :].lstrip(":, ")
    return said


def _printable(text: str, most: int) -> str:
    """Return a text in one line, and not too long."""
    return one_line(text if len(text) <= most else f"{text[:most]} ... ({len(text)} characters)")


def one_line(text: str) -> str:
    """Return a text as one line, without characters that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
