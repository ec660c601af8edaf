"""Recordings of any length: windows of speech for a recogniser, and its utterances as one transcript.

`windows` cuts a stream of audio at pauses, in bounded memory. `DocumentSpeech` takes a document's windows as
they come; `recognize` has a recogniser work on those of many documents at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hilbert_ray.asr.protocol import Recognizer, Spoken, Window
from hilbert_ray.config import ConfigError
from hilbert_ray.document import Seconds
from hilbert_ray.segmentation import VAD_RATE_HZ, cut_speech, is_vad_installed, seconds_of_speech

LANGUAGE_WINDOWS = 3
"""Windows of a document from which its language is told: a first one may be a greeting or a quotation."""
LEAST_UNWRITTEN_S: Seconds = 5.0
"""Speech of a window without a single word, from which on it is told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcription:
    """What was said in a recording: its language, None where unknown, and its utterances by their starts.

    unwritten: start and end, in seconds, of windows of which the recogniser wrote nothing although somebody
    speaks.
    """

    language: str | None
    utterances: tuple[Spoken, ...]
    unwritten: tuple[tuple[Seconds, Seconds], ...] = ()


def require_long_form(recognizer: Recognizer) -> None:
    """Check that recordings can be cut at pauses for this recogniser.

    Raises:
        ConfigError: when the pause detector is not installed, or takes another rate.
    """
    if not is_vad_installed():
        raise ConfigError(
            "transcribing cuts recordings at pauses, which needs onnxruntime and silero-vad 6.2.3 or newer, "
            "and they are not installed: pip install 'hilbert-ray[pause]' on every node"
        )
    if recognizer.rate_hz != VAD_RATE_HZ:
        raise ConfigError(
            f"recogniser {recognizer.name} takes {recognizer.rate_hz} Hz; the pause detector takes "
            f"{VAD_RATE_HZ} Hz only: choose a recogniser with that rate"
        )


def windows(
    blocks: Iterator[np.ndarray], longest_s: Seconds, speakers: Sequence[str] = ()
) -> Iterator[Window]:
    """Yield the windows of a recording that hold all its speech, in order of their starts.

    They are cut at pauses and as long as possible; silence before, between and after them is passed over.
    Memory is bounded by the longest window.

    Args:
        blocks: float32 [samples], or [samples, speakers], at `segmentation.VAD_RATE_HZ`; read to the end.
        longest_s: the most seconds of a window.
        speakers: whose channels the columns are; empty for one channel of all speakers.
    """
    wide = (block[:, None] if block.ndim == 1 else block for block in blocks)
    longest = round(longest_s * VAD_RATE_HZ)
    for start, column, samples, speech in cut_speech(wide, max(len(speakers), 1), longest):
        yield Window(
            samples=samples,
            start=start / VAD_RATE_HZ,
            role=speakers[column] if speakers else None,
            speech=speech,
        )


@dataclass(kw_only=True, slots=True)
class DocumentSpeech:
    """The windows of a document that wait for the recogniser, and what it has recognised so far.

    language: None until it is told, from the first `LANGUAGE_WINDOWS` windows. is_complete: no more windows
    come.
    """

    language: str | None
    is_complete: bool = False
    waiting: list[Window] = field(default_factory=list)
    utterances: list[Spoken] = field(default_factory=list)
    unwritten: list[tuple[Seconds, Seconds]] = field(default_factory=list)
    is_language_known: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_language_known = self.language is not None

    @property
    def is_ready(self) -> bool:
        """Whether what waits may be recognised: the language is known, or can be told from what waits."""
        return self.is_language_known or self.is_complete or len(self.waiting) >= LANGUAGE_WINDOWS

    def transcription(self) -> Transcription:
        """Return what was said, once all windows are recognised."""
        in_order = sorted(self.utterances, key=lambda spoken: (spoken.start, spoken.end))
        return Transcription(
            language=self.language, utterances=tuple(in_order), unwritten=tuple(sorted(self.unwritten))
        )


def document_speech(language: str) -> DocumentSpeech:
    """Return the record of a document of which nothing has been heard; `language` as in the settings."""
    return DocumentSpeech(language=None if language == "auto" else language)


def recognize(documents: Sequence[DocumentSpeech], recognizer: Recognizer) -> None:
    """Recognise the waiting windows of the documents that are ready, all together.

    Nothing of a document depends on the others, nor on how its windows are spread over calls. If this raises,
    all windows still wait, so the documents can be tried one by one.
    """
    ready = [document for document in documents if document.is_ready and document.waiting]
    _tell_languages([document for document in ready if not document.is_language_known], recognizer)
    batch = [replace(window, language=one.language) for one in ready for window in one.waiting]
    results = iter(recognizer.recognize(batch) if batch else ())
    for document in ready:
        for window, spoken in zip(document.waiting, results, strict=False):
            document.utterances += spoken
            speech_s = 0.0 if window.speech is None else seconds_of_speech(window.speech)
            if not spoken and speech_s >= LEAST_UNWRITTEN_S:
                end = window.start + len(window.samples) / recognizer.rate_hz
                document.unwritten.append((window.start, end))
        document.waiting.clear()


def _tell_languages(documents: Sequence[DocumentSpeech], recognizer: Recognizer) -> None:
    """Set the language of each document: the most probable one, by the mean over its first windows."""
    heard = [document.waiting[:LANGUAGE_WINDOWS] for document in documents]
    found = iter(recognizer.detect_languages([window for first in heard for window in first]))
    for document, first in zip(documents, heard, strict=True):
        of_windows = [next(found) for _ in first]
        # Of equals the first by name, whatever their order.
        sums = {code: sum(one.get(code, 0.0) for one in of_windows) for code in sorted(of_windows[0])}
        document.language = max(sums, key=lambda code: sums[code]) if sums else None
        document.is_language_known = True
