"""A store on an object store whose requests fail: nothing is lost, written twice or repaired by mistake."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import pytest

from hilbert_ray.storage import Files, StorageError
from hilbert_ray.store import Store, compact_store, store_info, verify_store, write_snapshot
from tests import make
from tests.faulty import Fault as Spoilt
from tests.faulty import Request, faulty_object_store
from tests.store.stores import FINGERPRINT, filled


class Once:
    """Spoils the first request of each method and path that it is about, each in another way."""

    def __init__(self, method: str, part: str, faults: Sequence[Spoilt]) -> None:
        self.method, self.part = method, part
        self.faults = cycle(faults)
        self.spoilt: dict[Request, Spoilt] = {}

    def __call__(self, request: Request) -> Spoilt | None:
        if request.method != self.method or self.part not in request.path or request in self.spoilt:
            return None
        fault = next(self.faults)
        if fault == "ConditionalRequestConflict" and not request.path.endswith(".json"):
            fault = next(self.faults)  # only a conditional write can meet it
        self.spoilt[request] = fault
        return fault


def test_every_write_may_fail_once_and_nothing_is_lost_or_written_twice(
    object_store: str, tmp_path: Path
) -> None:
    """Where an answer is lost the write is sent again, and refused because of the first: that was ours."""

    def fill(uri: str) -> Files:
        store = filled(uri, "abcd", buckets=2)
        first = next(store.snapshot().documents())
        won = store.commit("text", FINGERPRINT, unit="u", bucket=0, rows=[make.feature_row("a")])
        assert store.commit("text", FINGERPRINT, unit="u", bucket=0, rows=[]) == won
        assert store.note_attempt("audio", FINGERPRINT, 0, "u") == 1
        assert store.note_attempt("audio", FINGERPRINT, 0, "u") == 2
        assert write_snapshot(store, iter([first])).number == 2
        assert compact_store(store, min_commits=1) != []
        return store.files

    faults: list[Spoilt] = [
        "lost answer",
        "lost answer",
        "ConditionalRequestConflict",
        "lost answer",
        "lost request",
        "lost answer",
        "SlowDown",
        "lost answer",
        "InternalError",
    ]
    spoil = Once("PUT", "/store/", faults)
    with faulty_object_store(spoil):
        fill(f"{object_store}/{tmp_path.name}/store")
    written = [request.path for request, fault in spoil.spoilt.items() if fault == "lost answer"]
    for kind in ("/1.json", "/commits/", "/data/", "documents/"):
        assert any(kind in path for path in written), f"no answer to a write of {kind} was lost"
    assert set(spoil.spoilt.values()) == set(faults)
    remote = Files(f"{object_store}/{tmp_path.name}/store")
    plain = fill(str(tmp_path / "store"))
    assert remote.names("") == plain.names("")
    for name in plain.names(""):
        assert remote.read(name) == plain.read(name) or "/attempts/" in name


def test_every_read_may_fail_once_and_gives_all_bytes(object_store: str, tmp_path: Path) -> None:
    uri = f"{object_store}/{tmp_path.name}"
    plain = filled(uri)
    compact_store(plain, min_commits=1)
    faults: list[Spoilt] = ["cut body", "lost answer", "cut body", "SlowDown", "cut body", "InternalError"]
    spoil = Once("GET", "", faults)
    with faulty_object_store(spoil):
        store = Store.open(uri)
        assert {row.doc_id for row in store.read("audio", FINGERPRINT)} == set("abcd")
        assert list(verify_store(store)) == []
        assert store_info(store) == store_info(plain)
    cut = [request.path for request, fault in spoil.spoilt.items() if fault == "cut body"]
    for kind in ("/data/", "index-", "list-type", "documents/"):
        assert any(kind in path for path in cut), f"no read of {kind} was cut"
    assert set(spoil.spoilt.values()) == set(faults)


def test_reads_that_are_always_cut_and_servers_that_are_gone_are_explained_and_nothing_is_repaired(
    object_store: str, tmp_path: Path
) -> None:
    uri = f"{object_store}/{tmp_path.name}"
    store = filled(uri, "ab")
    before = store.files.names("")

    def cut(request: Request) -> Spoilt | None:
        return "cut body" if "/data/" in request.path and request.method == "GET" else None

    def refuse(request: Request) -> Spoilt | None:
        return "ConditionalRequestConflict" if "/data/" in request.path else None

    with (
        faulty_object_store(cut),
        pytest.raises(StorageError, match=r"cannot read features/audio/.* then rerun"),
    ):
        list(Store.open(uri).read("audio", FINGERPRINT))
    with faulty_object_store(refuse):
        broken = Store.open(uri)
        with pytest.raises(StorageError, match=r"cannot read features/audio/.* nothing was changed"):
            list(verify_store(broken, repair=True))
        with pytest.raises(
            StorageError, match=r"cannot write features/audio/.* what is already written is intact"
        ):
            broken.commit("audio", FINGERPRINT, unit="u", bucket=0, rows=[make.feature_row("z")])
    assert store.files.names("") == before
