"""What every recogniser provides: windows of audio in, timed utterances out.

`long_form` makes the windows of a recording and puts a document's utterances together; `registry` builds the
recogniser that the settings name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from hilbert_ray.document import Hertz, Seconds

Precision: TypeAlias = Literal["bf16", "float32", "int8"]


@dataclass(frozen=True, slots=True)
class Word:
    """A word as recognised; times in seconds of the recording, confidence 0 to 1."""

    text: str
    start: Seconds
    end: Seconds
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Spoken:
    """An utterance as recognised; times in seconds of the recording.

    words: empty where the model gives no times of words. confidence: the geometric mean of the tokens'
    probabilities, 0 to 1. doubts: why the text may be wrong, such as `repetition`. role: who speaks, where
    channels are speakers.
    """

    text: str
    start: Seconds
    end: Seconds
    words: tuple[Word, ...] = ()
    confidence: float | None = None
    doubts: tuple[str, ...] = ()
    role: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A stretch of one channel of a recording, short enough for a recogniser.

    samples: float32 [n] at the recogniser's rate. start: in seconds of the recording. role: the speaker that
    the channel is of. language: a code such as `en`; None where the recogniser has one language only. speech:
    the probability of speech in each 32 ms, float32 [ceil(n / 512)]; None where nobody has listened.
    """

    samples: np.ndarray
    start: Seconds
    role: str | None = None
    language: str | None = None
    speech: np.ndarray | None = None


class Recognizer(Protocol):
    """What turns windows of audio into utterances.

    name: as in the settings. fingerprint: hash of everything that transcripts depend on besides the
    recording. rate_hz: sampling rate of the windows. longest_s: the most seconds of a window.
    """

    name: str
    fingerprint: str
    rate_hz: Hertz
    longest_s: Seconds

    def describe(self) -> dict[str, Any]:
        """Return what decides the transcripts, as plain values."""

    def rehearse(self) -> None:
        """Check that the weights would load, without holding them: in the driver, before a run begins.

        Raises:
            ConfigError: naming what is wrong with them and what to do.
        """

    def detect_languages(self, windows: Sequence[Window]) -> list[dict[str, float]]:
        """Return the probability of each language, by its code, in each window; {} if there is but one."""

    def recognize(self, windows: Sequence[Window]) -> list[list[Spoken]]:
        """Return the utterances in each window; a window has the same, to the bit, in any batch.

        Called without windows, it only loads libraries and weights: a worker does so first, so that what
        keeps them from loading is raised before any document is read, and no document is blamed for it.
        """
