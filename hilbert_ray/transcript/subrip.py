"""SubRip (.srt), also without numbers, without empty lines between captions, or with some inside them."""

import re

from hilbert_ray.transcript.captions import cues_of, split_captions
from hilbert_ray.transcript.cue import Cue, Flaw, Reading
from hilbert_ray.transcript.webvtt import BEFORE

CUT_OFF = "files that end in the middle of a caption's times; what follows is missing"
_CUT_OFF = re.compile(r"\d{1,9}\s?\n\d{1,9}:[\d:.,]{0,20}[ \t]?-{0,2}")


def read(text: str) -> Reading:
    """Return the cues of a SubRip file; numbers and places on the screen are dropped.

    Raises:
        FormatError: when no times can be read.
    """
    head, captions = split_captions(text, has_names=False)
    cut_off = bool(captions) and _drop_cut_off(captions[-1].paragraphs)
    cues: list[Cue] = []
    for caption in captions:
        cues += cues_of(caption, [line for paragraph in caption.paragraphs for line in paragraph])
    flaws = (Flaw(BEFORE, len(head)), Flaw(CUT_OFF, int(cut_off)))
    return Reading(cues, tuple(flaw for flaw in flaws if flaw.count))


def _drop_cut_off(paragraphs: list[list[str]]) -> bool:
    """Remove a last paragraph that is the number and the start of a caption that is not there."""
    if len(paragraphs) < 2 or len(paragraphs[-1]) != 2 or not _CUT_OFF.fullmatch("\n".join(paragraphs[-1])):
        return False
    del paragraphs[-1]
    return True
