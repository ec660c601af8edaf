"""From segments to rows of features: batches packed across documents, each document checked to be complete.

A document that fails, at whatever stage, is quarantined with its reason, and the others continue.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from hilbert_ray.config import Config, Modality
from hilbert_ray.document import AudioSegment, DocumentError, Hertz, Samples, Seconds, Segment
from hilbert_ray.embedding.reading import Piece, PieceReader
from hilbert_ray.encoders import Encoder
from hilbert_ray.segmentation import characters, text_segments
from hilbert_ray.store import FeatureRow, Quarantined, StoredDocument
from hilbert_ray.units import (
    DocumentEnd,
    DocumentProgress,
    DocumentWithPart,
    read_ahead,
    run_or_quarantine,
)

# Segments that are handed to the encoder together, which packs them into batches by length: the more there
# are, the less padding. 600 s of float32 at 16 kHz take 38 MB.
_BATCH_S, _BATCH_TEXTS = 600.0, 4096


class EmptyError(DocumentError):
    """A document in which there is nothing to embed."""


class TruncatedError(DocumentError):
    """Segments that do not cover their document."""


class FeatureError(DocumentError):
    """Features that cannot be stored: of the wrong shape, not finite, or beyond the range of float16."""


def embed_documents(
    entries: Sequence[StoredDocument],
    sources: Sequence[str],
    modality: Modality,
    encoder: Encoder,
    config: Config,
) -> tuple[list[FeatureRow], list[Quarantined]]:
    """Embed documents together; return the rows of those that succeeded and the reasons of the others.

    Args:
        entries: the documents, with the versions that their files should have.
        sources: the source hash of each.
        modality: which modality of them to embed.
        encoder: its encoder.
        config: settings of segmentation and of file versions.
    """
    documents = [
        DocumentProgress(unit=0, entry=entry, source=source)
        for entry, source in zip(entries, sources, strict=True)
    ]
    reader = PieceReader.of(modality, encoder, config)
    parts = read_ahead(documents, reader)
    return encode_parts(documents, parts, encoder, config)


@dataclass(kw_only=True, slots=True)
class _Encoded:
    """What has been encoded of a document: its segments' times, texts or roles, channels, and features."""

    segments: list[tuple[Seconds, Seconds, str, int]] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)


def encode_parts(
    documents: Sequence[DocumentProgress],
    parts: Iterator[DocumentWithPart[Piece]],
    encoder: Encoder,
    config: Config,
) -> tuple[list[FeatureRow], list[Quarantined]]:
    """Encode the parts of documents; return the rows of those that succeeded and the reasons of the others.

    Batches are a function of the documents and their order alone, so features are the same bits in every run.
    What a failed document gave before it failed is discarded.
    """
    # Across documents, since short ones alone would leave most of each batch empty.
    made = {document: _Encoded() for document in documents}
    batch: list[tuple[DocumentProgress, Segment]] = []
    size = 0.0
    for document, part in parts:
        if isinstance(part, Quarantined):
            document.failure = part  # `_encode` drops its segments that are still in the batch
            continue
        if isinstance(part, DocumentEnd):
            document.end = part
            document.flaws += part.flaws
            continue
        segments = segments_of(document, part, encoder, config)
        # What is heard together stays together, or it would be computed in both batches.
        for together in [segments] if isinstance(part, tuple) else [[one] for one in segments]:
            batch += [(document, segment) for segment in together]
            # Text is limited by number, since its cost is only known once it is tokenised.
            size += sum(
                one.end - one.start if isinstance(one, AudioSegment) else _BATCH_S / _BATCH_TEXTS
                for one in together
            )
            if size >= _BATCH_S:
                _encode(batch, encoder, made)
                batch, size = [], 0.0
    _encode(batch, encoder, made)
    return _rows(made, encoder)


def segments_of(
    document: DocumentProgress, part: Piece, encoder: Encoder, config: Config
) -> Sequence[Segment]:
    """Return a part as segments: audio is cut already, a transcript is cut here; none if that fails."""
    if isinstance(part, tuple):
        return part
    document.flaws = part.flaws
    cut = partial(text_segments, document.entry.document, part.text, encoder, config.segment)
    segments = run_or_quarantine(document.entry, document.source, "read", cut)
    if isinstance(segments, Quarantined):
        document.failure = segments
        return []
    return segments


def _encode(
    batch: Sequence[tuple[DocumentProgress, Segment]],
    encoder: Encoder,
    made: Mapping[DocumentProgress, _Encoded],
) -> None:
    """Encode segments and hand each feature to its document.

    If that fails, the documents of the batch are encoded one by one, and those that fail alone are
    quarantined. A feature does not depend on its batch, so the others get the same.
    """
    valid = [(document, segment) for document, segment in batch if document.failure is None]
    if not valid:
        return
    first = valid[0][0]
    action = partial(_features, encoder, [segment for _, segment in valid])
    features = run_or_quarantine(first.entry, first.source, "encode", action)
    if isinstance(features, Quarantined):
        documents = list(dict.fromkeys(document for document, _ in valid))
        if len(documents) == 1:
            first.failure = features
        else:
            for document in documents:
                _encode([one for one in valid if one[0] is document], encoder, made)
        return
    for (document, segment), vector in zip(valid, features, strict=True):
        made[document].features.append(vector)
        # Samples are no longer needed.
        words, channel = (
            (segment.role or "", segment.channel) if isinstance(segment, AudioSegment) else (segment.text, 0)
        )
        made[document].segments.append((segment.start, segment.end, words, channel))


def _features(encoder: Encoder, segments: Sequence[Segment]) -> np.ndarray:
    """Return float16 [n, dim] features of segments.

    Raises:
        FeatureError: when the encoder returns another shape.
    """
    features = encoder.encode(segments)
    if features.shape != (len(segments), encoder.dim):
        raise FeatureError(
            f"encoder {encoder.name} returned features of shape {features.shape} for {len(segments)} "
            f"segments; it must be ({len(segments)}, {encoder.dim}): please report this with the encoder"
        )
    with np.errstate(over="ignore"):  # `_row` reports infinities with the document and the segment
        narrow: np.ndarray = features.astype(np.float16)
    return narrow


def _rows(
    made: Mapping[DocumentProgress, _Encoded], encoder: Encoder
) -> tuple[list[FeatureRow], list[Quarantined]]:
    """Return the rows of the documents that pass the checks, and the reasons of all others."""
    rows: list[FeatureRow] = []
    for document, encoded in made.items():
        # Only now: a document may span several batches, and one batch holds pieces of many.
        if document.failure is None:
            action = partial(_row, document, encoded, encoder)
            row = run_or_quarantine(document.entry, document.source, "check", action)
            if isinstance(row, Quarantined):
                document.failure = row
            else:
                rows.append(row)
    return rows, [document.failure for document in made if document.failure is not None]


def _row(document: DocumentProgress, encoded: _Encoded, encoder: Encoder) -> FeatureRow:
    """Return the row of a document whose features are complete.

    Raises:
        EmptyError: when nothing was embedded.
        FeatureError: when features are not finite.
        TruncatedError: when some of the document is missing.
    """
    doc_id, end_part = document.entry.document.doc_id, document.end
    if not encoded.features or end_part is None:
        raise EmptyError(
            f"document {doc_id!r} has no {encoder.modality} left to embed; check the file, and segment.roles "
            "if it is set"
        )
    order = list(range(len(encoded.segments)))
    if encoder.modality == "audio":  # fills of several channels come in the order in which they end
        order.sort(key=lambda row: encoded.segments[row][0])
    features = np.stack([encoded.features[row] for row in order])
    segments = [encoded.segments[row] for row in order]
    encoded.features.clear()  # all layers of a long document are many: not to be held twice
    # A NaN in one segment would make every loss of every batch with this document NaN.
    if not np.isfinite(features).all():
        row = int(np.argwhere(~np.isfinite(features))[0, 0])
        start, end, _, _ = segments[row]
        raise FeatureError(
            f"document {doc_id!r}: the features of segment {row} ({start:.2f} to {end:.2f} s) are not "
            "finite or beyond 65504, the largest float16; check this stretch of the document"
        )
    spans = [(start, end) for start, end, _, _ in segments]
    words = [text_or_role for _, _, text_or_role, _ in segments]
    roles = None
    if encoder.modality == "audio":
        # The channels of several speakers lie beside each other in time.
        by_channel: dict[int, list[tuple[Seconds, Seconds]]] = {}
        for start, end, _, channel in segments:
            by_channel.setdefault(channel, []).append((start, end))
        roles = tuple(words) if any(words) else None
        seen = present = _check_seconds(doc_id, [*by_channel.values()], end_part.expected, encoder.rate_hz)
    else:
        seen, present = _check_tokens(doc_id, words, end_part.expected, encoder)
    return FeatureRow(
        doc_id=doc_id,
        source=document.source,
        features=features,
        # float32 seconds are exact to 4 ms in recordings of up to 18 hours.
        start=np.array([start for start, _ in spans], np.float32),
        end=np.array([end for _, end in spans], np.float32),
        timed=end_part.timed,
        seen=seen,
        present=present,
        roles=roles,
        recognition=end_part.recognition,
    )


def _check_seconds(
    doc_id: str,
    channels: Sequence[Sequence[tuple[Seconds, Seconds]]],
    expected: Seconds,
    rate_hz: Hertz,
) -> Seconds:
    """Return the seconds that the segments of all channels cover; they must be those expected.

    Up to rounding to samples.

    Raises:
        TruncatedError: when they are not.
    """
    samples = sum(
        _covered([(round(start * rate_hz), round(end * rate_hz)) for start, end in spans])
        for spans in channels
    )
    seconds = samples / rate_hz
    # Each border is rounded to a sample by itself.
    if abs(seconds - expected) > (1 + sum(map(len, channels))) / rate_hz:
        raise TruncatedError(
            f"document {doc_id!r}: segments cover {seconds:.3f} of {expected:.3f} seconds of audio; nothing "
            "may be cut off or counted twice: please report this with the document"
        )
    return seconds


def _covered(spans: Sequence[tuple[Samples, Samples]]) -> Samples:
    """Return how much stretches cover together, overlaps counted once."""
    # In whole samples: thousands of float seconds would not add up exactly, and a gap could hide in that.
    covered = last_end = 0
    for start, end in sorted(spans):
        covered += max(0, end - max(start, last_end))
        last_end = max(last_end, end)
    return covered


def _check_tokens(
    doc_id: str, texts: Sequence[str], expected: float, encoder: Encoder
) -> tuple[float, float]:
    """Return how many tokens the encoder saw and how many there are.

    Characters are compared, because cutting may change tokens at the borders, never characters.

    Raises:
        TruncatedError: when a character is missing, or a segment has more tokens than the encoder takes.
    """
    counts = encoder.count_tokens(texts)
    seen = sum(min(count, encoder.max_tokens or count) for count in counts)
    present = characters(texts)
    if present != expected or seen != sum(counts):
        raise TruncatedError(
            f"document {doc_id!r}: segments hold {present} of {expected:.0f} characters, and the encoder "
            f"sees {seen} of {sum(counts)} tokens; nothing may be cut off or counted twice: please report "
            "this with the document"
        )
    return float(seen), float(sum(counts))
