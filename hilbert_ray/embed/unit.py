"""The work on one unit: read its documents ahead, encode their segments, keep the features, commit.

A thread decodes and cuts while the encoder runs; a bounded number of segments waits between them, so memory
does not grow with a document's length. A document that fails, at whatever stage, is filed with its reason
inside the unit's commit, and the others go on. `EmbedUnit` is what Ray Data runs; nothing here needs Ray.
"""

import json
import platform
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from importlib.metadata import version as version_of
from typing import TypeAlias, TypeVar

import numpy as np

from hilbert_ray import __version__, audio, encoders, segment
from hilbert_ray.config import Config, Modality
from hilbert_ray.document import (
    AudioSegment,
    Document,
    DocumentError,
    Hertz,
    Samples,
    Seconds,
    Segment,
    Utterance,
    check_times,
    load_text,
)
from hilbert_ray.embed.plan import Unit, file_version
from hilbert_ray.encoders import Encoder
from hilbert_ray.store import Commit, FeatureRow, Quarantined, Store, StoredDocument, StoreError

DEATHS = 3
"""Workers that a document may take with it, alone in progress, before it is quarantined as suspected."""
_SEGMENTS_AHEAD = 64
_BATCH_S, _BATCH_TEXTS = 600.0, 1024

T = TypeVar("T")


class ChangedError(DocumentError):
    """A file that is not the one that the run planned with."""


class EmptyError(DocumentError):
    """A document in which nothing is left to embed."""


class TruncatedError(DocumentError):
    """Segments that do not cover their document."""


class FeatureError(DocumentError):
    """Features that cannot be stored: of the wrong shape, not finite, or beyond float16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """The end of a document: how much (seconds, or characters but spaces) its segments should cover."""

    amount: float
    timed: bool


Part: TypeAlias = Segment | Ended | Quarantined


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a worker reports of one unit. `fault`: why the store could not be written, which ends the run."""

    modality: Modality
    unit_id: str
    stored: int = 0
    amount: float = 0.0
    quarantined: tuple[Quarantined, ...] = ()
    fault: str | None = None

    def to_json(self) -> str:
        """Return the result as one string, the form in which it travels through Ray Data."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Result":
        """Read a result back."""
        values = json.loads(text)
        return cls(
            **{**values, "quarantined": tuple(Quarantined(**fields) for fields in values["quarantined"])}
        )


class EmbedUnit:
    """An encoder actor: loads its encoders once, then embeds unit after unit."""

    def __init__(self, store: Store, snapshot: int, config: Config, modalities: Sequence[Modality]) -> None:
        import torch

        torch.set_num_threads(config.embed.threads)
        self.store = store
        self.snapshot = store.snapshot(snapshot)
        self.config = config
        self.encoders = {modality: load_encoder(config, modality) for modality in modalities}

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        """Embed the units of a batch (column `unit`, JSON); return their results (column `result`, JSON)."""
        return {"result": [self._result_of(Unit.from_json(text)).to_json() for text in batch["unit"]]}

    def _result_of(self, unit: Unit) -> Result:
        try:
            commit = self.embed(unit)
        except StoreError as error:
            return Result(modality=unit.modality, unit_id=unit.unit_id, fault=str(error))
        return Result(
            modality=unit.modality,
            unit_id=unit.unit_id,
            stored=len(commit.stored),
            amount=commit.amount,
            quarantined=commit.quarantined,
        )

    def embed(self, unit: Unit) -> Commit:
        """Embed and commit one unit, unless a commit of it is there already; return the commit."""
        place = (unit.modality, unit.fingerprint, unit.bucket, unit.unit_id)
        commit = self.store.committed(*place)
        if commit is not None:
            return commit
        rows: list[FeatureRow] = []
        if unit.is_alone and self.store.note_attempt(*place) > DEATHS:
            quarantined = [_suspected(*unit.keys[0])]
        else:
            doc_ids = {doc_id for doc_id, _ in unit.keys}
            documents = list(self.store.stored_documents(self.snapshot, {unit.bucket}, doc_ids))
            sources = dict(unit.keys)
            keys = [sources[item.document.doc_id] for item in documents]
            rows, quarantined = embed_documents(
                documents, keys, unit.modality, self.encoders[unit.modality], self.config
            )
        commit = self.store.commit(
            unit.modality,
            unit.fingerprint,
            unit=unit.unit_id,
            bucket=unit.bucket,
            rows=rows,
            quarantined=quarantined,
            versions=_versions(),
            threads=self.config.embed.threads,
        )
        if unit.is_alone:
            self.store.clear_attempts(*place)
        return commit


def load_encoder(config: Config, modality: Modality) -> Encoder:
    """Load the encoder that the settings name for a modality."""
    if modality == "audio":
        return encoders.load(config.audio, modality, config.audio_encoder, config.segment)
    return encoders.load(config.text, modality, config.text_encoder, config.segment)


def embed_documents(
    documents: Sequence[StoredDocument],
    keys: Sequence[str],
    modality: Modality,
    encoder: Encoder,
    config: Config,
) -> tuple[list[FeatureRow], list[Quarantined]]:
    """Embed documents together; return the rows of those that went well and the reasons of the others.

    Batches are a function of the documents and their order alone. What a failed document gave before it
    failed is discarded.

    Args:
        documents: the documents, with the versions that their files should have.
        keys: the source of each.
        modality: which side of them to embed.
        encoder: its encoder.
        config: settings of segmentation and of file versions.
    """
    works = [_Work(item=item, key=key) for item, key in zip(documents, keys, strict=True)]
    batch: list[tuple[_Work, Segment]] = []
    size = 0.0
    parts = _parts(works, modality, encoder, config)
    # Text costs nothing to read, and its tokenizer may not be asked by two threads at a time.
    for work, part in _read_ahead(parts, _SEGMENTS_AHEAD) if modality == "audio" else parts:
        if isinstance(part, Quarantined):
            work.failure = part
        elif isinstance(part, Ended):
            work.ended = part
        else:
            batch.append((work, part))
            size += part.end - part.start if isinstance(part, AudioSegment) else _BATCH_S / _BATCH_TEXTS
            if size >= _BATCH_S:
                _encode(batch, encoder)
                batch, size = [], 0.0
    _encode(batch, encoder)
    rows: list[FeatureRow] = []
    for work in works:
        if work.failure is None:
            row = _or_reason(work, "check", partial(_row, work, modality, encoder))
            if isinstance(row, Quarantined):
                work.failure = row
            else:
                rows.append(row)
    return rows, [work.failure for work in works if work.failure is not None]


@dataclass(kw_only=True, slots=True)
class _Work:
    """A document in progress: its segments' times, texts and features so far, and how it ended."""

    item: StoredDocument
    key: str
    segments: list[tuple[Seconds, Seconds, str]] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)
    ended: Ended | None = None
    failure: Quarantined | None = None


def _or_reason(work: _Work, stage: str, action: Callable[[], T]) -> T | Quarantined:
    """Return what an action on a document gives, or, if it fails in any way, the reason in a form to file."""
    try:
        return action()
    except Exception as error:
        return Quarantined(
            doc_id=work.item.document.doc_id,
            key=work.key,
            stage=stage,
            error=type(error).__name__,
            message=str(error) or repr(error),
        )


def _parts(
    works: Sequence[_Work], modality: Modality, encoder: Encoder, config: Config
) -> Iterator[tuple[_Work, Part]]:
    """Yield the segments of one document after the other; each closes with its end or with its failure."""
    read = _read_audio if modality == "audio" else _read_text
    for work in works:
        parts = read(work.item, encoder, config)
        while True:
            part = _or_reason(work, "read", partial(next, parts, None))
            if part is None:
                break
            yield work, part
            if isinstance(part, Quarantined):
                break


def _read_ahead(items: Iterator[T], ahead: int) -> Generator[T, None, None]:
    """Yield items that a thread draws up to `ahead` of them in advance."""
    ready: queue.Queue[list[T]] = queue.Queue(ahead)
    is_stopped = threading.Event()

    def put(item: list[T]) -> None:
        while not is_stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def draw() -> None:
        try:
            for item in items:
                put([item])
                if is_stopped.is_set():
                    return
        finally:
            put([])

    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(draw)
        try:
            while item := ready.get():
                yield item[0]
        finally:
            is_stopped.set()
        drawn.result()


def _encode(batch: Sequence[tuple[_Work, Segment]], encoder: Encoder) -> None:
    """Encode segments and hand each feature to its document; find out whose fault a failure is."""
    going = [(work, part) for work, part in batch if work.failure is None]
    if not going:
        return
    features = _or_reason(going[0][0], "encode", partial(_features, encoder, [part for _, part in going]))
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


def _row(work: _Work, modality: Modality, encoder: Encoder) -> FeatureRow:
    """Return the row of a document whose features are complete.

    Raises:
        DocumentError: when nothing was embedded, features are no numbers, or some of the document is missing.
    """
    doc_id, ended = work.item.document.doc_id, work.ended
    if not work.features or ended is None:
        raise EmptyError(
            f"document {doc_id!r} has no {modality} left to embed; look at the file, and at segment.roles if "
            "it is set"
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
    if modality == "audio":
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
    counts = [encoder.count_tokens(text) for text in texts]
    seen = sum(min(count, encoder.max_tokens or count) for count in counts)
    found = segment.characters(texts)
    if found != wanted or seen != sum(counts):
        raise TruncatedError(
            f"document {doc_id!r}: segments hold {found} of {wanted:.0f} characters, and the encoder sees "
            f"{seen} of {sum(counts)} tokens; nothing may be cut off or counted twice: please report this "
            "with the document"
        )
    return float(seen), float(sum(counts))


def _suspected(doc_id: str, key: str) -> Quarantined:
    return Quarantined(
        doc_id=doc_id,
        key=key,
        stage="worker",
        error="suspected",
        message=(
            f"document {doc_id!r} was alone in progress when its worker died, {DEATHS} times; look at the "
            "workers' logs (often memory that ran out, or a decoder that crashed), then use "
            "--embed.retry-quarantined"
        ),
    )


@cache
def _versions() -> dict[str, str]:
    names = ("numpy", "soundfile", "soxr", "torch", "torchaudio", "transformers")
    here = {"hilbert-ray": __version__, "python": platform.python_version(), "machine": platform.machine()}
    return {**here, **{name: version_of(name) for name in names}}


def _read_audio(item: StoredDocument, encoder: Encoder, config: Config) -> Iterator[Segment | Ended]:
    """Yield the audio segments of a document, then its end; the file must be the one that was planned."""
    document, samples = item.document, 0
    uri = document.audio or ""
    if config.segment.audio == "turns" or config.segment.roles:
        document = replace(document, text=_read_transcript(item, config), text_file=None)

    def counted(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        nonlocal samples
        for block in blocks:
            samples += len(block)
            yield block

    blocks = counted(audio.stream(uri, encoder.rate_hz))
    yield from segment.audio_segments(document, blocks, encoder.rate_hz, config.segment)
    _require_version(item, uri, item.audio_version, config)
    wanted = segment.wanted_seconds(document, config.segment, samples / encoder.rate_hz)
    yield Ended(amount=wanted, timed=True)


def _read_text(item: StoredDocument, encoder: Encoder, config: Config) -> Iterator[Segment | Ended]:
    """Yield the text segments of a document, then its end."""
    text = _read_transcript(item, config) or ""
    _check_times(item.document, text)
    yield from segment.text_segments(item.document, text, encoder, config.segment)
    turns = (Utterance(text=text),) if isinstance(text, str) else text
    roles = () if isinstance(text, str) else config.segment.roles
    wanted = [turn.text for turn in turns if not roles or turn.role in roles]
    yield Ended(amount=segment.characters(wanted), timed=turns[0].start is not None)


def _check_times(document: Document, text: str | tuple[Utterance, ...]) -> None:
    """Check a transcript's times against the length that its recording's header states."""
    if isinstance(text, str) or text[0].start is None or document.audio is None:
        return
    try:
        duration_s = audio.probe(document.audio).duration_s
    except (DocumentError, OSError):  # what is wrong with the recording is for its own row to say
        return
    check_times(document, text, duration_s)


def _read_transcript(item: StoredDocument, config: Config) -> str | tuple[Utterance, ...] | None:
    """Return the transcript, if there is one; a file must be the one that was planned with."""
    text = load_text(item.document)
    if item.document.text_file is not None:
        _require_version(item, item.document.text_file, item.text_version, config)
    return text


def _require_version(item: StoredDocument, uri: str, planned: str | None, config: Config) -> None:
    found = file_version(uri, config.embed.content_hash)
    if found != planned:
        raise ChangedError(
            f"document {item.document.doc_id!r}: {uri} was version {planned} when the run was planned and is "
            f"{found} now; run again, once nothing writes to it"
        )
