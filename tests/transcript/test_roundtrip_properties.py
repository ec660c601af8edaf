"""Random utterances written in each format, by an independent writer, and read back."""

import html
import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transcript.reading_text import loaded, turns

NAMES = ("Ana Weber", "Bo", "Dr. Chen Li", "SPEAKER_00")
# Words as people type them, with what readers trip over; no line may look like a name with a colon.
word = st.text("abcdéßñ你好.,?!'\"()[]-<>&;/0123456789", min_size=1, max_size=8)
words = st.lists(word, min_size=1, max_size=6).map(" ".join)
utterance = st.tuples(
    st.integers(0, 3_000_000),
    st.integers(0, 100_000),
    st.sampled_from(NAMES),
    st.lists(words, min_size=1, max_size=2),
)
spoken = st.lists(utterance, min_size=1, max_size=6, unique_by=lambda one: one[0]).map(sorted)
Utterances = list[tuple[int, int, str, list[str]]]


def clock(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{rest:03d}"


def expect(name: str, text: str, written: Utterances) -> None:
    found = loaded(name, text).utterances
    assert [(one.role, one.text) for one in found] == [
        (role, " ".join(lines)) for _, _, role, lines in written
    ]
    for one, (start, length, _, _) in zip(found, written, strict=True):
        assert one.start is not None
        assert one.end is not None
        assert abs(one.start - start / 1000) < 1e-9
        assert abs(one.end - (start + length) / 1000) < 1e-9


@settings(max_examples=150, deadline=None)
@given(spoken)
def test_webvtt_with_voices_is_read_as_written(written: Utterances) -> None:
    cues = [
        f"{clock(start, '.')} --> {clock(start + length, '.')}\n<v {role}>"
        + html.escape("\n".join(lines), quote=False)
        for start, length, role, lines in written
    ]
    expect("t.vtt", "WEBVTT\n\n" + "\n\n".join(cues) + "\n", written)


@settings(max_examples=150, deadline=None)
@given(spoken, st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_subrip_is_read_as_written(written: Utterances, is_spaced: bool, newline: str) -> None:
    lines: list[str] = []
    for i, (start, length, _, said) in enumerate(written, 1):
        lines += [str(i), f"{clock(start, ',')} --> {clock(start + length, ',')}"]
        # Escaped, as `<` and `>` of tags would be markup.
        lines += [html.escape(line, quote=False) for line in said]
        lines += [""] * is_spaced
    found = loaded("t.srt", newline.join(lines))
    assert [one.text for one in found.utterances] == [" ".join(said) for *_, said in written]
    assert [one.start for one in found.utterances] == pytest.approx([one[0] / 1000 for one in written])


@settings(max_examples=150, deadline=None)
@given(spoken, st.sampled_from(["{}: {}", "[{}]: {}", "- {}: {}"]))
def test_names_before_words_are_read_as_written(written: Utterances, form: str) -> None:
    # Each name twice, so that it recurs.
    twice = [
        (start * 2 + half, length, role, lines) for start, length, role, lines in written for half in (0, 1)
    ]
    cues = [
        f"{clock(start, '.')} --> {clock(start + length, '.')}\n"
        + form.format(role, html.escape("\n".join(lines), quote=False))
        for start, length, role, lines in twice
    ]
    expect("t.vtt", "WEBVTT\n\n" + "\n\n".join(cues), twice)
    text = "\n".join(form.format(role, " ".join(lines)) for _, _, role, lines in twice)
    assert turns("t.txt", text) == [(role, " ".join(lines)) for _, _, role, lines in twice]


# What is written in JSON: one way for each family of kinds, times in its unit.
def whisper(written: Utterances) -> object:
    segments = [
        {
            "id": i,
            "start": start / 1000,
            "end": (start + length) / 1000,
            "text": " ".join(lines),
            "speaker": role,
        }
        for i, (start, length, role, lines) in enumerate(written)
    ]
    return {"text": " ".join(one["text"] for one in segments), "segments": segments, "language": "en"}  # type: ignore[misc]


def own(written: Utterances) -> object:
    return [
        {"text": " ".join(lines), "start": start / 1000, "end": (start + length) / 1000, "role": role}
        for start, length, role, lines in written
    ]


def assembly(written: Utterances) -> object:
    turns = [
        {"speaker": role, "text": " ".join(lines), "start": start, "end": start + length, "words": []}
        for start, length, role, lines in written
    ]
    return {"id": "t", "status": "completed", "audio_duration": 9, "text": "x", "utterances": turns}


def deepgram(written: Utterances) -> object:
    turns = [
        {
            "start": start / 1000,
            "end": (start + length) / 1000,
            "transcript": " ".join(lines),
            "speaker": role,
        }
        for start, length, role, lines in written
    ]
    whole = {"transcript": " ".join(turn["transcript"] for turn in turns), "words": []}  # type: ignore[misc]
    return {"metadata": {}, "results": {"channels": [{"alternatives": [whole]}], "utterances": turns}}


def aws(written: Utterances) -> object:
    turns = [
        {
            "BeginOffsetMillis": start, "EndOffsetMillis": start + length, "Content": " ".join(lines),
            "ParticipantRole": role,
        }
        for start, length, role, lines in written
    ]  # fmt: skip
    return {"JobStatus": "COMPLETED", "Transcript": turns}


def azure(written: Utterances) -> object:
    phrases = [
        {"offsetMilliseconds": start, "durationMilliseconds": length, "text": " ".join(lines)}
        | {"speaker": role}
        for start, length, role, lines in written
    ]
    return {"durationMilliseconds": 9, "phrases": phrases}


def podcast(written: Utterances) -> object:
    segments = [
        {
            "speaker": role,
            "startTime": start / 1000,
            "endTime": (start + length) / 1000,
            "body": " ".join(lines),
        }
        for start, length, role, lines in written
    ]
    return {"version": "1.0.0", "segments": segments}


@settings(max_examples=50, deadline=None)
@given(spoken, st.booleans())
@pytest.mark.parametrize("write", [whisper, own, assembly, deepgram, aws, azure, podcast])
def test_json_is_read_as_written(
    write: Callable[[Utterances], object], written: Utterances, ascii_only: bool
) -> None:
    expect("t.json", json.dumps(write(written), ensure_ascii=ascii_only), written)


@settings(max_examples=100, deadline=None)
@given(spoken, st.booleans())
def test_ttml_is_read_as_written(written: Utterances, has_spans: bool) -> None:
    agents = "".join(
        f'<ttm:agent xml:id="a{i}" type="person"><ttm:name type="full">{name}</ttm:name></ttm:agent>'
        for i, name in enumerate(NAMES)
    )
    lines = []
    for start, length, role, said in written:
        inner = "<br/>".join(
            f"<span>{html.escape(line)}</span>" if has_spans else html.escape(line) for line in said
        )
        times = f'begin="{clock(start, ".")}" end="{clock(start + length, ".")}"'
        lines.append(f'<p {times} ttm:agent="a{NAMES.index(role)}">{inner}</p>')
    spaces = 'xmlns="http://www.w3.org/ns/ttml" xmlns:ttm="http://www.w3.org/ns/ttml#metadata"'
    head = f"<head><metadata>{agents}</metadata></head>"
    expect("t.ttml", f"<tt {spaces}>{head}<body><div>{''.join(lines)}</div></body></tt>", written)


# CHAT's and NIST's own marks are none of these characters, and codes and recordings have no spaces.
plain = st.lists(st.text("abcdéßñ你", min_size=1, max_size=8), min_size=1, max_size=6)
turn = st.tuples(
    st.integers(0, 3_000_000), st.integers(1, 100_000), st.sampled_from(["ANA", "BO", "CH2"]), plain
)
turns_in_order = st.lists(turn, min_size=1, max_size=6, unique_by=lambda one: one[0]).map(sorted)


@settings(max_examples=100, deadline=None)
@given(turns_in_order, st.sampled_from([".", "?", "!"]))
def test_chat_is_read_as_written(written: Utterances, ending: str) -> None:
    lines = [
        f"*{role}:\t{' '.join(said)} {ending} \x15{start}_{start + length}\x15\n%com:\tnobody said this\n"
        for start, length, role, said in written
    ]
    text = "@UTF8\n@Begin\n@Languages:\teng\n@Participants:\tANA A, BO B, CH2 C\n" + "".join(lines) + "@End\n"
    expect(
        "t.cha",
        text,
        [(start, length, role, [" ".join(said) + ending]) for start, length, role, said in written],
    )


@settings(max_examples=100, deadline=None)
@given(turns_in_order)
def test_stm_and_the_words_of_ctm_and_rttm_are_read_as_written(written: Utterances) -> None:
    stm = "".join(
        f"rec 1 {role} {start / 1000} {(start + length) / 1000} <o,f0> {' '.join(said)}\n"
        for start, length, role, said in written
    )
    expect("t.stm", stm, written)
    # A word a line, an hour between the turns, so that each is joined and none with the next.
    ctm = rttm = ""
    apart = [
        (start + i * 10_000_000, length, role, said) for i, (start, length, role, said) in enumerate(written)
    ]
    for start, length, role, said in apart:
        for i, one in enumerate(said):
            times = f"{start / 1000 + i * length / len(said) / 1000:.9f} {length / len(said) / 1000:.9f}"
            ctm += f"rec 1 {times} {one} 0.9 lex {role}\n"
            rttm += f"LEXEME rec 1 {times} {one} lex {role} 0.9 <NA>\n"
    for name, text in (("t.ctm", ctm), ("t.rttm", rttm)):
        found = loaded(name, text).utterances
        assert " ".join(one.text for one in found) == " ".join(" ".join(said) for *_, said in apart)
        for start, length, role, said in apart:
            here = [
                one
                for one in found
                if one.start is not None and start <= one.start * 1000 + 1e-3 < start + length
            ]
            assert " ".join(one.text for one in here) == " ".join(said)
            assert {one.role for one in here} == {role}
            assert here[0].start == pytest.approx(start / 1000, abs=1e-6)
            assert here[-1].end == pytest.approx((start + length) / 1000, abs=1e-6)
