"""What a person reads in a terminal: the log, durations, hints, and text without control characters.

Paths and ids may hold newlines, and sequences that move a terminal's cursor or set its colours. Whatever
commands print or log goes through `one_line` or `lines`, in `cli.py`.
"""

import difflib
import logging
import re
import sys
from collections.abc import Sequence

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, other ends of lines, what reverses the order of letters, and halves of characters."""


def one_line(text: str) -> str:
    r"""Return text with control characters spelled out, such as `\n` for a newline in a path."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def lines(text: str) -> str:
    """Return text of several lines with all control characters but their ends spelled out."""
    return "\n".join(map(one_line, text.split("\n")))


class LineFormatter(logging.Formatter):
    """Formats each record of the log as one line; tracebacks follow as they are."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return one_line(super().formatMessage(record))


def log_to_stderr() -> None:
    """Show this library's log, and of others what is a warning or worse, which would bury its lines.

    On standard error, as standard output is for the result alone, which --json lets programs read.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("hilbert_ray").setLevel(logging.INFO)


def flag_hints(arguments: Sequence[str], help_text: str) -> list[str]:
    """Return a line for each unknown flag that is spelled nearly as one that a command's help names."""
    known = re.findall(r"--[a-z][\w.-]*", help_text)
    hints = []
    for flag in (argument.partition("=")[0].replace("_", "-") for argument in arguments):
        near = difflib.get_close_matches(flag, known, n=1)
        if flag.startswith("--") and flag not in known and near:
            hints.append(f"unknown flag {one_line(flag)}: did you mean {near[0]}?\n")
    return hints


def duration(seconds: float) -> str:
    """Return a duration to read, such as 42 s, 7 min or 3.2 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
