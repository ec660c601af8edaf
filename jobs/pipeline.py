"""All steps as one job: embed, evaluate, train, report. Submit it again after a failure to resume.

    ray job submit --working-dir . -- python jobs/pipeline.py --manifest M --store S --out RUN

With `--transcribe FOLDER`, recordings that have no text are transcribed first, by the recognizer `asr` of the
settings. Each step resumes where it stopped, so finished work is never repeated.
"""

import argparse
import sys

from hilbert_ray.__main__ import run
from hilbert_ray.cli import main


def pipeline() -> int:
    """Run the steps in order; stop at the first that fails, and return its exit code."""
    parser = argparse.ArgumentParser(description="(transcribe,) embed, evaluate, train and report as one job")
    parser.add_argument("--manifest", required=True, help="manifest (.jsonl, .csv or .parquet), path or URI")
    parser.add_argument("--transcribe", metavar="FOLDER", help="transcribe what has no text into this folder")
    parser.add_argument("--store", required=True, help="feature store; created if absent")
    parser.add_argument("--out", required=True, help="run folder; created if absent")
    parser.add_argument("--config", help="YAML file of settings")
    options = parser.parse_args()
    settings = ["--config", options.config] if options.config else []
    store_and_run = ["--store", options.store, "--out", options.out, *settings]
    steps = [
        ["embed", "--manifest", options.manifest, "--store", options.store, *settings],
        ["evaluate", *store_and_run],
        ["train", *store_and_run],
        ["report", "--run", options.out],
    ]
    if options.transcribe:
        steps.insert(
            0, ["transcribe", "--manifest", options.manifest, "--out", options.transcribe, *settings]
        )
        steps[1][2] = f"{options.transcribe.rstrip('/')}/manifest.jsonl"
    for step in steps:
        code = main(step)
        if code:
            print(f"{step[0]} failed with exit code {code}; submit the job again to resume", file=sys.stderr)
            return code
    return 0


if __name__ == "__main__":
    sys.exit(run(pipeline))
