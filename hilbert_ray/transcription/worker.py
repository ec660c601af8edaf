"""The actor that transcribes the documents of units."""

import platform
from collections.abc import Iterator, Sequence
from functools import partial

from hilbert_ray.asr import Recognizer, Window, build_recognizer
from hilbert_ray.cluster import given_device
from hilbert_ray.config import Config
from hilbert_ray.store import Content, Quarantined, TranscriptRow
from hilbert_ray.transcription.recognition import SpeechReader, transcribe_parts
from hilbert_ray.transcription.resolve import job_of
from hilbert_ray.units import DocumentProgress, DocumentWithPart, UnitWorker, model_error


class TranscribeUnits(UnitWorker[Window]):
    """A recogniser actor: loads its recogniser once, then transcribes unit after unit."""

    title, done = "transcribing {} recordings", "transcribed"
    libraries = (
        "ctranslate2",
        "faster_whisper",
        "numpy",
        "onnxruntime",
        "silero_vad",
        "soundfile",
        "soxr",
        "torch",
        "transformers",
    )

    def build(self) -> None:
        """Make the recogniser."""
        self.recognizer: Recognizer = recognizer_here(self.config)

    def find_fault(self) -> str | None:
        """Return what is wrong if the recogniser is not that of the plan, or does not load."""
        planned, here = self.fingerprints["transcript"], job_of(self.recognizer, self.config).fingerprint
        if here != planned:
            return (
                f"recogniser {self.recognizer.name} has fingerprint {here} on node {platform.node()}, but "
                f"the run was planned with {planned}; transcripts of both must not mix: install the same "
                "weights and versions on every node"
            )
        return loading_error(self.recognizer)

    def reader(self, content: Content) -> SpeechReader:
        """Return what reads recordings for the recogniser."""
        return reader_of(self.recognizer, self.config)

    def rows(
        self,
        content: Content,
        documents: Sequence[DocumentProgress],
        parts: Iterator[DocumentWithPart[Window]],
    ) -> tuple[list[TranscriptRow], list[Quarantined]]:
        """Return the transcripts of documents, see `transcribe_parts`."""
        return transcribe_parts(documents, parts, self.recognizer, self.config.recognition.language)


def reader_of(recognizer: Recognizer, config: Config) -> SpeechReader:
    """Return what reads recordings for a recogniser."""
    return SpeechReader(rate_hz=recognizer.rate_hz, longest_s=recognizer.longest_s, config=config)


def recognizer_here(config: Config) -> Recognizer:
    """Return the recogniser that the settings name, to compute on the device that Ray gave this process.

    Raises:
        ClusterError: when Ray gave a GPU that torch does not find.
    """
    return build_recognizer(config, given_device())


def loading_error(recognizer: Recognizer) -> str | None:
    """Return what keeps a recogniser from loading its libraries and weights here, None if nothing does."""
    return model_error(f"recogniser {recognizer.name}", partial(recognizer.recognize, []))
