"""Speakers of a transcript that has none, from a diarization: who speaks when, in a file of its own.

Each utterance gets the speaker whose turns overlap it the longest; of equals, the one who speaks first in the
recording. An utterance that no turn overlaps by `LEAST_S` gets none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hilbert_ray.document import Seconds, Utterance
from hilbert_ray.transcript.cue import Flaw, FormatError

MOST_SPEAKERS = 1000
"""No recording has more; a file that names more labels its turns by something else."""
LEAST_S = 1e-3
"""The shortest overlap: what is less comes from the rounding of times. Utterances without length are widened
by as much to both sides, so that turns can overlap them."""
_CONTESTED = 0.5
NOBODY = "utterances that no turn of the diarization overlaps, left without a speaker"
CONTESTED = (
    "utterances during which, by the diarization, another speaker speaks at least half as long as the one "
    "whom they are assigned to"
)
UNTIMED = "transcripts without times, to which the diarization assigns no speakers"
HAS_SPEAKERS = "transcripts that name speakers themselves, so that the diarization is not used"
NO_TRANSCRIPT = "diarizations of documents without a transcript, not used"


@dataclass(frozen=True, slots=True)
class Turn:
    """A stretch in which somebody speaks; times in seconds from the start of the recording."""

    start_s: Seconds
    end_s: Seconds
    speaker: str


def with_speakers(
    text: str | tuple[Utterance, ...] | None, turns: Sequence[Turn]
) -> tuple[str | tuple[Utterance, ...] | None, tuple[Flaw, ...]]:
    """Return a transcript with the speakers of a diarization, and what could not be assigned.

    Args:
        text: the transcript, None if there is none.
        turns: one or more.

    Raises:
        FormatError: when the diarization has more than `MOST_SPEAKERS` speakers.
    """
    if text is None:
        return text, (Flaw(NO_TRANSCRIPT),)
    if isinstance(text, str) or all(one.start is None for one in text):
        return text, (Flaw(UNTIMED),)
    if any(one.role is not None for one in text):
        return text, (Flaw(HAS_SPEAKERS),)
    speakers, overlaps = _overlaps(text, turns)
    overlaps[overlaps < LEAST_S] = 0.0
    most = overlaps.max(axis=0)
    chosen = overlaps.argmax(axis=0)
    overlaps[chosen, np.arange(len(text))] = 0.0
    contested = int(np.count_nonzero((most > 0) & (overlaps.max(axis=0) >= _CONTESTED * most)))
    nobody = int(np.count_nonzero(most <= 0))
    assigned = tuple(
        replace(one, role=speakers[speaker]) if overlap > 0 else one
        for one, speaker, overlap in zip(text, chosen.tolist(), most.tolist(), strict=True)
    )
    counts = ((NOBODY, nobody), (CONTESTED, contested))
    return assigned, tuple(Flaw(kind, count) for kind, count in counts if count)


def _overlaps(text: Sequence[Utterance], turns: Sequence[Turn]) -> tuple[list[str], np.ndarray]:
    """Return the speakers in the order in which they first speak, and float64 [speakers, utterances] seconds.

    Raises:
        FormatError: when there are more than `MOST_SPEAKERS`.
    """
    by_speaker: dict[str, list[Turn]] = {}
    for turn in sorted(turns, key=lambda turn: turn.start_s):
        by_speaker.setdefault(turn.speaker, []).append(turn)
    if len(by_speaker) > MOST_SPEAKERS:
        raise FormatError(
            f"names {len(by_speaker)} speakers, and a recording has at most {MOST_SPEAKERS}; write the same "
            "name for all turns of a speaker"
        )
    times = np.array([(one.start, one.end) for one in text], np.float64)
    times[times[:, 0] == times[:, 1]] += (-LEAST_S, LEAST_S)
    overlaps = np.empty((len(by_speaker), len(text)))
    for row, own in enumerate(by_speaker.values()):
        edges, spoken = _spoken(own)
        # How long a speaker has spoken until a time is linear between the edges of turns.
        until = np.interp(times, edges, spoken)
        overlaps[row] = until[:, 1] - until[:, 0]
    return list(by_speaker), overlaps


def _spoken(turns: Sequence[Turn]) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges of a speaker's turns, in order of their starts, and the seconds spoken until each."""
    starts = np.array([turn.start_s for turn in turns])
    ends = np.maximum.accumulate([turn.end_s for turn in turns])
    # Turns of one speaker that overlap count once.
    starts[1:] = np.maximum(starts[1:], ends[:-1])
    ends = np.maximum(ends, starts)
    edges = np.stack([starts, ends], axis=1).reshape(-1)
    spoken = np.zeros(len(edges))
    spoken[1::2] = np.cumsum(ends - starts)
    spoken[2::2] = spoken[1:-1:2]
    return edges, spoken
