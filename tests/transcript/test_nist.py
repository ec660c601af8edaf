"""STM, CTM and RTTM as NIST's documents of sclite and of the Rich Transcription evaluations define them."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.transcript import nist
from hilbert_ray.transcript.cue import Cue, Flaw, FormatError, Reading
from hilbert_ray.transcript.nist import ALTERNATIVES, IGNORED

WORD = st.text(st.characters(categories=["L"]), min_size=2, max_size=8).filter(lambda word: word.isalpha())


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 9999), st.integers(1, 9999), st.lists(WORD, min_size=1, max_size=4)),
        min_size=1,
    )
)
def test_stm_is_read_back(rows: list[tuple[int, int, list[str]]]) -> None:
    spans = [(start / 100, (start + length) / 100, " ".join(words)) for start, length, words in rows]
    content = "".join(
        f"a 1 spk{i % 2} {s:.2f} {e:.2f} <o,f0,male> {w}\n" for i, (s, e, w) in enumerate(spans)
    )
    expected = [Cue(words, start, end, f"spk{i % 2}") for i, (start, end, words) in enumerate(spans)]
    assert nist.read_stm(content).content == sorted(expected, key=lambda cue: cue.start_s or 0.0)


def test_stm_with_comments_alternatives_and_stretches_to_ignore() -> None:
    content = (
        ';; LABEL "o" "Overall"\n'
        "a A Ann 0.0 1.5 <o,f0,female> so { we / they { all / } / @ } (uh) go\n"
        "a A inter_segment_gap 1.5 2.0 <o,f0,> \n"
        "a B Bo 1.0 2.5 yes <noise>\n"
        "a A Ann 3 4 ignore_time_segment_in_scoring\n"
    )
    reading = nist.read_stm(content)
    assert reading.content == [
        Cue("so we uh go", 0.0, 1.5, "Ann"),
        Cue("yes <noise>", 1.0, 2.5, "Bo"),
        Cue("", 1.5, 2.0, "A"),
    ]
    assert reading.flaws == (Flaw(IGNORED), Flaw(ALTERNATIVES, 2))


def test_ctm_joins_words_at_pauses_speakers_and_channels() -> None:
    content = (
        ";; comment\n"
        "a 1 0.5 0.25 hello 0.9 lex Ann\na 1 0.75 0.25 you 0.9 lex Ann\na 1 1.0 0.1 uh 0.9 non-lex Ann\n"
        "a 1 1.25 0.25 hi 0.9 lex Bo\na 1 3.5 0.25 so 0.9 lex Bo\n"
    )
    assert nist.read_ctm(content).content == [
        Cue("hello you", 0.5, 1.0, "Ann"),
        Cue("hi", 1.25, 1.5, "Bo"),
        Cue("so", 3.5, 3.75, "Bo"),
    ]
    channels = "a A 0.5 0.25 hello\na A 0.75 0.25 you\na B 0.5 0.5 mhm\na A 1.0 0.25 there\n"
    assert nist.read_ctm(channels).content == [
        Cue("hello you there", 0.5, 1.25, "A"),
        Cue("mhm", 0.5, 1.0, "B"),
    ]


def test_ctm_alternatives_give_the_first() -> None:
    content = (
        "a 1 * * <ALT_BEGIN>\na 1 0.5 0.25 um\na 1 * * <ALT>\na 1 0.5 0.25 uh\na 1 * * <ALT_END>\na 1 "
        "0.75 0.25 so\n"
    )
    reading = nist.read_ctm(content)
    assert (reading.content, reading.flaws) == ([Cue("um so", 0.5, 1.0)], (Flaw(ALTERNATIVES),))


def test_rttm_with_words_is_read_and_that_of_diarization_says_what_to_do() -> None:
    content = (
        "SPKR-INFO a 1 <NA> <NA> <NA> adult_male Ann <NA>\n"
        "SPEAKER a 1 0.5 1.0 <NA> <NA> Ann <NA> <NA>\n"
        "LEXEME a 1 0.5 0.25 hello lex Ann 0.9\nNON-LEX a 1 0.6 0.1 <NA> laugh Ann <NA>\n"
        "LEXEME a 1 0.75 0.25 hi lex Bo 0.9\n"
    )
    assert nist.read_rttm(content).content == [Cue("hello", 0.5, 0.75, "Ann"), Cue("hi", 0.75, 1.0, "Bo")]
    with pytest.raises(
        FormatError, match=r"says who speaks when .RTTM., but not what; name the file with the words"
    ):
        nist.read_rttm("SPEAKER a 1 0.5 1.0 <NA> <NA> Ann <NA> <NA>\n")


@pytest.mark.parametrize(
    ("reader", "content", "message"),
    [
        (
            nist.read_stm,
            "a 1 A 0.5\n",
            "has 4 fields in line 1; a line is `recording channel speaker start end",
        ),
        (nist.read_stm, "a 1 A x 1.5 private\n", "has a line 1 whose start is text that is no time"),
        (
            nist.read_stm,
            "a 1 A 0 1 hi\nb 1 A 0 1 hi\n",
            "holds more than one recording (line 2 names another)",
        ),
        (nist.read_stm, "a 1 A 0 1 { private\n", "has alternatives in line 1 without a closing brace"),
        (nist.read_ctm, "a 1 0.5 private\n", "has 4 fields in line 1"),
        (nist.read_ctm, "a 1 0.5 x private\n", "has a line 1 whose duration is text that is no time"),
        (nist.read_rttm, "private\n", "has 1 fields in line 1"),
    ],
)
def test_lines_that_are_no_such_format_are_named(
    reader: Callable[[str], Reading], content: str, message: str
) -> None:
    with pytest.raises(FormatError) as caught:
        reader(content)
    assert message in str(caught.value)
    assert "private" not in str(caught.value)
