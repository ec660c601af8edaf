"""How fast a worker embeds: the Ray task of a dry run."""

from collections.abc import Sequence

from hilbert_ray.config import MODALITIES, Config, Modality
from hilbert_ray.document import AudioSegment, Seconds, Segment
from hilbert_ray.embedding.features import segments_of
from hilbert_ray.embedding.reading import Piece, PieceReader
from hilbert_ray.embedding.worker import encoder_here, loading_error
from hilbert_ray.encoders import Encoder
from hilbert_ray.store import Content, StoredDocument
from hilbert_ray.units import (
    CHARACTERS_PER_S,
    DocumentEnd,
    DocumentProgress,
    Measurement,
    Probe,
    UnitsError,
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


class _Probe(Probe[Piece]):
    """Encodes batches of segments."""

    def __init__(
        self, entries: Sequence[StoredDocument], modality: Modality, encoder: Encoder, config: Config
    ) -> None:
        super().__init__(entries, PieceReader.of(modality, encoder, config))
        self._modality, self._encoder, self._config = modality, encoder, config
        self._batch: list[Segment] = []
        self._batch_s: Seconds = 0.0
        self._last_end: Seconds = 0.0  # of the segments of the current document

    def add(self, document: DocumentProgress, part: Piece) -> None:
        """Add the segments of a piece."""
        for segment in segments_of(document, part, self._encoder, self._config):
            self._batch.append(segment)
            if isinstance(segment, AudioSegment):
                # Windows may overlap: what counts is by how much the recording has advanced.
                self._batch_s += segment.end - self._last_end
                self._last_end = segment.end
            else:
                self._batch_s += len(segment.text) / CHARACTERS_PER_S

    def end(self, end: DocumentEnd) -> None:
        """Begin another document."""
        self._last_end = 0.0

    @property
    def is_full(self) -> bool:
        """Whether the batch has as much audio, or as many texts, as are encoded together."""
        return len(self._batch) >= _BATCH_TEXTS if self._modality == "text" else self._batch_s >= _BATCH_S

    def do(self) -> tuple[Seconds, int]:
        """Encode and empty the batch; return its seconds of the plan, and its bytes in a store."""
        self._encoder.encode(self._batch)
        size_bytes = len(self._batch) * (_FEATURE_BYTES * self._encoder.dim + _TIMES_BYTES)
        done = self._batch_s, size_bytes
        self._batch, self._batch_s = [], 0.0
        return done
