"""The encoder actor that Ray Data runs: reads documents ahead, encodes units, commits them.

While the encoder runs, the next documents are decoded and the last unit is written; what waits in memory is
bounded, so it does not grow with a document's length.
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

from hilbert_ray.config import Config, Modality
from hilbert_ray.document import Seconds
from hilbert_ray.embedding.features import encode_parts
from hilbert_ray.embedding.plan import Unit
from hilbert_ray.embedding.reading import DocumentPart, DocumentProgress, DocumentReader, read, read_ahead
from hilbert_ray.embedding.remote_decoding import read_remotely
from hilbert_ray.encoders import Encoder, build_encoder
from hilbert_ray.storage import StorageError
from hilbert_ray.store import Commit, FeatureRow, Quarantined, Store
from hilbert_ray.version import __version__

DEATHS = 3
"""Workers that a document may take with it, alone in progress, before it is quarantined as suspected."""
_WAITING_SHARE, _JUDGED_S = 0.2, 2.0
"""An actor that waits for more than this share of its time, over at least so long, lets others decode."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitResult:
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
    def from_json(cls, text: str) -> "UnitResult":
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
        self.encoders = {modality: configured_encoder(config, modality) for modality in fingerprints}
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
                raise StorageError(self.fault)
            for unit, commit in self.embed(units):
                result = UnitResult(
                    modality=unit.modality,
                    unit_id=unit.unit_id,
                    seconds=unit.seconds,
                    stored=len(commit.stored),
                    amount=commit.amount,
                    quarantined=commit.quarantined,
                )
                yield {"result": [result.to_json()]}
        except StorageError as error:
            failed = UnitResult(modality=units[0].modality, unit_id=units[0].unit_id, fault=str(error))
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
        works: dict[int, list[DocumentProgress]] = {}

        def wanted() -> Iterator[DocumentProgress]:
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

    def _read(
        self, works: Iterator[DocumentProgress], modality: Modality
    ) -> Iterator[tuple[DocumentProgress, DocumentPart]]:
        reader = self._reader(modality)
        if modality == "audio" and self.tasks:
            return read_remotely(works, reader, self.tasks)
        return read_ahead(works, reader)

    def _reader(self, modality: Modality) -> DocumentReader:
        return DocumentReader(modality=modality, rate_hz=self.encoders[modality].rate_hz, config=self.config)

    def _works(self, number: int, unit: Unit) -> list[DocumentProgress]:
        sources = dict(unit.keys)
        settings = self.config.segment
        words = unit.modality == "text" or settings.audio == "turns" or bool(settings.roles)
        items = self.store.stored_documents(self.snapshot, {unit.bucket}, set(sources), words)
        return [DocumentProgress(unit=number, item=item, key=sources[item.document.doc_id]) for item in items]

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

    def __init__(self, items: Iterator[tuple[DocumentProgress, DocumentPart]]) -> None:
        self._items = items
        self._began = time.monotonic()
        self.waited = 0.0

    def __iter__(self) -> Iterator[tuple[DocumentProgress, DocumentPart]]:
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


def configured_encoder(config: Config, modality: Modality) -> Encoder:
    """Load the encoder that the settings name for a modality."""
    if modality == "audio":
        return build_encoder(config.audio, modality, config.audio_encoder, config.segment)
    return build_encoder(config.text, modality, config.text_encoder, config.segment)


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
