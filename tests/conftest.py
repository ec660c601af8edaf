"""One small local Ray cluster for the whole test run, away from the user's files and from other clusters."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def ray_home() -> Iterator[Path]:
    """Keep the token and sessions of Ray, here and in processes started from here, in a folder that goes.

    The path is short because Unix sockets lie below it.
    """
    folder = Path(tempfile.mkdtemp(prefix="hr-", dir="/tmp" if os.path.isdir("/tmp") else None))
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_cluster(ray_home: Path) -> Iterator[None]:
    """Start a local cluster with four logical CPUs, however many there are: no actor may wait for one."""
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
