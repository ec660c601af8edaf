"""SubRip (.srt), also without numbers, without empty lines between captions, or with some inside them."""

from hilbert_ray.transcript.captions import cues_of, split_captions
from hilbert_ray.transcript.cue import Cue, Flaw, Reading
from hilbert_ray.transcript.webvtt import BEFORE


def read(text: str) -> Reading:
    """Return the cues of a SubRip file; numbers and places on the screen are dropped.

    Raises:
        FormatError: when no times can be read.
    """
    head, captions = split_captions(text, has_names=False)
    cues: list[Cue] = []
    for caption in captions:
        cues += cues_of(caption, [line for paragraph in caption.paragraphs for line in paragraph])
    return Reading(cues, (Flaw(BEFORE, len(head)),) if head else ())
