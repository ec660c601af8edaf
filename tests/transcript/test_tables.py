"""Tables: which columns are read under which names, in which units, and what makes a table unreadable."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilbert_ray.transcript import tables
from hilbert_ray.transcript.clock import MILLISECONDS
from hilbert_ray.transcript.cue import Cue, Flaw, FormatError
from hilbert_ray.transcript.tables import OTHER_COLUMNS, SHORT_ROWS


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(
            "start_time\tstop_time\tspeaker\tvalue\n36.588\t39.668\tEllie\thi i'm ellie\n"
            "62.328\t63.178\tParticipant\tgood\n",
            [Cue("hi i'm ellie", 36.588, 39.668, "Ellie"), Cue("good", 62.328, 63.178, "Participant")],
            id="DAIC-WOZ",
        ),
        pytest.param(
            'Start_Time,End_Time,Text,\n14.3,15.1,"so, I\'m fine",\n',
            [Cue("so, I'm fine", 14.3, 15.1)],
            id="commas in quotes, an empty column",
        ),
        pytest.param(
            "Begin Time - hh:mm:ss.ms\tEnd Time - hh:mm:ss.ms\tTier\tAnnotation\n"
            "00:01:00.500\t00:01:02.000\tA\thi\n",
            [Cue("hi", 60.5, 62.0, "A")],
            id="ELAN's table, clocks",
        ),
        pytest.param(
            "Begin Time - msec\tDuration - msec\tTier\tAnnotation\n500\t250\tA\thi\n",
            [Cue("hi", 0.5, 0.75, "A")],
            id="ELAN's table, milliseconds",
        ),
        pytest.param(
            "Start (ms),End (ms),Words\n500,750,hi\n", [Cue("hi", 0.5, 0.75)], id="a unit in brackets"
        ),
        pytest.param("start_s,end_s,text\n5,7,hi\n", [Cue("hi", 5.0, 7.0)], id="seconds by name"),
        pytest.param("onset,offset,utterance\n1.5,2,hi\n", [Cue("hi", 1.5, 2.0)], id="onset and offset"),
        pytest.param("offset,duration,text\n1.5,2,hi\n", [Cue("hi", 1.5, 3.5)], id="offset and duration"),
        pytest.param(
            "start;end;role;text\r\n1,5;2,25;A;a, b\r\n", [Cue("a, b", 1.5, 2.25, "A")], id="semicolons"
        ),
        pytest.param(
            "1.500000\t2.250000\thi\n3\t4\tyou\n", [Cue("hi", 1.5, 2.25), Cue("you", 3.0, 4.0)], id="Audacity"
        ),
        pytest.param(
            "speaker,text\nA,hi\nB,you\n", [Cue("hi", speaker="A"), Cue("you", speaker="B")], id="no times"
        ),
        pytest.param(
            'start,end,text\n1,2,"two\nlines"\n', [Cue("two\nlines", 1.0, 2.0)], id="a line break in quotes"
        ),
        pytest.param(
            'start\tend\ttext\n1.5\t2\t"so he said\n2\t3.5\tno\n3.5\t4\t"I" and "you"\n',
            [Cue('"so he said', 1.5, 2.0), Cue("no", 2.0, 3.5), Cue('"I" and "you"', 3.5, 4.0)],
            id="loose quotes",
        ),
        pytest.param(
            "start,end,text\n1.5,,hi\nNA,3,you\n", [Cue("hi", 1.5), Cue("you", None, 3.0)], id="missing times"
        ),
        pytest.param(
            "word,start,end,speaker\nhi,0.5,0.7,A\nyou,0.8,1,A\nyes,1,1.2,B\n",
            [Cue("hi you", 0.5, 1.0, "A"), Cue("yes", 1.0, 1.2, "B")],
            id="a word a row",
        ),
    ],
)
def test_tables_are_read_by_the_names_of_their_columns(content: str, expected: object) -> None:
    reading = tables.read(content)
    assert (reading.content, reading.flaws) == (expected, ())


def test_milliseconds_of_whisper_are_seen_and_whole_seconds_are_left_alone() -> None:
    reading = tables.read("start\tend\ttext\n0\t2500\thow are you today\n2500\t3000\tfine\n")
    assert reading.content == [Cue("how are you today", 0.0, 2.5), Cue("fine", 2.5, 3.0)]
    assert reading.flaws == (Flaw(MILLISECONDS),)
    assert tables.read("start\tend\ttext\n0\t25\thow are you today\n").content == [
        Cue("how are you today", 0.0, 25.0)
    ]
    # As milliseconds, nobody could say so much.
    much = f"start\tend\ttext\n0\t2500\t{'blah ' * 200}\n"
    assert tables.read(much).flaws == ()


def test_what_is_not_read_of_a_table_is_reported() -> None:
    assert tables.read("start,end,text,confidence\n1,2,hi,0.5\n").flaws == (Flaw(OTHER_COLUMNS),)
    assert tables.read("start,end,speaker,text\n1,2,A\n1,2,A,hi\n").flaws == (Flaw(SHORT_ROWS),)
    # pandas writes its index without a name.
    assert tables.read(",start,end,text\n0,1,2,hi\n").flaws == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (
            "a,b\n1,private\n",
            "is a table without a column for text: its first line has 'a', 'b'; name the column one of",
        ),
        ("end,text\n1,private\n", "is a table without a column for start: its first line has 'end', 'text'"),
        ("text,start,text\nprivate,1,private\n", "is a table with two columns named 'text'"),
        (
            "start,end,text\n1,2,private, and more\n",
            "has 4 cells in line 2 without its empty lines, but 3 in the first",
        ),
        ("start,end,text\n1,later,private\n", "has a row 2 whose column 'end' is text that is no time"),
        ("start,end,text\n1,1:2:3:4,private\n", "has a row 2 whose column 'end' is text that is no time"),
    ],
)
def test_a_table_that_cannot_be_read_says_what_it_has(content: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        tables.read(content)
    assert message in str(caught.value)
    assert "private" not in str(caught.value)


WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], include_characters='",;\n'), min_size=1
)


@given(
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 10**4), WORDS), min_size=1),
    st.sampled_from(",;\t"),
)
def test_what_the_csv_module_writes_is_read_back(rows: list[tuple[int, int, str]], delimiter: str) -> None:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(["start_ms", "end_ms", "speaker", "text"])
    cues = [Cue(words.strip(), start / 1000, (start + length) / 1000, "A") for start, length, words in rows]
    writer.writerows([start, start + length, "A", words] for start, length, words in rows)
    content = tables.read(file.getvalue()).content
    assert not isinstance(content, str)
    assert [cue.words for cue in content] == [cue.words for cue in cues]
    for cue, expected in zip(content, cues, strict=True):
        assert (cue.start_s, cue.end_s) == pytest.approx((expected.start_s, expected.end_s), abs=1e-9)
        assert cue.speaker == "A"
