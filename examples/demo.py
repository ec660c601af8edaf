"""`make demo`: the whole pipeline on the sample corpus, offline, each step as the command a user would type.

validate -> embed -> evaluate (cross-validation) -> train -> predict (on a manifest with broken documents) ->
report.
"""

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from hilbert_ray.__main__ import run
from hilbert_ray.cli import main
from hilbert_ray.config import BASELINE, HILBERT

CORPUS = Path(os.path.relpath(Path(__file__).parent / "corpus"))


def step(*words: str | Path, ok: tuple[int, ...] = (0,)) -> None:
    """Print a command and run it; exit if it fails."""
    arguments = [str(word) for word in words]
    print(f"\n$ hilbert-ray {shlex.join(arguments)}", flush=True)
    began = time.monotonic()
    code = main(arguments)
    print(f"  [{time.monotonic() - began:.0f} s]", flush=True)
    if code not in ok:
        sys.exit(code)


def headline(metrics: dict[str, Any]) -> str:
    """Return the headline figures of task `pattern` as text."""
    names = {
        HILBERT: "HILBERT",
        BASELINE: "mean + std, logistic regression",
        "text_only": "text only",
        "audio_only": "audio only",
    }
    scores = metrics["tasks"]["pattern"]
    rows = [f"  {label:<32} {scores[name]['auc']['within']:.3f}" for name, label in names.items()]
    return "\n".join(["Macro AUC of `pattern` (4 classes, speakers never heard in training):", *rows])


def demo() -> int:
    """Run all steps and print the headline figures; return the exit code."""
    parser = argparse.ArgumentParser(description="run the whole pipeline on the sample corpus")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder to write")
    out: Path = parser.parse_args().out
    manifest, settings = CORPUS / "manifest.jsonl", ("--config", CORPUS / "tasks.yaml")
    store, run = out / "store", out / "run"
    began = time.monotonic()
    step("validate", manifest, *settings)
    step("embed", "--manifest", manifest, "--store", store)
    step("evaluate", "--store", store, "--out", run, *settings, "--folds.repeats", "1")
    step("train", "--store", store, "--out", run, *settings)
    step(
        "predict",
        "--model",
        run / "model",
        "--manifest",
        CORPUS / "broken.jsonl",
        "--out",
        out / "predictions.parquet",
    )
    step("report", "--run", run)
    metrics = json.loads((run / "metrics.json").read_text())
    print(f"\n{headline(metrics)}\n\nreport: {run / 'report.html'}   ({time.monotonic() - began:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(run(demo))
