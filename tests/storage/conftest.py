"""Where the files of these tests are."""

from pathlib import Path

import pytest


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new folder may be created: on the local disk, and on an object store."""
    if request.param == "local":
        return str(tmp_path / "store")
    uri: str = request.getfixturevalue("object_store")
    return f"{uri}/{tmp_path.name}/store"
