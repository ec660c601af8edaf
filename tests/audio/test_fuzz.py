"""Damaged recordings of every format are read whole or refused: no other error, no crash, no hang."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.audio import fuzzing

ROOT = Path(__file__).parents[2]
SOAK = pytest.param(range(400, 50_000), marks=pytest.mark.soak)


@pytest.mark.parametrize("seeds", [range(400), SOAK], ids=len)
def test_damaged_recordings_are_read_whole_or_refused(seeds: range, tmp_path: Path) -> None:
    command = [sys.executable, "-X", "faulthandler", "-m", fuzzing.__name__]
    command += [str(seeds.start), str(seeds.stop), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    seed = (tmp_path / "seed").read_text()
    assert result.returncode == 0, f"seed {seed}: {result.stderr[-2000:]}"
    assert int(seed) == seeds[-1]


def test_a_chunk_beyond_all_files_is_refused(tmp_path: Path) -> None:
    """Found by a seed: Wave64 whose damaged size leads beyond what a file can have."""
    fuzzing.attack(5_078_290, tmp_path)
