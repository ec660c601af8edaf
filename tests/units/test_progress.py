"""Progress of a run: what it logs, and when too many failures stop it."""

import logging
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import pytest

from hilbert_ray.embedding.worker import EmbedUnits
from hilbert_ray.store.features import Quarantined
from hilbert_ray.terminal import duration
from hilbert_ray.units.errors import TooManyQuarantinedError, UnitsError, check_quarantined
from hilbert_ray.units.plan import Unit
from hilbert_ray.units.progress import MIN_FAILURES, RunProgress
from hilbert_ray.units.worker import UnitResult

UNITS = [
    Unit(content="audio", fingerprint="f", bucket=0, unit_id=f"u{i}", keys=((f"d{i}", "s"),), seconds=72.0)
    for i in range(100)
]


def progress_of(units: Sequence[Unit], max_quarantined: float) -> RunProgress:
    return RunProgress(units, max_quarantined, EmbedUnits.title)


def failed(number: int) -> UnitResult:
    failure = Quarantined(doc_id=f"d{number}", source="s", stage="read", error="AudioError", message="silent")
    return UnitResult(content="audio", unit_id=f"u{number}", seconds=72.0, quarantined=(failure,))


@pytest.mark.parametrize(("allowed", "last"), [(0.0, MIN_FAILURES), (0.3, 31), (0.5, 51)])
def test_a_run_stops_at_the_first_failure_that_is_too_many(allowed: float, last: int) -> None:
    progress = progress_of(UNITS, allowed)
    for number in range(last - 1):
        progress.add(failed(number))
    with pytest.raises(
        TooManyQuarantinedError,
        match=rf"{last} of 100 planned documents failed, .*: {last} AudioError \(silent\)\. What is",
    ):
        progress.add(failed(last - 1))


def test_an_error_of_the_worker_itself_ends_the_run() -> None:
    progress = progress_of(UNITS, 1.0)
    with pytest.raises(UnitsError, match="the disk is full"):
        progress.add(UnitResult(content="audio", unit_id="u0", error="the disk is full"))
    assert progress.results == []


def test_the_last_line_of_the_log_says_how_much_was_embedded(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hilbert_ray.units"):
        progress = progress_of(UNITS[:2], 1.0)
        progress.add(UnitResult(content="audio", unit_id="u0", seconds=72.0, stored=1, amount=72.0))
        progress.add(failed(1))
    assert "embedding 2 recordings and transcripts (0.04 h of audio) in 2 units" in caplog.messages[0]
    assert re.search(
        r"2 of 2 documents, 0\.02 of 0\.04 h of audio, [\d.e+]+ times as fast as it plays",
        caplog.messages[-1],
    )
    assert caplog.messages[-1].endswith(", 1 quarantined")


def test_nothing_is_said_of_audio_where_there_is_none_and_of_its_rate_where_none_is_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = replace(UNITS[0], content="text", unit_id="t0")
    with caplog.at_level(logging.INFO, "hilbert_ray.units"):
        progress = progress_of([text], 1.0)
        progress.add(UnitResult(content="text", unit_id="t0", seconds=72.0, stored=1, amount=9.0))
        progress = progress_of(UNITS[:1], 1.0)
        progress.add(failed(0))
    assert caplog.messages[1] == "1 of 1 documents"
    assert caplog.messages[-1] == "1 of 1 documents, 0.00 of 0.02 h of audio, 1 quarantined"


def test_many_failures_of_one_reason_are_three_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    progress = progress_of(UNITS, 1.0)
    for number in range(9):
        progress.add(failed(number))
    other = Quarantined(doc_id="d9", source="s", stage="read", error="RateError", message="too slow")
    progress.add(UnitResult(content="audio", unit_id="u9", quarantined=(other,)))
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == [
        "quarantined d0 (AudioError): silent",
        "quarantined d1 (AudioError): silent",
        "quarantined d2 (AudioError): silent; others for this reason are counted in the summary",
        "quarantined d9 (RateError): too slow",
    ]


def test_the_time_left_is_counted_from_the_first_result_and_said_only_when_it_is_known() -> None:
    """Until then workers start and load encoders, which says nothing of the rest."""
    progress = progress_of(UNITS, 1.0)
    seconds = [unit.seconds for unit in UNITS]
    progress.add(UnitResult(content="audio", unit_id="u0", seconds=seconds[0], stored=1))
    assert progress._first is not None
    first = progress._first[0]
    assert progress._time_left(first + 1000) == ""
    for number in range(1, 21):
        progress.add(UnitResult(content="audio", unit_id=f"u{number}", seconds=seconds[number], stored=1))
    left = sum(seconds[21:]) / sum(seconds[1:21]) * 40
    assert progress._time_left(first + 40) == f", {duration(left)} left"


@pytest.mark.parametrize(
    ("failed_documents", "documents", "allowed", "is_refused"),
    [
        (0, 8, 0.0, False),
        (1, 8, 0.0, True),
        (1, 8, 0.05, False),
        (2, 8, 0.05, True),
        (1, 1, 0.05, True),
        (5, 100, 0.05, False),
        (6, 100, 0.05, True),
        (8, 8, 1.0, False),
    ],
)
def test_the_state_of_the_store_is_judged_also_with_few_documents(
    failed_documents: int, documents: int, allowed: float, is_refused: bool
) -> None:
    quarantined = [failed(number).quarantined[0] for number in range(failed_documents)]
    message = f"{failed_documents} of {documents} documents with audio are quarantined"
    outcome = pytest.raises(TooManyQuarantinedError, match=message) if is_refused else nullcontext()
    with outcome:
        check_quarantined("audio", quarantined, documents, allowed)
