"""Paths and URIs: which are on a local disk, and which spelling means the same file in every process."""

import os

_FILE = "file://"
_S3 = ("s3://", "s3a://")


def is_uri(path: str) -> bool:
    """Whether this is a URI with a scheme (`s3://bucket/key`, `file:///folder`) and not a plain path."""
    return "://" in path


def is_local(uri: str) -> bool:
    """Whether a path or URI is on a local disk: a plain path, or a `file://` URI."""
    return not is_uri(uri) or uri.startswith(_FILE)


def is_s3(uri: str) -> bool:
    """Whether a URI is on an object store that speaks the S3 protocol."""
    return uri.startswith(_S3)


def local_path(uri: str) -> str | None:
    """Return the path of a local file, None for one on an object store."""
    return uri.removeprefix(_FILE) if is_local(uri) else None


def absolute(uri: str) -> str:
    """Return a path or URI that means the same in every process, whatever its working directory."""
    return uri.rstrip("/") if is_uri(uri) else os.path.abspath(uri)
