"""TTML: by the examples and time expressions of TTML 2 (W3C), and with what captioning tools write."""

import pytest

from hilbert_ray.transcript import ttml
from hilbert_ray.transcript.cue import Cue, FormatError

SPACES = (
    'xmlns="http://www.w3.org/ns/ttml" xmlns:ttm="http://www.w3.org/ns/ttml#metadata" '
    'xmlns:ttp="http://www.w3.org/ns/ttml#parameter"'
)


def tt(body: str, more: str = "", head: str = "") -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<tt {SPACES} {more}>{head}<body>{body}</body></tt>'.encode()
    )


@pytest.mark.parametrize(
    ("expression", "more", "expected"),
    [
        ("00:00:01.500", "", 1.5),
        ("100:00:01", "", 360001.0),
        ("00:00:01:15", 'ttp:frameRate="30"', 1.5),
        ("00:00:01:12", 'ttp:frameRate="24"', 1.5),
        ("00:01:00:00", 'ttp:frameRate="30" ttp:frameRateMultiplier="1000 1001"', 60.0),
        ("1.5s", "", 1.5),
        ("1500ms", "", 1.5),
        ("0.5m", "", 30.0),
        ("1h", "", 3600.0),
        ("45f", 'ttp:frameRate="30"', 1.5),
        ("15000000t", 'ttp:tickRate="10000000"', 1.5),
        ("36t", 'ttp:frameRate="24"', 1.5),
    ],
)
def test_every_time_expression_of_the_standard(expression: str, more: str, expected: float) -> None:
    (cue,) = ttml.read(tt(f'<div><p begin="{expression}" dur="1s">one</p></div>', more))
    assert cue.words == "one"
    assert cue.start_s == pytest.approx(expected)
    assert cue.end_s == pytest.approx(expected + 1)


def test_times_count_from_what_holds_them_and_end_with_it() -> None:
    body = (
        '<div begin="10s" end="14s"><p begin="1s" end="2s">one<br/>and <span>two</span></p>'
        '<p begin="3s" end="9s">three</p></div>'
        '<div timeContainer="seq"><p dur="2s">four</p><p dur="3s">five</p></div>'
        '<div><p begin="20s" end="24s"><span begin="0s" end="1s">six</span> '
        '<span begin="1s">seven</span></p></div>'
    )
    assert ttml.read(tt(body)) == [
        Cue("one and two", 11.0, 12.0),
        Cue("three", 13.0, 14.0),
        Cue("four", 0.0, 2.0),
        Cue("five", 2.0, 5.0),
        Cue("six", 20.0, 21.0),
        Cue("seven", 21.0, 24.0),
    ]


def test_speakers_are_agents_by_name_and_metadata_is_no_speech() -> None:
    head = (
        '<head><metadata><ttm:title>t</ttm:title><ttm:agent xml:id="a1" type="person">'
        '<ttm:name type="full">Ann Lee</ttm:name></ttm:agent>'
        '<ttm:agent xml:id="a2" type="group"/></metadata></head>'
    )
    body = (
        '<div ttm:agent="a1"><metadata><ttm:desc>private</ttm:desc></metadata>'
        '<p begin="0s" end="1s"><metadata>x</metadata>one &amp; two</p>'
        '<p begin="1s" end="2s" ttm:agent="a2">three</p></div><div><p>four</p><p>  </p></div>'
    )
    assert ttml.read(tt(body, head=head)) == [
        Cue("one & two", 0.0, 1.0, "Ann Lee"),
        Cue("three", 1.0, 2.0, "a2"),
        Cue("four"),
    ]


def test_the_older_namespace_of_dfxp_is_read() -> None:
    paragraph = '<p begin="00:00:01.000" end="00:00:02.000">one</p>'
    data = f'<tt xmlns="http://www.w3.org/2006/10/ttaf1"><body><div>{paragraph}</div></body></tt>'.encode()
    assert ttml.read(data) == [Cue("one", 1.0, 2.0)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>private</html>", "is XML with the root 'html', but that of TTML is tt"),
        (tt('<div><p begin="soon">private</p></div>'), "has a p whose begin is no time of TTML"),
        (tt("<p>private</p>", 'ttp:frameRate="0"'), "has a frameRate that is no whole number above 0"),
        (
            tt("<p>private</p>", 'ttp:frameRateMultiplier="1"'),
            "has a frameRateMultiplier that is not two whole",
        ),
        (tt("<div>" * 100_000), "is XML with elements nested more than 64 deep"),
        (b"<!DOCTYPE tt [<!ENTITY a 'private'>]><tt>&a;</tt>", "is XML that defines entities"),
    ],
)
def test_what_is_no_ttml_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        ttml.read(data)
    assert message in str(caught.value)
    assert "private" not in str(caught.value)
