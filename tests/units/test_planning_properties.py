"""Arithmetic of plans: units, pools, capacities and prices, and what covers a document, for any numbers."""

import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.config import Config, EmbedConfig
from hilbert_ray.document.records import Document, Utterance
from hilbert_ray.embedding.features import TruncatedError, _check_seconds
from hilbert_ray.terminal import duration
from hilbert_ray.units.capacity import plan_capacity
from hilbert_ray.units.estimate import Estimate, JobEstimate, Rate
from hilbert_ray.units.plan import Unit, _group, _text_seconds, single_document_units, unit_id
from hilbert_ray.units.resources import plan_pool

seconds, prices = st.floats(1.0, 1e6), st.floats(0, 100)


def measured(length: float, workers: int, gpus: float, speed: float) -> JobEstimate:
    return JobEstimate(
        encoder="e", planned=1, already_stored=0, quarantined=0, absent=0, units=1, seconds=length,
        workers=workers, gpus_per_worker=gpus, rate=Rate(workers=workers, speed=speed, bytes_per_s=10.0),
        size_bytes=10 * length, time_s=length / (workers * speed),
    )  # fmt: skip


modalities = st.builds(
    measured, seconds, st.integers(1, 64), st.sampled_from([0.0, 0.25, 1.0]), st.floats(0.1, 1e4)
)


def estimate_of(audio: JobEstimate, text: JobEstimate) -> Estimate:
    return Estimate(documents=1, faults=(), modalities={"audio": audio, "text": text})


@settings(max_examples=40, deadline=None)
@given(modalities, modalities, st.floats(0.1, 1e6), prices, prices)
def test_work_is_length_by_speed_and_prices_follow_from_it(
    audio: JobEstimate, text: JobEstimate, hours: float, price: float, storage_price: float
) -> None:
    capacity = plan_capacity(estimate_of(audio, text), hours, price, storage_price)
    assert audio.rate is not None
    assert text.rate is not None
    text_hours = hours * text.seconds / audio.seconds
    by_modality = [hours / audio.rate.speed, text_hours / text.rate.speed]
    assert capacity.worker_hours == pytest.approx(sum(by_modality))
    gpus = [audio.gpus_per_worker, text.gpus_per_worker]
    assert capacity.gpu_hours == pytest.approx(float(np.dot(gpus, by_modality)))
    assert capacity.price == pytest.approx(price * sum(by_modality))
    assert capacity.size_bytes == pytest.approx(10 * 3600 * (hours + text_hours))
    assert capacity.storage_price == pytest.approx(storage_price * 10 * 3600 * (hours + text_hours) / 1e9)
    for workers, time_s in capacity.times.items():
        assert workers * time_s == pytest.approx(3600 * sum(by_modality))


@settings(max_examples=30, deadline=None)
@given(modalities, modalities, st.floats(0.1, 1e4), st.floats(0.1, 100), prices)
def test_capacity_grows_in_proportion_to_the_hours(
    audio: JobEstimate, text: JobEstimate, hours: float, factor: float, price: float
) -> None:
    one, many = (plan_capacity(estimate_of(audio, text), h, price, 0.1) for h in (hours, factor * hours))
    for name in ("worker_hours", "gpu_hours", "price", "size_bytes", "storage_price"):
        assert getattr(many, name) == pytest.approx(factor * getattr(one, name))
    np.testing.assert_allclose(list(many.times.values()), factor * np.array(list(one.times.values())))


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1e7))
def test_a_duration_shows_its_seconds_within_the_rounding_of_its_unit(length: float) -> None:
    match = re.fullmatch(r"([\d.]+) (s|min|h)", duration(length))
    assert match
    unit, error = {"s": (1, 0.5), "min": (60, 30), "h": (3600, 180)}[match[2]]
    assert float(match[1]) * unit == pytest.approx(length, abs=error + 1e-6)


def keyed(weights: list[float]) -> list[tuple[tuple[str, str], float]]:
    return [((f"d{i:02d}", "s"), weight) for i, weight in enumerate(weights)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 100).map(float), min_size=1, max_size=30), st.integers(1, 60).map(float))
def test_a_unit_ends_only_where_its_next_document_does_not_fit(weights: list[float], unit_s: float) -> None:
    units = list(_group(keyed(weights), unit_s))
    weight_of = dict(keyed(weights))
    for (_, total), (next_keys, _) in pairwise(units):
        assert total + weight_of[next_keys[0]] > unit_s
    assert sum(total for _, total in units) == pytest.approx(sum(weights))


@settings(max_examples=12, deadline=None)
@given(st.lists(st.text(max_size=4), min_size=1, max_size=8, unique=True), st.floats(0, 1e5), st.randoms())
def test_documents_of_a_unit_alone_share_its_seconds_and_have_ids_of_their_own(
    ids: list[str],
    length: float,
    shuffler: Any,  # noqa: ANN401 - a generator of Hypothesis
) -> None:
    keys = [(doc_id, "s") for doc_id in ids]
    unit = Unit(
        content="audio", fingerprint="f", bucket=1, unit_id=unit_id("f", keys), keys=tuple(keys),
        seconds=length, earlier=("u",),
    )  # fmt: skip
    assert Unit.from_json(unit.to_json()) == unit
    singles = single_document_units(unit)
    assert sum(single.seconds for single in singles) == pytest.approx(length)
    assert [single.keys for single in singles] == [(key,) for key in keys]
    assert len({unit.unit_id, *(single.unit_id for single in singles)}) == len(ids) + 1
    shuffler.shuffle(keys)
    assert unit_id("f", keys) == unit.unit_id


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=6))
def test_a_transcript_weighs_a_second_for_fifteen_characters(turns: list[str]) -> None:
    expected = sum(map(len, turns)) / 15
    inline = Document(doc_id="d", text=tuple(Utterance(text=turn) for turn in turns))
    assert _text_seconds(inline) == pytest.approx(expected)
    assert _text_seconds(Document(doc_id="d", text="".join(turns))) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(-20, 20), st.sampled_from([8000, 16000])
)
def test_segments_may_miss_a_sample_for_each_border_and_no_more(
    lengths: list[int], missing: int, rate_hz: int
) -> None:
    """Segments that join, against a document of `missing` more samples."""
    borders = np.concatenate([[0], np.cumsum(lengths)]) / rate_hz
    spans = list(zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True))
    expected = (sum(lengths) + missing) / rate_hz
    if abs(missing) <= len(lengths):
        assert _check_seconds("d", [spans], expected, rate_hz) == pytest.approx(sum(lengths) / rate_hz)
    elif abs(missing) > 1 + len(lengths):
        with pytest.raises(TruncatedError, match="seconds of audio; nothing may be cut off"):
            _check_seconds("d", [spans], expected, rate_hz)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(0, 100), st.integers(1, 500))
def test_encoders_on_cpus_leave_half_of_them_free(cpus: int, workers: int, units: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "cluster_resources", lambda: {"CPU": float(cpus)})
        count, resources = plan_pool(Config(embed=EmbedConfig(workers=workers, gpu="no")), units)
    assert 1 <= count <= units
    assert count == min(workers or max(1, cpus // 2), units)
    # Shares of a CPU are rounded to hundredths.
    assert count * resources["num_cpus"] <= max(cpus / 2, 0.5) + 0.005 * count + 1e-9
    assert resources["num_cpus"] == pytest.approx(min(1.0, cpus / (2 * count)), abs=0.005 + 1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 64), st.sampled_from([0.1, 0.25, 0.5, 1.0]), st.integers(1, 500))
def test_as_many_encoders_as_gpus_hold_are_planned(gpus: int, share: float, units: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": float(gpus)})
        config = Config(embed=EmbedConfig(gpu="yes", gpus_per_worker=share))
        count, resources = plan_pool(config, units)
    assert resources == {"num_gpus": share}
    assert count == min(round(gpus / share), units)
