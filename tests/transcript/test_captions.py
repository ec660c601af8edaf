"""WebVTT and SubRip as tools write them: times, voices, markup, empty lines, and what is words."""

import pytest

from hilbert_ray.document.records import Utterance
from hilbert_ray.transcript.captions import share
from hilbert_ray.transcript.cue import Cue
from hilbert_ray.transcript.cue_times import parse_times
from hilbert_ray.transcript.reading import OTHER_FORMAT
from hilbert_ray.transcript.repair import NO_TIMES
from hilbert_ray.transcript.subrip import CUT_OFF
from hilbert_ray.transcript.webvtt import BEFORE, BETWEEN
from tests.transcript.reading_text import kinds, loaded, turns

TEAMS = """\
WEBVTT

NOTE duration:"00:00:09.0000000"

NOTE Confidence: 0.93

7d1c-0
0:0:1.50 --> 0:0:3.0
<v Weber, Ana>good morning</v>

7d1c-1
0:0:3.25 --> 0:0:4.125
<v Pat>yes</v>
<v Weber, Ana>no &amp; yes, &lt;5&nbsp;of them&gt;</v>
"""


def test_webvtt_of_teams_with_short_times_and_two_voices_in_a_cue() -> None:
    first, second, third = loaded("t.vtt", TEAMS).utterances
    assert first == Utterance(text="good morning", start=1.5, end=3.0, role="Weber, Ana")
    assert (second.role, second.text) == ("Pat", "yes")
    assert (third.role, third.text) == ("Weber, Ana", "no & yes, <5 of them>")
    # The two share the cue's 0.875 s by their 3 and 21 characters.
    assert (second.start, second.end, third.end) == (3.25, 3.25 + 0.875 / 8, 4.125)
    assert third.start == second.end
    assert loaded("t.vtt", TEAMS).flaws == ()


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("00:01.000 --> 00:02.500", (1, 2.5)),
        ("0:0:4,8 --> 0:0:7,45", (4.8, 7.45)),
        ("00:00:20 --> 00:00:24", (20, 24)),
        ("00:20 --> 00:24", (20, 24)),
        ("1.5 --> 3.25", (1.5, 3.25)),
        ("  00:00:01,000-->00:00:02,000  ", (1, 2)),
        ("00: 00: 01, 000 -> 00: 00: 02, 000", (1, 2)),
        ("00:00:01.000 --&gt; 00:00:02.000", (1, 2)),
        ("00:00:01:250 --> 00:00:02:500", (1.25, 2.5)),
        ("01:01:01.001 --> 100:00:00.000 align:start position:10%", (3661.001, 360000)),
        ("00:00:01,000 --> 00:00:02,000 X1:40 X2:600 Y1:20 Y2:50", (1, 2)),
        ("00:00:01.000000 --> 00:00:02.123456", (1, 2.123456)),
        ("-00:00:00,200 --> 00:00:02,000", (-0.2, 2)),
    ],
)
def test_times_as_tools_write_them(line: str, seconds: tuple[float, float]) -> None:
    times = parse_times(line)
    assert times is not None
    assert (times.start_s, times.end_s, times.rest) == (*seconds, "")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "-->",
        "soon --> later",
        "5 --> 7",
        "a 00:01.0 --> 00:02.0",
        "00:00:01:12 --> 00:00:02:24",
        "9" * 5000 + ":00:00,000 --> 00:00:01,000",
        "00:01.000 -> ",
        "00:01.000 00:02.000",
    ],
)
def test_what_is_no_line_of_times(line: str) -> None:
    assert parse_times(line) is None


def test_words_on_the_line_of_times_are_kept() -> None:
    assert turns("t.srt", "1\n00:00:01,000 --> 00:00:02,000 hello there\nyou\n") == [
        (None, "hello there you")
    ]


SPOKEN = [(None, "one"), (None, "two")]


@pytest.mark.parametrize(
    "text",
    [
        "1\n00:00:01,000 --> 00:00:02,000\none\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo\n",
        "1\n00:00:01,000 --> 00:00:02,000\none\n2\n00:00:03,000 --> 00:00:04,000\ntwo",
        "\n\n1\n\n00:00:01,000 --> 00:00:02,000\n\none\n\n2\n\n00:00:03,000 --> 00:00:04,000\n\ntwo\n\n",
        "00:00:01,000 --> 00:00:02,000\none\n00:00:03,000 --> 00:00:04,000\ntwo",
        "1\r\r\n00:00:01,000 --> 00:00:02,000\r\r\none\r\r\n\r\r\n2\r\r\n"
        "00:00:03,000 --> 00:00:04,000\r\r\ntwo",
        "0\n00:00:01,000 --> 00:00:02,000\n{\\an8}<font color='#ffff00'><i>one</i></font>\n\n1\n"
        "00:00:03,000 --> 00:00:04,000\n{\\pos(1,2)}two",
    ],
)
def test_subrip_with_and_without_numbers_and_empty_lines(text: str) -> None:
    assert turns("t.srt", text) == SPOKEN
    assert [(one.start, one.end) for one in loaded("t.srt", text).utterances] == [(1, 2), (3, 4)]


def test_numbers_that_are_said_are_words() -> None:
    text = "1\n00:00:01,000 --> 00:00:02,000\nborn in\n2014\n\n2\n00:00:03,000 --> 00:00:04,000\n42\n"
    assert turns("t.srt", text) == [(None, "born in 2014"), (None, "42")]
    # No caption has a number here, so the lines above times are words.
    bare = "00:00:01,000 --> 00:00:02,000\n7\n00:00:03,000 --> 00:00:04,000\n8\n"
    assert turns("t.srt", bare) == [(None, "7"), (None, "8")]


def test_words_below_an_empty_line_inside_a_caption_are_kept() -> None:
    srt = (
        "1\n00:00:01,000 --> 00:00:02,000\none\n\nmore\n\n\nand more\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo"
    )
    assert turns("t.srt", srt) == [(None, "one more and more"), (None, "two")]
    vtt = (
        "WEBVTT\n\n00:01.000 --> 00:02.000\none\n\nmore\n\nNOTE not said\n\nid\n00:03.000 --> 00:04.000\ntwo"
    )
    assert turns("t.vtt", vtt) == [(None, "one more"), (None, "two")]
    assert kinds("t.vtt", vtt) == {BETWEEN: 1}


def test_a_line_of_a_space_ends_no_cue() -> None:
    assert turns("t.vtt", "WEBVTT\n\n00:01.000 --> 00:02.000\none\n \nmore\n") == [(None, "one more")]


def test_header_notes_styles_and_regions_are_not_said() -> None:
    text = (
        "WEBVTT - made by hand\nKind: captions\nLanguage: en\n\nSTYLE\n::cue { color: red }\n\nREGION\n"
        "id:a\n\n"
        "NOTE\nover two\nlines\n\nintro\n00:01.000 --> 00:02.000 region:a\nNOTE is the first word said\n\n"
        "NOTE the end\n"
    )
    assert turns("t.vtt", text) == [(None, "NOTE is the first word said")]
    assert kinds("t.vtt", text) == {}
    assert kinds("t.vtt", "WEBVTT\n\nTranscript of May\n\n00:01.000 --> 00:02.000\nwell\n") == {BEFORE: 1}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("x < y and z > 3, um, <laughter> sorry", "x < y and z > 3, um, <laughter> sorry"),
        ("a --> b", "a --> b"),
        ("<00:00:01.500><c.yellow> so</c> <lang en-GB>colour</lang>", "so colour"),
        ("<B>loud</B> <ruby>kan<rt>ji</rt></ruby>", "loud kanji"),
        ("one<br>two<br/>three", "one two three"),
        ("R&D, AT&T &amp; &eacute;&#233;&#xe9; &nosuch; &lt;b&gt;", "R&D, AT&T & ééé &nosuch; <b>"),
        ("<video> <c", "<video> <c"),
        ("{sighs} {\\i1}well{\\i0}", "{sighs} well"),
    ],
)
@pytest.mark.parametrize("name", ["t.vtt", "t.srt"])
def test_only_known_markup_is_removed(name: str, written: str, said: str) -> None:
    text = f"1\n00:00:01.000 --> 00:00:02.000\n{written}\n"
    assert turns(name, f"WEBVTT\n\n{text}" if name == "t.vtt" else text) == [(None, said)]


@pytest.mark.parametrize(
    "line",
    [
        "<v" * 200_000,
        "<v " + " " * 400_000 + "x",
        "&" * 400_000,
        "{\\" * 200_000,
        "-->" * 150_000,
        "<c." * 130_000,
    ],
)
def test_hostile_lines_take_linear_time(line: str) -> None:
    assert turns("t.vtt", f"WEBVTT\n\n00:01.000 --> 00:02.000\n{line}\n") == [(None, line.strip())]


def test_a_time_that_cannot_be_read_costs_itself_and_is_filled_in() -> None:
    text = "WEBVTT\n\n00:01.000 --> 00:02.000\none\n\nsoon --> later\ntwo\n\n00:04.000 --> 00:05.000\nthree\n"
    assert [(one.text, one.start, one.end) for one in loaded("t.vtt", text).utterances] == [
        ("one", 1, 2), ("two", 2, 4), ("three", 4, 5),
    ]  # fmt: skip
    assert kinds("t.vtt", text) == {NO_TIMES: 1}


@pytest.mark.parametrize("name", ["t.srt", "t.txt"])
def test_content_beyond_doubt_is_read_as_what_it_is(name: str) -> None:
    text = "WEBVTT\n\n00:01.000 --> 00:02.000\n<v Ana>well\n"
    assert turns(name, text) == [("Ana", "well")]
    assert kinds(name, text) == {OTHER_FORMAT: 1}


def test_parts_of_a_cue_without_times_share_what_is_missing() -> None:
    parts = [("A", "one"), ("B", "two"), ("A", "x")]
    assert share(Cue("", None, None), parts) == [
        Cue("one", speaker="A"),
        Cue("two", speaker="B"),
        Cue("x", speaker="A"),
    ]
    assert share(Cue("", 1.0, None), parts)[0] == Cue("one", 1.0, None, "A")
    assert share(Cue("", 0.0, 7.0), parts) == [
        Cue("one", 0.0, 3.0, "A"), Cue("two", 3.0, 6.0, "B"), Cue("x", 6.0, 7.0, "A"),
    ]  # fmt: skip


def test_a_caption_cut_off_within_its_times_is_no_words_and_said_so() -> None:
    text = "1\n00:00:01,000 --> 00:00:02,000\none\n\n2\n00:00:03,0"
    assert turns("t.srt", text) == [(None, "one")]
    assert kinds("t.srt", text) == {CUT_OFF: 1}


def test_sbv_as_youtube_exports_it() -> None:
    text = "0:00:01.000,0:00:02.500\none\nmore\n\n1:00:03.000,1:00:04.000\ntwo\n"
    assert [(one.text, one.start, one.end) for one in loaded("t.sbv", text).utterances] == [
        ("one more", 1, 2.5), ("two", 3603, 3604),
    ]  # fmt: skip


def test_control_characters_before_a_number_are_no_number() -> None:
    text = "1\n00:00:01,000 --> 00:00:02,000\none\n\n\x1f2\n00:00:03,000 --> 00:00:04,000\ntwo\n"
    assert [words.split() for _, words in turns("t.srt", text)] == [["one", "2"], ["two"]]
