"""TextGrids: written by praatio in both forms, and by hand as Praat's manual describes them."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from praatio import textgrid as praat
from praatio.data_classes.interval_tier import IntervalTier
from praatio.data_classes.point_tier import PointTier

from hilbert_ray.transcript import textgrid
from hilbert_ray.transcript.cue import Cue, Flaw, FormatError
from hilbert_ray.transcript.textgrid import OTHER_TIERS

WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=9)
SPANS = st.lists(st.tuples(st.integers(0, 500), st.integers(1, 500), WORDS), min_size=1, max_size=5)


def save(path: Path, tiers: list[IntervalTier | PointTier], form: str) -> str:
    grid = praat.Textgrid()
    for tier in tiers:
        grid.addTier(tier)
    grid.save(str(path), form, includeBlankSpaces=True)
    return path.read_text(encoding="utf-8")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(SPANS, SPANS, st.sampled_from(("short_textgrid", "long_textgrid")))
def test_what_praatio_writes_is_read_back(
    tmp_path: Path, ann: list[tuple[int, int, str]], bo: list[tuple[int, int, str]], form: str
) -> None:
    expected, tiers = [], []
    for name, spans in (("Ann", ann), ("Bo", bo)):
        at, intervals = 0, []
        for gap, length, words in spans:
            start, end = (at + gap) / 100, (at + gap + length) / 100
            intervals.append((start, end, words))
            # `_` and the like are marks of silence.
            expected += [Cue(words, start, end, name)] if words.lower() not in textgrid.SILENCES else []
            at += gap + length
        tiers.append(IntervalTier(name, intervals, 0, 60))
    content = textgrid.read(save(tmp_path / "a.TextGrid", tiers, form)).content
    assert not isinstance(content, str)
    key = lambda cue: (cue.start_s, cue.end_s, cue.speaker, cue.words)  # noqa: E731 - used twice, here only
    assert sorted(content, key=key) == sorted(expected, key=key)


@pytest.mark.parametrize("form", ["short_textgrid", "long_textgrid"])
def test_words_of_an_aligner_are_joined_and_sounds_and_points_are_reported(tmp_path: Path, form: str) -> None:
    tiers = [
        IntervalTier(
            "Ann - words", [(0.5, 0.75, "so"), (0.75, 1, "sil"), (1, 1.25, "yes"), (3, 3.5, "no")], 0, 4
        ),
        IntervalTier("Ann - phones", [(0.5, 0.75, "S")], 0, 4),
        PointTier("tones", [(0.5, "H*")], 0, 4),
    ]
    reading = textgrid.read(save(tmp_path / "a.TextGrid", tiers, form))
    assert reading.content == [Cue("so yes", 0.5, 1.25, "Ann"), Cue("no", 3.0, 3.5, "Ann")]
    assert reading.flaws == (Flaw(OTHER_TIERS, 2),)


def test_words_beside_utterances_are_not_read_twice(tmp_path: Path) -> None:
    tiers = [
        IntervalTier("utterances", [(0.5, 1.25, 'so, "yes"')], 0, 4),
        IntervalTier("words", [(0.5, 0.75, "so"), (1, 1.25, "yes")], 0, 4),
    ]
    reading = textgrid.read(save(tmp_path / "a.TextGrid", tiers, "long_textgrid"))
    assert reading.content == [Cue('so, "yes"', 0.5, 1.25)]
    assert reading.flaws == (Flaw(OTHER_TIERS),)


MANUAL = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2.3
tiers? <exists>
size = 1
item []:
    item [1]:
        class = "IntervalTier"
        name = "Mary" ! a comment with "quotes and 12 numbers
        xmin = 0
        xmax = 2.3
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 0.7
            text = "one ""two"" <exists> 3"
        intervals [2]:
            xmin = 0.7
            xmax = 2.3
            text = ""
"""


def test_only_free_standing_numbers_texts_and_flags_count() -> None:
    assert textgrid.read(MANUAL).content == [Cue('one "two" <exists> 3', 0.0, 0.7, "Mary")]
    short = '"ooTextFile"\n"TextGrid"\n0 2.3 <exists> 1 "IntervalTier" "Mary" 0 2.3 1 0 .7e0 "one"'
    assert textgrid.read(short.replace(".7e0", "0.7e0")).content == [Cue("one", 0.0, 0.7, "Mary")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "does not begin as a TextGrid"),
        ('File type = "ooTextFile"\nObject class = "Pitch 1"\n', "does not begin as a TextGrid"),
        ("ooBinaryFile\x08TextGrid", "is a binary TextGrid; save it in Praat with `Save as text file...`"),
        (
            MANUAL[: MANUAL.index("xmax = 0.7")],
            "the end of the file stands where the end of an interval should be",
        ),
        (MANUAL.rstrip()[:-1], "no closing quote"),
        (MANUAL.replace("size = 2", "size = 3"), "the end of the file stands where the start of an interval"),
        (MANUAL.replace("size = 2", "size = 1e17"), "has a wrong number of intervals"),
        (
            MANUAL.replace("IntervalTier", "Other"),
            "has a tier of the class 'Other'; the choices are IntervalTier",
        ),
        (MANUAL.replace("<exists>\nsize", "<absent>\nsize"), "has 0 tiers, of which none holds words"),
        (MANUAL.replace("Mary", "phones"), "has 1 tiers, of which none holds words"),
        ('"ooTextFile" "TextGrid" 0 1 <exists> 1 "' + '""' * 100_000, "no closing quote"),
    ],
)
def test_a_file_that_is_no_whole_textgrid_is_refused(content: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        textgrid.read(content)
    assert message in str(caught.value)
