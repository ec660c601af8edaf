"""Run every benchmark one after another, in the sizes that two cores finish in minutes."""

import subprocess
import sys

BENCHMARKS = (
    ("bench.startup",),
    ("bench.coverage", "--datasets", "40"),
    ("bench.planning", "--documents", "100000"),
    ("bench.decode", "--minutes", "3", "--repeats", "2"),
    ("bench.encoders",),
    ("bench.embed", "--minutes", "1", "--repeats", "1"),
    ("bench.objective",),
    ("bench.evaluate", "--repeats", "1", "--rounds", "1"),
    ("bench.scale",),
    ("bench.search", "--seeds", "5", "--trials", "20"),
)


def main() -> int:
    """Run them; return the number that failed."""
    failed = 0
    for module, *arguments in BENCHMARKS:
        print(f"\n== {module} {' '.join(arguments)}", flush=True)
        failed += subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
