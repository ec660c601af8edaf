"""Transcripts as tables: CSV, TSV and semicolons, with columns recognised by their names.

The first row names the columns; `COLUMNS` lists the names that are read. Without such a row, a table of three
columns that begins with two numbers is start, end and text in seconds, as Audacity writes labels. A unit
behind a name counts (`start_ms`, `Begin Time - msec`); where none is said, times are seconds or clocks.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hilbert_ray.document import Seconds
from hilbert_ray.transcript.clock import NoTimeError, is_whole, of_unknown_unit, seconds
from hilbert_ray.transcript.cue import Cue, Flaw, FormatError, Reading
from hilbert_ray.transcript.words import Word, join

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "start": (
        *(
            "start",
            "start_time",
            "starttime",
            "begin",
            "begin_time",
            "onset",
            "tmin",
            "xmin",
            "from",
            "start_at",
        ),
        *("starts", "start_timestamp", "time_start", "tbeg", "t0", "in", "timestamp", "time", "offset"),
    ),
    "end": (
        *(
            "end",
            "end_time",
            "endtime",
            "stop",
            "stop_time",
            "stoptime",
            "offset",
            "tmax",
            "xmax",
            "to",
            "end_at",
        ),
        *("ends", "end_timestamp", "time_end", "time_stop", "tend", "t1", "out", "finish"),
    ),
    "duration": ("duration", "dur", "length"),
    "speaker": (
        *(
            "role",
            "speaker",
            "speaker_id",
            "speaker_name",
            "speaker_label",
            "participant",
            "spk",
            "who",
            "talker",
        ),
        *("person", "name", "interlocutor", "tier", "tier_name", "channel"),
    ),
    "text": (
        *("text", "value", "words", "transcript", "transcription", "utterance", "utterances", "sentence"),
        *("sentences", "content", "annotation", "caption", "message", "dialogue", "dialog", "body", "label"),
        *("orthography", "segment", "word", "token"),
    ),
}
"""What is read, and the names of its column; the first that is there counts. Case does not matter."""
WORD_COLUMNS = ("word", "token")
OTHER_COLUMNS = "tables with columns that are not read"
SHORT_ROWS = "rows of tables with fewer cells than columns, their last columns empty"
_UNIT = re.compile(r"_(ms|msec|msecs|millis|milliseconds|s|sec|secs|seconds|ss_msec|hh_mm_ss_ms)$")
_UNITS_S = {"ms": 0.001, "msec": 0.001, "msecs": 0.001, "millis": 0.001, "milliseconds": 0.001}


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is read: its place, the name in the file, and the unit of its plain numbers."""

    place: int
    name: str
    unit_s: Seconds | None
    """None if the name says none."""


def read(text: str) -> Reading:
    """Return the cues of a table.

    Raises:
        FormatError: if its columns are not known, naming them and those that are read, or a row is wrong.
    """
    rows = _rows(text)
    if not rows:
        raise FormatError("is empty; write null if there is no transcript")
    flaws: list[Flaw] = []
    columns = _columns(rows[0])
    if "text" not in columns and len(rows[0]) == 3 and all(map(_is_number, rows[0][:2])):
        names = ("start", "end", "text")
        columns = {name: Column(place, name, 1.0) for place, name in enumerate(names)}
        body, first = rows, 1
    else:
        _check_columns(rows[0], columns, flaws)
        body, first = rows[1:], 2
    width = len(rows[0])
    short = sum(len(row) < width for row in body)
    if short:
        flaws.append(Flaw(SHORT_ROWS, short))
    cues = [
        _cue(first + index, [*row, *[""] * (width - len(row))], columns) for index, row in enumerate(body)
    ]
    cues = list(_in_seconds(cues, body, columns, flaws))
    if columns["text"].name in WORD_COLUMNS:
        cues = join(Word(cue.words, cue.start_s, cue.end_s, cue.speaker) for cue in cues)
    return Reading(cues, tuple(flaws))


def _rows(text: str) -> list[list[str]]:
    """Return the rows of a table as cells, without empty lines.

    Quotes are read as CSV has them unless each line has as many cells as the first without that, and no cell
    is only half quoted: transcripts in TSV have loose quotes, which would swallow the lines that follow.

    Raises:
        FormatError: if neither gives rows of one length, naming the first that is longer.
    """
    lines = [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()]
    if not lines:
        return []
    delimiter = next((one for one in ("\t", ";", ",") if one in lines[0]), ",")
    plain = [line.split(delimiter) for line in lines]
    width = len(plain[0])
    is_even = all(len(row) == width for row in plain)
    if is_even and not any(_is_half_quoted(cell) for row in plain for cell in row):
        return [[_unquoted(cell) for cell in row] for row in plain]
    quoted = _quoted(text, delimiter)
    if quoted is not None and all(len(row) <= len(quoted[0]) for row in quoted):
        return quoted
    longest = next((place for place, row in enumerate(plain) if len(row) > width), None)
    if longest is None:
        return plain
    # Empty cells at the ends of lines come of spreadsheets.
    if all(not any(cell.strip() for cell in row[width:]) for row in plain):
        return [row[:width] for row in plain]
    raise FormatError(
        f"has {len(plain[longest])} cells in line {longest + 1} without its empty lines, but {width} in "
        f"the first "
        "line; put cells with a separator in double quotes, and double the quotes in them"
    )


def _quoted(text: str, delimiter: str) -> list[list[str]] | None:
    """Return the rows with quotes read as CSV has them; None if they are not well formed."""
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error:  # also a cell above the limit of 128 kB, in which quotes are surely loose
        return None
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    width = len(rows[0]) if rows else 0
    return [row if any(cell.strip() for cell in row[width:]) else row[:width] for row in rows] or None


def _is_half_quoted(cell: str) -> bool:
    cell = cell.strip()
    return cell.startswith('"') and (
        len(cell) < 2 or not cell.endswith('"') or cell[1:-1].count('"') % 2 == 1
    )


def _unquoted(cell: str) -> str:
    stripped = cell.strip()
    is_quoted = len(stripped) >= 2 and stripped[0] == stripped[-1] == '"'
    # Quotes inside that are not doubled are words' own: `"yes" he said "no"`.
    if not is_quoted or stripped[1:-1].replace('""', "").count('"'):
        return cell
    return stripped[1:-1].replace('""', '"')


def _columns(header: Sequence[str]) -> dict[str, Column]:
    """Return the columns that are read, by what they hold."""
    named: dict[str, Column] = {}
    for place, cell in enumerate(header):
        base = re.sub(r"[^a-z0-9]+", "_", cell.strip().lower()).strip("_")
        unit = _UNIT.search(base)
        unit_s = None if unit is None else _UNITS_S.get(unit[1], 1.0)
        for name in (base, base[: unit.start()] if unit else base):
            named.setdefault(name, Column(place, name, unit_s))
    found: dict[str, Column] = {}
    for use, names in COLUMNS.items():
        column = next((named[name] for name in names if name in named), None)
        if column is not None and column.place not in {one.place for one in found.values()}:
            found[use] = column
    # `onset, offset` are start and end, `offset, duration` and `offset, text` are start and what follows.
    if "start" in found and found["start"].name == "offset" and "end" in found:
        del found["end"]
    return found


def _check_columns(header: Sequence[str], columns: Mapping[str, Column], flaws: list[Flaw]) -> None:
    """Check that there are words, and that times have both sides.

    Raises:
        FormatError: naming the columns found, and those that are read.
    """
    missing = "text" if "text" not in columns else ""
    if not missing and {"end", "duration"} & columns.keys() and "start" not in columns:
        missing = "start"
    if missing:
        shown = ", ".join(repr(cell if len(cell) <= 40 else f"{cell[:40]}...") for cell in header[:12])
        raise FormatError(
            f"is a table without a column for {missing}: its first line has {shown}; name the column one of "
            f"{', '.join(COLUMNS[missing])} (all that are read: start, end or duration, speaker, text)"
        )
    names = [cell.strip().lower() for cell in header]
    twice = next((one.name for one in columns.values() if names.count(names[one.place]) > 1), None)
    if twice is not None:
        raise FormatError(
            f"is a table with two columns named {twice!r}; remove one, or give it a name of its own"
        )
    used = {column.place for column in columns.values()}
    if any(cell.strip() for place, cell in enumerate(header) if place not in used):
        flaws.append(Flaw(OTHER_COLUMNS))


def _is_number(cell: str) -> bool:
    try:
        return seconds(cell) is not None
    except NoTimeError:
        return False


def _cue(line: int, row: Sequence[str], columns: Mapping[str, Column]) -> Cue:
    times: dict[str, Seconds | None] = {}
    for use in ("start", "end", "duration"):
        column = columns.get(use)
        try:
            times[use] = None if column is None else seconds(row[column.place], column.unit_s or 1.0)
        except NoTimeError as error:
            raise FormatError(
                f"has a row {line} whose column {column.name if column else use!r} {error}"
            ) from None
    start, end, length = times.values()
    if end is None and start is not None and length is not None:
        end = start + length
    said_by = row[columns["speaker"].place].strip() if "speaker" in columns else ""
    return Cue(row[columns["text"].place].strip(), start, end, said_by or None)


def _in_seconds(
    cues: Sequence[Cue], rows: Sequence[Sequence[str]], columns: Mapping[str, Column], flaws: list[Flaw]
) -> Sequence[Cue]:
    """Return cues in seconds: whole numbers may be milliseconds where no name says a unit, as of Whisper."""
    times = [columns[use] for use in ("start", "end", "duration") if use in columns]
    if len(times) < 2 or any(column.unit_s is not None for column in times):
        return cues
    cells = (row[column.place] for row in rows for column in times if len(row) > column.place)
    if not all(is_whole(cell) or not cell.strip() for cell in cells):
        return cues
    cues, more = of_unknown_unit(cues)
    flaws.extend(more)
    return cues
