"""Files that documents name, on a local disk or an object store: are they there, and in which version?"""

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import fsspec

from hilbert_ray.storage.uri import local_path

_REQUESTS_AT_ONCE = 16
_WORTH_A_PAGE = 10
"""Objects that a page of a listing (up to 1,000 objects) must tell of to be better than a request each."""
_ENTRIES = 4
"""Entries of a local folder that are listed in the time of a look at one of its files."""


def file_version(uri: str, content_hash: bool = False) -> str:
    """Return what tells this content from another under the same name.

    Args:
        uri: a path or URI of any file.
        content_hash: know a local file by its SHA-256 instead of by size and modification time.

    Raises:
        FileNotFoundError: when there is no such file.
    """
    path = local_path(uri)
    if path is not None:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise FileNotFoundError(f"{uri} is a folder")
        if not content_hash:
            return f"{status.st_size}-{status.st_mtime_ns}"
        with open(path, "rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    details = filesystem.info(path)
    if details.get("type") == "directory":
        raise FileNotFoundError(f"{uri} is a folder")
    return _version_of(details)


def file_versions(uris: Iterable[str], content_hash: bool = False) -> dict[str, str | None]:
    """Return `version` of each file, None where there is none.

    Objects on S3 are told by listings of their folders, a thousand at a time, where that saves requests;
    other objects by a request each. Give many at once, neighbours together.
    """
    found: dict[str, str | None] = {}
    folders: dict[str, set[str]] = {}
    for uri in uris:
        if local_path(uri) is not None:
            found[uri] = _version_or_none(uri, content_hash)
        else:
            folder, _, name = uri.rpartition("/")
            folders.setdefault(folder, set()).add(name)
    if folders:
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            for listed in pool.map(_listed_versions, folders, folders.values()):
                found.update(listed)
            left = [f"{folder}/{name}" for folder, names in folders.items() for name in names]
            left = [uri for uri in left if uri not in found]
            found.update(zip(left, pool.map(_version_or_none, left), strict=True))
    return found


def missing_files(uris: Iterable[str]) -> set[str]:
    """Return those of these files that do not exist.

    Where many files of a folder are asked for it is listed, which is quicker than a look at each.
    """
    folders: dict[str, dict[str, str]] = {}
    for uri in uris:
        folder, _, name = uri.rpartition("/")
        folders.setdefault(folder, {})[name] = uri
    left: list[str] = []
    for folder, names in folders.items():
        listed: set[str] = set()
        path = local_path(folder)
        if path and len(names) >= _WORTH_A_PAGE:
            listed = _listed_files(path, most=_ENTRIES * len(names))
        left += [uri for name, uri in names.items() if name not in listed]
    return {uri for uri, found in file_versions(left).items() if found is None}


def _listed_files(folder: str, most: int) -> set[str]:
    """Return the names of files in a local folder; of a larger one, only of some."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in islice(entries, most) if entry.is_file()}
    except OSError:
        return set()


def _version_or_none(uri: str, content_hash: bool = False) -> str | None:
    try:
        return file_version(uri, content_hash)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):  # no such file can be
            return None
        raise


def _version_of(details: Mapping[str, Any]) -> str:
    """Return the version that these details of an object tell, the same from a listing as from a request."""
    for name in ("ETag", "etag", "VersionId", "generation", "md5Hash"):
        if details.get(name) not in (None, "", "null"):
            return f"{name}:{str(details[name]).strip(chr(34))}"
    changed = next((details[name] for name in ("LastModified", "mtime", "created") if name in details), "")
    return f"{details.get('size')}-{changed}"


def _listed_versions(folder: str, names: Collection[str]) -> dict[str, str]:
    """Return the versions of those objects that listings tell; of the others nothing is known.

    A page begins where the next object in question stands. Listing ends when a page has told too few: the
    folder is much larger than what is asked for, or does not list in order.
    """
    wanted = sorted(name for name in names if name and "::" not in name and "?versionId=" not in name)
    if not folder.startswith(("s3://", "s3a://")) or len(wanted) < _WORTH_A_PAGE:
        return {}
    filesystem, path = fsspec.core.url_to_fs(f"{folder}/{wanted[0]}", use_listings_cache=False)
    bucket, key, _ = filesystem.split_path(path)
    prefix = key.removesuffix(wanted[0])
    found: dict[str, str] = {}
    at, start = 0, {"StartAfter": key[:-1]}
    while True:
        try:
            page = filesystem.call_s3(
                "list_objects_v2", Bucket=bucket, Prefix=prefix, Delimiter="/", **start, **filesystem.req_kw
            )
        except (
            PermissionError,
            FileNotFoundError,
        ):  # one may be allowed to read objects but not to list them
            return found
        details = {one["Key"]: one for one in page.get("Contents", ())}
        last = max([*details, *(one["Prefix"] for one in page.get("CommonPrefixes", ()))], default="")
        before = at
        while at < len(wanted) and (not page["IsTruncated"] or prefix + wanted[at] <= last):
            if prefix + wanted[at] in details:
                found[f"{folder}/{wanted[at]}"] = _version_of(details[prefix + wanted[at]])
            at += 1
        if at == len(wanted) or at - before < _WORTH_A_PAGE:
            return found
        after = f"{prefix}{wanted[at]}"[:-1]
        if after > last:
            start = {"StartAfter": after}
        else:
            start = {"ContinuationToken": page["NextContinuationToken"]}
