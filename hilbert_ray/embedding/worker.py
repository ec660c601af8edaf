"""The encoder actor that Ray Data runs: reads documents ahead, encodes units, commits them.

While the encoder runs, the next documents are decoded and the last unit is written. What waits in memory is
bounded and does not grow with a document's length.
"""

import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from importlib.metadata import version as version_of
from importlib.util import find_spec
from itertools import groupby

import numpy as np

from hilbert_ray.cluster import given_device
from hilbert_ray.config import BUILTIN_ENCODERS, Config, Modality
from hilbert_ray.document import Seconds
from hilbert_ray.embedding.errors import EmbedError
from hilbert_ray.embedding.features import encode_parts
from hilbert_ray.embedding.plan import Unit
from hilbert_ray.embedding.reading import (
    DocumentProgress,
    DocumentReader,
    DocumentWithPart,
    read,
    read_ahead,
)
from hilbert_ray.embedding.remote_decoding import read_remotely
from hilbert_ray.encoders import Encoder, build_encoder
from hilbert_ray.errors import HilbertError
from hilbert_ray.storage import StorageError
from hilbert_ray.store import Commit, FeatureRow, Quarantined, Store
from hilbert_ray.version import __version__

MAX_DEATHS = 3
"""Workers that may die on a document, embedded alone, before it is quarantined as suspected: one may have
died by chance, of a lost node or because memory was short."""
_MAX_WAITING, _MIN_MEASURED_S = 0.2, 2.0
"""An actor that waits for its decoder for more than this fraction of its time, measured over at least this
many seconds, gets more decoding tasks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitResult:
    """What a worker reports of one unit.

    seconds: the unit's weight in the plan. stored: documents. amount: the seconds or tokens stored. flaws:
    (doc_id, kind, count) of what was repaired in transcripts. error: why the whole run must end: the store
    cannot be written, or the encoder is the wrong one or does not load.
    """

    modality: Modality
    unit_id: str
    seconds: Seconds = 0.0
    stored: int = 0
    amount: float = 0.0
    quarantined: tuple[Quarantined, ...] = ()
    flaws: tuple[tuple[str, str, int], ...] = ()
    error: str | None = None

    def to_json(self) -> str:
        """Return the result as a string, the form in which it passes through Ray Data."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "UnitResult":
        """Return the result that `to_json` wrote."""
        values = json.loads(text)
        quarantined = tuple(Quarantined(**fields) for fields in values["quarantined"])
        flaws = tuple((doc_id, kind, count) for doc_id, kind, count in values["flaws"])
        return cls(**{**values, "quarantined": quarantined, "flaws": flaws})


class EmbedUnits:
    """An encoder actor: loads its encoders once, then embeds unit after unit."""

    def __init__(
        self, store: Store, snapshot: int, config: Config, fingerprints: Mapping[Modality, str]
    ) -> None:
        import torch

        # Actors share a node: by default each would use all of its cores. Commits note the number, because
        # the order in which threads add float32 numbers is part of what features depend on.
        torch.set_num_threads(config.embed.threads)
        self.store = store
        self.snapshot = store.snapshot(snapshot)
        self.config = config
        self.fingerprints = fingerprints
        self.encoders: dict[Modality, Encoder] = {}
        self._missing_encoder: str | None = None
        try:
            self.encoders = {m: encoder_here(config, m) for m in fingerprints}
        except HilbertError as error:  # what this node lacks: an actor whose constructor raises is
            self._missing_encoder = f"on node {platform.node()}: {error}"  # restarted for ever
        self.flaws: dict[str, tuple[tuple[str, str, int], ...]] = {}
        """Flaws by unit, until the unit's result is reported."""
        self.decoding_tasks = 0
        """Ray tasks that decode ahead; none as long as this actor's own thread keeps up."""

    @cached_property
    def encoder_error(self) -> str | None:
        """What is wrong if the encoders are not those of the plan, or do not load.

        Checked when the first units come, so that a death while loading counts as an attempt at them, and
        attempts are bounded: an actor that dies in its constructor is restarted forever.
        """
        if self._missing_encoder is not None:
            return self._missing_encoder
        for modality, encoder in self.encoders.items():
            planned = self.fingerprints[modality]
            if encoder.fingerprint != planned:
                return (
                    f"{modality} encoder {encoder.name} has fingerprint {encoder.fingerprint} on node "
                    f"{platform.node()}, but the run was planned with {planned}; features of both must not "
                    "mix: install the same weights and versions on every node"
                )
            if (error := loading_error(encoder)) is not None:
                return error
        return None

    def __call__(self, batch: Mapping[str, np.ndarray]) -> Iterator[dict[str, list[str]]]:
        """Embed the units of a batch (column `unit`, JSON); yield their results (column `result`, JSON)."""
        units = [Unit.from_json(text) for text in batch["unit"]]
        try:
            if self.encoder_error is not None:
                raise EmbedError(self.encoder_error)
            for unit, commit in self.embed(units):
                # Little more than counts: features go straight to the store and never through Ray.
                result = UnitResult(
                    modality=unit.modality,
                    unit_id=unit.unit_id,
                    seconds=unit.seconds,
                    stored=len(commit.stored),
                    amount=commit.amount,
                    quarantined=commit.quarantined,
                    flaws=self.flaws.pop(unit.unit_id, ()),
                )
                yield {"result": [result.to_json()]}
        # Reported as a result: Ray would retry a task that raises, and log its traceback from every worker.
        except (EmbedError, StorageError) as error:
            failed = UnitResult(modality=units[0].modality, unit_id=units[0].unit_id, error=str(error))
            yield {"result": [failed.to_json()]}

    def embed(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Commit]]:
        """Embed and commit units, except those already committed; yield each with its commit."""
        pending: list[Unit] = []
        for unit in units:
            # A unit comes again when its worker died after the commit, or when another run was faster.
            commit = self.store.commits(unit.modality, unit.fingerprint).find(unit.bucket, unit.unit_id)
            if commit is not None:
                yield unit, commit
            elif unit.is_isolated:
                yield unit, self._embed_isolated(unit)
            else:
                pending.append(unit)
        # Both modalities may be in a call, since units of both are sorted by length together.
        for modality, same in groupby(pending, key=lambda unit: unit.modality):
            yield from self._embed_ahead(list(same), modality)

    def _embed_isolated(self, unit: Unit) -> Commit:
        """Embed a document that workers may have died on, with a note of the attempt and nothing else ahead.

        The note is written before the document is opened, so it is there even if this process dies.
        """
        if self.store.note_attempt(*_address(unit)) > MAX_DEATHS:
            commit = self._commit(unit, [], [_suspected(*unit.keys[0])])
        else:
            documents = self._documents(0, unit)
            parts = read(documents, self._reader(unit.modality))
            encoder = self.encoders[unit.modality]
            rows, quarantined = encode_parts(documents, parts, encoder, self.config)
            self.flaws[unit.unit_id] = _flaws(documents)
            commit = self._commit(unit, rows, quarantined)
        # After the commit: if this process dies in between, the commit is found and the notes only remain.
        self.store.clear_attempts(*_address(unit))
        return commit

    def _embed_ahead(self, units: Sequence[Unit], modality: Modality) -> Iterator[tuple[Unit, Commit]]:
        """Embed units in turn, while the documents of the next are read and the last unit is written."""
        # Filled by the thread that reads ahead, always before the first part of a unit arrives here.
        documents: dict[int, list[DocumentProgress]] = {}

        def documents_in_order() -> Iterator[DocumentProgress]:
            for number, unit in enumerate(units):
                documents[number] = self._documents(number, unit)
                yield from documents[number]

        parts = _WaitingTime(self._read(documents_in_order(), modality))
        with ThreadPoolExecutor(1) as writer:
            writing: tuple[Unit, Future[Commit]] | None = None
            # Every document has at least one part, its end or its failure, so no unit is skipped.
            for number, unit_parts in groupby(parts, key=lambda pair: pair[0].unit):
                encoder = self.encoders[modality]
                read_now = documents.pop(number)
                rows, quarantined = encode_parts(read_now, unit_parts, encoder, self.config)
                self.flaws[units[number].unit_id] = _flaws(read_now)
                # One unit is written at a time, so at most two units of features are in memory.
                if writing is not None:
                    yield writing[0], writing[1].result()
                writing = units[number], writer.submit(self._commit, units[number], rows, quarantined)
            if writing is not None:
                yield writing[0], writing[1].result()
        if modality == "audio":
            self._adjust_decoding(parts)

    def _adjust_decoding(self, parts: "_WaitingTime") -> None:
        """Double the decoding tasks if reading kept the encoder waiting; they never become fewer.

        Decoding here costs nothing but a thread, so tasks on other CPUs are only started when it is too slow.
        """
        if parts.elapsed > _MIN_MEASURED_S and parts.waited > _MAX_WAITING * parts.elapsed:
            self.decoding_tasks = min(max(1, 2 * self.decoding_tasks), self.config.embed.decoders)

    def _read(self, documents: Iterator[DocumentProgress], modality: Modality) -> Iterator[DocumentWithPart]:
        reader = self._reader(modality)
        if modality == "audio" and self.decoding_tasks:
            return read_remotely(documents, reader, self.decoding_tasks)
        return read_ahead(documents, reader)

    def _reader(self, modality: Modality) -> DocumentReader:
        return DocumentReader(modality=modality, rate_hz=self.encoders[modality].rate_hz, config=self.config)

    def _documents(self, number: int, unit: Unit) -> list[DocumentProgress]:
        """Return the documents of a unit, `number` being its index among those that are read together."""
        sources = dict(unit.keys)
        # Transcripts are most of a snapshot's bytes, and cutting windows of audio needs none.
        settings = self.config.segment
        with_text = unit.modality == "text" or settings.audio == "turns" or bool(settings.roles)
        entries = self.snapshot.documents({unit.bucket}, set(sources), with_text)
        return [
            DocumentProgress(unit=number, entry=entry, source=sources[entry.document.doc_id])
            for entry in entries
        ]

    def _commit(self, unit: Unit, rows: Sequence[FeatureRow], quarantined: Sequence[Quarantined]) -> Commit:
        # A commit is only ever created, never replaced: if another worker was faster with this unit, its
        # commit is returned and counts, and what was written here is discarded.
        return self.store.commit(
            unit.modality,
            unit.fingerprint,
            unit=unit.unit_id,
            bucket=unit.bucket,
            rows=rows,
            quarantined=quarantined,
            versions=_library_versions(),
            threads=self.config.embed.threads,
        )


def _flaws(documents: Sequence[DocumentProgress]) -> tuple[tuple[str, str, int], ...]:
    """Return (doc_id, kind, count) of the flaws in documents that did not fail."""
    return tuple(
        (one.entry.document.doc_id, flaw.kind, flaw.count)
        for one in documents
        if one.failure is None
        for flaw in one.flaws
    )


def _address(unit: Unit) -> tuple[Modality, str, int, str]:
    """Return what names a unit's commit and attempts in the store."""
    return unit.modality, unit.fingerprint, unit.bucket, unit.unit_id


def loading_error(encoder: Encoder) -> str | None:
    """Return what keeps an encoder from loading its libraries and weights here, None if nothing does.

    No document is to blame for it, so it ends the run instead of quarantining all of them.
    """
    try:
        # No segments: this loads what is loaded lazily, and nothing a document holds can be the cause.
        encoder.encode([])
    except (ImportError, OSError, RuntimeError, ValueError, MemoryError) as error:  # also files, weights
        return (
            f"{encoder.modality} encoder {encoder.name} cannot load its libraries or weights on node "
            f"{platform.node()} ({type(error).__name__}: {error}); fix the cause and rerun to resume, "
            "`hilbert-ray doctor` on that node checks the libraries"
        )
    return None


class _WaitingTime:
    """Passes parts on; `waited` is how many of the seconds that `elapsed` were spent waiting for them."""

    def __init__(self, parts: Iterator[DocumentWithPart]) -> None:
        self._parts = parts
        self._started = time.monotonic()
        self.waited: Seconds = 0.0

    def __iter__(self) -> Iterator[DocumentWithPart]:
        while True:
            requested = time.monotonic()
            part = next(self._parts, None)
            self.waited += time.monotonic() - requested
            if part is None:
                return
            yield part

    @property
    def elapsed(self) -> Seconds:
        """Time since the beginning."""
        return time.monotonic() - self._started


def configured_encoder(config: Config, modality: Modality, device: str = "cpu") -> Encoder:
    """Return the encoder that the settings name for a modality, to compute on a device."""
    choice = config.encoder(modality)
    return build_encoder(choice.spec, modality, choice.options, config.segment, device)


def encoder_here(config: Config, modality: Modality) -> Encoder:
    """Return the encoder that the settings name, to compute on the device that Ray gave this process.

    Raises:
        ClusterError: when Ray gave a GPU that torch does not find.
    """
    # Built-in encoders compute on the CPU, also on a node whose torch is made for nothing else.
    is_builtin = config.encoder(modality).spec in BUILTIN_ENCODERS.values()
    return configured_encoder(config, modality, "cpu" if is_builtin else given_device())


def _suspected(doc_id: str, source: str) -> Quarantined:
    return Quarantined(
        doc_id=doc_id,
        source=source,
        stage="worker",
        error="suspected",
        message=(
            f"{MAX_DEATHS} workers died while they embedded document {doc_id!r} alone; look for the cause in "
            "the workers' logs (often memory ran out or a decoder crashed), then rerun with "
            "--embed.retry-quarantined"
        ),
    )


@cache
def _library_versions() -> dict[str, str]:
    """Return the versions of everything that features may depend on; commits keep them."""
    # By metadata: importing all of them would take seconds and memory that a worker may not need.
    names = ("numpy", "onnxruntime", "soundfile", "soxr", "torch", "torchaudio", "transformers")
    here = {"hilbert-ray": __version__, "python": platform.python_version(), "machine": platform.machine()}
    return {**here, **{name: version_of(name) for name in names if find_spec(name)}}
