"""Times of transcripts: cues and Whisper's segments to seconds and back, and which times are refused."""

import json
import math
from dataclasses import replace

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.document.records import Document, DocumentError, TimesError, Utterance, parse_text
from hilbert_ray.transcript.reading import load_text
from hilbert_ray.transcript.times import CLIPPED_S, OVERHANG_S, check_times, clip

HOUR_MS = 3_600_000
spans = st.lists(
    st.tuples(st.integers(0, 30 * HOUR_MS), st.integers(0, HOUR_MS)), min_size=1, max_size=6
)  # start and length, in milliseconds


def read(name: str, content: str) -> tuple[Utterance, ...]:
    uri = f"memory://transcripts/{name}"
    with fsspec.open(uri, "wt", encoding="utf-8") as file:
        file.write(content)
    text = load_text(Document(doc_id="d", text_file=uri)).text
    assert isinstance(text, tuple)
    return text


def cue_time(milliseconds: int, point: str, with_hours: bool = True) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:" * (with_hours or hours > 0) + f"{minutes:02d}:{seconds:02d}{point}{rest:03d}"


def expect_times(utterances: tuple[Utterance, ...], milliseconds: list[tuple[int, int]]) -> None:
    """Check times against starts and lengths as written; utterances come in the order of their starts."""
    milliseconds = sorted(milliseconds, key=lambda span: span[0])
    assert [u.start for u in utterances] == pytest.approx(
        [start / 1000 for start, _ in milliseconds], abs=1e-9
    )
    assert [u.end for u in utterances] == pytest.approx([(s + n) / 1000 for s, n in milliseconds], abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(spans, st.booleans())
def test_times_of_webvtt_are_read_to_the_millisecond_with_and_without_hours(
    cues: list[tuple[int, int]], with_hours: bool
) -> None:
    blocks = [
        f"{cue_time(s, '.', with_hours)} --> {cue_time(s + n, '.', with_hours)} align:start\nwords {i}"
        for i, (s, n) in enumerate(cues)
    ]
    found = read("times.vtt", "WEBVTT\n\nNOTE made up\n\n" + "\n\n".join(blocks) + "\n")
    expect_times(found, cues)
    by_start = sorted(range(len(cues)), key=lambda i: cues[i][0])
    assert [u.text for u in found] == [f"words {i}" for i in by_start]


@settings(max_examples=40, deadline=None)
@given(spans, st.sampled_from(["\n", "\r\n"]))
def test_times_of_subrip_are_read_to_the_millisecond_whatever_ends_a_line(
    cues: list[tuple[int, int]], newline: str
) -> None:
    blocks = [
        newline.join([f"{i + 1}", f"{cue_time(s, ',')} --> {cue_time(s + n, ',')}", f"words {i}"])
        for i, (s, n) in enumerate(cues)
    ]
    expect_times(read("times.srt", (2 * newline).join(blocks)), cues)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("00:00:00.000", 0.0),
        ("00:00:00.001", 0.001),
        ("00:59.999", 59.999),
        ("59:59.999", 3599.999),
        ("01:02:03.045", 3723.045),
        ("9:05:00,500", 32700.5),
        ("123:45:06.789", 445506.789),
    ],
)
def test_cue_times_in_seconds(written: str, seconds: float) -> None:
    [utterance] = read("one.vtt", f"WEBVTT\n\n{written} --> 200:00:00.000\nwords")
    assert (utterance.start, utterance.end) == pytest.approx((seconds, 720_000.0), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e3)), min_size=1, max_size=5))
def test_times_of_whisper_are_taken_as_they_are(segments: list[tuple[float, float]]) -> None:
    written = [
        {"id": i, "start": start, "end": start + length, "text": " words", "avg_logprob": -0.3}
        for i, (start, length) in enumerate(segments)
    ]
    found = read("whisper.json", json.dumps({"text": " words", "segments": written, "language": "en"}))
    segments.sort(key=lambda span: span[0])
    assert [u.start for u in found] == [start for start, _ in segments]
    assert [u.end for u in found] == pytest.approx([start + length for start, length in segments], rel=1e-15)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(allow_nan=True, allow_infinity=True) | st.integers(-3, 3) | st.booleans(),
    st.floats(allow_nan=True, allow_infinity=True) | st.integers(-3, 3) | st.booleans(),
)
def test_times_are_taken_if_and_only_if_they_are_finite_rising_numbers_from_zero(
    start: float, end: float
) -> None:
    is_valid = (
        not isinstance(start, bool)
        and not isinstance(end, bool)
        and math.isfinite(start)
        and math.isfinite(end)
        and start >= 0
        and end >= start
    )
    row = [{"text": "words", "start": start, "end": end}]
    if is_valid:
        assert parse_text("d", row) == (Utterance(text="words", start=start, end=end),)
    else:
        with pytest.raises(DocumentError, match="times are seconds"):
            parse_text("d", row)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 200)), min_size=1, max_size=6),
    st.integers(0, 400),
)
def test_an_end_past_the_recording_is_clipped_and_what_lies_outside_is_refused(
    spans: list[tuple[int, int]], duration: int
) -> None:
    """In quarters of a second, which floats hold exactly."""
    assert (OVERHANG_S, CLIPPED_S) == (0.5, 30.0)
    utterances = tuple(Utterance(text="a", start=s / 4, end=(s + n) / 4) for s, n in spans)
    document = Document(doc_id="d", audio="d.wav")
    late = [s + n > duration + 2 for s, n in spans]
    out = [i for i, (s, n) in enumerate(spans) if late[i] and (s >= duration or s + n > duration + 120)]
    if out:
        message = rf"utterance {out[0]} ends at {sum(spans[out[0]]) / 4:.2f} s"
        for check in check_times, clip:
            with pytest.raises(TimesError, match=message):
                check(document, utterances, duration / 4)
        return
    check_times(document, utterances, duration / 4)
    clipped, flaws = clip(document, utterances, duration / 4)
    assert [flaw.count for flaw in flaws] == [sum(late)] * any(late)
    for one, before, is_late in zip(clipped, utterances, late, strict=True):
        assert one == (replace(before, end=duration / 4) if is_late else before)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 4), st.integers(0, 4))
def test_a_transcript_has_times_for_all_utterances_or_for_none(timed: int, untimed: int) -> None:
    rows = [{"text": "a", "start": 0, "end": 1}] * timed + [{"text": "b"}] * untimed
    if timed and untimed:
        with pytest.raises(DocumentError, match=f"{timed} of {timed + untimed} utterances have times"):
            parse_text("d", rows)
    elif rows:
        assert len(parse_text("d", rows) or ()) == timed + untimed


def test_a_speaker_is_a_role_and_may_be_a_number() -> None:
    rows = [
        {"text": "a", "speaker": "A"},
        {"text": "b", "speaker": 0},
        {"text": "c", "role": 1, "speaker": "x"},
    ]
    assert [one.role for one in parse_text("d", rows) or () if isinstance(one, Utterance)] == ["A", "0", "1"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            {"start_time": 1.0, "end_time": 2.0},
            "has start_time, which is not read; write `start` in seconds",
        ),
        (
            {"start": 1, "end": 2, "speaker_id": 3},
            "0 has speaker_id, which is not read; write `role`",
        ),
    ],
)
def test_times_and_speakers_under_other_names_are_refused(extra: dict[str, object], message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        parse_text("d", [{"text": "a", **extra}])
    read = {"start": 0, "end": 1, "role": "A"}
    assert parse_text("d", [{"text": "a", "confidence": 0.5, "start_time": None, **read}]) is not None
