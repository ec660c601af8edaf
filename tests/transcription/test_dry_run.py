"""The dry run of transcribe: what it counts is what the run then does, and it writes nothing."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from hilbert_ray.config import Config
from hilbert_ray.document import Seconds
from hilbert_ray.store import Content, StoredDocument
from hilbert_ray.transcription import dry_run
from hilbert_ray.transcription.dry_run import _Probe
from hilbert_ray.transcription.publishing import WORK
from hilbert_ray.transcription.resolve import job_of
from hilbert_ray.units import Measurement, UnitsError, estimate_jobs, plan_capacity
from hilbert_ray.units import estimate as units_estimate
from tests import make
from tests.embedding.in_process import stored_of
from tests.transcription.stand_in import CONFIG, HashingRecognizer, spoken, transcribe


def measure(
    entries: Sequence[StoredDocument],
    content: Content,
    config: Config,
    probe_s: Seconds,
) -> Measurement:
    """Transcribe with the hashing recogniser, as a Ray task does."""
    assert content == "transcript"
    return _Probe(entries, HashingRecognizer(), config).run(probe_s)


def test_silence_counts_as_heard_and_transcripts_by_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "_BATCH_S", 5.0)
    rows = spoken(tmp_path, 3, 8.0, silent=[1])
    recognizer = HashingRecognizer()
    measured = _Probe(stored_of(make.manifest(tmp_path / "m.jsonl", rows)), recognizer, CONFIG).run(0.2)
    assert measured.reason is None
    assert measured.elapsed_s > 0.2
    windows = sum(recognizer.batches[1:])
    # A third of the documents is silent, and windows cover most of the others.
    assert 1.5 * windows < measured.seconds < 6.0 * windows
    assert 100 * windows < measured.size_bytes < 400 * windows


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_estimate_counts_what_the_run_does_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units_estimate, "PROBE_S", 0.5)
    rows = [*spoken(tmp_path, 5, 8.0), {"doc_id": "words", "text": "only words"}, {"doc_id": ""}]
    manifest, out = make.manifest(tmp_path / "m.jsonl", rows), tmp_path / "out"
    jobs = [("hashing", job_of(HashingRecognizer(), CONFIG))]
    found = estimate_jobs(manifest, f"{out}/{WORK}", CONFIG, jobs, measure)
    assert not out.exists()
    left = found.modalities["transcript"]
    assert (found.documents, len(found.faults)) == (6, 1)
    assert (left.planned, left.already_stored, left.absent) == (5, 0, 1)
    assert left.seconds == pytest.approx(40.0)
    assert left.rate is not None
    assert left.time_s == pytest.approx(40.0 / (left.workers * left.rate.speed))
    assert "transcript hashing: 5 to transcribe (0.01 h," in found.text()
    assert "1 with text or without audio" in found.text()
    capacity = plan_capacity(found, 100.0, price=2.0)
    assert capacity.worker_hours == pytest.approx(100 / left.rate.speed)
    assert capacity.price == pytest.approx(2 * capacity.worker_hours)

    assert transcribe(manifest, str(out)).transcribed == left.planned
    again = estimate_jobs(manifest, f"{out}/{WORK}", CONFIG, jobs, measure)
    assert (again.modalities["transcript"].planned, again.modalities["transcript"].already_stored) == (0, 5)
    with pytest.raises(
        UnitsError, match=r"cannot plan capacity for hashing: .* an --out that does not exist"
    ):
        plan_capacity(again, 100.0)
