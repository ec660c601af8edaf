"""Render RESULTS.md from the records in bench/results.

    python -m bench.results                                         # after editing a record
    python -m bench.results --adopt out/bench/embed.json --machine EPYC --variant minilm

The second form first copies a fresh record to bench/results/EPYC-embed-minilm.json, replacing an earlier
record and its note. Files are named <machine>-<benchmark>[-<variant>].json; bench/machines.json describes the
machines.

A record is what `measure.Record` writes, plus a `note`, written by hand, for what the tables do not say.
Records converted from older printed tables hold only what was printed: no date, no single repeats, rounded
medians.
"""

import argparse
import itertools
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.measure import format_table

HERE = Path(__file__).parent
PAGE, RECORDS, MACHINES = HERE / "RESULTS.md", HERE / "results", HERE / "machines.json"
SECTIONS = {  # by benchmark, in the order of the page
    "startup": "Start",
    "embed": "Embedding",
    "encoders": "Embedding",
    "transcribe": "Transcribing",
    "decode": "Decoding",
    "planning": "Planning and validating",
    "tables": "Planning and validating",
    "objective": "Objective",
    "features": "Store",
    "checksums": "Store",
    "training": "Training",
    "evaluate": "Folds",
    "coverage": "Intervals and tests",
    "null": "Intervals and tests",
    "quality": "Predictions",
    "layers": "Predictions",
    "search": "Search",
    "scale": "How cost grows",
    "terms": "What the terms of the objective do",
}
INTRODUCTION = """\
# Measured results

<!-- Made by `python -m bench.results` from bench/results and bench/machines.json: edit those. -->

Each heading gives the machine and the command. Compare machines only by the ratios within a table. Single
repeats, where recorded, are in bench/results; what was learnt along the way is in [NOTES.md](NOTES.md). The
machines were idle unless a note says otherwise:
"""


def page(records: Mapping[str, Mapping[str, Any]], machines: Mapping[str, str]) -> str:
    """Return RESULTS.md: the records by section, benchmark and name.

    Args:
        records: records by file name, without the suffix.
        machines: descriptions of the machines, by name.

    Raises:
        ValueError: a record's benchmark has no section.
    """
    order = [*SECTIONS]
    files = sorted(records, key=lambda file: (order.index(records[file]["name"]), file))
    parts = [INTRODUCTION, "".join(f"- {name}: {text}\n" for name, text in machines.items())]
    for section, inside in itertools.groupby(files, lambda file: SECTIONS[records[file]["name"]]):
        parts += [f"## {section}\n", *(entry(file, records[file]) for file in inside)]
    return "\n".join(parts)


def entry(file: str, record: Mapping[str, Any]) -> str:
    """Return a record as Markdown: machine and command, date and versions, note, tables."""
    known = [record["began"][:10]] if "began" in record else []
    known += [f"{name} {version}" for name, version in record.get("versions", {}).items()]
    texts = [", ".join(known), record.get("note", "")]
    parts = [f"### {file.partition('-')[0]}: `{record['command']}`"]
    parts += [
        textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) for text in texts if text
    ]
    for table in record["tables"]:
        parts.append(textwrap.indent(f"{table['title']}\n{format_table(table)}", "    "))
    return "\n\n".join(parts) + "\n"


def rendered() -> str:
    """Return RESULTS.md for the committed records."""
    records = {path.stem: json.loads(path.read_text()) for path in RECORDS.glob("*.json")}
    return page(records, json.loads(MACHINES.read_text()))


def main() -> None:
    """Adopt a record if requested, then write RESULTS.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adopt", type=Path, help="record in out/bench to copy")
    parser.add_argument(
        "--machine", choices=json.loads(MACHINES.read_text()), help="machine it was measured on"
    )
    parser.add_argument("--variant", help="name to distinguish it from other records of its benchmark")
    settings = parser.parse_args()
    if settings.adopt:
        if not settings.machine:
            parser.error("--adopt needs --machine, the machine that the record was measured on")
        record = json.loads(settings.adopt.read_text())
        file = "-".join(filter(None, [settings.machine, record["name"], settings.variant]))
        (RECORDS / f"{file}.json").write_text(json.dumps(record, indent=1) + "\n")
    PAGE.write_text(rendered())


if __name__ == "__main__":
    main()
