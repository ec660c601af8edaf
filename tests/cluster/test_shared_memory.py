"""A container with little shared memory, as Docker gives by default: commands run, and say so in one line."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import make

OURS = re.compile(r"\d\d:\d\d:\d\d |hilbert-ray embed: ")
"""How lines of this library begin: Ray's own, which a user can do nothing with, are not shown."""
SMALL = "mount -t tmpfs -o size=64m tmpfs /dev/shm"


@pytest.mark.ray
def test_embed_runs_with_little_shared_memory_and_nothing_but_our_lines_is_shown(tmp_path: Path) -> None:
    inside = ["unshare", "-m", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*inside, SMALL], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    words = ["embed", "--manifest", make.corpus(tmp_path, 2), "--store", str(tmp_path / "store")]
    command = [sys.executable, "-m", "hilbert_ray", *words, "--embed.workers", "1"]
    ended = subprocess.run(
        [*inside, f'{SMALL} && exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stderr.splitlines()
    assert [line for line in lines if not OURS.match(line)] == []
    [about] = [line for line in lines if "/dev/shm" in line]
    assert re.search(r"6[0-4] MiB free in /dev/shm: Ray keeps .* --shm-size", about)
    assert "starting Ray on this machine" in ended.stderr
    assert "embedding 4 recordings and transcripts" in ended.stderr
