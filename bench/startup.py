"""How long a user waits before anything happens: importing the package, and `hilbert-ray --help`.

Each is a process of its own, beside one that does nothing, in turn, so that both see the same machine.

    python -m bench.startup [--repeats 15]
"""

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import hilbert_ray": ["-c", "import hilbert_ray"],
    "hilbert-ray --help": ["-m", "hilbert_ray.cli", "--help"],
    "hilbert-ray train --help": ["-m", "hilbert_ray.cli", "train", "--help"],
}


def seconds(arguments: list[str]) -> float:
    """Return the wall time of a Python process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Print the median and the range of each command, and its ratio to doing nothing."""
    parser = argparse.ArgumentParser(description="time the start of the package and the command line")
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for arguments in COMMANDS.values():  # the first start fills the disk's cache
        seconds(arguments)
    for _ in range(repeats):
        for name, arguments in COMMANDS.items():
            found[name].append(seconds(arguments))
    plain = statistics.median(found["python -c pass"])
    print(f"{'':26}{'median':>10}{'least':>10}{'most':>10}{'ratio':>8}")
    for name, times in found.items():
        median = statistics.median(times)
        print(f"{name:26}{median:9.3f}s{min(times):9.3f}s{max(times):9.3f}s{median / plain:8.1f}")


if __name__ == "__main__":
    main()
