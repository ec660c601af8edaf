"""`transcribe`: recordings without text to transcripts, and a manifest that names them.

The documents are done in units by recogniser actors (`worker.TranscribeUnits`), whose state is an ordinary
store below OUT (`units.run_units`); transcripts and manifest are published once all units are committed.
"""

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

from hilbert_ray.asr import Recognizer, Window
from hilbert_ray.config import Config
from hilbert_ray.document import InvalidRow, Seconds, reason_lines
from hilbert_ray.storage import absolute
from hilbert_ray.store import Quarantined, Store
from hilbert_ray.transcription.publishing import MANIFEST, WORK, publish, require_place
from hilbert_ray.transcription.recognition import described
from hilbert_ray.transcription.resolve import chosen_recognizer, job_of, resolve_recognizer
from hilbert_ray.transcription.worker import TranscribeUnits
from hilbert_ray.units import UnitWorker, check_quarantined, plan_all, run_units, take_snapshot


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscribeSummary:
    """What a run did: each manifest row is transcribed, had text, lacks audio, is quarantined or invalid.

    manifest: the one written. transcribed: documents that this run transcribed, `hours` of audio.
    already_transcribed: by earlier runs. silent: transcribed documents, of any run, in which no speech was
    found: they have no text in the manifest. with_text: documents that had text or have no audio.
    """

    manifest: str
    recognizer: str
    fingerprint: str
    documents: int
    transcribed: int
    hours: float
    already_transcribed: int
    silent: int
    with_text: int
    quarantined: tuple[Quarantined, ...]
    faults: tuple[InvalidRow, ...]
    seconds: Seconds

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    def text(self) -> str:
        """Return the summary as lines to read."""
        lines = [
            f"{self.documents} documents, {len(self.faults)} invalid manifest rows",
            f"{self.recognizer}: {self.transcribed} transcribed ({self.hours:.2f} h), "
            f"{self.already_transcribed} already transcribed, {self.with_text} with text already, "
            f"{len(self.quarantined)} quarantined",
        ]
        if self.silent:
            lines.append(f"no speech found: {self.silent} documents, which have no text in the new manifest")
        if self.quarantined:
            lines.append(f"quarantined: {len(self.quarantined)}; --json lists them all")
            lines += reason_lines(self.quarantined)
        if self.faults:
            lines.append(f"invalid rows, left out: {len(self.faults)}; --json lists them all")
            lines += reason_lines(self.faults, "row")
        return "\n".join([*lines, f"manifest: {self.manifest}"])


def transcribe(manifest: str, out: str, config: Config | None = None) -> TranscribeSummary:
    """Transcribe the documents of a manifest that have a recording and no text; write a manifest that has it.

    Rerun it after any failure: what is committed stays, and only the rest is transcribed.

    Args:
        manifest: path or URI of the manifest.
        out: folder or URI to write to; created if absent. `out/manifest.jsonl` has the valid rows of the
            manifest, with transcripts where there was no text, and is what `embed` takes.
        config: `asr` names the recogniser, `recognition` has its options, `embed` says how to run it,
            `segment.channels` which channels of a recording are heard.

    Raises:
        ConfigError: when the recogniser cannot be loaded as configured, or `out` would replace a manifest
            that `transcribe` did not write there.
        ManifestError: when the manifest cannot be read at all.
        StoreError: when the state of an earlier run cannot be read.
        UnitsError: when the manifest has no valid document, `out` cannot be written, or workers keep dying.
        TooManyQuarantinedError: when more documents are quarantined than `config.embed.max_quarantined`
            allows, by this run or an earlier one; nothing is published then.
    """
    require_place(out, manifest)
    config = resolve_recognizer(config or Config())
    return transcribe_with(chosen_recognizer(config), manifest, out, config, TranscribeUnits)


def transcribe_with(
    recognizer: Recognizer, manifest: str, out: str, config: Config, worker: type[UnitWorker[Window]]
) -> TranscribeSummary:
    """Transcribe as `transcribe` does, with a recogniser and the actors that make the same one.

    Raises:
        ManifestError, StoreError, UnitsError, TooManyQuarantinedError: as `transcribe`.
    """
    started = time.monotonic()
    job = job_of(recognizer, config)
    store = Store.create(f"{absolute(out)}/{WORK}", config.embed.buckets)
    snapshot = take_snapshot(manifest, store, config)
    store.add_encoder("transcript", job.fingerprint, described(recognizer))
    [plan] = plan_all(store, snapshot, [job], config)
    results = run_units(store, snapshot, [plan], config, worker)
    # The store and not the run: a job that is tried again has nothing left to do, and must fail again.
    quarantined = tuple(store.quarantined("transcript", job.fingerprint, snapshot))
    having = snapshot.num_documents - plan.absent
    check_quarantined("audio and no text", quarantined, having, config.embed.max_quarantined)
    transcribed, silent = publish(out, store, job.fingerprint, snapshot)
    now = sum(result.stored for result in results)
    return TranscribeSummary(
        manifest=f"{absolute(out)}/{MANIFEST}",
        recognizer=recognizer.name,
        fingerprint=recognizer.fingerprint,
        documents=snapshot.num_documents,
        transcribed=now,
        hours=sum(result.amount for result in results) / 3600,
        already_transcribed=transcribed - now,
        silent=silent,
        with_text=plan.absent,
        quarantined=quarantined,
        faults=snapshot.faults,
        seconds=time.monotonic() - started,
    )
