"""Transcripts in files: which bytes are read, in which encoding and format, and what is refused."""

import json
import os
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
        ("t.doc", b"", "ends in .doc; use .vtt, .srt, "),
        ("t.txt", b"caf\xe9", "is not UTF-8 text: byte 3 is 0xE9; convert it"),
        ("t.json", b"{", "is not valid JSON"),
        ("t.vtt", b"WEBVTT\n", "is WebVTT without utterances; write null"),
        ("t.vtt", b"<!DOCTYPE html>\n<html>", "is a web page"),
        (
            "t.txt",
            b"version https://git-lfs.github.com/spec/v1\noid",
            "is a pointer of Git LFS; fetch the file",
        ),
        ("t.txt", b"PK\x03\x04\xff", "is an archive or a document of a word processor"),
        ("t.srt", b"hello there", "has no times; a caption needs a line such as 00:00:01.000"),
        ("t.srt", "1\nhello".encode("utf-16-le"), "convert it with `iconv -f UTF-16LE -t UTF-8 OLD > NEW`"),
        ("t.srt", b"\xff\xfeh", "begins as UTF-16-LE but is not: byte 2 is wrong"),
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


def test_what_is_no_regular_file_or_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.vtt")
    (tmp_path / "folder.vtt").mkdir()
    (tmp_path / "device.txt").symlink_to("/dev/zero")
    (tmp_path / "large.txt").write_bytes(b"a" * 101)
    monkeypatch.setattr("hilbert_ray.transcript.reading.MAX_BYTES", 100)
    for name, message in (
        ("pipe.vtt", "is a named pipe; a transcript must be a regular file"),
        ("folder.vtt", "is a folder; a transcript"),
        ("device.txt", "is a device; a transcript"),
        ("large.txt", "is larger than 0 MB, the most that is read"),
    ):
        with pytest.raises(DocumentError, match=message):
            load_text(Document(doc_id="d1", text_file=str(tmp_path / name)))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_utf_8_or_what_its_mark_says(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes("ñandú,\r\nsí\rno".encode(encoding))
    assert load_text(Document(doc_id="d1", text_file=str(path))).text == "ñandú,\nsí\nno"
