"""Fuzzing of readers: valid files damaged at random, each by its seed, and the time that they may take."""

import json
import random
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

CPU_S = 5.0
"""Most seconds of processor time that any input may take."""
TOKENS = (
    *rb"""
    " ' , ; : < > </ &amp; &#0; &#xD800; \ud800 { } [ ] [[[[ null true NaN -Infinity 1e999 -1 0 1e308 1_0 0x1F
    007 18446744073709551616 -9223372036854775809 00:00:00.000 99:99:99,999 -->
    """.split(),
    *(b"\0", b"\n", b"\r", b"\n\n", b"\t", b" ", b"\x15", b"\x1a", b"\x7f", b"9" * 400),
    *(
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xa8",
        "\u0661\u00b2\u202e\u0300".encode(),
    ),
    *(bytes(4), b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80"),
)
"""What readers trip over, put in anywhere: delimiters, odd numbers, broken characters, limits of integers."""
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_ENCODINGS = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-7", "cp037")
_LONGEST = 2**20
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2.5,
        -0.5,
        1e300,
        10**30,
        2**63,
        "",
        " ",
        "x",
        "1.5",
        "-1",
        "nan",
        "PT1.5S",
    ),
    *("\ud800", "\0", "\u2028", [], {}, [[]], [{}], [None], ["a", "b"], [1, 2], {"a": 1}),
    {"text": "hi", "start": 0.5, "end": 1},
)
"""What stands at a place of JSON where it is restructured."""
Change = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    begin = rng.randrange(len(data) + 1)
    length = rng.choice((1, 4, 16, 100, 1000, max(1, len(data) // 2)))
    return begin, min(len(data), begin + rng.randint(1, length))


def flip(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _bit in range(rng.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut_off(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] if rng.random() < 0.8 else data[at:]


def delete(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    begin, end = _span(rng, data)
    return data[:begin] + data[end:]


def duplicate(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    begin, end = _span(rng, data)
    at = rng.choice((end, rng.randrange(len(data) + 1)))
    return data[:at] + data[begin:end] * rng.choice((1, 1, 2, 50)) + data[at:]


def repeat(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Repeat a piece until the file is a hundred thousand bytes long: what is quadratic shows here."""
    begin, end = _span(rng, data)
    piece = data[begin : min(end, begin + 200)] or b" "
    return data[:end] + piece * (100_000 // len(piece)) + data[end:]


def splice(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def insert(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at, token = rng.randrange(len(data) + 1), rng.choice(TOKENS)
    return data[:at] + token + data[at + rng.choice((0, len(token))) :]


def renumber(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    numbers = list(_NUMBER.finditer(data))
    if not numbers:
        return data
    one = rng.choice(numbers)
    value = rng.choice(
        (rng.choice(numbers)[0], rng.choice(TOKENS), b"%d" % rng.getrandbits(rng.randint(1, 200)))
    )
    return data[: one.start()] + value + data[one.end() :]


def reencode(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    return data.decode("latin-1").encode(rng.choice(_ENCODINGS))


def restructure(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Put another value at some place of JSON, leave a key out, or wrap it: other keys stay those known."""
    # The whole file, or one of its lines.
    before, piece, after = b"", data, b""
    if data.count(b"\n{"):
        begin = rng.choice([0, *(match.end() - 1 for match in re.finditer(rb"\n\{", data))])
        before, (piece, _, after) = data[:begin], data[begin:].partition(b"\n")
    try:
        value = json.loads(piece)
    except (ValueError, RecursionError):
        return flip(rng, data, others)
    places = list(_places(value))
    if not places:
        return data
    holder, key = rng.choice(places)
    if rng.random() < 0.2:
        del holder[key]
    elif rng.random() < 0.2:
        holder[key] = rng.choice(([holder[key]], {"text": holder[key]}, {key: holder[key]}))
    else:
        other, place = rng.choice(places)
        # Copied through text: a value inside itself would be endless.
        holder[key] = json.loads(json.dumps(rng.choice((*_VALUES, other[place]))))
    changed = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return before + changed + b"\n" + after


def _places(value: object) -> Iterator[tuple[Any, Any]]:
    """Yield each place of a JSON value as the list or mapping and its index or key."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield value, key
        yield from _places(item)


def empty(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    return rng.choice(
        (b"", b"\n", b" \n\t\n", data[:1], b"\xef\xbb\xbf", b"\xff\xfe", bytes(rng.randrange(5000)))
    )


_CHANGES: Mapping[Change, int] = {
    flip: 12,
    cut_off: 8,
    delete: 10,
    duplicate: 10,
    splice: 10,
    insert: 20,
    renumber: 20,
    reencode: 2,
    restructure: 40,
    empty: 1,
    repeat: 2,
}


def damaged(seed: int, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return a file damaged at random in one to six ways; the same for the same seed.

    Args:
        seed: of all choices.
        data: a valid file.
        others: files of the same format, pieces of which may be put in.
    """
    rng = random.Random(seed)
    for change in rng.choices(list(_CHANGES), list(_CHANGES.values()), k=rng.choice((1, 1, 2, 3, 6))):
        data = change(rng, data, others)[:_LONGEST]
    return data


class TooSlowError(Exception):
    """An input that takes more processor time than any may."""


@contextmanager
def bounded_time(seconds: float = CPU_S) -> Iterator[None]:
    """Raise `TooSlowError` where the body takes longer: of the processor, as the machine may be busy."""

    def stop(signal_number: int, frame: FrameType | None) -> None:
        raise TooSlowError(f"takes more than {seconds} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
