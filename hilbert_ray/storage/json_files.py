"""JSON that proves its own bytes: the last member of an object is a checksum of what is before it.

    {"schema": 1, "buckets": 256, "checksum": "<SHA-256, hexadecimal, of all bytes before the comma>"}

They stay plain JSON to every other program. Objects without a checksum, as older versions and people write
them, are read as they are.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hilbert_ray.storage.files import DamagedError

CHECKSUM = "checksum"
"""Name of the member (of JSON) or of the footer's entry (of Parquet) that holds the checksum."""
_NAME = CHECKSUM.encode()
_TAIL_BYTES = 256
"""More than the checksum with its name and the end of the object, however the file is indented."""
_TAIL = re.compile(rb',?(?P<space>\s*)"(?P<name>.{8})": ?"(?P<digest>.{64})"\s*\}\s*\Z', re.DOTALL)


def with_checksum(data: bytes) -> bytes:
    """Return the bytes of a JSON object with the checksum as its last member, in the layout of the others."""
    body = data.rstrip()[:-1].rstrip()
    comma = b"" if body == b"{" else b","
    # Indented by a space where the object has a member on each line.
    start, colon, end = (b"\n ", b": ", b"\n}") if b"\n" in body else (b"", b":", b"}")
    digest = hashlib.sha256(body).hexdigest().encode()
    return b'%s%s%s"%s"%s"%s"%s' % (body, comma, start, _NAME, colon, digest, end)


def without_checksum(data: bytes, name: str, repair: str) -> bytes:
    """Return the bytes of a JSON object as they were before `with_checksum`.

    Args:
        data: the bytes of a file or line; without a checksum they are returned as they are.
        name: of the file, for the message.
        repair: what the user can do, for the message.

    Raises:
        DamagedError: when the bytes are not those that were written.
    """
    start, checksum = _find(data)
    if checksum is None:
        return data
    actual = hashlib.sha256(data[:start]).hexdigest()
    if checksum != b"%s %s" % (_NAME, actual.encode()):
        raise DamagedError.of(
            name,
            f"its checksum is {actual[:16]}..., not what it says at its end",
            f"{repair}. After an edit of your own, delete the entry `{CHECKSUM}` instead",
        )
    return data[:start] + b"}"


def has_checksum(data: bytes) -> bool:
    """Whether a JSON object holds a checksum, right or wrong."""
    return _find(data)[1] is not None


def _find(data: bytes) -> tuple[int, bytes | None]:
    """Return where the checksum's member begins, and its name and value; None for an object without."""
    first = max(len(data) - _TAIL_BYTES, 0)
    match = _TAIL.search(data, first)
    if match is None or not _is_name(match["name"]):
        return len(data), None
    return match.start(), match["name"] + b" " + match["digest"]


def _is_name(name: bytes) -> bool:
    # A flipped bit in its name must not turn the checksum into a member like any other.
    return name == _NAME or sum(a != b for a, b in zip(name, _NAME, strict=True)) <= 1


@contextmanager
def reading_json(name: str, repair: str) -> Iterator[None]:
    """Turn what damaged JSON raises, while it is parsed or its values are used, into DamagedError."""
    try:
        yield
    # RecursionError: JSON that is nested a thousand times.
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise DamagedError.of(name, f"{type(error).__name__}: {error}", repair) from error


def parse_json(data: bytes, name: str, repair: str) -> dict[str, Any]:
    """Return a JSON object, without the checksum, which is compared.

    Args:
        data: the bytes of the file.
        name: of the file, for the message.
        repair: what the user can do, for the message.

    Raises:
        DamagedError: when the bytes are not those that were written, or no JSON object.
    """
    with reading_json(name, repair):
        values = json.loads(without_checksum(data, name, repair))
        if not isinstance(values, dict):
            raise TypeError(f"it holds a {type(values).__name__}, not an object")
    return values


def json_line(values: Mapping[str, Any]) -> str:
    """Return a JSON object with its checksum as a line of a JSON Lines file."""
    return with_checksum(json.dumps(values).encode()).decode() + "\n"


def parse_json_lines(data: bytes, name: str, repair: str) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file; a last line that a kill cut off is left out.

    Args:
        data: the bytes of the file, whose lines may have checksums.
        name: of the file, for the message.
        repair: what the user can do, for the message.

    Raises:
        DamagedError: when a line is not what was written.
    """
    # Each line that was written ends in a line break: a last piece without one is what a kill left.
    lines = data.split(b"\n")[:-1]
    return [parse_json(line, f"{name}, line {i},", repair) for i, line in enumerate(lines, start=1)]
