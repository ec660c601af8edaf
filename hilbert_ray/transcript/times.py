"""The times of a transcript against the length of its recording: what is clipped, and what is refused."""

from collections.abc import Sequence
from dataclasses import replace

from hilbert_ray.document import Document, Seconds, TimesError, Utterance
from hilbert_ray.transcript.cue import Flaw

OVERHANG_S = 0.5
"""Seconds that a transcript may run past its recording unchanged: formats and transcribers round times."""
CLIPPED_S = 30.0
"""Seconds by which an utterance may end after its recording and is clipped: Whisper pads recordings to
windows of 30 s, and writes ends that lie in the padding."""
CLIPPED = "utterances that end after the recording, clipped to its length"


def check_times(document: Document, utterances: Sequence[Utterance], duration_s: Seconds) -> None:
    """Check that utterances lie in the recording, but for an end that `clip` clips.

    Raises:
        TimesError: naming the document, the utterance, its times and the length of the recording.
    """
    # Ends first, without a loop in Python over what is right: nearly all transcripts pass here.
    ends = [utterance.end for utterance in utterances if utterance.end is not None]
    if not ends or max(ends) <= duration_s + OVERHANG_S:
        return
    for index, utterance in enumerate(utterances):
        if utterance.start is None or utterance.end is None or utterance.end <= duration_s + OVERHANG_S:
            continue
        if utterance.start >= duration_s or utterance.end > duration_s + CLIPPED_S:
            raise TimesError(
                f"document {document.doc_id!r}: utterance {index} ends at {utterance.end:.2f} s, but the "
                f"recording lasts {duration_s:.2f} s; write times in seconds from the start of this "
                "recording, or pair the transcript with the recording it belongs to"
            )


def clip(
    document: Document, utterances: tuple[Utterance, ...], duration_s: Seconds
) -> tuple[tuple[Utterance, ...], tuple[Flaw, ...]]:
    """Return utterances that end with the recording at the latest, and what was clipped.

    Raises:
        TimesError: when some lie further out, as of a transcript of another recording.
    """
    check_times(document, utterances, duration_s)
    # An end within the overhang stays as it is written, as it does in every store so far.
    late = [one.end is not None and one.end > duration_s + OVERHANG_S for one in utterances]
    if not any(late):
        return utterances, ()
    clipped = tuple(
        replace(one, end=duration_s) if is_late else one
        for one, is_late in zip(utterances, late, strict=True)
    )
    return clipped, (Flaw(CLIPPED, sum(late)),)
