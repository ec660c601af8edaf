"""Which files exist, on a local disk or an object store, and in which version."""

import errno
import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import fsspec

from hilbert_ray.storage.access import AccessError, access_error, access_errors, is_everywhere
from hilbert_ray.storage.regular import kind_of
from hilbert_ray.storage.uri import is_s3, local_path

_REQUESTS_AT_ONCE = 16
_MIN_PER_PAGE = 10
"""Objects that a page of a listing (up to 1,000) must cover to be cheaper than one request per object."""
_ENTRIES_PER_LOOKUP = 4
"""Entries of a local folder that are listed in the time that looking up one file takes."""


def file_version(uri: str, content_hash: bool = False) -> str:
    """Return a string that changes when the content of a file does.

    Args:
        uri: a path or URI of any file.
        content_hash: use the SHA-256 of a local file instead of its size and modification time.

    Raises:
        FileNotFoundError: when there is no such file, or it is a folder, a pipe or a device.
        AccessError: when its object store cannot be used from here, or it may not be read.
    """
    path = local_path(uri)
    if path is not None:
        status = os.stat(path)
        if (kind := kind_of(status.st_mode)) is not None:
            raise FileNotFoundError(f"{uri} is {kind}")
        if not content_hash:
            return f"{status.st_size}-{status.st_mtime_ns}"
        with open(path, "rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    with access_errors(uri):
        filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        details = filesystem.info(path)
    if details.get("type") == "directory":
        raise FileNotFoundError(f"{uri} is a folder")
    return _version_of(details)


def file_versions(uris: Iterable[str], content_hash: bool = False) -> dict[str, str | None]:
    """Return `file_version` of each file, None where there is none, or none that may be read.

    Objects on S3 are looked up by listing their folders, a thousand at a time, where that saves requests;
    other objects by one request each. Pass many at once, those of a folder together.
    """
    versions: dict[str, str | None] = {}
    folders: dict[str, set[str]] = {}
    for uri in uris:
        if local_path(uri) is not None:
            versions[uri] = _version_or_none(uri, content_hash)
        else:
            folder, _, name = uri.rpartition("/")
            folders.setdefault(folder, set()).add(name)
    if folders:
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            for listed in pool.map(_listed_versions, folders, folders.values()):
                versions.update(listed)
            objects = [f"{folder}/{name}" for folder, names in folders.items() for name in names]
            unlisted = [uri for uri in objects if uri not in versions]
            versions.update(zip(unlisted, pool.map(_version_or_none, unlisted), strict=True))
    return versions


def missing_files(uris: Iterable[str]) -> set[str]:
    """Return those of these files that do not exist.

    A local folder with many of them is listed, which is faster than looking up each file.
    """
    folders: dict[str, dict[str, str]] = {}
    for uri in uris:
        folder, _, name = uri.rpartition("/")
        folders.setdefault(folder, {})[name] = uri
    unlisted: list[str] = []
    for folder, names in folders.items():
        listed: set[str] = set()
        path = local_path(folder)
        if path and len(names) >= _MIN_PER_PAGE:
            listed = _listed_files(path, max_entries=_ENTRIES_PER_LOOKUP * len(names))
        unlisted += [uri for name, uri in names.items() if name not in listed]
    return {uri for uri, version in file_versions(unlisted).items() if version is None}


def _listed_files(folder: str, max_entries: int) -> set[str]:
    """Return the names of files among the first entries of a local folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in islice(entries, max_entries) if entry.is_file()}
    except OSError:
        return set()


def _version_or_none(uri: str, content_hash: bool = False) -> str | None:
    try:
        return file_version(uri, content_hash)
    except FileNotFoundError:
        return None
    except AccessError as error:
        if is_everywhere(error.place):
            raise
        return None  # opening it says so
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):  # no such file can exist
            return None
        raise
    except (ValueError, ImportError):  # no file system of this name, or none installed: opening it says so
        return None


def _version_of(details: Mapping[str, Any]) -> str:
    """Return the version in an object's details, which is the same from a listing as from a request."""
    # Best first: what depends on the content alone, then what changes with every upload.
    for name in ("ETag", "etag", "VersionId", "generation", "md5Hash"):
        if details.get(name) not in (None, "", "null"):
            return f"{name}:{str(details[name]).strip(chr(34))}"
    changed = next((details[name] for name in ("LastModified", "mtime", "created") if name in details), "")
    return f"{details.get('size')}-{changed}"


def _listed_versions(folder: str, names: Collection[str]) -> dict[str, str]:
    """Return the versions of objects in a folder on S3 that few listings cover; the others stay open.

    Each page begins at the next requested object. Listing ends when a page has covered too few: the folder is
    much larger than what is requested, or does not list in order.
    """
    # Chained file systems (zip::s3://) and old versions of an object are not keys that a listing has.
    requested = sorted(name for name in names if name and "::" not in name and "?versionId=" not in name)
    if not is_s3(folder) or len(requested) < _MIN_PER_PAGE:
        return {}
    try:
        with access_errors(folder):
            return _listed(folder, requested)
    except AccessError as error:
        if is_everywhere(error.place):
            raise
        return {}


def _listed(folder: str, requested: Sequence[str]) -> dict[str, str]:
    """Return the versions of objects in a folder on S3, by listing it; `requested` are names in order."""
    filesystem, path = fsspec.core.url_to_fs(f"{folder}/{requested[0]}", use_listings_cache=False)
    bucket, key, _ = filesystem.split_path(path)
    prefix = key.removesuffix(requested[0])
    versions: dict[str, str] = {}
    # S3 lists keys strictly after `StartAfter`: without its last character a key comes after it, and so few
    # others do in between that they cost nothing.
    index, start = 0, {"StartAfter": key[:-1]}
    while True:
        try:
            page = filesystem.call_s3(
                "list_objects_v2", Bucket=bucket, Prefix=prefix, Delimiter="/", **start, **filesystem.req_kw
            )
        except (PermissionError, FileNotFoundError) as error:
            if (named := access_error(error, folder)) is not None and is_everywhere(named.place):
                raise
            return versions  # credentials may allow reading objects but not listing them
        details = {item["Key"]: item for item in page.get("Contents", ())}
        last = max([*details, *(item["Prefix"] for item in page.get("CommonPrefixes", ()))], default="")
        first = index
        # Everything up to the last key of a page is known: what the page lacks does not exist.
        while index < len(requested) and (not page["IsTruncated"] or prefix + requested[index] <= last):
            if prefix + requested[index] in details:
                versions[f"{folder}/{requested[index]}"] = _version_of(details[prefix + requested[index]])
            index += 1
        if index == len(requested) or index - first < _MIN_PER_PAGE:
            return versions
        after = f"{prefix}{requested[index]}"[:-1]
        if after > last:  # skip the keys in between
            start = {"StartAfter": after}
        else:
            start = {"ContinuationToken": page["NextContinuationToken"]}
