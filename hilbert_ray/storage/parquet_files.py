"""Parquet files that prove their own bytes, whole or block by block.

A file that is read as a whole holds its SHA-256 among the key-value metadata of its footer, under `checksum`:
that of the file with 64 zeros in the place of the checksum. To every other program it is a Parquet file like
any other. Of a file that is read in parts, a table elsewhere holds the checksum of each block of its bytes.
"""

import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from hilbert_ray.storage.files import DamagedError
from hilbert_ray.storage.json_files import CHECKSUM

_NO_CHECKSUM = b"0" * 64
_NAME = CHECKSUM.encode()
# As Thrift's compact protocol writes it: length and name, then type of field, length and value.
_ENTRY = bytes([len(_NAME)]) + _NAME + b"\x18" + bytes([len(_NO_CHECKSUM)])
_FOOTER_BYTES = 2**20
"""End of a file in which the checksum is: the footer's entries are its last part."""
_HASHED_BYTES = 4 * 2**20
BLOCK_BYTES = 64 * 2**10
"""Size of a block that has its own checksum: about a row group of documents without transcripts."""
_DIGITS = 16
"""Hexadecimal digits kept of a block's SHA-256, as in the names of data files."""
_BLOCKS_KEPT = 256
"""Blocks kept in memory (16 MiB): Parquet returns to a block for each column that is in it."""


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema, **options: Any) -> Iterator[pq.ParquetWriter]:  # noqa: ANN401
    """Yield a writer of a local Parquet file, which holds its checksum once the context ends."""
    with pq.ParquetWriter(path, schema, **options) as writer:
        yield writer
        writer.add_key_value_metadata({CHECKSUM: _NO_CHECKSUM.decode()})
    with path.open("r+b") as file:
        place = _place_of_checksum(file)
        if place is None:
            raise AssertionError(f"the footer of {path} does not end in the entry {CHECKSUM}")
        digest = _digest_without(file, place)
        file.seek(place)
        file.write(digest)


def read_parquet(file: BinaryIO, name: str, repair: str, **options: Any) -> pa.Table:  # noqa: ANN401
    """Return the table of a Parquet file, which is hashed first; one without a checksum is read as it is.

    Args:
        file: the open file; it is read twice, and never held in memory as a whole.
        name: of the file, for the message.
        repair: what the user can do, for the message.
        options: of `pyarrow.parquet.read_table`.

    Raises:
        DamagedError: when the bytes are not those that were written, or no Parquet.
    """
    place = _place_of_checksum(file)
    if place is not None:
        file.seek(place)
        recorded = file.read(len(_NO_CHECKSUM))
        actual = _digest_without(file, place)
        if actual != recorded:
            fault = f"its checksum is {actual[:16].decode()}..., not what its footer says"
            raise DamagedError.of(name, fault, repair)
    file.seek(0)
    with reading_parquet(name, repair):
        return pq.read_table(file, **options)


@contextmanager
def reading_parquet(name: str, repair: str) -> Iterator[None]:
    """Turn what a damaged Parquet file raises into DamagedError."""
    try:
        yield
    # Text that is not UTF-8 is a ValueError, and so are most of pyarrow's own errors.
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedError.of(name, f"{type(error).__name__}: {error}", repair) from error


def _place_of_checksum(file: BinaryIO) -> int | None:
    """Return where the checksum is in a Parquet file, or None where it has none."""
    first = max(file.seek(0, os.SEEK_END) - _FOOTER_BYTES, 0)
    file.seek(first)
    end = file.read()
    start = end.rfind(_NAME) - 1
    entry = end[max(start, 0) : start + len(_ENTRY)]
    # A flipped bit around the name must not hide the checksum; one in the name does, and changes nothing.
    if start < 0 or len(entry) < len(_ENTRY) or sum(a != b for a, b in zip(entry, _ENTRY, strict=True)) > 1:
        return None
    return first + start + len(_ENTRY)


def _digest_without(file: BinaryIO, place: int) -> bytes:
    """Return the SHA-256 of a file, in hexadecimal, as if zeros were at the place of the checksum."""
    hasher = hashlib.sha256()
    file.seek(0)
    remaining = place
    while remaining and (block := file.read(min(remaining, _HASHED_BYTES))):
        hasher.update(block)
        remaining -= len(block)
    file.seek(place + len(_NO_CHECKSUM))
    hasher.update(_NO_CHECKSUM)
    while block := file.read(_HASHED_BYTES):
        hasher.update(block)
    return hasher.hexdigest().encode()


def block_checksums(file: BinaryIO) -> str:
    """Return the checksums of a file's blocks, one after another, 16 hexadecimal digits each."""
    file.seek(0)
    return "".join(map(_block_checksum, iter(lambda: file.read(BLOCK_BYTES), b"")))


def _block_checksum(block: bytes) -> str:
    return hashlib.sha256(block).hexdigest()[:_DIGITS]


class CheckedBlocks(io.RawIOBase):
    """A file that may be read at any place; each block is compared with its checksum before it is used."""

    def __init__(self, file: BinaryIO, checksums: str, name: str, repair: str) -> None:
        """Read from an open file with the checksums that `block_checksums` returned of it.

        Raises:
            DamagedError: here or when it is read, when the file is not what was written; the message has
                the file's `name`, and in `repair` what the user can do.
        """
        self._file, self._checksums, self._name, self._repair = file, checksums, name, repair
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._size = file.seek(0, os.SEEK_END)
        self._place = 0
        blocks = len(checksums) // _DIGITS
        if -(-self._size // BLOCK_BYTES) != blocks:
            self._refuse(f"it has {self._size} bytes, which are not {blocks} blocks of {BLOCK_BYTES}")

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place; return it."""
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        """Return the place."""
        return self._place

    def read(self, size: int = -1, /) -> bytes:
        """Return the bytes from here on, `size` of them or, where that is negative, all."""
        end = self._size if size < 0 else min(self._place + size, self._size)
        start, self._place = self._place, max(end, self._place)
        numbers = range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES)) if end > start else range(0)
        data = b"".join(map(self._block, numbers))
        first = start % BLOCK_BYTES
        return data[first : first + max(end - start, 0)]

    def _block(self, number: int) -> bytes:
        block = self._blocks.pop(number, None)
        if block is None:
            self._file.seek(number * BLOCK_BYTES)
            block = self._file.read(BLOCK_BYTES)
            if _block_checksum(block) != self._checksums[number * _DIGITS : (number + 1) * _DIGITS]:
                self._refuse(f"the checksum of its block {number} is not that which was written")
        self._blocks[number] = block
        if len(self._blocks) > _BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return block

    def _refuse(self, fault: str) -> None:
        raise DamagedError.of(self._name, fault, self._repair)
