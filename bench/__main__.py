"""Run every benchmark one after another, in the sizes that two cores finish in minutes."""

import subprocess
import sys
import time

BENCHMARKS = (
    ("bench.startup", "--repeats", "7", "--jobs", "1"),
    ("bench.decode", "--minutes", "3", "--repeats", "2"),
    ("bench.encoders", "--threads", "1", "--repeats", "3", "--pipeline-repeats", "1"),
    ("bench.embed", "--only", "minilm", "hubert-base", "--minutes", "0.5", "--repeats", "1"),
    ("bench.features", "--repeats", "2"),
    ("bench.training", "--repeats", "1"),
    ("bench.objective", "--batch", "1024", "4096", "--repeats", "2"),
    ("bench.evaluate", "--repeats", "1", "--rounds", "1", "--epochs", "8"),
    ("bench.search", "--seeds", "2", "--trials", "20", "--busy-trials", "16"),
    ("bench.planning", "--documents", "100000"),
    ("bench.scale", "--documents", "1000", "10000", "--minutes", "1", "10", "100"),
    ("bench.coverage", "--datasets", "20"),
)


def main() -> int:
    """Run them; return the number that failed."""
    failed, took = 0, {}
    for module, *arguments in BENCHMARKS:
        print(f"\n== {module} {' '.join(arguments)}", flush=True)
        began = time.monotonic()
        failed += subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode != 0
        took[module] = time.monotonic() - began
    print("\n== seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in took.items()))
    print(f"{sum(took.values()) / 60:.1f} minutes, {failed} of {len(took)} failed")
    return failed


if __name__ == "__main__":
    sys.exit(main())
