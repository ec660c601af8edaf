"""All steps as one job: embed, evaluate, train, report. Run again after a failure, it goes on from there.

    ray job submit --working-dir . -- python jobs/pipeline.py --manifest M --store S --out RUN

Each step goes on where it stopped, so what is finished is not computed again.
"""

import argparse
import sys

from hilbert_ray.cli import main


def run() -> int:
    """Run the steps in order; stop at the first that fails and return its exit code."""
    parser = argparse.ArgumentParser(description="embed, evaluate, train and report as one job")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--config")
    given = parser.parse_args()
    settings = ["--config", given.config] if given.config else []
    read = ["--store", given.store, "--out", given.out, *settings]
    steps = [
        ["embed", "--manifest", given.manifest, "--store", given.store, *settings],
        ["evaluate", *read],
        ["train", *read],
        ["report", "--run", given.out],
    ]
    for step in steps:
        code = main(step)
        if code:
            print(
                f"step {step[0]} ended with exit code {code}; submit the job again to go on", file=sys.stderr
            )
            return code
    return 0


if __name__ == "__main__":
    sys.exit(run())
