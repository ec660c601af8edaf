"""How fast is a manifest of a million CSV rows read, attributes and all?

Each way runs in its own process, in alternating order, and counts the processor time of that process:

    pandas         `pandas.read_csv`, then `parse_document` of each row as a dictionary: the same checks, but
                   none of what CSV can get wrong (rows of other lengths, open quotes, lists in cells)
    read_manifest  what `validate` and `embed` read, one process
    no attributes  the same of the table without its columns of attributes

"Peak" is the peak memory of the process itself (`VmHWM`, Linux).

    python -m bench.tables [--rows 1000000] [--repeats 3]
"""

import argparse
import csv
import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from bench.measure import Bar, Record, in_process, peak_bytes, turns
from hilbert_ray.document import Document, parse_document
from hilbert_ray.manifest import read_manifest

FIELDS = ("doc_id", "audio", "text", "group", "labels.phq", "labels.mood")
ATTRIBUTES = ("age", "sex", "site", "device")


def write_table(path: Path, rows: int, columns: tuple[str, ...]) -> None:
    """Write a table of documents, some cells of which are empty."""
    draw = random.Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for number in range(rows):
            speaker, sound = f"speaker-{number // 4}", f"audio/{number // 1000:04d}/d{number:07d}.wav"
            said = (f"d{number:07d}", sound, f"so this is recording {number}", speaker)
            labels = (draw.randrange(24), draw.choice(("low", "high", "")))
            person = (draw.randint(18, 90), draw.choice("fm"))
            place = (f"site {draw.randrange(9)}", draw.choice(("phone", "")))
            cells = (*said, *labels, *person, *place)
            writer.writerow(cells[: len(columns)])


def ours(path: str) -> int:
    """Return how many documents a manifest has, all of them checked."""
    return sum(isinstance(item, Document) for _, item in read_manifest(path))


def by_pandas(path: str) -> int:
    """Return the same by way of a data frame."""
    import pandas as pd

    frame = pd.read_csv(path).astype(object)
    folder = str(Path(path).parent)
    rows = 0
    for row in frame.where(frame.notna(), None).to_dict("records"):
        record = {name: row[name] for name in FIELDS if not name.startswith("labels.")}
        record["labels"] = {
            name.removeprefix("labels."): row[name] for name in FIELDS if name.startswith("labels.")
        }
        record["attributes"] = {name: row[name] for name in ATTRIBUTES}
        parse_document(record, folder)
        rows += 1
    return rows


WAYS: Mapping[str, tuple[Callable[[str], int], tuple[str, ...]]] = {
    "pandas": (by_pandas, FIELDS + ATTRIBUTES),
    "read_manifest": (ours, FIELDS + ATTRIBUTES),
    "no attributes": (ours, FIELDS),
}


def measure(way: str, path: str) -> None:
    """Read a table in this process, and print processor time, rows and peak memory as JSON."""
    read = WAYS[way][0]
    began = time.process_time()
    rows = read(path)
    print(json.dumps({"rows/s": rows / (time.process_time() - began), "rows": rows, "peak": peak_bytes()}))


def main() -> None:
    """Write the tables, read each in every way, and print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    record = Record("tables")
    peaks: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:

        def run(way: str) -> float:
            path = Path(folder, f"{len(WAYS[way][1])}.csv")
            if not path.exists():
                write_table(path, arguments.rows, WAYS[way][1])
            result = in_process("bench.tables", "--measure", way, str(path))
            assert result["rows"] == arguments.rows, result
            peaks[way].append(result["peak"] / 1e6)
            return float(result["rows/s"])

        rates = turns({way: partial(run, way) for way in WAYS}, arguments.repeats)
    bars = [Bar(row="read_manifest", against="pandas", least=0.8)]
    record.table(f"{arguments.rows} CSV rows", "rows per second of one core", rates, "pandas", bars)
    record.table(f"{arguments.rows} CSV rows, peak memory", "MB", peaks, "pandas")


if __name__ == "__main__":
    main()
