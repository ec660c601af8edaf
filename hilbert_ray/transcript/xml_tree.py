"""XML from strangers: its encoding, a tree without entities or external files, and bounded depth."""

import re
from collections.abc import Iterator
from typing import Any, cast
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from hilbert_ray.transcript.cue import FormatError

MAX_DEPTH = 64
"""How deep elements may be nested: transcripts need about ten."""
_DECLARED = re.compile(
    rb"""\s{0,99}<\?xml\s[^>]{0,200}?encoding\s{0,9}=\s{0,9}["']([A-Za-z0-9._-]{1,40})["']"""
)
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_ENCODINGS = frozenset(("utf-8", "utf8", "us-ascii", "ascii", "utf-16", "utf-16le", "utf-16be"))
_DECLARATION = re.compile(r"\s{0,99}<\?xml[^>]{0,200}\?>")


def tree(data: bytes) -> Element:
    """Return the root of an XML file.

    Nothing outside the file is read, and no entities are defined in it: a document type with entities, of
    which a few lines can become gigabytes, is refused.

    Raises:
        FormatError: if it is not XML, or has entities or elements nested too deeply.
    """
    text = _decoded(data)
    if "<!ENTITY" in text:
        raise FormatError(
            "is XML that defines entities, which no transcript needs; remove its <!DOCTYPE ...>"
        )
    # The text is decoded already: what its declaration says of its encoding holds no more.
    parser: ElementTree.XMLPullParser[Any] = ElementTree.XMLPullParser(("start", "end"))
    text = _DECLARATION.sub("", text, count=1)
    root: Element | None = None
    depth = 0
    try:
        # In pieces, so that the depth is seen before a tree of millions of levels is built.
        for place in range(0, max(1, len(text)), 1 << 16):
            parser.feed(text[place : place + (1 << 16)])
            for event, element in _events(parser):
                root = element if root is None else root
                depth += 1 if event == "start" else -1
                if depth > MAX_DEPTH:
                    raise FormatError(
                        f"is XML with elements nested more than {MAX_DEPTH} deep; export it again"
                    )
        parser.close()
    except ElementTree.ParseError as error:
        line, column = error.position
        raise FormatError(f"is not well-formed XML: line {line}, column {column}; export it again") from None
    if root is None:
        raise FormatError("is XML without elements; export it again")
    return root


def _events(parser: "ElementTree.XMLPullParser[Any]") -> Iterator[tuple[str, Element]]:
    return cast(Iterator[tuple[str, Element]], parser.read_events())


def _decoded(data: bytes) -> str:
    declared = _DECLARED.match(data)
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    if not encoding:
        encoding = declared[1].decode().lower() if declared else "utf-8"
        # Of the codecs of Python, only those of characters: others unpack.
        if encoding not in _ENCODINGS and not encoding.startswith(
            ("iso-8859-", "windows-125", "cp125", "latin")
        ):
            raise FormatError(f"is XML in the encoding {encoding}; save it as UTF-8")
    try:
        return data.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        place = f" (byte {error.start})" if isinstance(error, UnicodeDecodeError) else ""
        raise FormatError(
            f"is XML that is not {encoding.removesuffix('-sig').upper()}{place}; save it as UTF-8"
        ) from None


def local(element: Element) -> str:
    """Return the name of an element without its namespace."""
    return str(element.tag).rpartition("}")[2]


def attribute(element: Element, name: str) -> str | None:
    """Return an attribute by its name without namespace; None if there is none."""
    for key, value in element.attrib.items():
        if key.rpartition("}")[2] == name:
            return value
    return None


def named(element: Element, name: str) -> Iterator[Element]:
    """Yield an element and those below it that have a name, in any namespace."""
    return (one for one in element.iter() if local(one) == name)
