"""Run every benchmark one after another, in sizes that two cores finish in half an hour.

`bench.embed --only hubert-base` alone would take a quarter of an hour: see RESULTS.md.
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
    "training --repeats 1",
    "objective --batch 1024 4096 --repeats 2",
    "evaluate --repeats 1 --rounds 1 --epochs 5",
    "search --seeds 2 --trials 20 --busy-trials 16",
    "planning --documents 30000",
    "scale --documents 1000 10000 --minutes 1 10 60 --segments 10 100 1000 --actors 1 2 --hours 2",
    "coverage --datasets 10",
)


def main() -> int:
    """Run them; return the number that failed."""
    failed, took = 0, {}
    for line in BENCHMARKS:
        print(f"\n== bench.{line}", flush=True)
        name, *arguments = line.split()
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-m", f"bench.{name}", *arguments], check=False)
        failed += done.returncode != 0
        took[name] = time.monotonic() - began
    print("\n== seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in took.items()))
    print(f"{sum(took.values()) / 60:.1f} minutes, {failed} of {len(took)} failed")
    return failed


if __name__ == "__main__":
    sys.exit(main())
