"""The order of the modules: each imports only from rows above its own, and only some may import Ray."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hilbert_ray"
ROWS = (
    ("config", "document", "files", "dropout"),
    ("audio", "vad", "store", "distributed", "presets", "checkpoint", "labels", "mapped", "tracking"),
    ("segment", "encoders", "batch", "folds", "fusion", "moe", "losses", "metrics", "validate", "folders"),
    ("model", "dataset", "cluster", "shortcuts"),
    ("embed", "fit"),
    ("baselines",),
    ("cross_validation",),
    ("train", "evaluate", "predict"),
    ("tune", "report", "doctor"),
    ("cli",),
)
MAY_IMPORT_RAY = {"cluster", "embed", "cross_validation", "train", "evaluate", "tune", "predict", "cli"}
ROW_OF = {module: row for row, modules in enumerate(ROWS) for module in modules}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_of(path: Path) -> str:
    """Return the module (file or folder of the package) that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted name of each import of a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            base = node.module or ""
            yield from (f"{base}.{alias.name}" for alias in node.names)


def breaches(path: Path) -> list[str]:
    """Return what is wrong with the imports of a file."""
    here = module_of(path)
    found = []
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "ray" and here not in MAY_IMPORT_RAY:
            found.append(f"{here} imports Ray")
        if parts[0] != "hilbert_ray" or len(parts) < 2 or parts[1] == "__version__" or parts[1] == here:
            continue
        if parts[1] not in ROW_OF:
            found.append(f"{here} imports {parts[1]}, which is in no row")
        elif ROW_OF[parts[1]] >= ROW_OF[here]:
            found.append(f"{here} (row {ROW_OF[here]}) imports {parts[1]} (row {ROW_OF[parts[1]]})")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_rows_above_its_own(path: Path) -> None:
    assert module_of(path) in ROW_OF, f"{path} is in no row of the table"
    assert not breaches(path)


def test_every_module_of_the_table_exists() -> None:
    assert {module_of(path) for path in FILES} == set(ROW_OF)


def test_breaches_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    source = tmp_path / "losses.py"
    source.write_text(
        "import ray\n\ndef f():\n    from hilbert_ray.model import Hilbert\n    import hilbert_ray.metrics\n"
    )
    assert breaches(source) == [
        "losses imports Ray",
        "losses (row 2) imports model (row 3)",
        "losses (row 2) imports metrics (row 2)",
    ]


def test_the_worker_of_a_fold_loads_what_it_trains_with_and_no_more() -> None:
    slow = ("sklearn", "scipy.stats", "ray.data", "pandas", "transformers", "optuna")
    code = f"import hilbert_ray.cross_validation, sys; print([m for m in {slow} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_the_driver_of_embed_loads_nothing_that_only_its_workers_compute_with() -> None:
    slow = ("torch", "torchaudio", "sklearn", "transformers", "scipy")
    code = (
        "import sys; from hilbert_ray.config import Config; from hilbert_ray.embed import embed, prepare\n"
        "for one in prepare.chosen_encoders(prepare.settled(Config())).values(): one.describe()\n"
        f"print([m for m in {slow} if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_importing_the_package_loads_neither_torch_nor_ray() -> None:
    heavy = ("torch", "ray", "numpy", "pyarrow")
    code = f"import hilbert_ray, sys; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
