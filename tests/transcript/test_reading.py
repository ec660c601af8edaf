"""Transcripts in files: which bytes are read, in which encoding and format, and what is refused."""

import json
from pathlib import Path

import pytest

from hilbert_ray.document.records import Document, DocumentError, Utterance
from hilbert_ray.transcript.reading import load_text

VTT = "WEBVTT\n\n1\n00:01.000 --> 00:02.500\n<v Ann>hello <b>you</b>\n\n01:00:00.000 --> 01:00:01.000\nbye\n"
SRT = "1\n00:00:01,000 --> 00:00:02,500\nhello\nyou\n\n2\n01:00:00,000 --> 01:00:01,000\nbye\n"
WHISPER = json.dumps({"segments": [{"text": " hi", "start": 0.5, "end": 1, "speaker": "S0", "words": []}]})


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "t.vtt",
            VTT,
            (
                Utterance(text="hello you", start=1.0, end=2.5, role="Ann"),
                Utterance(text="bye", start=3600.0, end=3601.0),
            ),
        ),
        (
            "t.srt",
            SRT,
            (
                Utterance(text="hello you", start=1.0, end=2.5),
                Utterance(text="bye", start=3600.0, end=3601.0),
            ),
        ),
        ("t.json", WHISPER, (Utterance(text=" hi", start=0.5, end=1.0, role="S0"),)),
        ("t.json", '["one", "two"]', (Utterance(text="one"), Utterance(text="two"))),
        ("t.txt", "just words\nand more", "just words\nand more"),
    ],
)
def test_transcripts_are_read_by_their_kind(
    tmp_path: Path, name: str, content: str, expected: object
) -> None:
    (tmp_path / name).write_text(content)
    assert load_text(Document(doc_id="d1", text_file=str(tmp_path / name))).text == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", None, "document 'd1': there is no text_file "),
        ("t.doc", b"", "ends in .doc; use .vtt, .srt, .json, "),
        ("t.txt", b"caf\xe9", "is not UTF-8 text: byte 3 is 0xE9; convert it"),
        ("t.json", b"{", "is not valid JSON"),
        ("t.vtt", b"WEBVTT\n", "is WebVTT without utterances; write null"),
        (
            "t.srt",
            b"1\nsoon --> later\nhello\n",
            "has no times that can be read, the first in line 2; write them as in 00:00:01.000",
        ),
    ],
)
def test_a_transcript_that_cannot_be_read_says_why(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DocumentError) as caught:
        load_text(Document(doc_id="d1", text_file=str(tmp_path / name)))
    assert message in str(caught.value)
