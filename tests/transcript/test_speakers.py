"""Names before a colon: when they are speakers, and when words."""

import pytest

from hilbert_ray.transcript.speakers import CARRIED, KEPT, find_prefix
from tests.transcript.reading_text import kinds, loaded, turns


def vtt(*words: str) -> str:
    """Return a WebVTT file of captions with these words, a second each."""
    return "WEBVTT\n\n" + "".join(
        f"00:{i:02d}.000 --> 00:{i + 1:02d}.000\n{one}\n\n" for i, one in enumerate(words)
    )


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("Dr. Ana Weber: how", "Dr. Ana Weber"),
        ("J. R. Ewing: how", "J. R. Ewing"),
        ("Weber, Ana (Guest): how", "Weber, Ana (Guest)"),
        ("[SPEAKER_00]: how", "SPEAKER_00"),
        ("[SPEAKER_01] how", "SPEAKER_01"),
        (">> JOHN: how", "JOHN"),
        ("- Mary-Jane: how", "Mary-Jane"),
        ("**Ana:** how", "Ana"),
        ("**Ana**: how", "Ana"),
        ("Ludwig van Beethoven: how", "Ludwig van Beethoven"),
        ("王医生:怎么样", "王医生"),
        ("interviewer: how", "interviewer"),
        ("Speaker 2: how", "Speaker 2"),
        ("Ana:", "Ana"),
    ],
)
def test_what_may_be_a_name(line: str, name: str) -> None:
    prefix = find_prefix(line.replace("王医生:", "王医生\N{FULLWIDTH COLON}"))
    assert prefix is not None
    assert prefix.name == name


@pytest.mark.parametrize(
    "line",
    [
        "At 10:30 we left",
        "https://example.org",
        "And then I said: no",
        "It rained. So: no",
        "10: ten",
        ": no",
        "no",
        "He said, wait: no",
        "[music] hello",
        "x" * 80 + ": no",
        "Really? Yes: no",
    ],
)
def test_what_is_no_name(line: str) -> None:
    assert find_prefix(line) is None


def test_captions_of_zoom_name_their_speakers() -> None:
    text = vtt(
        "Dr. Ana Weber: At 10:30: how was it?", "Pat Q: Fine.", "Dr. Ana Weber: Good.", "Guest: Hi: all."
    )
    assert turns("t.vtt", text) == [
        ("Dr. Ana Weber", "At 10:30: how was it?"), ("Pat Q", "Fine."), ("Dr. Ana Weber", "Good."),
        ("Guest", "Hi: all."),
    ]  # fmt: skip
    assert kinds("t.vtt", text) == {}


def test_a_name_that_begins_one_caption_is_words_and_said_so() -> None:
    text = vtt("it was late", "Plan: it rains", "and we left")
    assert turns("t.vtt", text) == [(None, "it was late"), (None, "Plan: it rains"), (None, "and we left")]
    assert kinds("t.vtt", text) == {KEPT: 1}
    assert turns("t.vtt", vtt("Plan: it rains")) == [(None, "Plan: it rains")]


def test_words_that_are_nobodys_name_stay_words_however_often_they_recur() -> None:
    words = ["Note: one", "Note: two", "Time: 10:30"]
    assert turns("t.vtt", vtt(*words)) == [(None, one) for one in words]
    assert kinds("t.vtt", vtt(*words)) == {}


def test_a_caption_of_a_rare_name_is_not_given_to_somebody_else() -> None:
    text = vtt("Ana: one", *["plain"] * 2, "Ana: two", "plain", "Bo: three", "Ana: four", *["plain"] * 4)
    assert (None, "Bo: three") in turns("t.vtt", text)


def test_rare_names_among_many_captions_are_words() -> None:
    words = ["Plan: one", *["plain"] * 10, "Plan: two"]
    assert turns("t.vtt", vtt(*words)) == [(None, one) for one in words]
    assert kinds("t.vtt", vtt(*words)) == {KEPT: 2}


def test_captions_that_name_only_the_change_of_speaker_go_on_with_the_same_one() -> None:
    text = vtt("ANA: one", "two", "BO: three", "[music]", "four", "ANA: five", "BO: six\nANA: seven")
    assert turns("t.vtt", text) == [
        ("ANA", "one"), ("ANA", "two"), ("BO", "three"), (None, "[music]"), (None, "four"), ("ANA", "five"),
        ("BO", "six"), ("ANA", "seven"),
    ]  # fmt: skip
    assert kinds("t.vtt", text) == {CARRIED: 1}


def test_labels_of_tools_are_speakers_even_once_and_end_with_their_caption() -> None:
    text = vtt("[SPEAKER_00]: one", "two", "[SPEAKER_01]: three", *["plain"] * 20)
    assert turns("t.vtt", text)[:3] == [("SPEAKER_00", "one"), (None, "two"), ("SPEAKER_01", "three")]
    assert {role for role, _ in turns("t.vtt", text)[3:]} == {None}


def test_words_of_a_voice_keep_what_looks_like_a_name() -> None:
    text = vtt("<v Ana>Plan: go", "<v Ana>Plan: stay", "<v Bo>Plan: wait")
    assert turns("t.vtt", text) == [("Ana", "Plan: go"), ("Ana", "Plan: stay"), ("Bo", "Plan: wait")]


def test_plain_text_with_names_that_recur_becomes_turns() -> None:
    text = (
        "Visit of May\n\nInterviewer: How are you?\nPatient: Fine.\nA bit tired.\n\n"
        "Interviewer: Note: rest.\nPatient: Yes.\n"
    )
    assert turns("t.txt", text) == [
        (None, "Visit of May"), ("Interviewer", "How are you?"), ("Patient", "Fine. A bit tired."),
        ("Interviewer", "Note: rest."), ("Patient", "Yes."),
    ]  # fmt: skip


def test_plain_text_with_names_once_stays_as_it_is_and_says_so() -> None:
    text = "Ana: hello\nBo: hi\nand more\n"
    assert loaded("t.txt", text).text == text
    assert kinds("t.txt", text) == {KEPT: 2}


def test_lines_that_whisper_prints_are_cues() -> None:
    text = "[00:00.000 --> 00:02.500]  hello\n[00:02.500 --> 01:00:03.000]  you\nthere\n"
    assert [(one.text, one.start, one.end) for one in loaded("t.txt", text).utterances] == [
        ("hello", 0, 2.5), ("you there", 2.5, 3603),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "[00:00:05] Ana: one\n[00:00:09] Bo: two\nand more\n[00:01:12] Ana: three\n",
        "Ana  0:05\none\n\nBo  0:09\ntwo\nand more\n\nAna  1:12\nthree\n",
        "Ana (00:05):\none\nBo (00:09):\ntwo\nand more\nAna (01:12):\nthree",
        "0:05\nAna: one\n0:09\nBo: two\nand more\n1:12\nAna: three\n",
    ],
)
def test_text_with_the_times_at_which_it_begins_becomes_cues(text: str) -> None:
    assert [(one.role, one.text, one.start, one.end) for one in loaded("t.txt", text).utterances[:2]] == [
        ("Ana", "one", 5, 9), ("Bo", "two and more", 9, 72),
    ]  # fmt: skip
    assert loaded("t.txt", text).utterances[2].start == 72


def test_times_that_do_not_rise_or_are_rare_are_words() -> None:
    for text in "10:30 we left\n9:15 we came\n", "10:30 we left\n", "10:30 a\nb\nc\nd\ne\nf\ng\nh\n11:30 i\n":
        assert loaded("t.txt", text).text == text
