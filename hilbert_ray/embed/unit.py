"""The work on units: read their documents ahead, encode the segments, keep the features, commit.

While the encoder runs, the next documents are decoded and the last unit is written; what waits in memory is
bounded, so it does not grow with a document's length. A document that fails, at whatever stage, is filed with
its reason inside its unit's commit, and the others go on. `EmbedUnits` is what Ray Data runs.
"""

import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from importlib.metadata import version as version_of
from importlib.util import find_spec
from itertools import groupby

import numpy as np

from hilbert_ray import __version__, encoders, segment
from hilbert_ray.config import Config, Modality
from hilbert_ray.document import AudioSegment, DocumentError, Hertz, Samples, Seconds, Segment
from hilbert_ray.embed.elsewhere import read_elsewhere
from hilbert_ray.embed.plan import Unit
from hilbert_ray.embed.read import Ended, Part, Reader, Transcript, Work, or_reason, read, read_ahead
from hilbert_ray.encoders import Encoder
from hilbert_ray.store import Commit, FeatureRow, Quarantined, Store, StoredDocument, StoreError

DEATHS = 3
"""Workers that a document may take with it, alone in progress, before it is quarantined as suspected."""
_BATCH_S, _BATCH_TEXTS = 600.0, 4096
_WAITING_SHARE, _JUDGED_S = 0.2, 2.0
"""An actor that waits for more than this share of its time, over at least so long, lets others decode."""


class EmptyError(DocumentError):
    """A document in which nothing is left to embed."""


class TruncatedError(DocumentError):
    """Segments that do not cover their document."""


class FeatureError(DocumentError):
    """Features that cannot be stored: of the wrong shape, not finite, or beyond float16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a worker reports of one unit.

    `seconds` is the unit's weight in the plan; `amount` the seconds or tokens stored; `fault` why the store
    could not be written, or the encoder is another or does not load, which ends the run.
    """

    modality: Modality
    unit_id: str
    seconds: Seconds = 0.0
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


class EmbedUnits:
    """An encoder actor: loads its encoders once, then embeds unit after unit."""

    def __init__(
        self, store: Store, snapshot: int, config: Config, fingerprints: Mapping[Modality, str]
    ) -> None:
        import torch

        torch.set_num_threads(config.embed.threads)
        self.store = store
        self.snapshot = store.snapshot(snapshot)
        self.config = config
        self.fingerprints = fingerprints
        self.encoders = {modality: load_encoder(config, modality) for modality in fingerprints}
        self.tasks = 0
        """Ray tasks that decode ahead; none as long as this actor's own thread keeps up."""

    @cached_property
    def fault(self) -> str | None:
        """What is wrong if the encoders are not those of the plan, or do not load.

        Found when the first units come, so that a death while loading counts as a try at them.
        """
        for modality, encoder in self.encoders.items():
            planned = self.fingerprints[modality]
            if encoder.fingerprint != planned:
                return (
                    f"{modality} encoder {encoder.name} has fingerprint {encoder.fingerprint} on node "
                    f"{platform.node()}, but the run was planned with {planned}; features of both must not "
                    "mix: put the same weights and versions on every node"
                )
            if (fault := load_fault(encoder)) is not None:
                return fault
        return None

    def __call__(self, batch: Mapping[str, np.ndarray]) -> Iterator[dict[str, list[str]]]:
        """Embed the units of a batch (column `unit`, JSON); yield their results (column `result`, JSON)."""
        units = [Unit.from_json(text) for text in batch["unit"]]
        try:
            if self.fault is not None:
                raise StoreError(self.fault)
            for unit, commit in self.embed(units):
                result = Result(
                    modality=unit.modality,
                    unit_id=unit.unit_id,
                    seconds=unit.seconds,
                    stored=len(commit.stored),
                    amount=commit.amount,
                    quarantined=commit.quarantined,
                )
                yield {"result": [result.to_json()]}
        except StoreError as error:
            failed = Result(modality=units[0].modality, unit_id=units[0].unit_id, fault=str(error))
            yield {"result": [failed.to_json()]}

    def embed(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Commit]]:
        """Embed and commit units, but for those that are committed already; yield each with its commit."""
        pending: list[Unit] = []
        for unit in units:
            commit = self.store.committed(*_place(unit))
            if commit is not None:
                yield unit, commit
            elif unit.is_alone:
                yield unit, self._embed_alone(unit)
            else:
                pending.append(unit)
        for modality, same in groupby(pending, key=lambda unit: unit.modality):
            yield from self._embed_ahead(list(same), modality)

    def _embed_alone(self, unit: Unit) -> Commit:
        """Embed a document that may be what killed workers: noted before it is begun, and nothing ahead."""
        if self.store.note_attempt(*_place(unit)) > DEATHS:
            commit = self._commit(unit, [], [_suspected(*unit.keys[0])])
        else:
            works = self._works(0, unit)
            parts = read(works, self._reader(unit.modality))
            commit = self._commit(
                unit, *encode_parts(works, parts, self.encoders[unit.modality], self.config)
            )
        self.store.clear_attempts(*_place(unit))
        return commit

    def _embed_ahead(self, units: Sequence[Unit], modality: Modality) -> Iterator[tuple[Unit, Commit]]:
        """Embed units in turn; the documents of the next are read, and the last is written, meanwhile."""
        works: dict[int, list[Work]] = {}

        def wanted() -> Iterator[Work]:
            for number, unit in enumerate(units):
                works[number] = self._works(number, unit)
                yield from works[number]

        timed = _Timed(self._read(wanted(), modality))
        with ThreadPoolExecutor(1) as writer:
            written: tuple[Unit, Future[Commit]] | None = None
            for number, parts in groupby(timed, key=lambda pair: pair[0].unit):
                rows, quarantined = encode_parts(
                    works.pop(number), parts, self.encoders[modality], self.config
                )
                if written is not None:
                    yield written[0], written[1].result()
                written = units[number], writer.submit(self._commit, units[number], rows, quarantined)
            if written is not None:
                yield written[0], written[1].result()
        if modality == "audio" and timed.passed > _JUDGED_S and timed.waited > _WAITING_SHARE * timed.passed:
            self.tasks = min(max(1, 2 * self.tasks), self.config.embed.decoders)

    def _read(self, works: Iterator[Work], modality: Modality) -> Iterator[tuple[Work, Part]]:
        reader = self._reader(modality)
        if modality == "audio" and self.tasks:
            return read_elsewhere(works, reader, self.tasks)
        return read_ahead(works, reader)

    def _reader(self, modality: Modality) -> Reader:
        return Reader(modality=modality, rate_hz=self.encoders[modality].rate_hz, config=self.config)

    def _works(self, number: int, unit: Unit) -> list[Work]:
        sources = dict(unit.keys)
        settings = self.config.segment
        words = unit.modality == "text" or settings.audio == "turns" or bool(settings.roles)
        items = self.store.stored_documents(self.snapshot, {unit.bucket}, set(sources), words)
        return [Work(unit=number, item=item, key=sources[item.document.doc_id]) for item in items]

    def _commit(self, unit: Unit, rows: Sequence[FeatureRow], quarantined: Sequence[Quarantined]) -> Commit:
        return self.store.commit(
            unit.modality,
            unit.fingerprint,
            unit=unit.unit_id,
            bucket=unit.bucket,
            rows=rows,
            quarantined=quarantined,
            versions=_versions(),
            threads=self.config.embed.threads,
        )


def _place(unit: Unit) -> tuple[Modality, str, int, str]:
    return unit.modality, unit.fingerprint, unit.bucket, unit.unit_id


def load_fault(encoder: Encoder) -> str | None:
    """Return what keeps an encoder from loading its libraries and weights here: no document's fault."""
    try:
        encoder.encode([])
    except (ImportError, OSError, RuntimeError, ValueError) as error:  # libraries, files, memory, weights
        return (
            f"{encoder.modality} encoder {encoder.name} cannot load what it computes with on node "
            f"{platform.node()} ({type(error).__name__}: {error}); mend it and run again, "
            "`hilbert-ray doctor` there checks the libraries"
        )
    return None


class _Timed:
    """Passes items on and measures, in seconds, how long it had to wait for them of all that passed."""

    def __init__(self, items: Iterator[tuple[Work, Part]]) -> None:
        self._items = items
        self._began = time.monotonic()
        self.waited = 0.0

    def __iter__(self) -> Iterator[tuple[Work, Part]]:
        while True:
            asked = time.monotonic()
            item = next(self._items, None)
            self.waited += time.monotonic() - asked
            if item is None:
                return
            yield item

    @property
    def passed(self) -> Seconds:
        """Time since the beginning."""
        return time.monotonic() - self._began


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

    Args:
        documents: the documents, with the versions that their files should have.
        keys: the source of each.
        modality: which side of them to embed.
        encoder: its encoder.
        config: settings of segmentation and of file versions.
    """
    works = [Work(unit=0, item=item, key=key) for item, key in zip(documents, keys, strict=True)]
    reader = Reader(modality=modality, rate_hz=encoder.rate_hz, config=config)
    return encode_parts(works, read_ahead(works, reader), encoder, config)


def encode_parts(
    works: Sequence[Work], parts: Iterator[tuple[Work, Part]], encoder: Encoder, config: Config
) -> tuple[list[FeatureRow], list[Quarantined]]:
    """Encode the parts of some documents; return the rows of those that went well, the others' reasons.

    Batches are a function of the documents and their order alone. What a failed document gave before it
    failed is discarded.
    """
    batch: list[tuple[Work, Segment]] = []
    size = 0.0
    for work, part in parts:
        if isinstance(part, Quarantined):
            work.failure = part
            continue
        if isinstance(part, Ended):
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
            row = or_reason(work.item, work.key, "check", partial(_row, work, encoder))
            if isinstance(row, Quarantined):
                work.failure = row
            else:
                rows.append(row)
    return rows, [work.failure for work in works if work.failure is not None]


def segments_of(
    work: Work, part: AudioSegment | Transcript, encoder: Encoder, config: Config
) -> Sequence[Segment]:
    """Return a part as segments: audio is one already, a transcript is cut here; none if that fails."""
    if isinstance(part, AudioSegment):
        return [part]
    cut = partial(segment.text_segments, work.item.document, part.text, encoder, config.segment)
    found = or_reason(work.item, work.key, "read", cut)
    if isinstance(found, Quarantined):
        work.failure = found
        return []
    return found


def _encode(batch: Sequence[tuple[Work, Segment]], encoder: Encoder) -> None:
    """Encode segments and hand each feature to its document; find out whose fault a failure is."""
    going = [(work, part) for work, part in batch if work.failure is None]
    if not going:
        return
    first = going[0][0]
    action = partial(_features, encoder, [part for _, part in going])
    features = or_reason(first.item, first.key, "encode", action)
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


def _row(work: Work, encoder: Encoder) -> FeatureRow:
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
    names = ("numpy", "onnxruntime", "soundfile", "soxr", "torch", "torchaudio", "transformers")
    here = {"hilbert-ray": __version__, "python": platform.python_version(), "machine": platform.machine()}
    return {**here, **{name: version_of(name) for name in names if find_spec(name)}}
