"""One run and its report for all tests of this folder."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hilbert_ray.reporting.page import report
from tests.reporting.pages import (
    Page,
    dataset,
    evaluated,
    trained,
    tuned,
)


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that was evaluated, trained and tuned."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the networks are so small that threads only wait for each other
    folder = tmp_path_factory.mktemp("report") / "run"
    evaluated(folder)
    trained(folder, dataset().features)
    tuned(folder)
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def source(run: Path) -> str:
    path = Path(report(run))
    assert path == run / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="package")
def page(source: str) -> Page:
    return Page(source)


@pytest.fixture
def smaller(run: Path, metrics: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of the run that scores one task alone, which is quicker to draw."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    kept = {name: {"state": metrics[name]["state"]} for name in ("tasks", "comparisons", "permutation")}
    (folder / "metrics.json").write_text(json.dumps({**metrics, **kept}))
    return folder


@pytest.fixture(scope="package")
def metrics(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return values
