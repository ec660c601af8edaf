"""WebVTT (https://www.w3.org/TR/webvtt1/), also as Zoom, Teams, YouTube and Whisper write it."""

from hilbert_ray.transcript.captions import cues_of, split_captions
from hilbert_ray.transcript.cue import Cue, Flaw, Reading

BETWEEN = "paragraphs without times below an utterance, taken as its words"
BEFORE = "paragraphs before the first times, left out"


def read(text: str) -> Reading:
    """Return the cues of a WebVTT file, `<v Name>` as the speaker.

    Dropped without a word: the header, comments (`NOTE`), `STYLE`, `REGION`, names of cues and settings.

    Raises:
        FormatError: when no times can be read.
    """
    head, captions = split_captions(text, has_names=True)
    left_out = sum(not _is_aside(one) for one in head)
    # The header is the first paragraph, and it may go on below its signature.
    left_out -= bool(head) and head[0][0].lstrip().startswith("WEBVTT")
    cues: list[Cue] = []
    between = 0
    for caption in captions:
        first, *rest = caption.paragraphs or [[]]
        # An empty line ends a cue; yet tools write cues with some inside, and their words are said.
        more = [one for one in rest if not _is_aside(one)]
        between += len(more)
        cues += cues_of(caption, [*first, *(line for one in more for line in one)])
    flaws = (Flaw(BETWEEN, between), Flaw(BEFORE, left_out))
    return Reading(cues, tuple(flaw for flaw in flaws if flaw.count))


def _is_aside(paragraph: list[str]) -> bool:
    """Whether a paragraph is a comment, a style sheet or a region."""
    first = paragraph[0].split(maxsplit=1)[0]
    return first == "NOTE" or (first in ("STYLE", "REGION") and paragraph[0].strip() == first)
