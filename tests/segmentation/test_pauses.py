"""Cuts at pauses: as long as possible, in the middle of pauses, and all of each stretch."""

import itertools
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.config import ConfigError, SegmentConfig
from hilbert_ray.document.records import AudioSegment
from hilbert_ray.segmentation.audio import expected_seconds
from hilbert_ray.segmentation.pauses import cut_at_pauses, cut_frame
from tests.segmentation.cutting import (
    RECORDING,
    assert_true_to,
    cut,
    document,
    interview,
    places,
    spans,
    utterance,
)

PAUSE = SegmentConfig(audio="pause", max_s=10.0)


def assert_partition(samples: np.ndarray, segments: Sequence[AudioSegment], max_s: float) -> None:
    assert_true_to(samples, segments, 16000)
    pairs = spans(segments, 16000)
    assert [start for start, _ in pairs] == [0, *(end for _, end in pairs[:-1])]
    assert pairs[-1][1] == len(samples)
    assert max(end - start for start, end in pairs) <= max(1, round(max_s * 16000))


def plainly(speech: Sequence[float], limit: int) -> int:
    """Return where the rule of `cut_frame` cuts, frame by frame."""
    best = 0
    begin = None
    for frame, probability in enumerate([*speech, 1.0]):
        if probability < 0.5 and begin is None:
            begin = frame
        if probability >= 0.5 and begin is not None:
            at = min((begin + frame) // 2, limit)
            if frame - begin >= 6:
                if begin == 0 and frame >= limit:
                    return limit
                if begin > 0 and at - begin >= 3:
                    best = at
            begin = None
    if best:
        return best
    half = range((limit + 1) // 2, limit)
    return max(half, key=lambda frame: (-speech[frame], frame), default=limit)


@given(
    runs=st.lists(st.tuples(st.booleans(), st.integers(1, 25)), min_size=1, max_size=12),
    limit=st.integers(0, 60),
    seed=st.integers(0, 9),
)
@settings(deadline=None)
def test_the_cut_is_that_of_the_plain_definition(runs: list[tuple[bool, int]], limit: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(0, 5, n) / 10 + 0.5 * is_speech for is_speech, n in runs]
    speech = np.concatenate([*drawn, np.full(limit, 0.75)]).astype(np.float32)[: max(2 * limit, limit + 1)]
    cut_before = cut_frame(speech, limit)
    assert cut_before == plainly(speech.tolist(), limit)
    assert 0 <= cut_before <= limit
    assert cut_before or not limit


def frames(*runs: tuple[float, int]) -> np.ndarray:
    return np.repeat([value for value, _ in runs], [length for _, length in runs]).astype(np.float32)


@pytest.mark.parametrize(
    ("speech", "expected"),
    [
        pytest.param(frames((0.9, 20), (0.1, 10), (0.9, 40), (0.1, 20), (0.9, 110)), 80, id="last middle"),
        pytest.param(frames((0.9, 90), (0.1, 18), (0.9, 92)), 99, id="a pause that ends beyond the limit"),
        pytest.param(frames((0.9, 90), (0.1, 60), (0.9, 50)), 100, id="a pause whose middle lies beyond"),
        pytest.param(frames((0.9, 60), (0.1, 10), (0.9, 28), (0.1, 99)), 65, id="a pause begun too late"),
        pytest.param(frames((0.1, 40), (0.9, 20), (0.1, 10), (0.9, 130)), 65, id="leading silence"),
        pytest.param(frames((0.1, 99), (0.9, 101)), 98, id="silence up to just before the limit"),
        pytest.param(frames((0.1, 200)), 100, id="silence only"),
        pytest.param(frames((0.9, 70), (0.6, 1), (0.9, 9), (0.6, 1), (0.9, 119)), 80, id="no pause"),
        pytest.param(frames((0.9, 30), (0.6, 1), (0.9, 29), (0.7, 5), (0.9, 135)), 64, id="second half only"),
    ],
)
def test_cuts_of_a_hundred_frames(speech: np.ndarray, expected: int) -> None:
    assert cut_frame(speech, 100) == expected


@given(sizes=st.lists(st.integers(0, 60_000), max_size=10), max_s=st.sampled_from([0.7, 2.0, 5.0]))
@settings(max_examples=15, deadline=None)
def test_pauses_do_not_depend_on_the_blocks(sizes: list[int], max_s: float) -> None:
    samples = interview(1)[: 16000 * 12 + 77]
    config = SegmentConfig(audio="pause", max_s=max_s)
    segments = cut(samples, config, 16000, sizes=sizes)
    assert spans(segments, 16000) == spans(cut(samples, config, 16000), 16000)
    assert_partition(samples, segments, max_s)
    assert len(segments) >= 12 / max_s


SOUNDS = st.lists(
    st.tuples(st.sampled_from(["speech", "silence", "noise", "chord"]), st.integers(1, 60_000)),
    min_size=1,
    max_size=5,
)


def sound(kind: str, count: int) -> np.ndarray:
    time = np.arange(count) / 16000
    if kind == "speech":
        return interview(1)[100_000 : 100_000 + count]
    if kind == "noise":
        made = np.random.default_rng(count).normal(0, 0.1, count)
    else:
        hertz = np.array([[261.6], [329.6], [392.0]]) if kind == "chord" else np.zeros((1, 1))
        made = 0.1 * np.sin(2 * np.pi * hertz * time).sum(0)
    return made.astype(np.float32)


@given(
    sounds=SOUNDS,
    max_s=st.sampled_from([0.001, 0.02, 0.05, 0.3, 1.0, 4.0, 30.0]),
    times=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=4),
)
@settings(max_examples=30, deadline=None)
def test_pauses_cut_any_sound_into_all_of_it_or_of_the_selected_stretches(
    sounds: list[tuple[str, int]], max_s: float, times: list[tuple[float, float]]
) -> None:
    samples = np.concatenate([sound(kind, count) for kind, count in sounds])
    if max_s < 0.02:
        samples = samples[:3000]
    config = SegmentConfig(audio="pause", max_s=max_s)
    assert_partition(samples, cut(samples, config, 16000), max_s)
    assert expected_seconds(document(), config, len(samples) / 16000) == len(samples) / 16000
    if not times:
        return
    total = len(samples) / 16000
    of = document(*(utterance(min(a, b) * total, max(a, b) * total, "judge") for a, b in times))
    config = SegmentConfig(audio="pause", max_s=max_s, roles=("judge",))
    segments = cut(samples, config, 16000, of=of)
    assert_true_to(samples, segments, 16000)
    pairs = spans(segments, 16000)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(pairs))
    wanted = [(round(min(a, b) * total * 16000), round(max(a, b) * total * 16000)) for a, b in times]
    assert places(pairs) == places(wanted)
    assert max((end - start for start, end in pairs), default=0) <= max(1, round(max_s * 16000))
    seconds = expected_seconds(of, config, total)
    assert seconds * 16000 == pytest.approx(len(places(wanted)), abs=len(times))


@pytest.mark.parametrize("count", [1, 511, 512, 513])
def test_a_recording_of_about_one_frame_is_one_segment(count: int) -> None:
    [segment] = cut(interview(1)[:count], PAUSE, 16000)
    assert (segment.start, segment.end) == (0.0, count / 16000)
    assert cut(interview(1)[:0], PAUSE, 16000) == []


@pytest.mark.parametrize("kind", ["silence", "noise", "chord"])
def test_where_nobody_speaks_segments_are_as_long_as_they_may_be(kind: str) -> None:
    samples = sound(kind, 16000 * 20)
    lengths = [
        len(segment.samples) for segment in cut(samples, SegmentConfig(audio="pause", max_s=3.0), 16000)
    ]
    assert sum(lengths) == len(samples)
    assert all(3.0 - 0.032 <= length / 16000 <= 3.0 for length in lengths[:-1])


def test_pauses_of_a_stretch_lie_where_they_lie_in_the_whole_recording() -> None:
    """The detector hears what comes before the stretch too, so its cuts are the same to the sample."""
    whole = cut(interview(1), SegmentConfig(audio="pause", max_s=6.0), 16000)
    config = SegmentConfig(audio="pause", max_s=6.0, roles=("judge",))
    of = document(
        utterance(whole[2].start, 20.0, "judge"), utterance(20.0, whole[6].end, "judge"),
        utterance(50.0, 50.5, "judge"), utterance(55.0, 56.0, "witness"),
    )  # fmt: skip
    segments = cut(interview(1), config, 16000, of=of)
    assert spans(segments, 16000) == [*spans(whole[2:7], 16000), (800_000, 808_000)]


@pytest.mark.parametrize(("stretch", "expected"), [(30.0, 9.8), (10.4, 9.7)])
def test_a_pause_at_the_limit_is_heard_to_its_end_but_not_beyond_the_stretch(
    stretch: float, expected: float
) -> None:
    """Silence from 9.0 to 10.6 s has its middle at 9.8 s; as much of it as lies in the stretch, at 9.7 s."""
    spoken = interview(1)[16000 : 16000 * 31]
    samples = np.concatenate(
        [spoken[: 16000 * 9], np.zeros(16000 * 16 // 10, np.float32), spoken[16000 * 9 :]]
    )
    config = SegmentConfig(audio="pause", max_s=10.0, roles=("judge",))
    segments = cut(samples, config, 16000, of=document(utterance(0.0, stretch, "judge")))
    assert segments[0].end == pytest.approx(expected, abs=0.08)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_spoken_sentences_are_cut_in_the_middle_of_the_silence_between_them(tmp_path: Path) -> None:
    said = [
        "The garden was cold that morning, and nobody had slept.",
        "We talked about work for hours.",
        "Nobody could say what happened there.",
        "It was fine in the end, I suppose, although my sister never said so.",
        "Then the letter came.",
        "I read it twice and put it away.",
    ]  # fmt: skip
    parts: list[np.ndarray] = []
    gaps: list[tuple[int, int]] = []
    for number, sentence in enumerate(said * 2):
        path = tmp_path / "said.wav"
        subprocess.run(["espeak-ng", "-z", "-w", str(path), sentence], check=True)
        spoken, rate_hz = soundfile.read(path, dtype="float32")
        parts.append(soxr.resample(spoken, rate_hz, 16000).astype(np.float32))
        at = sum(map(len, parts))
        parts.append(np.zeros(4800 + 1600 * (number % 4), np.float32))
        gaps.append((at, at + len(parts[-1])))
    samples = np.concatenate(parts)
    segments = cut(samples, PAUSE, 16000)
    assert_partition(samples, segments, 10.0)
    assert len(segments) >= 3
    loudness = np.sqrt(np.mean(samples**2))
    for before, after in itertools.pairwise(segments):
        place = round(before.end * 16000)
        [(begin, end)] = [gap for gap in gaps if gap[0] < place < gap[1]]
        assert abs(place - (begin + end) / 2) < 0.1 * 16000
        around = samples[place - 1600 : place + 1600]
        assert np.sqrt(np.mean(around**2)) < 0.02 * loudness
        # As long as possible: the next silence would have been too far.
        following = next(gap for gap in gaps if gap[0] > place)
        assert following[1] / 16000 - before.start > 10.0
        assert after.start == before.end


def test_cuts_of_a_noisy_interview_lie_where_it_is_quiet() -> None:
    samples = interview(1)
    segments = cut(samples, PAUSE, 16000)
    assert_partition(samples, segments, 10.0)

    def loudness(start: int, end: int) -> float:
        return float(np.sqrt(np.mean(samples[start:end] ** 2)))

    everywhere = np.sort([loudness(at, at + 2048) for at in range(0, len(samples) - 2048, 512)])
    cuts = [round(segment.start * 16000) for segment in segments[1:]]
    assert len(cuts) == 6
    assert all(loudness(place - 1024, place + 1024) < everywhere[len(everywhere) // 4] for place in cuts)


def test_pause_needs_the_rate_of_its_detector_and_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"takes 8000 Hz; the pause detector takes 16000 Hz only"):
        cut(RECORDING, PAUSE, 8000)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'hilbert-ray\[pause\]'"):
        cut(RECORDING, PAUSE, 16000)


MEASURE = """
import re, sys
import numpy
from hilbert_ray.config import SegmentConfig
from hilbert_ray.document import Document
from hilbert_ray.segmentation import audio_segments
samples = numpy.load(sys.argv[1])
blocks = (samples for _ in range(int(sys.argv[2])))
cut = audio_segments(Document(doc_id="d"), blocks, 16000, SegmentConfig(audio="pause"))
count = sum(len(segment.samples) for segment in cut)
print(count, re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("minutes", [9, pytest.param(120, marks=pytest.mark.soak)])
def test_memory_of_cutting_at_pauses_does_not_grow_with_duration(minutes: int, tmp_path: Path) -> None:
    """From the fourth minute on all is held that ever is; five more would be 19 MB, 116 more 445 MB."""
    np.save(tmp_path / "samples.npy", interview(1))
    peaks = []
    for count in (4, minutes):
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "samples.npy"), str(count)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        seen, peak = map(int, result.stdout.split())
        assert seen == count * len(interview(1))
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 8 * 1024


def test_of_a_long_recording_only_the_latest_blocks_are_held() -> None:
    """`itertools.tee` once held 57 of them, half an hour of speech."""
    seen: list[weakref.ref[np.ndarray]] = []

    def blocks() -> Iterator[np.ndarray]:
        for _ in range(30):
            block = interview(1)[: 5 * 16000, None].copy()
            seen.append(weakref.ref(block))
            yield block
            del block

    held = [
        sum(block() is not None for block in seen)
        for _ in cut_at_pauses(blocks(), [[(0, sys.maxsize)]], 5 * 16000)
    ]
    assert len(seen) == 30
    assert max(held) <= 6
