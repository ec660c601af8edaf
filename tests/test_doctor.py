"""The diagnosis of an environment, and the one fault that it mends."""

import json
import os
import subprocess
import sys
from pathlib import Path

from hilbert_ray import doctor

UNLOADABLE = """
from pathlib import Path

if list((Path(__file__).parent / "lib").glob("*.so")):
    raise OSError("Could not load this library: lib/libtorchaudio.so")
"""
"""What torchaudio does beside a torch whose native libraries it was not built for."""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run doctor with a torchaudio in front of the installed one."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "hilbert_ray.cli", "doctor", "--json", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def unloadable(folder: Path) -> Path:
    """Make a torchaudio that fails as long as its libraries are there; return one of these."""
    library = folder / "torchaudio" / "lib" / "libtorchaudio.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"\x7fELF")
    (folder / "torchaudio" / "__init__.py").write_text(UNLOADABLE)
    return library


def test_this_environment_has_no_fault() -> None:
    found = doctor.diagnose()
    assert found.faults == []
    assert found.facts["torch"]
    assert "FLAC" in found.facts["audio formats"]
    assert "No fault found." in found.text()


def test_a_torchaudio_that_cannot_load_is_named_with_the_step_that_mends_it(tmp_path: Path) -> None:
    library = unloadable(tmp_path)
    shown = run(tmp_path)
    [fault] = json.loads(shown.stdout)["faults"]
    assert shown.returncode == 1
    assert "torchaudio cannot load beside this torch (OSError: Could not load this library" in fault
    assert "run `hilbert-ray doctor --mend`" in fault
    assert library.exists()


def test_mending_removes_the_libraries_and_leaves_no_fault(tmp_path: Path) -> None:
    library = unloadable(tmp_path)
    shown = run(tmp_path, "--mend")
    values = json.loads(shown.stdout)
    assert (shown.returncode, values["faults"], values["removed"]) == (0, [], [str(library)])
    assert not library.exists()
    assert json.loads(run(tmp_path, "--mend").stdout)["removed"] == []


def test_a_cluster_that_does_not_answer_is_said_to_be_silent(tmp_path: Path) -> None:
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1", "RAY_TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "hilbert_ray.cli", "doctor", "--json"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    found = json.loads(shown.stdout)["facts"]["ray resources"]
    assert found.startswith("no cluster answers at RAY_ADDRESS 127.0.0.1:1")
