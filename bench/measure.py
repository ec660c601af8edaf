"""Shared by all benchmarks: turns in alternating order, tables, and a JSON record of the measurements.

A table holds the repeats of some rows and compares their medians with one of them; a bar is the value that a
row should reach. The record is out/bench/<name>.json and is rewritten with every table, so that results
survive when a later part fails. `python -m bench.results --adopt` puts a record into RESULTS.md.
"""

import importlib.metadata
import json
import math
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path("out/bench")
PACKAGES = ("torch", "ray", "transformers", "numpy", "pyarrow", "soundfile", "soxr")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """The median of `row`, divided by that of `against` if any, is to be at least, or at most, a value."""

    row: str
    against: str | None = None
    least: float | None = None
    most: float | None = None


class Record:
    """The tables of one benchmark, printed as they come and saved in out/bench/<name>.json."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._values: dict[str, Any] = {
            "name": name,
            "command": shlex.join(["python", "-m", _module(), *sys.argv[1:]]),
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine(),
            "versions": versions(),
            "tables": [],
        }

    def table(
        self,
        title: str,
        unit: str,
        repeats: Mapping[str, Sequence[float]],
        base: str | None = None,
        bars: Sequence[Bar] = (),
        sizes: Sequence[float] = (),
    ) -> None:
        """Print medians, ranges, ratios of medians to that of `base`, and bars; save them with all repeats.

        With `sizes`, the exponents of `growth` are printed and saved too; bars may name them as rows.

        Args:
            title: what was measured.
            unit: unit of the values, such as `s` or `documents/s`.
            repeats: all measured values, by row.
            base: the row that ratios refer to; None for no ratios.
            bars: values to reach; bars of absent rows are skipped.
            sizes: the size that each row was measured at, in the order of `repeats`.
        """
        medians = {row: statistics.median(values) for row, values in repeats.items()}
        rows = {
            row: {"median": medians[row], "least": min(values), "most": max(values), "all": [*values]}
            for row, values in repeats.items()
        }
        exponents = growth(sizes, [*medians.values()]) if sizes else {}
        medians |= exponents
        judged = [judge(bar, medians) for bar in bars if {bar.row, bar.against or bar.row} <= set(medians)]
        about = {"unit": unit, "base": base, "exponents": exponents, "bars": judged}
        print(f"\n{title}\n{format_table({'rows': rows, **about})}")
        self.keep(title, rows, **about)

    def keep(self, title: str, rows: Mapping[str, Mapping[str, Any]], **about: Any) -> None:  # noqa: ANN401
        """Save a table that its benchmark prints itself: values by row and column, and `about` it."""
        sys.stdout.flush()
        self._values["tables"].append({"title": title, "rows": rows, **about})
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{self.name}.json").write_text(json.dumps(self._values, indent=1))


def format_table(table: Mapping[str, Any]) -> str:
    """Return a saved table as text: columns of its rows, ratios to the base, exponents and bars.

    Single repeats are left out. The table's `formats` give the number format of each column. A row that has a
    ratio keeps it: records made from printed tables have rounded medians, but ratios of the exact ones.
    """
    rows = {name: {**row} for name, row in table["rows"].items()}
    for row in rows.values():
        row.pop("all", None)
        if base := table.get("base"):
            row.setdefault("ratio", row["median"] / rows[base]["median"])
    columns = [*dict.fromkeys(column for row in rows.values() for column in row)]
    formats = {"ratio": ".3f", **table.get("formats", {})}
    grid = [[table.get("unit") or "", *columns]]
    for name, row in rows.items():
        grid.append([name, *(format_cell(row.get(column), formats.get(column)) for column in columns)])
    first, *others = ([len(text) + 2 for text in column] for column in zip(*grid, strict=True))
    lines = []
    for name, *texts in grid:
        padded = (f"{text:>{max(10, *widths)}}" for text, widths in zip(texts, others, strict=True))
        lines.append((f"{name:{max(28, *first)}}" + "".join(padded)).rstrip())
    lines += [f"{name}: {value:.3f}" for name, value in table.get("exponents", {}).items()]
    return "\n".join(lines + [format_bar(bar) for bar in table.get("bars", ())])


def format_cell(value: Any, form: str | None = None) -> str:  # noqa: ANN401
    """Return a table's value as text; three values are a mean and the ends of its interval."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        mean, low, high = (format_cell(number, form) for number in value)
        return f"{mean} ({low}, {high})"
    if form:
        return f"{value:{form}}"
    return str(value) if isinstance(value, int) else format_number(value)


FITTED, LAST = "exponent", "exponent of the last step"


def growth(sizes: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    """Return the exponent k of value ~ size ** k, fitted over all sizes and between the two largest.

    The fit is least squares of the logarithms. Fixed costs make it smaller than it would be at larger sizes;
    the second exponent suffers least from them. Empty for fewer than two sizes.
    """
    points = sorted(zip(map(math.log, sizes), map(math.log, values), strict=True))
    if len(points) < 2:
        return {}
    fitted = statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope
    (x, y), (last_x, last_y) = points[-2:]
    return {FITTED: fitted, LAST: (last_y - y) / (last_x - x)}


def judge(bar: Bar, medians: Mapping[str, float]) -> dict[str, Any]:
    """Return a bar as plain values, with the value that was reached."""
    value = medians[bar.row] / (medians[bar.against] if bar.against else 1.0)
    met = (bar.least is None or value >= bar.least) and (bar.most is None or value <= bar.most)
    return {
        "row": bar.row, "against": bar.against, "value": value, "least": bar.least, "most": bar.most,
        "met": met,
    }  # fmt: skip


def format_bar(bar_result: Mapping[str, Any]) -> str:
    """Return the result of `judge` as a line of text."""
    what = f"{bar_result['row']} / {bar_result['against']}" if bar_result["against"] else bar_result["row"]
    bar = (
        f"at least {bar_result['least']:g}"
        if bar_result["least"] is not None
        else f"at most {bar_result['most']:g}"
    )
    return f"{what}: {bar_result['value']:.3g}, bar {bar}: {'met' if bar_result['met'] else 'MISSED'}"


def format_number(value: float) -> str:
    """Return a number with four significant digits; small ones in scientific notation, large ones in full."""
    if not value:
        return "0"
    if abs(value) < 0.01:
        return f"{value:.2e}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"


def turns(actions: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run the actions in turn, reversing the order every other time; return the values each returned.

    Whatever drifts (temperature, other load) then affects all actions alike.
    """
    values: dict[str, list[float]] = {name: [] for name in actions}
    for repeat in range(repeats):
        for name in list(actions)[:: 1 if repeat % 2 else -1]:
            values[name].append(actions[name]())
    return values


def timed(action: Callable[[], object]) -> float:
    """Return the wall time of a call, seconds."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def in_process(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module in its own process and return the JSON on its last line of output."""
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def peak_bytes() -> int:
    """Return the peak resident memory of this process, bytes (Linux).

    Unlike `ru_maxrss` it excludes what the parent held at the fork.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def forget_peak() -> None:
    """Reset the peak that `peak_bytes` returns to what this process holds now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def machine() -> dict[str, Any]:
    """Return the hardware and load behind the figures: processor, cores, memory, GPU, load average."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    gpu = None
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        gpu = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip() or None
    return {
        "processor": names[0].partition(": ")[2] if names else platform.processor(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpu": gpu,
        "load": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Return the versions of the measured packages; our own is the git revision, if there is one."""
    query = ["git", "describe", "--always", "--dirty"]
    revision = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "hilbert-ray": revision or importlib.metadata.version("hilbert-ray"),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _module() -> str:
    return f"bench.{Path(sys.argv[0]).stem}"
