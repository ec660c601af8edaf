"""The process of a command: `hilbert-ray`, `python -m hilbert_ray` and the scripts in `jobs/`.

Interruptions are handled before anything else is imported, which takes half a second.
"""

import sys
from collections.abc import Callable, Sequence

from hilbert_ray.interruption import run_interruptible


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command as this process; return its exit code. See `cli.main`, and `run`."""

    def command() -> int:
        from hilbert_ray import cli

        return cli.main(arguments)

    return run(command)


def run(command: Callable[[], int]) -> int:
    """Call what this process is for and return its exit code; see `interruption` for how a signal ends it."""

    def whole() -> int:
        code = command()
        if "ray" in sys.modules:
            from hilbert_ray.cluster import disconnect

            # Not left to Python's end, where a signal would find nobody to handle it.
            disconnect()
        return code

    return run_interruptible(whole)


if __name__ == "__main__":
    sys.exit(main())
