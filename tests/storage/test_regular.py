"""What is no regular file is recognised without being opened, however its path is written."""

import os
import socket
from pathlib import Path

import pytest

from hilbert_ray.storage import file_versions, irregular, missing_files


@pytest.fixture
def odd_files(tmp_path: Path) -> dict[str, str]:
    """Give a path of each kind of file, and what it is called."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(tmp_path, os.O_RDONLY)
        # By the folder's descriptor: the path of a socket must be short.
        server.bind(f"/proc/self/fd/{folder}/socket")
        os.close(folder)
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    return {
        str(tmp_path): "a folder",
        str(tmp_path / "pipe"): "a named pipe",
        str(tmp_path / "link"): "a named pipe",
        str(tmp_path / "socket"): "a socket",
        "/dev/zero": "a device",
    }


@pytest.mark.parametrize("spelling", ["{}", "file://{}", "local://{}", "simplecache::file://{}"])
def test_each_kind_of_file_has_its_name(odd_files: dict[str, str], spelling: str) -> None:
    assert {path: irregular(spelling.format(path)) for path in odd_files} == odd_files


def test_regular_files_absent_ones_and_objects_are_no_odd_ones(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("words")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "loop").symlink_to("loop")
    names = ["file", "link", "loop", "absent", "file/below", "zero\0byte"]
    assert [irregular(f"{tmp_path}/{name}") for name in names] == [None] * len(names)
    assert irregular("s3://bucket/dev/zero") is None


@pytest.mark.parametrize("content_hash", [False, True])
def test_what_is_no_regular_file_has_no_version_and_is_never_read(
    odd_files: dict[str, str], content_hash: bool
) -> None:
    assert file_versions(odd_files, content_hash) == dict.fromkeys(odd_files)
    assert missing_files(odd_files) == set(odd_files)
