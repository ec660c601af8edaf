"""What tests share: one small local Ray cluster and one server that speaks S3, both for the whole run.

Everything that they write lies in a folder of its own that is deleted at the end.
"""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, settings

from tests import fatal, make

if "PYTEST_XDIST_WORKER" in os.environ:
    # One process per core: their threads would only wait for each other. torch and BLAS read this when they
    # load, so it must be set before any test module is imported.
    os.environ["OMP_NUM_THREADS"] = "1"


# On a busy machine single examples take long; pytest-timeout bounds each test. Every run has the same
# examples, so that a failure tells of its change; `pytest --hypothesis-profile random` tries others.
settings.register_profile("random", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("busy", settings.get_profile("random"), derandomize=True)
settings.load_profile("busy")


@pytest.hookimpl(tryfirst=True)  # before `-m` selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a Ray cluster, so that `make test` can run them apart from the others."""
    for item in items:
        if not {"ray_cluster", "head"}.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("ray")


@pytest.fixture(scope="session", autouse=True)
def ray_home() -> Iterator[Path]:
    """Set the environment of this process, of Ray's and of all that tests start.

    The folder's path is short because Ray puts Unix sockets below it.
    """
    folder = Path(tempfile.mkdtemp(prefix="hr-", dir="/tmp" if os.path.isdir("/tmp") else None))
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    plugins = folder / "plugins"
    about = plugins / "fatal-1.dist-info"
    about.mkdir(parents=True)
    shutil.copy(fatal.__file__, plugins / "fatal.py")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fatal\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[fsspec.specs]\nfatal = fatal:Fatal\n")
    path = [str(plugins), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        patch.syspath_prepend(str(plugins))
        fsspec.register_implementation("fatal", "fatal.Fatal")
        patch.delenv("RAY_ADDRESS", raising=False)
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def object_store(ray_home: Path) -> Iterator[str]:
    """Start a server that speaks S3 on this machine; give the URI of an empty bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("hilbert")
        yield "s3://hilbert"
    server.stop()


@pytest.fixture(scope="session")
def ray_cluster(ray_home: Path, object_store: str) -> Iterator[None]:
    """Start a local cluster with four logical CPUs, however many there are: no actor may wait for one.

    It starts after the object store, so that its workers know the server too.
    """
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=400 * 2**20,
        log_to_driver=False,
        _temp_dir=str(ray_home / "ray"),
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def embedded(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> make.Embedded:
    """Embed `make.labelled` once; what evaluate, train, tune and predict read. Do not write to its store."""
    from hilbert_ray.config import Config, EmbedConfig, SegmentConfig
    from hilbert_ray.embedding.driver import embed

    folder = tmp_path_factory.mktemp("labelled")
    records = make.labelled(folder)
    made = make.Embedded(
        manifest=make.manifest(folder / "manifest.jsonl", records),
        records=records,
        store=str(folder / "store"),
    )
    config = Config(
        segment=SegmentConfig(window_s=0.5, hop_s=0.5),
        embed=EmbedConfig(buckets=4, unit_s=16.0, workers=1),
    )
    embed(made.manifest, made.store, config)
    return made


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 400 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    # Lazily: a command that failed in this process may have left files open.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute on one thread, as Ray's workers do, so that numbers may be compared to the last bit."""
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)
