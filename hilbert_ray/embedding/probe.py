"""How fast a worker embeds: a Ray task that embeds a sample of documents for a while and keeps nothing."""

import time
from collections.abc import Iterator, Sequence

from hilbert_ray.config import MODALITIES, Config, Modality
from hilbert_ray.document import AudioSegment, Seconds, Segment
from hilbert_ray.embedding.features import segments_of
from hilbert_ray.embedding.reading import PieceReader
from hilbert_ray.embedding.worker import encoder_here, loading_error
from hilbert_ray.encoders import Encoder
from hilbert_ray.store import Content, Quarantined, StoredDocument
from hilbert_ray.units import (
    CHARACTERS_PER_S,
    DocumentEnd,
    DocumentProgress,
    Measurement,
    UnitsError,
    read_ahead,
)

# Smaller batches than in a run, so that several fit into the measurement.
_BATCH_S, _BATCH_TEXTS = 60.0, 256
_TIMES_BYTES = 8
"""Bytes that the store holds per segment besides its features: start and end, float32 each."""
_FEATURE_BYTES = 2
"""Bytes per value of a feature: float16."""


def measure(
    entries: Sequence[StoredDocument], content: Content, config: Config, probe_s: Seconds
) -> Measurement:
    """Embed documents over and over for about `probe_s` seconds and keep nothing.

    Raises:
        UnitsError: when the encoder does not load.
    """
    import torch

    torch.set_num_threads(config.embed.threads)
    [modality] = [one for one in MODALITIES if one == content]
    encoder = encoder_here(config, modality)
    if (error := loading_error(encoder)) is not None:
        raise UnitsError(error)
    return _Probe(entries, modality, encoder, config).run(probe_s)


class _Probe:
    """Reads and encodes documents as a worker does, and counts; the first batch only warms up."""

    def __init__(
        self, entries: Sequence[StoredDocument], modality: Modality, encoder: Encoder, config: Config
    ) -> None:
        self._entries, self._modality, self._encoder, self._config = entries, modality, encoder, config
        self._started: float | None = None  # when the first batch was done
        self._num_ended = 0
        self._batch: list[Segment] = []
        self._batch_s: Seconds = 0.0
        self._last_end: Seconds = 0.0  # of the segments of the current document
        self._seconds: Seconds = 0.0
        self._size_bytes = 0
        self._reason: str | None = None

    def run(self, probe_s: Seconds) -> Measurement:
        """Embed for about `probe_s` seconds; see `measure`."""
        reader = PieceReader(modality=self._modality, rate_hz=self._encoder.rate_hz, config=self._config)
        for document, part in read_ahead(self._documents(), reader):
            if isinstance(part, Quarantined):
                self._reason = self._reason or part.message
                self._num_ended += 1
            elif isinstance(part, DocumentEnd):
                self._last_end = 0.0
                self._num_ended += 1
            else:
                self._add(segments_of(document, part, self._encoder, self._config))
                # The first part alone: what is slow only once, such as choosing kernels, must not be
                # measured.
                if self._started is None:
                    self._encode()
                    self._started = time.monotonic()
                elif self._is_full():
                    self._count(self._encode())
                    if time.monotonic() - self._started > probe_s:
                        break
        elapsed_s = 0.0 if self._started is None else time.monotonic() - self._started
        return Measurement(
            seconds=self._seconds, elapsed_s=elapsed_s, size_bytes=self._size_bytes, reason=self._reason
        )

    def _documents(self) -> Iterator[DocumentProgress]:
        """Yield the sample over and over, unless none of it could be read."""
        # This runs in the thread that reads ahead. Until a first batch is encoded, it stops after as many
        # failures as there are documents, or it would loop forever.
        while self._started is not None or self._num_ended < len(self._entries):
            yield from (DocumentProgress(unit=0, entry=entry, source="") for entry in self._entries)

    def _add(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            self._batch.append(segment)
            if isinstance(segment, AudioSegment):
                # Windows may overlap: what counts is by how much the recording has advanced.
                self._batch_s += segment.end - self._last_end
                self._last_end = segment.end
            else:
                self._batch_s += len(segment.text) / CHARACTERS_PER_S

    def _is_full(self) -> bool:
        return len(self._batch) >= _BATCH_TEXTS if self._modality == "text" else self._batch_s >= _BATCH_S

    def _encode(self) -> tuple[Seconds, int]:
        """Encode and empty the batch; return its seconds of the plan and its number of segments."""
        self._encoder.encode(self._batch)
        encoded = self._batch_s, len(self._batch)
        self._batch, self._batch_s = [], 0.0
        return encoded

    def _count(self, encoded: tuple[Seconds, int]) -> None:
        seconds, num_segments = encoded
        self._seconds += seconds
        self._size_bytes += num_segments * (_FEATURE_BYTES * self._encoder.dim + _TIMES_BYTES)
