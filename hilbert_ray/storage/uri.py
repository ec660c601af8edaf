"""Paths and URIs: which of them are on a local disk, and what names the same place in every process."""

import os


def local_path(uri: str) -> str | None:
    """Return the path of a local file, None for one on an object store."""
    return uri.removeprefix("file://") if "://" not in uri or uri.startswith("file://") else None


def absolute(uri: str) -> str:
    """Return a path or URI that means the same in every process, whatever folder it works in."""
    return uri.rstrip("/") if "://" in uri else os.path.abspath(uri)
