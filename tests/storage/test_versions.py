"""Versions of files and which are missing: one by one, many at once, on a disk and on an object store."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import aiobotocore.session  # type: ignore[import-untyped]
import fsspec
import pytest
from aiobotocore.awsrequest import AioAWSResponse  # type: ignore[import-untyped]

from hilbert_ray.storage.versions import file_version, file_versions, missing_files
from tests import make
from tests.faulty import Request, faulty_object_store


def test_the_version_changes_with_the_content(tmp_path: Path) -> None:
    path = make.tone(tmp_path / "a.wav")
    before = [file_version(str(path)), file_version(str(path), content_hash=True)]
    assert file_version(f"file://{path}") == before[0]
    os.utime(path, ns=(0, 0))
    assert file_version(str(path)) != before[0]
    assert file_version(str(path), content_hash=True) == before[1]
    assert before[1].startswith("sha256:")
    make.tone(path, seed=1)
    os.utime(path, ns=(0, 1))
    assert len({*before, file_version(str(path)), file_version(str(path), content_hash=True)}) == 4


def test_the_version_of_an_object_changes_with_the_content(object_store: str) -> None:
    uri, store = f"{object_store}/version.wav", fsspec.filesystem("s3")
    versions = []
    for content in (b"one", b"two", b"one"):
        store.pipe(uri, content)
        versions.append(file_version(uri))
    assert versions[0] == versions[2] != versions[1]
    assert versions[0].startswith("ETag:")


def test_the_version_of_a_missing_file_says_so(tmp_path: Path, object_store: str) -> None:
    for uri in (f"{tmp_path}/gone.wav", f"{object_store}/never.wav"):
        with pytest.raises(FileNotFoundError):
            file_version(uri)


ODD = ("a b", "a+b", "a%20b", "a#b", "a?b", "a&b=c", "ä日本", "a'b\"c", "a[0]*", "\N{GRINNING FACE}", "z.")


def test_versions_of_many_files_are_those_of_each(tmp_path: Path, object_store: str) -> None:
    """With odd names, in nested folders, with missing files and folders in their place."""
    store, place = fsspec.filesystem("s3"), f"{object_store}/{tmp_path.name}"
    names = [f"{folder}{name}{i}.wav" for folder in ("", "n/", "n/m/") for name in ODD for i in range(2)]
    store.pipe({f"{place}/{name}": name.encode() for name in names})
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    missing = ["gone.wav", "n/gone.wav", "n", "n/m", "never/gone.wav", "n/zzz.wav", "0.wav", "a b0.wav/x.wav"]
    roots = (place, str(tmp_path), f"file://{tmp_path}")
    uris = [f"{root}/{name}" for root in roots for name in [*names, *missing]]
    versions = file_versions(iter(uris))
    assert sorted(versions) == sorted(uris)
    for uri in uris:
        if uri.rpartition(f"{tmp_path.name}/")[2] in missing:
            assert versions[uri] is None
            with pytest.raises((FileNotFoundError, NotADirectoryError)):
                file_version(uri)
        else:
            assert versions[uri] == file_version(uri)
    assert missing_files(iter(uris)) == {uri for uri in uris if versions[uri] is None}
    assert missing_files(uris[: len(names) + 1]) == {f"{place}/gone.wav"}
    nowhere = [f"s3://no-such-bucket/{i}.wav" for i in range(20)] + [f"{tmp_path}/{'x' * 300}.wav"]
    assert file_versions(nowhere) == dict.fromkeys(nowhere)
    assert missing_files(nowhere) == set(nowhere)
    assert len({versions[f"{place}/{name}"] for name in names}) == len(names)
    first = f"{tmp_path}/{names[0]}"
    assert file_versions([first], content_hash=True) == {first: file_version(first, content_hash=True)}


def test_files_are_missed_in_folders_large_and_small_real_and_linked(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.mkdir()
    for number in range(300):
        (large / f"{number}.wav").touch()
    (large / "link.wav").symlink_to("1.wav")
    (large / "broken.wav").symlink_to("gone.wav")
    (large / "folder.wav").mkdir()
    wanted = [f"{large}/{name}.wav" for name in (*range(295, 305), "link", "broken", "folder")]
    gone = {f"{large}/{name}.wav" for name in (*range(300, 305), "broken", "folder")}
    assert missing_files(wanted) == gone
    everything = [f"{large}/{number}.wav" for number in range(305)]
    assert missing_files([*wanted, *everything]) == gone
    assert missing_files([f"{tmp_path}/no/{number}.wav" for number in range(20)] + everything[:3]) == {
        f"{tmp_path}/no/{number}.wav" for number in range(20)
    }


def test_versions_on_s3_take_a_listing_for_a_thousand_objects(tmp_path: Path, object_store: str) -> None:
    """Neighbours far into a large folder take one page; few among many a request each, and no page more."""
    place = f"{object_store}/{tmp_path.name}"
    uris = [f"{place}/{'ab'[number > 1050]}/{number:05d}.wav" for number in range(1100)]
    fsspec.filesystem("s3").pipe({uri: b"x" for uri in uris})
    requests: Counter[str] = Counter()

    def count(request: Request) -> None:
        requests["list" if "list-type=2" in request.path else request.method] += 1

    for wanted, lists, heads in ((uris, 3, 0), (uris[900:940:2], 1, 0), (uris[:1000:100], 1, 10)):
        requests.clear()
        with faulty_object_store(count):
            versions = file_versions(wanted)
        assert sorted(versions) == sorted(wanted)
        assert len(set(versions.values())) == 1
        assert requests["list"] <= lists
        assert requests["HEAD"] <= heads
    assert set(versions.values()) == {file_version(uris[0])}


def test_an_object_that_may_be_read_but_not_listed_has_its_version(
    tmp_path: Path, object_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = [f"{object_store}/{tmp_path.name}/{number}.wav" for number in range(20)]
    fsspec.filesystem("s3").pipe({uri: b"x" for uri in uris})
    refused = []

    class Refusal:
        async def read(self) -> bytes:
            return b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"

    def refuse(request: Any, **details: object) -> AioAWSResponse:  # noqa: ANN401 - botocore's
        refused.append(request)
        return AioAWSResponse(request.url, 403, {}, Refusal())

    session = aiobotocore.session.AioSession()
    session.register("before-send.s3.ListObjectsV2", refuse)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"session": session})
    assert set(file_versions(uris).values()) == {file_version(uris[0])}
    assert len(refused) == 1
