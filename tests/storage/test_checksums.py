"""Checksums inside JSON and Parquet: plain files to other programs, and no byte of them changes unseen."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilbert_ray.storage import parquet_files
from hilbert_ray.storage.files import DamagedError
from hilbert_ray.storage.json_files import (
    has_checksum,
    json_line,
    parse_json,
    parse_json_lines,
    with_checksum,
    without_checksum,
)
from hilbert_ray.storage.parquet_files import CheckedBlocks, block_checksums, parquet_writer, read_parquet

words = st.text(max_size=6)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=4,
)


def parse(data: bytes) -> dict[str, Any]:
    return parse_json(data, "x.json", "write it again")


@given(
    st.dictionaries(words, plain, max_size=3),
    st.sampled_from([None, 1, 2]),
    st.integers(0),
    st.integers(0, 7),
)
def test_json_comes_back_and_no_flipped_bit_gives_other_values(
    values: dict[str, Any], indent: int | None, place: int, bit: int
) -> None:
    data = with_checksum(json.dumps(values, indent=indent).encode())
    assert has_checksum(data)
    assert parse(data) == values
    assert json.loads(data) == {**values, "checksum": json.loads(data)["checksum"]}
    damaged = bytearray(data)
    damaged[place % len(data)] ^= 1 << bit
    # A bit of the member's own name may hide the checksum, and then the values are those that were written.
    try:
        found = parse(bytes(damaged))
    except DamagedError:
        return
    assert {name: found[name] for name in values} == values


def test_the_checksum_is_the_sha256_of_what_is_before_its_comma_and_is_compared() -> None:
    data = with_checksum(b'{"schema": 1}')
    assert data == b'{"schema": 1,"checksum":"%s"}' % hashlib.sha256(b'{"schema": 1').hexdigest().encode()
    assert without_checksum(data, "x.json", "") == b'{"schema": 1}'
    with pytest.raises(
        DamagedError, match=r"x\.json is damaged .*; write it again\. After an edit of your own, del"
    ):
        parse(data.replace(b"1", b"2", 1))
    for older in (b'{"schema": 1}', b'{"schema": 1, "revision": "%s"}' % (b"0" * 64)):
        assert parse(older) == json.loads(older)
        assert not has_checksum(older)
    for damaged in (b"", b"[1]", b'{"schema"', b"\xff", b"[" * 100_000):
        with pytest.raises(DamagedError, match=r"x\.json is damaged"):
            parse(damaged)


def lines_of(data: bytes) -> list[dict[str, Any]]:
    return parse_json_lines(data, "x.jsonl", "rerun")


def test_lines_that_a_kill_cut_off_are_left_out_and_changed_ones_are_named() -> None:
    lines = [json_line({"epoch": epoch}) for epoch in range(3)]
    data = "".join(lines).encode()
    assert lines_of(data) == [{"epoch": 0}, {"epoch": 1}, {"epoch": 2}]
    assert lines_of(data[:-1]) == lines_of(data[: len(lines[0]) * 2 + 5]) == [{"epoch": 0}, {"epoch": 1}]
    assert lines_of(b'{"epoch": 0}\n{"epoch": 1}\n') == [{"epoch": 0}, {"epoch": 1}], "older lines have none"
    with pytest.raises(DamagedError, match=r"x\.jsonl, line 2, is damaged"):
        lines_of(data.replace(b'"epoch": 1', b'"epoch": 7'))


def table(rows: int) -> pa.Table:
    return pa.table({"checksum": [f"c{i}" for i in range(rows)], "x": np.arange(rows, dtype=np.float64)})


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    with parquet_writer(tmp_path / "x.parquet", table(1).schema) as writer:
        for _ in range(3):
            writer.write_table(table(50))
    return tmp_path / "x.parquet"


def read(path: Path) -> pa.Table:
    with path.open("rb") as file:
        return read_parquet(file, path.name, "write it again")


def test_parquet_is_read_by_others_and_its_checksum_is_that_of_the_file_with_zeros_in_its_place(
    parquet: Path,
) -> None:
    whole = pa.concat_tables([table(50)] * 3)
    assert read(parquet).equals(whole)
    assert pq.read_table(parquet).equals(whole)
    checksum = pq.read_metadata(parquet).metadata[b"checksum"]
    assert parquet.read_bytes().count(checksum) == 1
    assert hashlib.sha256(parquet.read_bytes().replace(checksum, b"0" * 64)).hexdigest() == checksum.decode()


def test_every_flipped_bit_of_the_end_of_a_parquet_file_is_seen_or_changes_nothing(parquet: Path) -> None:
    """The end: the footer, in which a bit could hide the checksum itself."""
    data, whole = parquet.read_bytes(), read(parquet)
    footer = int.from_bytes(data[-8:-4], "little") + 8
    seen = 0
    for place in range(len(data) - footer, len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        parquet.write_bytes(damaged)
        try:
            assert read(parquet).equals(whole)
        except DamagedError:
            seen += 1
    assert seen >= footer - len("checksum")


def test_a_table_that_others_wrote_is_read_and_one_that_is_none_is_named(tmp_path: Path) -> None:
    pq.write_table(table(3), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet").equals(table(3))
    for damaged in (b"", b"PAR1", b"doc_id,fold\n"):
        (tmp_path / "x.parquet").write_bytes(damaged)
        with pytest.raises(DamagedError, match=r"x\.parquet is damaged .*; write it again"):
            read(tmp_path / "x.parquet")


@given(st.data())
def test_blocks_give_any_range_of_a_file_and_refuse_one_that_changed(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 5 * 16))
    content = np.random.default_rng(size).bytes(size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_files, "BLOCK_BYTES", 16)
        patch.setattr(parquet_files, "_BLOCKS_KEPT", 2)
        checksums = block_checksums(io.BytesIO(content))
        blocks = CheckedBlocks(io.BytesIO(content), checksums, "x", "write it again")
        plain_file = io.BytesIO(content)
        for _ in range(8):
            place, count = data.draw(st.integers(0, size + 5)), data.draw(st.integers(-1, size + 5))
            assert blocks.seek(place) == plain_file.seek(place)
            assert blocks.read(count) == plain_file.read(count)
            assert blocks.tell() == plain_file.tell()
        if not size:
            return
        place = data.draw(st.integers(0, size - 1))
        damaged = bytearray(content)
        damaged[place] ^= 1
        blocks = CheckedBlocks(io.BytesIO(damaged), checksums, "x", "write it again")
        for number in range(-(-size // 16)):
            blocks.seek(16 * number)
            if number != place // 16:
                assert blocks.read(16) == content[16 * number : 16 * number + 16]
                continue
            with pytest.raises(DamagedError, match=f"x is damaged .* of its block {number} is not"):
                blocks.read(1)
        if size > 16:
            with pytest.raises(DamagedError, match=r"x is damaged .it has"):
                CheckedBlocks(io.BytesIO(content[:-16]), checksums, "x", "write it again")
