"""Recordings without transcripts: the sample corpus with its text withheld, beside the corpus as it is.

transcribe -> embed -> evaluate on the recordings alone, then embed -> evaluate on the same recordings with
their true transcripts, each step as the command a user would type. The recogniser's weights are not part of
the package: name a model, or a folder.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

from hilbert_ray.__main__ import run
from hilbert_ray.cli import main

CORPUS = Path(__file__).resolve().parent / "corpus"
SETTINGS = ("--config", str(CORPUS / "tasks.yaml"), "--folds.repeats", "1")
NAMES = {
    "hilbert": "HILBERT",
    "text_only": "text only",
    "audio_only": "audio only",
    "mean_std_logistic": "regression",
}


def write_manifests(out: Path) -> tuple[Path, Path]:
    """Write manifests of the documents that have a recording, without any text and with the true one."""
    rows = [json.loads(line) for line in (CORPUS / "manifest.jsonl").read_text().splitlines()]
    rows = [{**row, "audio": str(CORPUS / row["audio"])} for row in rows if row.get("audio")]
    withheld = [{name: value for name, value in row.items() if name != "text"} for row in rows]
    out.mkdir(parents=True, exist_ok=True)
    paths = out / "recordings.jsonl", out / "true.jsonl"
    for path, listed in zip(paths, (withheld, rows), strict=True):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in listed))
    return paths


def step(*words: str | Path) -> None:
    """Print a command and run it; exit if it fails."""
    arguments = [str(word) for word in words]
    print(f"\n$ hilbert-ray {shlex.join(arguments)}", flush=True)
    if code := main(arguments):
        sys.exit(code)


def scores(run_folder: Path) -> dict[str, float]:
    """Return the headline of task `pattern` by variant: macro AUC within folds."""
    tasks = json.loads((run_folder / "metrics.json").read_text())["tasks"]
    return {name: tasks["pattern"][name]["auc"]["within"] for name in NAMES}


def compare() -> int:
    """Run all steps and print the scores beside each other; return the exit code."""
    parser = argparse.ArgumentParser(description="the sample corpus on automatic and on true transcripts")
    parser.add_argument("--asr", required=True, help="recogniser, such as hf:openai/whisper-tiny.en")
    parser.add_argument("--out", type=Path, default=Path("out/without-text"), help="folder to write")
    options = parser.parse_args()
    out: Path = options.out
    recordings, true = write_manifests(out)
    step("transcribe", "--manifest", recordings, "--out", out / "transcribed", "--asr", options.asr)
    manifests = {"automatic": out / "transcribed" / "manifest.jsonl", "true": true}
    for name, manifest in manifests.items():
        store, run_folder = out / f"store-{name}", out / f"run-{name}"
        step("embed", "--manifest", manifest, "--store", store)
        step("evaluate", "--store", store, "--out", run_folder, *SETTINGS)
    automatic, by_hand = (scores(out / f"run-{name}") for name in manifests)
    print("\nMacro AUC of `pattern`, transcripts automatic / true:")
    for name, label in NAMES.items():
        print(f"  {label:<12} {automatic[name]:.3f} / {by_hand[name]:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(run(compare))
