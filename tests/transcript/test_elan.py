"""ELAN files: written by pympi, and by hand as the schema EAF 3.0 has them."""

from pathlib import Path

import pympi
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hilbert_ray.transcript import elan
from hilbert_ray.transcript.cue import Cue, Flaw, FormatError
from hilbert_ray.transcript.elan import OTHER_TIERS

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Cn", "Co"]), min_size=1)
SPANS = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 5000), WORDS), min_size=1, max_size=6)


def one_line(words: str) -> str:
    return " ".join(words.split())


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(SPANS, SPANS)
def test_what_pympi_writes_is_read_back(
    tmp_path: Path, ann: list[tuple[int, int, str]], bo: list[tuple[int, int, str]]
) -> None:
    file = pympi.Eaf(author="tests")
    file.remove_tier("default")
    file.add_tier("utterances of Ann", part="Ann")
    file.add_tier("Bo")
    expected = []
    for tier, speaker, spans in (("utterances of Ann", "Ann", ann), ("Bo", "Bo", bo)):
        at = 0
        for gap, length, words in spans:
            file.add_annotation(tier, at + gap, at + gap + length, words)
            if one_line(words):
                cue = Cue(one_line(words), (at + gap) / 1000, (at + gap + length) / 1000, speaker)
                expected.append(cue)
            at += gap + length
    file.to_file(str(tmp_path / "a.eaf"))
    data = (tmp_path / "a.eaf").read_bytes()
    if not expected:
        with pytest.raises(FormatError, match="none holds words"):
            elan.read(data)
        return
    key = lambda cue: (cue.start_s, cue.end_s, cue.speaker, cue.words)  # noqa: E731 - used twice, here only
    content = elan.read(data).content
    assert not isinstance(content, str)
    assert sorted(content, key=key) == sorted(expected, key=key)
    assert [cue.start_s for cue in content] == sorted(
        cue.start_s for cue in expected if cue.start_s is not None
    )


def eaf(tiers: str, slots: str = "", header: str = 'TIME_UNITS="milliseconds"') -> bytes:
    times = (
        '<TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="500"/><TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="1500"/>'
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ANNOTATION_DOCUMENT AUTHOR="" FORMAT="3.0" VERSION="3.0">'
        f'<HEADER MEDIA_FILE="" {header}/><TIME_ORDER>{times}{slots}</TIME_ORDER>'
        f"{tiers}</ANNOTATION_DOCUMENT>"
    ).encode()


def aligned(name: str, value: str, first: str = "ts1", last: str = "ts2") -> str:
    return (
        f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="{name}" TIME_SLOT_REF1="{first}" '
        f'TIME_SLOT_REF2="{last}">'
        f"<ANNOTATION_VALUE>{value}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>"
    )


def referring(name: str, value: str, parent: str) -> str:
    return (
        f'<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="{name}" ANNOTATION_REF="{parent}">'
        f"<ANNOTATION_VALUE>{value}</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>"
    )


def tier(name: str, annotations: str, more: str = "") -> str:
    return f'<TIER LINGUISTIC_TYPE_REF="t" TIER_ID="{name}" {more}>{annotations}</TIER>'


def test_a_tier_of_the_words_is_read_instead_of_the_parent_that_numbers_them() -> None:
    tiers = (
        tier("ref@ANN", aligned("a1", "story.001"), 'PARTICIPANT="Ann"')
        + tier(
            "tx@ANN", referring("a2", "hello", "a1") + referring("a3", "you", "a2"), 'PARENT_REF="ref@ANN"'
        )
        + tier("ft@ANN", referring("a4", "bonjour", "a1"), 'PARENT_REF="ref@ANN"')
    )
    reading = elan.read(eaf(tiers))
    assert reading.content == [Cue("hello you", 0.5, 1.5, "ANN")]
    assert reading.flaws == (Flaw(OTHER_TIERS, 2),)


def test_translations_and_notes_are_not_read_and_reported() -> None:
    tiers = (
        tier("Ann", aligned("a1", "hello"))
        + tier("translation", referring("a2", "bonjour", "a1"), 'PARENT_REF="Ann"')
        + tier("notes", aligned("a3", "door"))
    )
    assert elan.read(eaf(tiers)).content == [Cue("hello", 0.5, 1.5, "Ann")]
    assert elan.read(eaf(tiers)).flaws == (Flaw(OTHER_TIERS, 2),)


def test_slots_without_a_value_frames_and_other_encodings() -> None:
    open_end = tier("Ann", aligned("a1", "hello", "ts1", "ts3") + aligned("a2", "you", "ts3", "ts2"))
    slot = '<TIME_SLOT TIME_SLOT_ID="ts3"/>'
    assert elan.read(eaf(open_end, slot)).content == [
        Cue("hello", 0.5, None, "Ann"),
        Cue("you", None, 1.5, "Ann"),
    ]
    frames = eaf(tier("Ann", aligned("a1", "hello")), header='TIME_UNITS="PAL-frames"')
    assert elan.read(frames).content == [Cue("hello", 20.0, 60.0, "Ann")]
    utf16 = eaf(tier("Ann", aligned("a1", "olá"))).decode().replace("UTF-8", "UTF-16").encode("utf-16")
    assert elan.read(utf16).content == [Cue("olá", 0.5, 1.5, "Ann")]
    latin = eaf(tier("Ann", aligned("a1", "olá"))).decode().replace("UTF-8", "ISO-8859-1").encode("latin-1")
    assert elan.read(latin).content == [Cue("olá", 0.5, 1.5, "Ann")]


BOMB = (
    '<!DOCTYPE a [<!ENTITY a "private">' + "".join(f'<!ENTITY a{i} "{"&a;" * 10}">' for i in range(10)) + "]>"
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<ANNOTATION_DOCUMENT/>", "has 0 tiers, of which none holds words"),
        (b"<tt>private</tt>", "is XML with the root 'tt', but ELAN's is ANNOTATION_DOCUMENT"),
        (b"private", "is not well-formed XML: line 1, column 0"),
        (eaf("")[:-9], "is not well-formed XML"),
        (f"{BOMB}<a>&a9;</a>".encode(), "is XML that defines entities, which no transcript needs"),
        (f"{BOMB}<a>&a9;</a>".encode("utf-16"), "is XML that defines entities, which no transcript needs"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a>&b;</a>', "is not well-formed XML"),
        (b"<a>" * 100_000, "is XML with elements nested more than 64 deep"),
        (b'<?xml version="1.0" encoding="zip"?><a/>', "is XML in the encoding zip; save it as UTF-8"),
        (b"<a>\xff</a>", "is XML that is not UTF-8 (byte 3)"),
        (eaf("", header='TIME_UNITS="hours"'), "has the time unit 'hours'; the choices are milliseconds"),
        (
            eaf("", '<TIME_SLOT TIME_SLOT_ID="x" TIME_VALUE="soon"/>'),
            "has a time slot 'x' whose value is no whole",
        ),
        (eaf(tier("notes", aligned("a1", "private"))), "has 1 tiers, of which none holds words"),
    ],
)
def test_a_file_that_is_not_elans_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        elan.read(data)
    assert message in str(caught.value)
    assert "private" not in str(caught.value)
