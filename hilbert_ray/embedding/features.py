"""From segments to rows of features: batches packed across documents, each document checked for completeness.

A document that fails, at whatever stage, is quarantined with its reason, and the others go on.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from hilbert_ray.config import Config, Modality
from hilbert_ray.document import AudioSegment, DocumentError, Hertz, Samples, Seconds, Segment
from hilbert_ray.embedding.reading import (
    DocumentEnd,
    DocumentPart,
    DocumentProgress,
    DocumentReader,
    Transcript,
    read_ahead,
    run_or_quarantine,
)
from hilbert_ray.encoders import Encoder
from hilbert_ray.segmentation import characters, text_segments
from hilbert_ray.store import FeatureRow, Quarantined, StoredDocument

_BATCH_S, _BATCH_TEXTS = 600.0, 4096


class EmptyError(DocumentError):
    """A document in which nothing is left to embed."""


class TruncatedError(DocumentError):
    """Segments that do not cover their document."""


class FeatureError(DocumentError):
    """Features that cannot be stored: of the wrong shape, not finite, or beyond float16."""


def embed_documents(
    documents: Sequence[StoredDocument],
    keys: Sequence[str],
    modality: Modality,
    encoder: Encoder,
    config: Config,
) -> tuple[list[FeatureRow], list[Quarantined]]:
    """Embed documents together; return the rows of those that went well and the reasons of the others.

    Args:
        documents: the documents, with the versions that their files should have.
        keys: the source of each.
        modality: which side of them to embed.
        encoder: its encoder.
        config: settings of segmentation and of file versions.
    """
    works = [DocumentProgress(unit=0, item=item, key=key) for item, key in zip(documents, keys, strict=True)]
    reader = DocumentReader(modality=modality, rate_hz=encoder.rate_hz, config=config)
    return encode_parts(works, read_ahead(works, reader), encoder, config)


def encode_parts(
    works: Sequence[DocumentProgress],
    parts: Iterator[tuple[DocumentProgress, DocumentPart]],
    encoder: Encoder,
    config: Config,
) -> tuple[list[FeatureRow], list[Quarantined]]:
    """Encode the parts of some documents; return the rows of those that went well, the others' reasons.

    Batches are a function of the documents and their order alone. What a failed document gave before it
    failed is discarded.
    """
    batch: list[tuple[DocumentProgress, Segment]] = []
    size = 0.0
    for work, part in parts:
        if isinstance(part, Quarantined):
            work.failure = part
            continue
        if isinstance(part, DocumentEnd):
            work.ended = part
            continue
        for one in segments_of(work, part, encoder, config):
            batch.append((work, one))
            size += one.end - one.start if isinstance(one, AudioSegment) else _BATCH_S / _BATCH_TEXTS
            if size >= _BATCH_S:
                _encode(batch, encoder)
                batch, size = [], 0.0
    _encode(batch, encoder)
    rows: list[FeatureRow] = []
    for work in works:
        if work.failure is None:
            row = run_or_quarantine(work.item, work.key, "check", partial(_row, work, encoder))
            if isinstance(row, Quarantined):
                work.failure = row
            else:
                rows.append(row)
    return rows, [work.failure for work in works if work.failure is not None]


def segments_of(
    work: DocumentProgress, part: AudioSegment | Transcript, encoder: Encoder, config: Config
) -> Sequence[Segment]:
    """Return a part as segments: audio is one already, a transcript is cut here; none if that fails."""
    if isinstance(part, AudioSegment):
        return [part]
    cut = partial(text_segments, work.item.document, part.text, encoder, config.segment)
    found = run_or_quarantine(work.item, work.key, "read", cut)
    if isinstance(found, Quarantined):
        work.failure = found
        return []
    return found


def _encode(batch: Sequence[tuple[DocumentProgress, Segment]], encoder: Encoder) -> None:
    """Encode segments and hand each feature to its document; find out whose fault a failure is."""
    going = [(work, part) for work, part in batch if work.failure is None]
    if not going:
        return
    first = going[0][0]
    action = partial(_features, encoder, [part for _, part in going])
    features = run_or_quarantine(first.item, first.key, "encode", action)
    if isinstance(features, Quarantined):
        works = list({id(work): work for work, _ in going}.values())
        if len(works) == 1:
            works[0].failure = features
        else:
            for work in works:
                _encode([(owner, part) for owner, part in going if owner is work], encoder)
        return
    for (work, part), vector in zip(going, features, strict=True):
        work.features.append(vector)
        work.segments.append((part.start, part.end, "" if isinstance(part, AudioSegment) else part.text))


def _features(encoder: Encoder, segments: Sequence[Segment]) -> np.ndarray:
    """Return float16 [n, dim] features of segments."""
    features = encoder.encode(segments)
    if features.shape != (len(segments), encoder.dim):
        raise FeatureError(
            f"encoder {encoder.name} gave features of shape {features.shape} for {len(segments)} segments; "
            f"it must be ({len(segments)}, {encoder.dim})"
        )
    with np.errstate(over="ignore"):
        narrow: np.ndarray = features.astype(np.float16)
    return narrow


def _row(work: DocumentProgress, encoder: Encoder) -> FeatureRow:
    """Return the row of a document whose features are complete.

    Raises:
        DocumentError: when nothing was embedded, features are no numbers, or some of the document is missing.
    """
    doc_id, ended = work.item.document.doc_id, work.ended
    if not work.features or ended is None:
        raise EmptyError(
            f"document {doc_id!r} has no {encoder.modality} left to embed; look at the file, and at "
            "segment.roles if it is set"
        )
    features = np.stack(work.features)
    if not np.isfinite(features).all():
        where = int(np.argwhere(~np.isfinite(features))[0, 0])
        start, end, _ = work.segments[where]
        raise FeatureError(
            f"document {doc_id!r}: the features of segment {where} ({start:.2f} to {end:.2f} s) are not "
            "finite or beyond 65504, what float16 can hold; look at this stretch of the document"
        )
    spans = [(start, end) for start, end, _ in work.segments]
    if encoder.modality == "audio":
        seen = present = _check_seconds(doc_id, spans, ended.amount, encoder.rate_hz)
    else:
        seen, present = _check_tokens(doc_id, [text for _, _, text in work.segments], ended.amount, encoder)
    return FeatureRow(
        doc_id=doc_id,
        source=work.key,
        features=features,
        start=np.array([start for start, _ in spans], np.float32),
        end=np.array([end for _, end in spans], np.float32),
        timed=ended.timed,
        seen=seen,
        present=present,
    )


def _check_seconds(
    doc_id: str, spans: Sequence[tuple[Seconds, Seconds]], wanted: Seconds, rate_hz: Hertz
) -> Seconds:
    """Return the seconds that segments cover; they must be those wanted, but for the rounding to samples."""
    samples = [(round(start * rate_hz), round(end * rate_hz)) for start, end in spans]
    seconds = _covered(samples) / rate_hz
    if abs(seconds - wanted) > (1 + len(spans)) / rate_hz:
        raise TruncatedError(
            f"document {doc_id!r}: segments cover {seconds:.3f} of {wanted:.3f} seconds of audio; nothing "
            "may be cut off or counted twice: please report this with the document"
        )
    return seconds


def _covered(spans: Sequence[tuple[Samples, Samples]]) -> Samples:
    """Return how much some stretches cover together, overlaps counted once."""
    covered = reached = 0
    for start, end in sorted(spans):
        covered += max(0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def _check_tokens(doc_id: str, texts: Sequence[str], wanted: float, encoder: Encoder) -> tuple[float, float]:
    """Return how many tokens the encoder saw and how many there are; every character must be among them."""
    counts = encoder.count_tokens(texts)
    seen = sum(min(count, encoder.max_tokens or count) for count in counts)
    found = characters(texts)
    if found != wanted or seen != sum(counts):
        raise TruncatedError(
            f"document {doc_id!r}: segments hold {found} of {wanted:.0f} characters, and the encoder sees "
            f"{seen} of {sum(counts)} tokens; nothing may be cut off or counted twice: please report this "
            "with the document"
        )
    return float(seen), float(sum(counts))
