"""Embedding while processes die: at named points, at random moments, with the store under two runs at once.

The store and its files lie on a file system in which workers have accidents (tests/fatal.py). Every test ends
with the rows of an undisturbed run, and shows that something was stored at the accident and something left.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import fsspec
import numpy as np
import pytest

from hilbert_ray.config import EncoderConfig, Modality
from hilbert_ray.embedding.driver import embed
from hilbert_ray.storage.access import StorageError
from hilbert_ray.store.features import FeatureRow
from hilbert_ray.store.maintenance import store_info, verify_store
from hilbert_ray.store.store import Store
from hilbert_ray.units.errors import UnitsError
from tests import fatal, make, models
from tests.embedding.in_process import CONFIG, assert_same_rows, embed_here, rows_of
from tests.faulty import Fault, Request, faulty_object_store

Corpus: TypeAlias = tuple[list[dict[str, Any]], Path]
Rows: TypeAlias = dict[tuple[Modality, str], FeatureRow]

DOCUMENTS = 24
SETTINGS = replace(CONFIG, embed=replace(CONFIG.embed, unit_s=0.001, workers=1))

POINTS: dict[str, dict[str, Any]] = {
    "before the data file": {"point": "before", "match": "/data/"},
    "after the data file": {"point": "after", "match": "/data/"},
    "after the commit": {"point": "after", "match": "/commits/"},
    "in the middle of a unit": {"point": "open", "match": ".wav"},
}
"""Where processes die; `spared` documents or units are done before."""
SOME = [point if i % 2 else pytest.param(point, marks=pytest.mark.soak) for i, point in enumerate(POINTS)]
OTHERS = [pytest.param(point, marks=pytest.mark.soak) if i % 2 else point for i, point in enumerate(POINTS)]
"""Actors die at two points in every run and drivers at the other two; at all four in long ones."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Write documents whose audio paths are relative; return their manifest rows and their folder."""
    folder = tmp_path_factory.mktemp("corpus")
    return [make.record(folder, number) for number in range(DOCUMENTS)], folder


@pytest.fixture(scope="module")
def undisturbed(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Return the rows of a run that nothing befell."""
    folder = tmp_path_factory.mktemp("undisturbed")
    store = Store.create(str(folder / "store"), 4)
    embed_here(placed(corpus, folder), store)
    return rows_of(store.uri)


def placed(corpus: Corpus, folder: Path) -> str:
    """Write a manifest into a folder; its audio lies there too, as hard links."""
    records, source = corpus
    for record in records:
        os.link(source / record["audio"], folder / record["audio"])
    rows = [{**record, "audio": f"fatal://{folder}/{record['audio']}"} for record in records]
    return make.manifest(folder / "manifest.jsonl", rows)


def rows_in(manifest: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(manifest).read_text().splitlines()]


def commits_in(folder: Path) -> int:
    return len(list(folder.glob("store/features/*/*/commits/*/*.json")))


def assert_whole(uri: str, undisturbed: Rows) -> None:
    """Check that a store holds exactly the rows of an undisturbed run, and that all its files are whole."""
    found = rows_of(uri)
    assert_same_rows(found, undisturbed)
    assert list(verify_store(Store.open(uri))) == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("point", SOME)
def test_an_encoder_actor_killed_at_a_named_point_loses_and_doubles_nothing(
    point: str,
    corpus: Corpus,
    undisturbed: Rows,
    tmp_path: Path,
) -> None:
    manifest = placed(corpus, tmp_path)
    fatal.arm(tmp_path, **POINTS[point], spared=6)
    summary = embed(manifest, f"fatal://{tmp_path}/store", SETTINGS)
    assert fatal.accidents(tmp_path) == 1
    happened = (tmp_path / "accident-0").stat().st_mtime
    times = [path.stat().st_mtime for path in tmp_path.glob("store/features/*/*/commits/*/*.json")]
    assert sum(one < happened for one in times) >= 3, "nothing was stored at the accident"
    assert sum(one > happened for one in times) >= 3, "nothing was left at the accident"
    assert all(not one.quarantined for one in summary.modalities.values())
    assert_whole(f"fatal://{tmp_path}/store", undisturbed)


RUN = """
import sys
from hilbert_ray.config import Config, EmbedConfig
from hilbert_ray import embed

embed(sys.argv[1], sys.argv[2], Config(embed=EmbedConfig(buckets=4, unit_s=0.001, workers=int(sys.argv[3]))))
"""
IS_STARTED = """
import ray
print(ray.is_initialized())
"""


def killed_run(manifest: str, folder: Path, workers: int, is_time: Callable[[], bool]) -> int:
    """Run `embed` in a process of its own and kill that when it is time; return the commits at the kill."""
    command = [sys.executable, "-c", RUN, manifest, f"fatal://{folder}/store", str(workers)]
    run = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not is_time():
        assert run.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "it was never time to kill the run"
        time.sleep(0.002)
    os.kill(run.pid, signal.SIGKILL)
    found = commits_in(folder)
    run.wait()
    return found


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("point", OTHERS)
def test_a_driver_killed_at_a_named_point_is_resumed_while_its_workers_still_write(
    point: str,
    corpus: Corpus,
    undisturbed: Rows,
    tmp_path: Path,
) -> None:
    """The worker waits at the point until its driver is dead, then continues while another run resumes."""
    manifest = placed(corpus, tmp_path)
    fatal.arm(tmp_path, **POINTS[point], do="stall", spared=6)
    at_kill = killed_run(manifest, tmp_path, 1, lambda: fatal.accidents(tmp_path) == 1)
    assert at_kill >= 3, "nothing was stored at the kill"
    config = replace(CONFIG, embed=replace(CONFIG.embed, unit_s=4.0, workers=1))
    resumed = embed(manifest, f"fatal://{tmp_path}/store", config)
    assert sum(one.already_stored for one in resumed.modalities.values()) >= 3
    assert resumed.embedded >= 10, "nothing was left at the kill"
    assert_whole(f"fatal://{tmp_path}/store", undisturbed)


@pytest.mark.timeout(1200)
@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_runs_killed_at_random_moments_end_as_an_undisturbed_one(tmp_path: Path) -> None:
    """One store, 20 kills of its driver after 1 to 3 further commits, each run resumed at once.

    Workers outlive their driver for a while and go on committing: there is enough for them and for 20 kills.
    """
    generator = random.Random(7)
    source, folder = tmp_path / "source", tmp_path / "run"
    source.mkdir()
    (folder / "store").mkdir(parents=True)
    manifest = placed(([make.record(source, number) for number in range(100)], source), folder)
    for number in range(20):
        goal = commits_in(folder) + generator.randint(1, 3)
        assert goal < 200, f"too little was left for kill {number}"
        killed_run(manifest, folder, 1 + number % 2, lambda goal=goal: commits_in(folder) >= goal)  # type: ignore[misc]
        time.sleep(generator.random() / 10)
    assert embed(manifest, f"fatal://{folder}/store", SETTINGS).embedded > 0
    plain = Store.create(str(tmp_path / "plain"), 4)
    embed_here(manifest, plain)
    assert_whole(f"fatal://{folder}/store", rows_of(plain.uri))


@pytest.mark.timeout(900)
@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_die_while_weights_load_end_the_run_and_blame_no_document(tmp_path: Path) -> None:
    spec = models.made("bert", tmp_path / "bert")
    about = tmp_path / "bert" / "config.json"
    about.write_text(
        json.dumps({**json.loads(about.read_text()), "auto_map": {"AutoModel": "modeling_dying.Dying"}})
    )
    (tmp_path / "bert" / "modeling_dying.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\nclass Dying: pass\n"
    )
    manifest = make.corpus(tmp_path, 2)
    options = EncoderConfig(trust_remote_code=True)
    settings = replace(SETTINGS, audio="none", text=spec, text_encoder=options)
    with pytest.raises(
        UnitsError, match="2 documents of 2 are neither stored nor quarantined after 6 rounds"
    ):
        embed(manifest, str(tmp_path / "store"), settings)
    [facts] = store_info(Store.open(str(tmp_path / "store")))["encoders"]
    assert (facts["stored"], facts["quarantined"], facts["pending"]) == (0, 0, 2)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_audio_replaced_between_kill_and_resume_leaves_no_row_of_old_and_new(
    corpus: Corpus, tmp_path: Path
) -> None:
    manifest = placed(corpus, tmp_path)
    killed_run(manifest, tmp_path, 1, lambda: commits_in(tmp_path) >= 12)
    replaced = [f"d{number:03d}" for number in range(0, DOCUMENTS, 2)]
    for name in replaced:
        (tmp_path / f"{name}.wav").unlink()  # a hard link: the other tests keep theirs
        make.tone(tmp_path / f"{name}.wav", seconds=3.0, hertz=700.0)
    config = replace(CONFIG, embed=replace(CONFIG.embed, workers=1))
    resumed = embed(manifest, f"fatal://{tmp_path}/store", config)
    assert resumed.modalities["audio"].already_stored + resumed.modalities["audio"].embedded == DOCUMENTS
    plain = Store.create(str(tmp_path / "plain"), 4)
    embed_here(manifest, plain)
    found = rows_of(f"fatal://{tmp_path}/store")
    assert_same_rows(found, rows_of(plain.uri))
    seen = {doc_id: row.seen for (modality, doc_id), row in found.items() if modality == "audio"}
    assert {doc_id for doc_id, seconds in seen.items() if seconds == 3.0} == set(replaced)
    command = [sys.executable, "-c", RUN + IS_STARTED, manifest, f"fatal://{tmp_path}/store", "1"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False"], "Ray was started though nothing was left to do"


def uploaded(corpus: Corpus, folder: Path, uri: str) -> str:
    """Put the recordings and a manifest into an object store; return the manifest's URI."""
    records, source = corpus
    manifest = make.manifest(folder / "manifest.jsonl", records)
    remote = fsspec.filesystem("s3")
    for path in (Path(manifest), *(source / record["audio"] for record in records)):
        remote.pipe_file(f"{uri}/{path.name}", path.read_bytes())
    return f"{uri}/manifest.jsonl"


def assert_same_features(uri: str, undisturbed: Rows) -> None:
    """Check a store's features; sources differ, because objects have other versions than files."""
    found = rows_of(uri)
    assert sorted(found) == sorted(undisturbed)
    for key, row in undisturbed.items():
        np.testing.assert_array_equal(found[key].features, row.features)
    assert list(verify_store(Store.open(uri))) == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_on_an_object_store_is_killed_resumed_and_run_twice_at_once(
    corpus: Corpus, undisturbed: Rows, tmp_path: Path, object_store: str
) -> None:
    """Recordings, manifest and store are objects; two runs with other units race for what the first left."""
    uri = f"{object_store}/{tmp_path.name}"
    manifest = uploaded(corpus, tmp_path, uri)
    remote = fsspec.filesystem("s3", use_listings_cache=False)

    def commits() -> int:
        return len(remote.glob(f"{uri}/store/features/*/*/commits/*/*.json"))

    command = [sys.executable, "-c", RUN, manifest, f"{uri}/store"]
    run = subprocess.Popen([*command, "1"], start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while commits() < 5:
        assert run.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run stored nothing"
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGKILL)
    at_kill = commits()
    run.wait()
    assert 5 <= at_kill <= 2 * DOCUMENTS - 10, "nothing was left at the kill"
    beside = subprocess.Popen([*command, "1"], start_new_session=True, stderr=subprocess.DEVNULL)
    config = replace(CONFIG, embed=replace(CONFIG.embed, unit_s=4.0, workers=1))
    resumed = embed(manifest, f"{uri}/store", config)
    assert beside.wait(timeout=240) == 0
    assert sum(one.already_stored for one in resumed.modalities.values()) >= 5
    assert_same_features(f"{uri}/store", undisturbed)


def test_faults_of_an_object_store_change_nothing_in_the_result(
    corpus: Corpus, undisturbed: Rows, tmp_path: Path, object_store: str
) -> None:
    """Every ninth request fails in one way or another: answers lost, cut or refused, requests lost."""
    uri = f"{object_store}/{tmp_path.name}"
    manifest = uploaded(corpus, tmp_path, uri)
    kinds: tuple[Fault, ...] = ("InternalError", "lost answer", "SlowDown", "cut body", "lost request")
    seen: Counter[Fault] = Counter()
    number = 0

    def judge(request: Request) -> Fault | None:
        nonlocal number
        number += 1
        fault = kinds[number // 9 % len(kinds)]
        if number % 9 or (fault == "cut body" and request.method != "GET"):
            return None
        seen[fault] += 1
        return fault

    with faulty_object_store(judge):
        store = Store.create(f"{uri}/store", 4)
        embed_here(manifest, store)
        assert_same_features(store.uri, undisturbed)
    assert all(seen[kind] >= 2 for kind in kinds), seen


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_full_disk_and_one_that_cannot_be_written_end_the_run_and_harm_nothing(
    small_disk: Path, corpus: Corpus, undisturbed: Rows, tmp_path: Path
) -> None:
    manifest = placed(corpus, tmp_path)
    store = small_disk / "store"
    filler = small_disk / "filler"
    embed(make.manifest(tmp_path / "some.jsonl", rows_in(manifest)[:4]), str(store), SETTINGS)
    before = rows_of(str(store))
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):  # noqa: PT012
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - 40_000)
    with pytest.raises((UnitsError, StorageError), match=r"cannot write .* No space left .* free space or"):
        embed(manifest, str(store), SETTINGS)
    filler.unlink()
    assert list(verify_store(Store.open(str(store)))) == []
    kept = rows_of(str(store))
    assert set(before) <= set(kept)
    assert len(kept) < 2 * DOCUMENTS, "nothing was left to do"

    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises((UnitsError, StorageError), match=r"cannot write .* Read-only file system"):
        embed(manifest, str(store), SETTINGS)
    assert_same_rows(rows_of(str(store)), kept)
    subprocess.run(["mount", "-o", "remount,rw,size=8m", str(small_disk)], check=True)
    embed(manifest, str(store), SETTINGS)
    assert_whole(str(store), undisturbed)
