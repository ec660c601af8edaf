"""Random utterances written as WebVTT, SubRip and plain text, by an independent writer, and read back."""

import html

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
