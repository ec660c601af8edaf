"""SBV, the captions of YouTube Studio: a line `0:00:01.000,0:00:02.500`, then words."""

import re

from hilbert_ray.transcript import subrip
from hilbert_ray.transcript.cue import Reading

_TIMES = re.compile(r"^(\d{1,3}:\d\d:\d\d\.\d{1,3}),(\d{1,3}:\d\d:\d\d\.\d{1,3})[ \t]*$", re.MULTILINE)


def read(text: str) -> Reading:
    """Return the cues of an SBV file.

    Raises:
        FormatError: when it has no times.
    """
    # But for the line of times it is SubRip without numbers.
    return subrip.read(_TIMES.sub(r"\1 --> \2", text))
