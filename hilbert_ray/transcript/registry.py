"""The table of transcript formats: by which names and contents they are recognised, and what reads them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

from hilbert_ray.transcript.cue import BytesReader, FormatError, Reader
from hilbert_ray.transcript.recognition import is_chat, is_json, is_sbv, is_subrip, is_textgrid, is_webvtt


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A format of transcripts.

    name: as messages name it. endings: of file names, lower case, without the point; the longest that fits
    decides. reader: "module:function", imported on use; takes what `takes` says, a `Reader` or `BytesReader`.
    is_content: whether some text is of this format beyond doubt, so that it is read as such whatever its
    file's name; None where content does not tell. is_caption: words have line breaks, may roll, and may begin
    with the name of their speaker. needs: modules that the reader imports, of the extra `formats`.
    """

    name: str
    endings: tuple[str, ...]
    reader: str
    takes: Literal["text", "bytes"] = "text"
    is_content: Callable[[str], bool] | None = None
    is_caption: bool = False
    needs: tuple[str, ...] = ()


FORMATS: Sequence[Format] = (
    Format(
        name="WebVTT",
        endings=("vtt",),
        reader="hilbert_ray.transcript.webvtt:read",
        is_content=is_webvtt,
        is_caption=True,
    ),
    Format(
        name="SubRip",
        endings=("srt",),
        reader="hilbert_ray.transcript.subrip:read",
        is_content=is_subrip,
        is_caption=True,
    ),
    Format(
        name="SBV",
        endings=("sbv",),
        reader="hilbert_ray.transcript.sbv:read",
        is_content=is_sbv,
        is_caption=True,
    ),
    Format(
        name="JSON",
        endings=("json", "jsonl"),
        reader="hilbert_ray.transcript.json_kinds:read",
        is_content=is_json,
    ),
    Format(name="a table", endings=("csv", "tsv"), reader="hilbert_ray.transcript.tables:read"),
    Format(name="ELAN", endings=("eaf",), reader="hilbert_ray.transcript.elan:read", takes="bytes"),
    Format(
        name="TextGrid",
        endings=("textgrid",),
        reader="hilbert_ray.transcript.textgrid:read",
        is_content=is_textgrid,
    ),
    Format(name="CHAT", endings=("cha",), reader="hilbert_ray.transcript.chat:read", is_content=is_chat),
    Format(name="STM", endings=("stm",), reader="hilbert_ray.transcript.nist:read_stm"),
    Format(name="CTM", endings=("ctm",), reader="hilbert_ray.transcript.nist:read_ctm"),
    Format(name="RTTM", endings=("rttm",), reader="hilbert_ray.transcript.nist:read_rttm"),
    Format(
        name="TTML",
        endings=("ttml", "dfxp", "itt", "xml"),
        reader="hilbert_ray.transcript.ttml:read",
        takes="bytes",
    ),
    Format(name="plain text", endings=("txt",), reader="hilbert_ray.transcript.plain:read"),
)
"""All formats that can be read; of those that claim a text by its content, the first reads it."""


def endings() -> str:
    """Return the endings of all formats as a list for messages: `.vtt, .srt or .txt`."""
    *most, last = (f".{ending}" for one in FORMATS for ending in one.endings)
    return f"{', '.join(most)} or {last}"


def format_by_name(path: str) -> Format | None:
    """Return the format of a file by the ending of its name; None if no format has it."""
    name = path.rpartition("/")[2].lower()
    fitting = [(len(ending), one) for one in FORMATS for ending in one.endings if name.endswith(f".{ending}")]
    return max(fitting, key=lambda pair: pair[0], default=(0, None))[1]


def format_by_content(text: str, named: Format) -> Format:
    """Return the format that reads a text: the one of its file's name, unless it is of another beyond doubt.

    Names are often wrong: captions are saved as .txt, and WebVTT as .srt.
    """
    if named.is_content is not None and named.is_content(text):
        return named
    return next((one for one in FORMATS if one.is_content is not None and one.is_content(text)), named)


def reader_of(one: Format) -> Reader | BytesReader:
    """Import and return a format's reader.

    Raises:
        FormatError: if a package that it needs is not installed.
    """
    missing = [module for module in one.needs if find_spec(module) is None]
    if missing:
        raise FormatError(
            f"is {one.name}, which is read with {' and '.join(missing)}; install it with "
            "`pip install 'hilbert-ray[formats]'`"
        )
    module, _, function = one.reader.partition(":")
    reader: Reader | BytesReader = getattr(import_module(module), function)
    return reader
