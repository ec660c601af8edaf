"""A recording of three hours takes no more memory than one of ten minutes, through the whole of a worker."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests import make
from tests.segmentation.cutting import interview

MEASURE = """
import re, sys
from pathlib import Path
from hilbert_ray.asr import Recognizer
from tests.transcription.stand_in import HashingRecognizer, HashingUnits
from tests.transcription.test_publishing import transcribe_here

HashingRecognizer.longest_s = 30.0
assert transcribe_here(sys.argv[1], sys.argv[2]) == (1, 0)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def peak_kib(folder: Path, minutes: int) -> int:
    """Transcribe a recording of a given length in a process of its own; return the most memory it had."""
    folder.mkdir()
    speech = np.concatenate([interview(number) for number in (1, 2, 3)])
    with soundfile.SoundFile(folder / "long.wav", "w", 16000, 1) as file:
        for _ in range(minutes):
            file.write(speech[: 60 * 16000])
    manifest = make.manifest(folder / "m.jsonl", [{"doc_id": "long", "audio": "long.wav"}])
    command = [sys.executable, "-c", MEASURE, manifest, str(folder / "out")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return int(shown.stdout.split()[-1])


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux")
def test_three_hours_take_the_memory_of_ten_minutes(tmp_path: Path) -> None:
    short, long = peak_kib(tmp_path / "short", 10), peak_kib(tmp_path / "long", 180)
    print(f"10 minutes: {short / 1024:.0f} MiB, 3 hours: {long / 1024:.0f} MiB")
    assert long < 1.05 * short
