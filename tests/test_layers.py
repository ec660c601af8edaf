"""The order of the rooms: files import only from rooms above their own, through faces, without cycles."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "hilbert_ray"
ROWS: Sequence[Sequence[str]] = (
    ("version", "lazy", "errors", "terminal"),
    ("interruption", "native_log", "storage"),
    ("config", "doctor"),
    ("document", "folds", "losses", "metrics"),
    ("transcript",),
    ("segmentation", "manifest"),
    ("audio", "encoders", "store"),
    ("features", "validation", "asr"),
    ("model", "cluster"),
    ("run", "units"),
    ("embedding", "transcription"),
    ("training", "prediction", "reporting"),
    ("evaluation",),
    ("tuning",),
    ("commands",),
    ("cli",),
    ("__main__",),
    ("jobs", "bench"),
)
"""Bottom up: a room imports from the rows before its own. `jobs` and `bench` lie outside the package."""
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
OUTSIDE = ROWS[-1]
MAY_IMPORT_RAY = {
    "cluster",
    "units",
    "embedding",
    "transcription",
    "training",
    "prediction",
    "evaluation",
    "tuning",
    "cli",
    "__main__",
    *OUTSIDE,
}
MAY_IMPORT_LATE = {PACKAGE, "commands", "cli", "__main__", *OUTSIDE}
"""Only the public face and the commands import our own modules inside functions: to start quickly."""
FILES = sorted(path for top in (PACKAGE, *OUTSIDE) for path in (ROOT / top).rglob("*.py"))


def module_of(path: Path, root: Path = ROOT) -> str:
    """Return the dotted name of a file: `hilbert_ray.store.commits`, `bench.measure`."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """Return the room of a module: its first part below the package; the package itself for its face."""
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else parts[0]


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield each module that a file imports, and whether inside a function.

    `from package import name` gives `package.name` where that is a module. Strings like
    `hilbert_ray.encoders.builtin:Mfcc`, by which registries name what they load on use, count as imports.
    """
    tree = ast.parse(path.read_text())
    top = {id(node) for node in ast.walk(tree) if getattr(node, "col_offset", 1) == 0}
    guarded = {
        id(inner)
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in node.body
    }
    for node in ast.walk(tree):
        is_late = id(node) not in top | guarded
        if isinstance(node, ast.Import):
            yield from ((alias.name, is_late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            for alias in node.names:
                inner = ROOT.joinpath(*module.split("."), alias.name)
                is_module = inner.with_suffix(".py").exists() or (inner / "__init__.py").exists()
                yield (f"{module}.{alias.name}" if is_module else module), is_late
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            module, colon, name = node.value.partition(":")
            if module.startswith(f"{PACKAGE}.") and colon and name.isidentifier():
                yield module, False


def breaches(path: Path, module: str) -> list[str]:
    """Return what is wrong with the imports of a file."""
    here = room_of(module)
    wrong = []
    for name, is_late in imports(path):
        if name.split(".")[0] == "ray" and here not in MAY_IMPORT_RAY:
            wrong.append(f"{module} imports Ray")
        if name.split(".")[0] != PACKAGE:
            continue
        room = room_of(name)
        if is_late and here not in MAY_IMPORT_LATE:
            wrong.append(f"{module} imports {name} inside a function")
        if name == PACKAGE and here not in OUTSIDE:
            wrong.append(f"{module} imports the face of the package")
        elif room == here:
            if name == f"{PACKAGE}.{here}":
                wrong.append(f"{module} imports the face of its own room")
        elif name != PACKAGE and here != PACKAGE:
            if ROW_OF[room] >= ROW_OF[here]:
                wrong.append(f"{module} (row {ROW_OF[here]}) imports {room} (row {ROW_OF[room]})")
            if name != f"{PACKAGE}.{room}":
                wrong.append(f"{module} imports {name}, past the face of {room}")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_file_imports_only_from_rooms_above_its_own_and_through_their_faces(path: Path) -> None:
    module = module_of(path)
    assert module == PACKAGE or room_of(module) in ROW_OF, f"{path} is in no row of the table"
    assert not breaches(path, module)


def test_every_room_of_the_table_exists() -> None:
    assert {room_of(module_of(path)) for path in FILES} - {PACKAGE} == set(ROW_OF)


def test_the_files_of_the_package_import_each_other_without_cycles() -> None:
    graph: dict[str, set[str]] = {}
    for path in (ROOT / PACKAGE).rglob("*.py"):
        module = module_of(path)
        names = {name for name, _ in imports(path)} - {module}
        # A room's face imports its files, and outside the room only the face is imported.
        graph[module] = {name for name in names if name.split(".")[0] == PACKAGE and name != PACKAGE}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"files import each other in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("face", sorted((ROOT / PACKAGE).glob("*/__init__.py")), ids=module_of)
def test_no_name_of_a_face_is_the_name_of_a_module_behind_it(face: Path) -> None:
    # Importing the module would put it in the place of the name.
    names = ast.literal_eval(face.read_text().partition("__all__ = ")[2].partition("]")[0] + "]")
    assert not set(names) & {path.stem for path in face.parent.glob("*.py")}


def test_breaches_are_found(tmp_path: Path) -> None:
    source = tmp_path / "nce.py"
    source.write_text(
        "import ray\nimport hilbert_ray\nfrom hilbert_ray.losses import nce\n"
        "from hilbert_ray.document.records import Document\n\n"
        "def f():\n    from hilbert_ray.model import Hilbert\n\n"
        'HOME = "hilbert_ray.config.settings:Config"\n'
    )
    assert breaches(source, "hilbert_ray.losses.nce") == [
        "hilbert_ray.losses.nce imports Ray",
        "hilbert_ray.losses.nce imports the face of the package",
        "hilbert_ray.losses.nce imports the face of its own room",
        "hilbert_ray.losses.nce (row 3) imports document (row 3)",
        "hilbert_ray.losses.nce imports hilbert_ray.document.records, past the face of document",
        "hilbert_ray.losses.nce imports hilbert_ray.model inside a function",
        "hilbert_ray.losses.nce (row 3) imports model (row 8)",
        "hilbert_ray.losses.nce imports hilbert_ray.config.settings, past the face of config",
    ]


def loaded(code: str, names: Sequence[str]) -> list[str]:
    """Return which of some modules a fresh process has loaded after running some code."""
    script = f"{code}\nimport sys; print(*[name for name in {tuple(names)} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return shown.stdout.split()


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded("import hilbert_ray", ("torch", "ray", "numpy", "pyarrow", "tyro")) == []


def test_the_worker_of_a_fold_loads_what_it_trains_with_and_no_more() -> None:
    slow = (
        "sklearn",
        "scipy.stats",
        "ray.data",
        "ray.train",
        "pandas",
        "transformers",
        "optuna",
        "soundfile",
        "soxr",
    )
    assert loaded("import hilbert_ray.evaluation.cross_validation", slow) == []


def test_the_driver_of_embed_loads_nothing_that_only_its_workers_compute_with() -> None:
    slow = ("torch", "torchaudio", "sklearn", "transformers", "scipy")
    code = (
        "from hilbert_ray.config import Config\nfrom hilbert_ray.embedding import embed\n"
        "from hilbert_ray.embedding import resolve\n"
        "for one in resolve.chosen_encoders(resolve.resolve_encoders(Config())).values(): one.describe()"
    )
    assert loaded(code, slow) == []
