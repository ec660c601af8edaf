"""Rows in a file that a node's processes map: what is read, what travels, who writes it and when it goes."""

import os
import pickle
import shutil
import tempfile
from collections import Counter, namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hilbert_ray.features.memory_map import MappedFile, MappedRows, RowSpan, map_folder, remove_maps

ROWS = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float16)
WRITTEN: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a temporary folder of its own, as TMPDIR would."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    WRITTEN.clear()


def row_spans() -> Iterator[RowSpan]:
    """Yield the rows, the last first."""
    WRITTEN["times"] += 1
    yield 15, ROWS[15:]
    yield 7, ROWS[7:15]
    yield 0, ROWS[:7]


def written(name: str = "audio-1") -> MappedFile:
    file = MappedFile(name, ROWS.shape, row_spans)
    file.write(row_spans())
    return file


def test_rows_read_as_the_float32_array_that_they_stand_for() -> None:
    whole, plain = MappedRows(written()), ROWS.astype(np.float32)
    some = np.array([19, 3, 3, 0, 8])
    taken, again = whole.take(some, axis=0), whole.take(some, axis=0).take(np.array([4, 0]), axis=0)
    for actual, expected in ((whole, plain), (taken, plain[some]), (again, plain[[8, 19]])):
        assert actual.shape == expected.shape
        assert len(actual) == len(expected)
        for index in (slice(1, None), slice(None), np.array([1, 0]), np.array([[0, 1], [1, 1]])):
            assert actual[index].dtype == np.float32
            np.testing.assert_array_equal(actual[index], expected[index])


def test_the_file_is_readable_by_its_user_alone_and_goes_with_its_owner() -> None:
    file = written()
    [path] = map_folder().iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert map_folder().stat().st_mode & 0o777 == 0o700
    assert path.stat().st_size == ROWS.nbytes
    view = MappedRows(pickle.loads(pickle.dumps(file)))
    assert view[slice(0, 1)].tolist() == ROWS[:1].tolist()
    del file
    assert not path.exists()
    assert view[slice(1, 2)].tolist() == ROWS[1:2].tolist(), "who has mapped it keeps it"


def test_on_a_node_without_the_file_one_process_writes_it_for_all() -> None:
    """Copies of a description, as other processes get them; threads stand for those processes."""
    described = pickle.dumps(MappedRows(MappedFile("audio-2", ROWS.shape, row_spans)))
    assert len(described) < 1000
    copies = [pickle.loads(described) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        actual = list(pool.map(lambda rows: rows[slice(None)], copies))
    assert WRITTEN["times"] == 1
    for rows in actual:
        np.testing.assert_array_equal(rows, ROWS)
    del copies
    assert (map_folder() / "audio-2").exists(), "a copy does not own it"
    remove_maps("audio-2")
    assert not list(map_folder().iterdir())
    np.testing.assert_array_equal(pickle.loads(described)[slice(None)], ROWS)
    assert WRITTEN["times"] == 2


def test_what_could_not_be_written_whole_leaves_nothing() -> None:
    def broken() -> Iterator[RowSpan]:
        yield 0, ROWS
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        MappedFile("audio-3", ROWS.shape, row_spans).write(broken())
    assert not list(map_folder().iterdir())


def test_a_disk_without_room_is_refused_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(200, 100, ROWS.nbytes - 1))
    with pytest.raises(OSError, match=r"take 0\.0 GiB in .*hilbert-ray-.*set TMPDIR to a folder on a larger"):
        written()


def test_a_folder_that_another_user_made_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (map_folder().parent / "hilbert-ray-12345").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(PermissionError, match=r"belongs to user .*; set TMPDIR to a folder of your own"):
        map_folder()
