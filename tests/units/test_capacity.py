"""The capacity table: numbers worked out by hand from measured rates, and what no table can be made of."""

from dataclasses import replace
from typing import Any

import pytest

from hilbert_ray.units.capacity import plan_capacity
from hilbert_ray.units.errors import UnitsError
from hilbert_ray.units.estimate import Estimate, JobEstimate, Rate

SPEED, BYTES_PER_S = 100.0, 50.0


def left(seconds: float, **changes: Any) -> JobEstimate:  # noqa: ANN401 - any field
    """Return what two workers of half a GPU measured, each at 100 times real time, 50 bytes a second."""
    measured = JobEstimate(
        encoder="e", planned=1, already_stored=0, quarantined=0, absent=0, units=1, seconds=seconds,
        workers=2, gpus_per_worker=0.5, rate=Rate(workers=2, speed=SPEED, bytes_per_s=BYTES_PER_S),
        size_bytes=seconds * BYTES_PER_S, time_s=seconds / (2 * SPEED),
    )  # fmt: skip
    return replace(measured, **changes)


def estimate_of(**modalities: JobEstimate) -> Estimate:
    return Estimate(documents=1, faults=(), modalities=modalities)  # type: ignore[arg-type]


def test_a_thousand_hours_at_a_hundred_times_real_time_take_ten_worker_hours() -> None:
    capacity = plan_capacity(estimate_of(audio=left(7200.0)), 1000.0, price=3.0, storage_price=0.5)
    assert capacity.worker_hours == pytest.approx(10.0)
    assert capacity.gpu_hours == pytest.approx(5.0)
    assert capacity.price == pytest.approx(30.0)
    assert capacity.size_bytes == pytest.approx(1000 * 3600 * 50.0)  # 0.18 GB
    assert capacity.storage_price == pytest.approx(0.09)
    assert capacity.times[1] == pytest.approx(36000.0)
    assert capacity.times[8] == pytest.approx(4500.0)
    assert capacity.text().splitlines() == [
        "1000 h of recordings like these, without start-up, on workers like those measured:",
        "  10.0 worker-hours, 5.0 GPU-hours: 30.00",
        "  0.2 GB: 0.09 a month",
        "  workers        time",
        "        1      10.0 h",
        "        2       5.0 h",
        "        4       2.5 h",
        "        8      75 min",
        "       16      38 min",
        "       32      19 min",
        "       64       9 min",
    ]


def test_text_counts_by_its_share_of_the_hours_of_audio() -> None:
    """Half of the recordings have transcripts, ten times as quick to embed, on CPUs."""
    text = left(1800.0, workers=3, gpus_per_worker=0.0, time_s=1800.0 / (3 * 10 * SPEED), size_bytes=900.0)
    capacity = plan_capacity(estimate_of(audio=left(3600.0), text=text), 100.0, price=2.0)
    assert capacity.worker_hours == pytest.approx(1.0 + 0.05)
    assert capacity.gpu_hours == pytest.approx(0.5)
    assert capacity.price == pytest.approx(2.1)
    assert capacity.size_bytes == pytest.approx(100 * (3600 * 50.0 + 900.0))
    assert capacity.times[3] == pytest.approx(1.05 * 3600 / 3)


def test_a_modality_that_the_manifest_lacks_takes_nothing() -> None:
    none = left(0.0, planned=0, rate=None, time_s=None, size_bytes=None, workers=0)
    assert plan_capacity(estimate_of(audio=none, text=left(3600.0)), 50.0).worker_hours == pytest.approx(0.5)
    with pytest.raises(UnitsError, match="the manifest has nothing to embed"):
        plan_capacity(estimate_of(audio=none), 1.0)


@pytest.mark.parametrize(
    "one",
    [
        left(3600.0, already_stored=4),
        left(0.0, planned=0, already_stored=4, rate=None, time_s=None, size_bytes=None),
        left(3600.0, time_s=None, size_bytes=None),
    ],
)
def test_what_was_not_measured_or_not_whole_gives_no_table(one: JobEstimate) -> None:
    with pytest.raises(UnitsError, match=r"cannot plan capacity for e: .*--store that does not exist yet"):
        plan_capacity(estimate_of(audio=left(3600.0), text=one), 1.0)
