"""How long does a user wait for an import, for `--help`, for the first document, and for the first step?

Each command is its own process, in turn with a Python that does nothing. `embed` is timed until its first
commit, including the start of Ray; `train` with one rank, which needs no Ray, until its first epoch of 32
documents (one step) is recorded.

    python -m bench.startup [--repeats 15] [--jobs 3]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from bench.measure import Bar, Record, timed, turns

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import hilbert_ray": ["-c", "import hilbert_ray"],
    "hilbert-ray --help": ["-m", "hilbert_ray", "--help"],
    "hilbert-ray train --help": ["-m", "hilbert_ray", "train", "--help"],
}
DOCUMENT, STEP = "first document embedded", "first epoch trained"
BARS = [
    Bar(row="hilbert-ray --help", most=0.5),
    Bar(row=DOCUMENT, most=15),
    Bar(row=STEP, most=20),
]


def corpus(folder: Path, documents: int = 32) -> Path:
    """Write recordings of five seconds of noise and a manifest with transcripts; return its path."""
    import soundfile

    rng = np.random.default_rng(0)
    rows = []
    for number in range(documents):
        soundfile.write(folder / f"{number}.wav", 0.1 * rng.standard_normal(80_000), 16_000)
        row = {"doc_id": f"d{number}", "audio": f"{number}.wav", "text": f"good morning, document {number}"}
        rows.append(row | {"labels": {"side": "left" if number % 2 else "right"}})
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(*arguments: str) -> None:
    """Run hilbert-ray; exit with its error output if it fails."""
    process = subprocess.run(
        [sys.executable, "-m", "hilbert_ray", *arguments], capture_output=True, text=True, check=False
    )
    if process.returncode:
        sys.exit(process.stderr)


def until_document(manifest: Path, folder: Path) -> float:
    """Return the time from the start of `embed` to its first commit, seconds."""
    store = Path(tempfile.mkdtemp(dir=folder)) / "store"
    began = time.time()
    command("embed", "--manifest", str(manifest), "--store", str(store), "--text", "none")
    return min(path.stat().st_mtime for path in store.glob("features/*/*/commits/*/*.json")) - began


def until_step(store: Path, folder: Path) -> float:
    """Return the time from the start of `train` to the record of its first epoch, seconds."""
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    settings = {"fit.epochs": 1, "fit.seeds": 1, "folds.inner": 0}
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    began = time.time()
    command("train", "--store", str(store), "--out", str(run), *flags)
    return (run / "metrics.jsonl").stat().st_mtime - began


def main() -> None:
    """Measure each command, then `embed` and `train`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15, help="repeats of commands that compute nothing")
    parser.add_argument("--jobs", type=int, default=3, help="repeats of embed and train; 0 skips them")
    settings = parser.parse_args()
    record = Record("startup")
    plain = {
        name: partial(subprocess.run, [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        for name, arguments in COMMANDS.items()
    }
    for action in plain.values():
        action()
    times = turns({name: partial(timed, action) for name, action in plain.items()}, settings.repeats)
    record.table("commands that compute nothing", "s", times, "python -c pass", BARS)
    if settings.jobs:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            manifest, store = corpus(folder), folder / "store"
            command("embed", "--manifest", str(manifest), "--store", str(store), "--text", "hashing")
            jobs = {
                DOCUMENT: partial(until_document, manifest, folder),
                STEP: partial(until_step, store, folder),
            }
            record.table("from the command on", "s", turns(jobs, settings.jobs), bars=BARS)


if __name__ == "__main__":
    main()
