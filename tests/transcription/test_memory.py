"""A recording of three hours takes no more memory than one of ten minutes, through the whole of a worker.

Whisper's own memory depends on how many windows it has decoded together, which ten minutes fill too.
"""

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
from tests.transcription.stand_in import HashingRecognizer, HashingUnits
from tests.transcription.test_publishing import transcribe_here

HashingRecognizer.longest_s = 30.0
assert transcribe_here(sys.argv[1], sys.argv[2]) == (1, 0)
print("peak", re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


OF_WHISPER = """
import re, sys
from dataclasses import replace
from pathlib import Path
from hilbert_ray.store import Store
from hilbert_ray.transcription.publishing import publish
from hilbert_ray.transcription.resolve import chosen_recognizer, job_of, resolve_recognizer
from hilbert_ray.transcription.worker import TranscribeUnits
from hilbert_ray.units import plan_all, take_snapshot
from tests.transcription.stand_in import CONFIG
from tests.whisper_weights import package_folder

config = resolve_recognizer(replace(CONFIG, asr=f"faster-whisper:{package_folder()}"))
recognizer = chosen_recognizer(config)
job, store = job_of(recognizer, config), Store.create(f"{sys.argv[2]}/work", 4)
snapshot = take_snapshot(sys.argv[1], store, config)
store.add_encoder("transcript", job.fingerprint, recognizer.describe())
[plan] = plan_all(store, snapshot, [job], config, plan_here=True)
worker = TranscribeUnits(store, snapshot.number, config, {"transcript": job.fingerprint})
assert [unit for unit, _ in worker.run(list(plan.units))] == list(plan.units)
assert publish(sys.argv[2], store, job.fingerprint, snapshot) == (1, 0)
print("peak", re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def peak_kib(folder: Path, minutes: int, measure: str) -> int:
    """Transcribe a recording of a given length in a process of its own; return the most memory it had."""
    folder.mkdir()
    speech = np.concatenate([interview(number) for number in (1, 2, 3)])
    with soundfile.SoundFile(folder / "long.wav", "w", 16000, 1) as file:
        for _ in range(minutes):
            file.write(speech[: 60 * 16000])
    manifest = make.manifest(folder / "m.jsonl", [{"doc_id": "long", "audio": "long.wav"}])
    command = [sys.executable, "-c", measure, manifest, str(folder / "out")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return int(shown.stdout.split()[-1])


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux")
@pytest.mark.parametrize("measure", [MEASURE, OF_WHISPER], ids=["hashing", "whisper"])
def test_three_hours_take_the_memory_of_ten_minutes(measure: str, tmp_path: Path) -> None:
    short, long = (peak_kib(tmp_path / f"{m}", m, measure) for m in (10, 180))
    print(f"10 minutes: {short / 1024:.0f} MiB, 3 hours: {long / 1024:.0f} MiB")
    assert long < 1.05 * short
