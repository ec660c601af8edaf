"""The diagnosis of an environment, and the one fault that it fixes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hilbert_ray import doctor

UNLOADABLE = """
from pathlib import Path

if list((Path(__file__).parent / "lib").glob("*.so")):
    raise OSError("Could not load this library: lib/libtorchaudio.so")
"""
"""What torchaudio does with a torch that its native libraries were not built for."""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run doctor with a torchaudio in front of the installed one."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "hilbert_ray", "doctor", "--json", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def unloadable(folder: Path) -> Path:
    """Make a torchaudio that fails as long as its libraries are there; return one of these."""
    library = folder / "torchaudio" / "lib" / "libtorchaudio.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"\x7fELF")
    (folder / "torchaudio" / "__init__.py").write_text(UNLOADABLE)
    return library


def test_this_environment_has_no_fault() -> None:
    diagnosis = doctor.diagnose()
    assert diagnosis.faults == []
    assert diagnosis.facts["torch"]
    assert "FLAC" in diagnosis.facts["audio formats"]
    assert (
        diagnosis.facts.get("shared memory", "").endswith(" MiB free in /dev/shm")
        == Path("/dev/shm").is_dir()
    )
    assert "No faults." in diagnosis.text()


def test_a_torchaudio_that_cannot_load_is_named_with_the_command_that_fixes_it(tmp_path: Path) -> None:
    library = unloadable(tmp_path)
    shown = run(tmp_path)
    [fault] = json.loads(shown.stdout)["faults"]
    assert shown.returncode == 1
    assert "torchaudio fails to import with this torch (OSError: Could not load this library" in fault
    assert "run `hilbert-ray doctor --fix`" in fault
    assert library.exists()


def test_fixing_removes_the_libraries_and_leaves_no_fault(tmp_path: Path) -> None:
    library = unloadable(tmp_path)
    shown = run(tmp_path, "--fix")
    values = json.loads(shown.stdout)
    assert (shown.returncode, values["faults"], values["removed"]) == (0, [], [str(library)])
    assert not library.exists()
    assert json.loads(run(tmp_path, "--fix").stdout)["removed"] == []


def test_another_failure_of_torchaudio_is_not_fixed_by_removing_its_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = unloadable(tmp_path)
    (tmp_path / "torchaudio" / "__init__.py").write_text("raise ImportError('no torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert doctor.fix() == []
    assert library.exists()
    assert doctor.torchaudio_error() == "ImportError: no torch"


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("RAY_ADDRESS", "127.0.0.1:1", "no cluster answers at RAY_ADDRESS 127.0.0.1:1"),
        ("RAY_TMPDIR", f"/tmp/{'long/' * 20}", "bytes long, but Ray's sockets leave room for"),
    ],
)
def test_what_keeps_ray_from_starting_is_a_fault(name: str, value: str, fault: str) -> None:
    command = [sys.executable, "-m", "hilbert_ray", "doctor", "--json"]
    environment = {**os.environ, name: value}
    shown = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert shown.returncode == 1
    assert [found for found in json.loads(shown.stdout)["faults"] if fault in found]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds processes to CPUs")
def test_cpus_are_those_that_the_process_may_use() -> None:
    """As in jobs of batch systems, which bind a process to some of the CPUs of its machine."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from hilbert_ray.cluster import describe_resources\n"
        "from hilbert_ray.doctor import diagnose\n"
        "print(describe_resources()); print(diagnose().facts['python'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    resources, python = shown.stdout.splitlines()
    assert resources.endswith("(1 CPUs)")
    assert os.cpu_count() == 1 or python.endswith(f"1 of {os.cpu_count()} CPUs usable here")
