"""Words with their times, joined to utterances by one rule for every format that has no utterances.

An utterance ends where the speaker or the channel changes, where a word ends a sentence, and where nobody
speaks for more than `PAUSE_S`. Words of different channels are joined apart from each other, because both may
speak at once; their utterances are in the order of their starts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hilbert_ray.document import Seconds
from hilbert_ray.transcript.cue import Cue

PAUSE_S = 1.0
"""Seconds of silence between two words that end an utterance."""
_ENDS = (".", "?", "!", "…", "。", "？", "！", "؟", "।")  # noqa: RUF001 - full-width marks are meant


@dataclass(frozen=True, slots=True)
class Word:
    """A word or a mark; times in seconds, None if unknown. is_mark: without a space before it."""

    text: str
    start_s: Seconds | None = None
    end_s: Seconds | None = None
    speaker: str | None = None
    channel: str | None = None
    is_mark: bool = False


def join(words: Iterable[Word]) -> list[Cue]:
    """Return the utterances of words in the order of the file.

    Words that begin with a space, as Whisper's tokens do, are joined as they stand; others get a space.
    """
    channels: dict[str | None, list[Word]] = {}
    for word in words:
        channels.setdefault(word.channel, []).append(word)
    cues = [cue for stream in channels.values() for cue in _join_stream(stream)]
    return by_start(cues) if len(channels) > 1 else cues


def by_start(cues: Sequence[Cue]) -> list[Cue]:
    """Return cues of several channels in the order of their starts; unchanged if some have none."""
    if any(cue.start_s is None for cue in cues):
        return list(cues)
    return sorted(cues, key=lambda cue: cue.start_s or 0.0)


def _join_stream(words: Sequence[Word]) -> list[Cue]:
    is_spaced = any(word.text[:1] == " " for word in words)
    cues: list[Cue] = []
    current: list[Word] = []
    speaker: str | None = None
    latest: Seconds | None = None
    for word in words:
        if current and not word.is_mark:
            # Words without a speaker, as WhisperX has some, belong to the one who speaks.
            is_turn = word.speaker is not None and speaker is not None and word.speaker != speaker
            is_late = latest is not None and word.start_s is not None and word.start_s - latest > PAUSE_S
            if is_turn or is_late or current[-1].text.rstrip().endswith(_ENDS):
                cues.append(_cue(current, is_spaced))
                current, speaker, latest = [], None, None
        current.append(word)
        speaker = word.speaker if word.speaker is not None else speaker
        latest = word.end_s if word.end_s is not None else latest
    if current:
        cues.append(_cue(current, is_spaced))
    return [cue for cue in cues if cue.words]


def _cue(words: Sequence[Word], is_spaced: bool) -> Cue:
    parts: list[str] = []
    for word in words:
        if parts and not is_spaced and not word.is_mark:
            parts.append(" ")
        parts.append(word.text if is_spaced else word.text.strip())
    starts = [word.start_s for word in words if word.start_s is not None]
    ends = [word.end_s for word in words if word.end_s is not None]
    speaker = next((word.speaker for word in words if word.speaker is not None), None)
    return Cue(
        "".join(parts).strip(),
        starts[0] if starts else None,
        ends[-1] if ends else None,
        speaker if speaker is not None else words[0].channel,
    )
