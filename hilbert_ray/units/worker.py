"""The actor that Ray Data runs: reads documents ahead, does units of them, commits them.

While the model runs, the next documents are decoded and the last unit is written. What waits in memory is
bounded and does not grow with a document's length. What the work is, a subclass says.
"""

import json
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version as version_of
from importlib.util import find_spec
from itertools import groupby
from typing import ClassVar, Generic

import numpy as np

from hilbert_ray.config import Config
from hilbert_ray.document import Seconds
from hilbert_ray.errors import HilbertError
from hilbert_ray.storage import StorageError
from hilbert_ray.store import Commit, Content, ContentRow, Quarantined, Store
from hilbert_ray.units.errors import UnitsError
from hilbert_ray.units.plan import Unit
from hilbert_ray.units.reading import (
    DocumentProgress,
    DocumentReader,
    DocumentWithPart,
    P,
    read,
    read_ahead,
)
from hilbert_ray.units.remote_decoding import read_remotely
from hilbert_ray.version import __version__

MAX_DEATHS = 3
"""Workers that may die on a document, alone with it, before it is quarantined as suspected: one may have died
by chance, of a lost node or because memory was short."""
_MAX_WAITING, _MIN_MEASURED_S = 0.2, 2.0
"""An actor that waits for its decoder for more than this fraction of its time, measured over at least this
many seconds, gets more decoding tasks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitResult:
    """What a worker reports of one unit.

    seconds: the unit's weight in the plan. stored: documents. amount: the seconds or tokens stored. flaws:
    (doc_id, kind, count) of what was repaired in transcripts. error: why the whole run must end: the store
    cannot be written, or the model is the wrong one or does not load.
    """

    content: Content
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


class UnitWorker(ABC, Generic[P]):
    """An actor that loads its models once, then does unit after unit.

    `title` (with the number of documents) and `done` name the work in messages; `libraries` are those that
    results may depend on, whose versions commits keep.
    """

    title: ClassVar[str]
    done: ClassVar[str]
    libraries: ClassVar[Sequence[str]]

    def __init__(
        self, store: Store, snapshot: int, config: Config, fingerprints: Mapping[Content, str]
    ) -> None:
        import torch

        # Actors share a node: by default each would use all of its cores. Commits note the number, because
        # the order in which threads add float32 numbers is part of what results depend on.
        torch.set_num_threads(config.embed.threads)
        self.store = store
        self.snapshot = store.snapshot(snapshot)
        self.config = config
        self.fingerprints = fingerprints
        self._missing_model: str | None = None
        try:
            self.build()
        except HilbertError as error:  # what this node lacks: an actor whose constructor raises is
            self._missing_model = f"on node {platform.node()}: {error}"  # restarted for ever
        self.flaws: dict[str, tuple[tuple[str, str, int], ...]] = {}
        """Flaws by unit, until the unit's result is reported."""
        self.decoding_tasks = 0
        """Ray tasks that decode ahead; none as long as this actor's own thread keeps up."""

    @abstractmethod
    def build(self) -> None:
        """Make the models of `fingerprints`, on the device that Ray gave, without loading their weights.

        Raises:
            HilbertError: when this node lacks something for it.
        """

    @abstractmethod
    def find_fault(self) -> str | None:
        """Load the models; return what is wrong if they are not those of the plan, or do not load."""

    @abstractmethod
    def reader(self, content: Content) -> DocumentReader[P]:
        """Return what reads the documents of a unit for the model."""

    @abstractmethod
    def rows(
        self, content: Content, documents: Sequence[DocumentProgress], parts: Iterator[DocumentWithPart[P]]
    ) -> tuple[Sequence[ContentRow], Sequence[Quarantined]]:
        """Return the rows of a unit's documents, and the reasons of those that failed.

        Rows must be a function of the documents alone, the same bits in every run.

        Args:
            content: what to make.
            documents: all of the unit.
            parts: their parts in order, to be drawn as far as memory allows.
        """

    @cached_property
    def fault(self) -> str | None:
        """What is wrong with the models; None if nothing is.

        Looked for when the first units come, so that a death while loading counts as an attempt at them, and
        attempts are bounded: an actor that dies in its constructor is restarted forever.
        """
        return self._missing_model or self.find_fault()

    def __call__(self, batch: Mapping[str, np.ndarray]) -> Iterator[dict[str, list[str]]]:
        """Do the units of a batch (column `unit`, JSON); yield their results (column `result`, JSON)."""
        units = [Unit.from_json(text) for text in batch["unit"]]
        try:
            if self.fault is not None:
                raise UnitsError(self.fault)
            for unit, commit in self.run(units):
                # Little more than counts: rows go straight to the store and never through Ray.
                result = UnitResult(
                    content=unit.content,
                    unit_id=unit.unit_id,
                    seconds=unit.seconds,
                    stored=len(commit.stored),
                    amount=commit.amount,
                    quarantined=commit.quarantined,
                    flaws=self.flaws.pop(unit.unit_id, ()),
                )
                yield {"result": [result.to_json()]}
        # Reported as a result: Ray would retry a task that raises, and log its traceback from every worker.
        except (UnitsError, StorageError) as error:
            failed = UnitResult(content=units[0].content, unit_id=units[0].unit_id, error=str(error))
            yield {"result": [failed.to_json()]}

    def run(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Commit]]:
        """Do and commit units, except those already committed; yield each with its commit."""
        pending: list[Unit] = []
        for unit in units:
            # A unit comes again when its worker died after the commit, or when another run was faster.
            commit = self.store.commits(unit.content, unit.fingerprint).find(unit.bucket, unit.unit_id)
            if commit is not None:
                yield unit, commit
            elif unit.is_isolated:
                yield unit, self._run_isolated(unit)
            else:
                pending.append(unit)
        # Several contents may be in a call, since units of all are sorted by length together.
        for content, same in groupby(pending, key=lambda unit: unit.content):
            yield from self._run_ahead(list(same), content)

    def _run_isolated(self, unit: Unit) -> Commit:
        """Do a document that workers may have died on, with a note of the attempt and nothing else ahead.

        The note is written before the document is opened, so it is there even if this process dies.
        """
        if self.store.note_attempt(*_address(unit)) > MAX_DEATHS:
            commit = self._commit(unit, [], [self._suspected(*unit.keys[0])])
        else:
            documents = self._documents(0, unit)
            parts = read(documents, self.reader(unit.content))
            rows, quarantined = self.rows(unit.content, documents, parts)
            self.flaws[unit.unit_id] = _flaws(documents)
            commit = self._commit(unit, rows, quarantined)
        # After the commit: if this process dies in between, the commit is found and the notes only remain.
        self.store.clear_attempts(*_address(unit))
        return commit

    def _run_ahead(self, units: Sequence[Unit], content: Content) -> Iterator[tuple[Unit, Commit]]:
        """Do units in turn, while the documents of the next are read and the last unit is written."""
        # Filled by the thread that reads ahead, always before the first part of a unit arrives here.
        documents: dict[int, list[DocumentProgress]] = {}

        def documents_in_order() -> Iterator[DocumentProgress]:
            for number, unit in enumerate(units):
                documents[number] = self._documents(number, unit)
                yield from documents[number]

        parts = _WaitingTime(self._read(documents_in_order(), content))
        with ThreadPoolExecutor(1) as writer:
            writing: tuple[Unit, Future[Commit]] | None = None
            # Every document has at least one part, its end or its failure, so no unit is skipped.
            for number, unit_parts in groupby(parts, key=lambda pair: pair[0].unit):
                read_now = documents.pop(number)
                rows, quarantined = self.rows(content, read_now, unit_parts)
                self.flaws[units[number].unit_id] = _flaws(read_now)
                # One unit is written at a time, so at most two units of rows are in memory.
                if writing is not None:
                    yield writing[0], writing[1].result()
                writing = units[number], writer.submit(self._commit, units[number], rows, quarantined)
            if writing is not None:
                yield writing[0], writing[1].result()
        if content != "text":
            self._adjust_decoding(parts)

    def _adjust_decoding(self, parts: "_WaitingTime[P]") -> None:
        """Double the decoding tasks if reading kept the model waiting; they never become fewer.

        Decoding here costs nothing but a thread, so tasks on other CPUs are only started when it is too slow.
        """
        if parts.elapsed > _MIN_MEASURED_S and parts.waited > _MAX_WAITING * parts.elapsed:
            self.decoding_tasks = min(max(1, 2 * self.decoding_tasks), self.config.embed.decoders)

    def _read(self, documents: Iterator[DocumentProgress], content: Content) -> Iterator[DocumentWithPart[P]]:
        reader = self.reader(content)
        if content != "text" and self.decoding_tasks:
            return read_remotely(documents, reader, self.decoding_tasks)
        return read_ahead(documents, reader)

    def _documents(self, number: int, unit: Unit) -> list[DocumentProgress]:
        """Return the documents of a unit, `number` being its index among those that are read together."""
        sources = dict(unit.keys)
        # Transcripts are most of a snapshot's bytes, and cutting windows of audio needs none.
        settings = self.config.segment
        with_text = unit.content == "text" or settings.audio == "turns" or bool(settings.roles)
        entries = self.snapshot.documents({unit.bucket}, set(sources), with_text)
        return [
            DocumentProgress(unit=number, entry=entry, source=sources[entry.document.doc_id])
            for entry in entries
        ]

    def _commit(self, unit: Unit, rows: Sequence[ContentRow], quarantined: Sequence[Quarantined]) -> Commit:
        # A commit is only ever created, never replaced: if another worker was faster with this unit, its
        # commit is returned and counts, and what was written here is discarded.
        return self.store.commit(
            unit.content,
            unit.fingerprint,
            unit=unit.unit_id,
            bucket=unit.bucket,
            rows=rows,
            quarantined=quarantined,
            versions=self._versions,
            threads=self.config.embed.threads,
        )

    def _suspected(self, doc_id: str, source: str) -> Quarantined:
        return Quarantined(
            doc_id=doc_id,
            source=source,
            stage="worker",
            error="suspected",
            message=(
                f"{MAX_DEATHS} workers died while they {self.done} document {doc_id!r} alone; look for the "
                "cause in the workers' logs (often memory ran out or a decoder crashed), then rerun with "
                "--embed.retry-quarantined"
            ),
        )

    @cached_property
    def _versions(self) -> dict[str, str]:
        """The versions of everything that results may depend on; commits keep them."""
        # By metadata: importing all of them would take seconds and memory that a worker may not need.
        here = {
            "hilbert-ray": __version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
        return {**here, **{name: version_of(name) for name in self.libraries if find_spec(name)}}


def model_error(name: str, load: Callable[[], object]) -> str | None:
    """Return what keeps a model from loading its libraries and weights here, None if nothing does.

    No document is to blame for it, so it ends the run instead of quarantining all of them.

    Args:
        name: what the model is and its name, for the message.
        load: runs the model on nothing, so that nothing a document holds can be the cause.
    """
    try:
        load()
    except (ImportError, OSError, RuntimeError, ValueError, MemoryError) as error:  # also files, weights
        return (
            f"{name} cannot load its libraries or weights on node {platform.node()} ({type(error).__name__}: "
            f"{error}); fix the cause and rerun to resume, `hilbert-ray doctor` on that node checks the "
            "libraries"
        )
    return None


def _flaws(documents: Sequence[DocumentProgress]) -> tuple[tuple[str, str, int], ...]:
    """Return (doc_id, kind, count) of the flaws in documents that did not fail."""
    return tuple(
        (one.entry.document.doc_id, flaw.kind, flaw.count)
        for one in documents
        if one.failure is None
        for flaw in one.flaws
    )


def _address(unit: Unit) -> tuple[Content, str, int, str]:
    """Return what names a unit's commit and attempts in the store."""
    return unit.content, unit.fingerprint, unit.bucket, unit.unit_id


class _WaitingTime(Generic[P]):
    """Passes parts on; `waited` is how many of the seconds that `elapsed` were spent waiting for them."""

    def __init__(self, parts: Iterator[DocumentWithPart[P]]) -> None:
        self._parts = parts
        self._started = time.monotonic()
        self.waited: Seconds = 0.0

    def __iter__(self) -> Iterator[DocumentWithPart[P]]:
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
