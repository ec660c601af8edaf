"""Run every benchmark, one after another, in sizes that two cores finish in half an hour.

`bench.embed --only hubert-base` is left out: it alone takes a quarter of an hour (see RESULTS.md), and so is
`bench.layers`, which needs a speech model and labelled speech.
"""

import subprocess
import sys
import time

BENCHMARKS = (
    "startup --repeats 5 --jobs 1",
    "decode --minutes 2 --repeats 2",
    "encoders --threads 1 --repeats 2 --pipeline-repeats 1",
    "embed --only minilm --minutes 2.5 --repeats 1",
    "features --repeats 2",
    "checksums --documents 300 --repeats 3",
    "training --repeats 1",
    "objective --batch 1024 4096 --repeats 2",
    "evaluate --repeats 1 --rounds 1 --epochs 5",
    "search --seeds 2 --trials 20 --busy-trials 16",
    "planning --documents 30000",
    "tables --rows 100000 --repeats 2",
    "scale --documents 1000 10000 --minutes 1 10 60 --segments 10 100 1000 --actors 1 2 --hours 2",
    "coverage --datasets 10",
    "null --datasets 4",
    "quality --seeds 1 --cohorts 2",
)


def main() -> int:
    """Run all benchmarks; return how many failed."""
    failures, seconds_by_name = 0, {}
    for command in BENCHMARKS:
        print(f"\n== bench.{command}", flush=True)
        name, *arguments = command.split()
        began = time.monotonic()
        process = subprocess.run([sys.executable, "-m", f"bench.{name}", *arguments], check=False)
        failures += process.returncode != 0
        seconds_by_name[name] = time.monotonic() - began
    print("\n== seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in seconds_by_name.items()))
    print(f"{sum(seconds_by_name.values()) / 60:.1f} minutes, {failures} of {len(seconds_by_name)} failed")
    return failures


if __name__ == "__main__":
    sys.exit(main())
