"""What a run of `transcribe` would do, without doing it."""

from collections.abc import Sequence

from hilbert_ray.asr import DocumentSpeech, Recognizer, Window, document_speech, recognize
from hilbert_ray.config import Config
from hilbert_ray.document import Seconds
from hilbert_ray.storage import absolute
from hilbert_ray.store import Content, StoredDocument
from hilbert_ray.transcript import AutomaticTranscript
from hilbert_ray.transcription.publishing import WORK
from hilbert_ray.transcription.recognition import members_of
from hilbert_ray.transcription.resolve import chosen_recognizer, job_of, resolve_recognizer
from hilbert_ray.transcription.worker import loading_error, reader_of, recognizer_here
from hilbert_ray.units import (
    DocumentEnd,
    DocumentProgress,
    Estimate,
    Measurement,
    Probe,
    UnitsError,
    estimate_jobs,
)

_BATCH_S = 60.0
"""Seconds of windows that are recognised together: less than in a run, so that several fit into the
measurement."""


def estimate(manifest: str, out: str, config: Config | None = None) -> Estimate:
    """Return what `transcribe` would do with the same arguments; write nothing.

    Raises:
        ConfigError, ManifestError, StoreError, UnitsError: as `transcribe` does before anything runs, and
        where the recogniser does not load.
    """
    config = resolve_recognizer(config or Config())
    recognizer = chosen_recognizer(config)
    jobs = [(recognizer.name, job_of(recognizer, config))]
    return estimate_jobs(manifest, f"{absolute(out)}/{WORK}", config, jobs, measure)


def measure(
    entries: Sequence[StoredDocument],
    content: Content,
    config: Config,
    probe_s: Seconds,
) -> Measurement:
    """Transcribe documents over and over for about `probe_s` seconds and keep nothing.

    Raises:
        UnitsError: when the recogniser does not load.
    """
    import torch

    torch.set_num_threads(config.embed.threads)
    recognizer = recognizer_here(config)
    if (error := loading_error(recognizer)) is not None:
        raise UnitsError(error)
    return _Probe(entries, recognizer, config).run(probe_s)


class _Probe(Probe[Window]):
    """Recognises batches of windows."""

    def __init__(self, entries: Sequence[StoredDocument], recognizer: Recognizer, config: Config) -> None:
        super().__init__(entries, reader_of(recognizer, config))
        self._recognizer, self._language = recognizer, config.recognition.language
        self._speech = self._new()
        self._waiting_s: Seconds = 0.0
        self._done_s: Seconds = 0.0
        self._last_end: Seconds = 0.0  # of the windows of the current document

    def _new(self) -> DocumentSpeech:
        speech = document_speech(self._language)
        speech.is_complete = True
        return speech

    def add(self, document: DocumentProgress, part: Window) -> None:
        """Add a window."""
        length = len(part.samples) / self._recognizer.rate_hz
        self._speech.waiting.append(part)
        self._waiting_s += length
        # What is silent was heard too; channels lie beside each other in time.
        self._done_s += max(0.0, part.start + length - self._last_end)
        self._last_end = max(self._last_end, part.start + length)

    def end(self, end: DocumentEnd) -> None:
        """Count the silence after the last window, and begin another document."""
        self._done_s += max(0.0, end.expected - self._last_end)
        self._last_end = 0.0

    @property
    def is_full(self) -> bool:
        """Whether the batch has as many seconds as are recognised together."""
        return self._waiting_s >= _BATCH_S

    def do(self) -> tuple[Seconds, int]:
        """Recognise and empty the batch; return its seconds of the plan, and its bytes in a store."""
        recognize([self._speech], self._recognizer)
        spoken = [members_of(one) for one in self._speech.utterances]
        transcript = AutomaticTranscript(
            document="", language=None, asr={}, duration_s=0.0, utterances=spoken
        ).to_bytes()
        done = self._done_s, len(transcript)
        self._speech, self._waiting_s, self._done_s = self._new(), 0.0, 0.0
        return done
