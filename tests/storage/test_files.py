"""Files below a path or URI: created once, whole or not at all, by one of several writers."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hilbert_ray.storage import Files, StorageError
from tests.faulty import Fault as Spoilt
from tests.faulty import Request, faulty_object_store


def test_of_racing_writers_exactly_one_creates_a_file(place: str) -> None:
    barrier = threading.Barrier(8)

    def write(number: int) -> bool:
        files = Files(place)
        barrier.wait()
        return files.create("race/name.json", str(number).encode() * 1000)

    with ThreadPoolExecutor(8) as pool:
        won = [number for number, is_mine in enumerate(pool.map(write, range(8))) if is_mine]
    files = Files(place)
    assert len(won) == 1
    assert files.read("race/name.json") == str(won[0]).encode() * 1000
    assert files.names("race") == ["race/name.json"]


def test_a_file_where_a_folder_should_be_is_no_other_writer(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    (tmp_path / "folder").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot write folder/name .* free space or fix the permissions"):
        files.create("folder/name", b"x")


@pytest.mark.parametrize("then", [None, "NoSuchUpload"])
def test_a_large_file_whose_completion_goes_unanswered_is_ours(
    object_store: str, tmp_path: Path, then: Spoilt | None
) -> None:
    """A file of 100 MiB is sent in parts; servers differ in what they say to a second try to complete it."""
    data = os.urandom(2**20) * 101
    tries: list[Request] = []

    def spoil(request: Request) -> Spoilt | None:
        if request.method != "POST" or "uploadId=" not in request.path:
            return None
        tries.append(request)
        return "lost answer" if len(tries) == 1 else then

    with faulty_object_store(spoil):
        files = Files(f"{object_store}/{tmp_path.name}")
        assert files.create("large", data)
        assert len(tries) == 2
    assert Files(f"{object_store}/{tmp_path.name}").read("large") == data
