"""RESULTS.md is what the committed records render to, and a record renders to what it holds."""

import json
import sys
from pathlib import Path

import pytest

from bench import results
from bench.measure import Bar, Record, format_table

RECORD = {
    "name": "decode",
    "command": "python -m bench.decode --repeats 2",
    "began": "2026-01-02T03:04:05Z",
    "versions": {"hilbert-ray": "1.0", "torch": "2.0"},
    "note": "Nothing else ran.",
    "tables": [
        {
            "title": "opus",
            "rows": {
                "ours": {"median": 109.12, "least": 104.61, "most": 113.63, "all": [104.61, 113.63]},
                "ffmpeg": {"median": 218.24, "least": 192.0, "most": 238.7},
                "rounded": {"median": 0.02, "ratio": 0.0001},
            },
            "unit": "s of audio per second",
            "base": "ffmpeg",
            "exponents": {"exponent": 1.4091},
            "bars": [
                {"row": "ours", "against": "ffmpeg", "value": 0.5, "least": 0.8, "most": None, "met": False},
                {"row": "exponent", "against": None, "value": 1.4091, "least": None, "most": 2, "met": True},
            ],
        },
        {
            "title": "kept by its benchmark",
            "rows": {
                "plain": {"seconds": 3.14159, "calls": 12, "effect": [0.5, -0.25, 1.25]},
                "other": {"seconds": 22.0},
            },
            "formats": {"seconds": ".1f", "effect": ".2f"},
        },
    ],
}
RENDERED = """\
### EPYC: `python -m bench.decode --repeats 2`

2026-01-02, hilbert-ray 1.0, torch 2.0

Nothing else ran.

    opus
    s of audio per second           median     least      most     ratio
    ours                             109.1     104.6     113.6     0.500
    ffmpeg                           218.2     192.0     238.7     1.000
    rounded                        0.02000                         0.000
    exponent: 1.409
    ours / ffmpeg: 0.5, bar at least 0.8: MISSED
    exponent: 1.41, bar at most 2: met

    kept by its benchmark
                                   seconds     calls              effect
    plain                              3.1        12  0.50 (-0.25, 1.25)
    other                             22.0
"""


def test_results_are_what_the_records_render_to() -> None:
    assert results.PAGE.read_text() == results.rendered(), "run `python -m bench.results`"


def test_a_record_is_named_after_its_machine_and_benchmark() -> None:
    machines = json.loads(results.MACHINES.read_text())
    for path in results.RECORDS.iterdir():
        machine, name, *_ = path.stem.split("-")
        assert path.suffix == ".json"
        assert machine in machines
        assert json.loads(path.read_text())["name"] == name


def test_a_record_as_markdown() -> None:
    assert results.entry("EPYC-decode-opus", RECORD) == RENDERED


def test_a_record_with_the_fewest_fields_as_markdown() -> None:
    record = {"command": "make bench", "tables": [{"title": "all", "rows": {"took": {"minutes": 29.1}}}]}
    assert results.entry("EPYC-all", record) == (
        "### EPYC: `make bench`\n\n    all\n" + " " * 35 + "minutes\n    took" + " " * 29 + "29.10\n"
    )


def test_records_are_in_the_order_of_sections_then_names() -> None:
    files = ("B-decode", "A-decode", "C-encoders", "D-embed", "E-startup")
    records = {file: {"name": file[2:], "command": file, "tables": []} for file in files}
    text = results.page(records, {"A": "first", "B": "second"})
    assert "- A: first\n- B: second\n\n## Start\n\n### E" in text
    heads = [line for line in text.splitlines() if line.startswith("##")]
    assert heads == [
        "## Start", "### E: `E-startup`", "## Embedding", "### D: `D-embed`", "### C: `C-encoders`",
        "## Decoding", "### A: `A-decode`", "### B: `B-decode`",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="'unheard'"):
        results.page({"A-unheard": {"name": "unheard"}}, {})


def test_a_fresh_record_is_adopted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(results, "PAGE", tmp_path / "page.md")
    results.RECORDS.mkdir()
    fresh = Record("decode")
    bars = [Bar(row="ours", against="peer", least=2)]
    fresh.table("speed", "MB/s", {"ours": [3.0, 5.0, 4.0], "peer": [2.0]}, "peer", bars)
    printed = capsys.readouterr().out
    monkeypatch.setattr(
        sys, "argv", ["results", "--adopt", "out/bench/decode.json", "--machine", "EPYC", "--variant", "flac"]
    )
    results.main()
    adopted = json.loads((results.RECORDS / "EPYC-decode-flac.json").read_text())
    assert adopted == json.loads(Path("out/bench/decode.json").read_text())
    assert adopted["tables"][0]["rows"]["ours"]["all"] == [3.0, 5.0, 4.0]
    text = results.PAGE.read_text()
    assert adopted["began"][:10] in text
    assert "ours / peer: 2, bar at least 2: met" in text
    assert printed == f"\nspeed\n{format_table(adopted['tables'][0])}\n"
    assert all(f"    {line}\n" in text for line in printed.splitlines() if line)


def test_adopting_needs_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["results", "--adopt", "out/bench/decode.json"])
    with pytest.raises(SystemExit):
        results.main()
