"""A document's transcript, inline or in a file: bounded bytes, their encoding, their format, their repair."""

import codecs
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import fsspec

from hilbert_ray.document import Document, DocumentError, Recognition, Utterance
from hilbert_ray.storage import access_errors, irregular
from hilbert_ray.transcript.cue import Cue, Flaw, FormatError, Reading
from hilbert_ray.transcript.diarization import with_speakers
from hilbert_ray.transcript.nist import read_turns
from hilbert_ray.transcript.recognition import foreign
from hilbert_ray.transcript.registry import (
    Format,
    endings,
    format_by_content,
    format_by_name,
    reader_of,
)
from hilbert_ray.transcript.repair import CHARACTERS, clean_text, repair
from hilbert_ray.transcript.rolling import unroll
from hilbert_ray.transcript.speakers import take_speakers

MAX_BYTES = 256 * 2**20
"""The largest file that is read: a day of speech in the wordiest format takes less than 100 MB."""
OTHER_FORMAT = "files whose content is of another format than their name says, read by their content"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark begins it
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class TranscriptError(DocumentError):
    """A transcript that cannot be read; the message names the document, the file, the rule and what to do."""


@dataclass(frozen=True, slots=True)
class LoadedText:
    """A transcript: one string, utterances, or None if there is none; and what was odd or repaired in it.

    `recognition`: what recognised the speech, where `hilbert-ray transcribe` wrote the file.
    """

    text: str | tuple[Utterance, ...] | None
    flaws: tuple[Flaw, ...] = ()
    recognition: Recognition | None = None

    @property
    def utterances(self) -> tuple[Utterance, ...]:
        """The utterances; empty if the transcript is one string."""
        return self.text if isinstance(self.text, tuple) else ()


def check_text_kind(document: Document) -> Format | None:
    """Return the format of `text_file` by the ending of its name; None if there is no file.

    Raises:
        TranscriptError: if the format is unknown.
    """
    path = document.text_file
    if path is None:
        return None
    named = format_by_name(path)
    if named is None:
        ending = path.rpartition("/")[2].rpartition(".")[2].lower()
        raise TranscriptError(
            f"document {document.doc_id!r}: text_file {path} ends in .{ending}; use {endings()}"
        )
    return named


def load_text(document: Document) -> LoadedText:
    """Return the transcript, reading `text_file` and `diarization` if the document has them.

    Raises:
        TranscriptError: if a file is absent, of an unknown format, or without a transcript or turns.
    """
    loaded = LoadedText(document.text)
    named = check_text_kind(document)
    if named is not None and document.text_file is not None:
        with _errors_of(document, "text_file", document.text_file):
            loaded = read_transcript(_read_bytes(document.text_file), named)
    if document.diarization is not None:
        with _errors_of(document, "diarization", document.diarization):
            turns = read_turns(decode(_read_bytes(document.diarization)))
            text, flaws = with_speakers(loaded.text, turns)
            loaded = replace(loaded, text=text, flaws=loaded.flaws + flaws)
    return loaded


@contextmanager
def _errors_of(document: Document, field: str, path: str) -> Iterator[None]:
    """Name the document and the field in what is wrong with a file."""
    try:
        yield
    except FileNotFoundError:
        raise TranscriptError(
            f"document {document.doc_id!r}: there is no {field} {path}; correct the path or write null"
        ) from None
    except FormatError as error:
        raise TranscriptError(f"document {document.doc_id!r}: {field} {path} {error}") from None


def read_transcript(data: bytes, named: Format) -> LoadedText:
    """Return the transcript that the bytes of a file hold.

    Args:
        data: the whole file.
        named: the format that its name says; contents of another format beyond doubt are read as that.

    Raises:
        FormatError: if they hold none.
    """
    if (what := foreign(data)) is not None:
        raise FormatError(f"is {what}")
    flaws: tuple[Flaw, ...] = ()
    recognition: Recognition | None = None
    if named.takes == "bytes":
        found, result = named, reader_of(named)(data)  # type: ignore[arg-type]
    else:
        text = decode(data)
        found = format_by_content(text, named)
        flaws = (Flaw(OTHER_FORMAT),) if found is not named else ()
        result = reader_of(found)(data if found.takes == "bytes" else text)  # type: ignore[arg-type]
    if isinstance(result, Reading):
        flaws += result.flaws
        recognition = result.recognition
        result = result.content
    loaded = _loaded(result, found)
    return replace(loaded, flaws=flaws + loaded.flaws, recognition=recognition)


def _loaded(content: str | Sequence[Cue], found: Format) -> LoadedText:
    if isinstance(content, str):
        text = clean_text(content)
        if not text.strip():
            raise FormatError("has no words; write null if there is no transcript")
        return LoadedText(text, (Flaw(CHARACTERS),) if text != content else ())
    if not content:
        raise FormatError(f"is {found.name} without utterances; write null if there is no transcript")
    flaws: tuple[Flaw, ...] = ()
    if found.is_caption:
        content, flaws = _plain_captions(content)
    utterances, repairs = repair(content)
    return LoadedText(utterances, flaws + repairs)


def _plain_captions(cues: Sequence[Cue]) -> tuple[Sequence[Cue], tuple[Flaw, ...]]:
    """Return captions as cues of other formats are: each word once, speakers apart, on one line."""
    cues, rolled = unroll(cues)
    cues, named = take_speakers(cues)
    return [replace(cue, words=cue.words.replace("\n", " ")) for cue in cues], rolled + named


def _read_bytes(path: str) -> bytes:
    kind = irregular(path)
    if kind is not None:
        raise FormatError(f"is {kind}; a transcript must be a regular file")
    with access_errors(path), fsspec.open(path, "rb") as file:
        data: bytes = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise FormatError(
            f"is larger than {MAX_BYTES >> 20} MB, the most that is read; split the recording and its "
            "transcript, or keep only the words and their times"
        )
    return data


def decode(data: bytes) -> str:
    """Return the text of a file: UTF-8, or what its byte-order mark says. Nothing is guessed.

    Raises:
        FormatError: naming the first byte that is no UTF-8, and how to convert the file.
    """
    # The mark itself goes: editors on Windows write one, which JSON refuses and text would keep.
    mark, encoding = next((one for one in _BOMS if data.startswith(one[0])), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        position = len(mark) + error.start
        if mark:
            raise FormatError(
                f"begins as {encoding.upper()} but is not: byte {position} is wrong; save it again as UTF-8"
            ) from None
        raise FormatError(
            f"is not UTF-8 text: byte {position} is 0x{data[position]:02X}; convert it from its encoding, "
            "such as `iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW` for text from Western Windows"
        ) from None
    # UTF-16 of Latin letters without a mark decodes as UTF-8 with a zero byte for every second letter.
    if not mark and text.count("\0") * 4 > len(text):
        order = "LE" if data[:1] != b"\0" else "BE"
        raise FormatError(
            f"has zero bytes between its letters, as UTF-16 without a byte-order mark does; convert it with "
            f"`iconv -f UTF-16{order} -t UTF-8 OLD > NEW`"
        )
    # One newline, as Python's text mode makes of every kind.
    return text.replace("\r\n", "\n").replace("\r", "\n")
