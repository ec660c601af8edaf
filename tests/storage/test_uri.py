"""Which names are URIs, which of them are local, and which spelling every process understands."""

import os

import pytest

from hilbert_ray.storage.uri import absolute, is_local, is_s3, is_uri, local_path


@pytest.mark.parametrize(
    ("name", "uri", "local", "s3", "path"),
    [
        ("folder/a.wav", False, True, False, "folder/a.wav"),
        ("/folder/a.wav", False, True, False, "/folder/a.wav"),
        ("C:/a.wav", False, True, False, "C:/a.wav"),
        ("file:///folder/a.wav", True, True, False, "/folder/a.wav"),
        ("s3://bucket/a.wav", True, False, True, None),
        ("s3a://bucket/a.wav", True, False, True, None),
        ("gs://bucket/a.wav", True, False, False, None),
        ("zip://a.wav::s3://bucket/a.zip", True, False, False, None),
    ],
)
def test_paths_and_uris_are_told_apart(name: str, uri: bool, local: bool, s3: bool, path: str | None) -> None:
    assert (is_uri(name), is_local(name), is_s3(name), local_path(name)) == (uri, local, s3, path)


def test_absolute_names_mean_the_same_in_every_working_directory() -> None:
    assert absolute("folder/") == os.path.join(os.getcwd(), "folder")
    assert absolute("/folder/x/..") == "/folder"
    assert absolute("s3://bucket/folder/") == "s3://bucket/folder"
    assert absolute("file:///folder") == "file:///folder"
