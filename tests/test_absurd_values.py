"""Numeric flags of every command at absurd values: refused with exit code 2 and a message, or a sensible run.

The flags are those of the commands' own fields, so that one added later is tried too.
"""

import contextlib
import dataclasses
import io
import json
import math
import os
import subprocess
import sys
import time
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hilbert_ray.cli import _parse
from hilbert_ray.commands import COMMANDS
from hilbert_ray.config import ConfigError
from hilbert_ray.config.constraints import constraints
from tests import make

ABSURD = (
    "nan", "inf", "-inf", "-1", "0", "1e-308", "-1e-308", "1e23", "1e308", "-1e308", "0.5",
    str(2**63), str(-(2**63)), "", "abc", "9" * 4000, "9" * 5000, "\uff11", "0x10",
)  # fmt: skip
REQUIRED: dict[str, list[str]] = {
    "validate": ["M"],
    "transcribe": ["--manifest", "M", "--out", "NEW"],
    "embed": ["--manifest", "M", "--store", "NEW"],
    "evaluate": ["--store", "S", "--out", "NEW", "--folds.folds", "2", "--folds.repeats", "1"],
    "train": ["--store", "S", "--out", "NEW", "--fit.epochs", "2", "--fit.seeds", "1"],
    "tune": ["--store", "S", "--out", "NEW", "--tune.trials", "1", "--folds.folds", "2"],
    "predict": ["--model", "MODEL", "--manifest", "M", "--out", "NEW/predictions.parquet"],
    "report": ["--run", "NEW"],
    "store info": ["S"],
    "store verify": ["S"],
    "store compact": ["S"],
    "store gc": ["S"],
    "store export": ["S", "--out", "NEW"],
    "unpack": ["M", "NEW"],
    "doctor": [],
}  # fmt: skip
"""What each command needs besides the flag under test."""
COMPANIONS = {"plan": ["--dry-run"], "price": ["--dry-run", "--plan", "1"]}
COMPANIONS["storage_price"] = COMPANIONS["price"]


def numeric_flags(settings_class: type[Any], prefix: str = "--") -> Iterator[tuple[str, str]]:
    """Yield each numeric flag of a command or of settings in it, with the name of its field."""
    for constraint in constraints(settings_class):
        if constraint.kind is not None:
            yield prefix + constraint.field.replace("_", "-"), constraint.field
    for name, hint in typing.get_type_hints(settings_class).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from numeric_flags(hint, f"{prefix}{name.replace('_', '-')}.")


FLAGS = [(command, flag, field) for command, kind in COMMANDS.items() for flag, field in numeric_flags(kind)]
COSTLY = ("transcribe", "evaluate", "tune", "predict")
DISTINCT = [
    *{
        (flag, field): (command, flag, field)
        for command, flag, field in sorted(FLAGS, key=lambda of: of[0] in COSTLY, reverse=True)
    }.values()
]
"""Each flag of the settings once, of a command that is soon done: they are the same in all."""


def words(command: str, flag: str, field: str, value: str) -> list[str]:
    """Return a command line; `--flag=value`, since `--flag -1` would be two flags."""
    return [*REQUIRED[command], *COMPANIONS.get(field, []), f"{flag}={value}"]


def test_every_command_is_tried_and_every_number_of_a_command_declares_its_bounds() -> None:
    assert list(REQUIRED) == list(COMMANDS)
    for command, kind in COMMANDS.items():
        numbers = {
            name
            for name, hint in typing.get_type_hints(kind).items()
            if {int, float} & {hint, *typing.get_args(hint)} and hint is not bool
        }
        declared = {c.field for c in constraints(kind) if c.kind is not None}
        assert numbers <= declared, command
        for constraint in constraints(kind):
            if constraint.kind is not None:
                assert constraint.meta is not None, f"{command}: {constraint.field} declares no bounds"
                assert constraint.meta.le is not None, f"{command}: {constraint.field} has no upper bound"


def refusal(line: list[str], command: str) -> tuple[Any, str]:
    """Return the exit code and the message with which the parser refuses a command line; 0 if it does not."""
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            _parse(command, line)
    except ConfigError as error:
        return error.exit_code, str(error)
    except SystemExit as ended:  # tyro has printed its message
        return ended.code, shown.getvalue()
    return 0, ""


def test_absurd_numbers_are_refused_by_name_or_are_within_declared_bounds() -> None:
    # Each flag once, with a sixth of the values: parsing all takes a minute, which is left to the soak test.
    for number, (command, flag, field) in enumerate(DISTINCT):
        for value in ABSURD[number % 6 :: 6]:
            code, message = refusal(words(command, flag, field, value), command)
            if code:
                assert code == 2, (flag, value)
                assert field in message.replace("-", "_"), (flag, value[:20], message)
            else:
                assert math.isfinite(float(value)), (flag, value)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return a manifest, a store of it and a published model, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("absurd")
    manifest = make.corpus(folder, 12, seconds=2.0)
    found = {"M": manifest, "S": str(folder / "store"), "MODEL": str(folder / "run" / "model")}
    run(["embed", "--manifest", "M", "--store", "S"], found, folder)
    run(["train", "--store", "S", "--out", str(folder / "run"), "--fit.epochs", "2"], found, folder)
    return found


def run(words: list[str], places: dict[str, str], folder: Path) -> tuple[int, str, float]:
    """Run a command as a user would; return its exit code, standard error and seconds."""
    new = str(folder / f"new-{time.monotonic_ns()}")
    arguments = [places.get(word, word.replace("NEW", new)) for word in words]
    started = time.monotonic()
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "hilbert_ray", *arguments], capture_output=True, text=True,
            check=False, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 124, "endless", time.monotonic() - started
    return ended.returncode, ended.stderr, time.monotonic() - started


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_absurd_numbers_that_are_accepted_run_to_a_sensible_end(
    places: dict[str, str], tmp_path: Path
) -> None:
    table: dict[str, Any] = {"refused": 0, "ran": [], "wrong": []}
    for command, flag, field in FLAGS:
        for value in ABSURD:
            line = words(command, flag, field, value)
            if refusal(line, command)[0]:
                table["refused"] += 1
                continue
            if (command, flag, field) not in DISTINCT:
                continue
            code, error, seconds = run([*command.split(), *line], places, tmp_path)
            case = [command, flag, value, code, round(seconds, 1), error.strip().splitlines()[-1:]]
            is_wrong = code not in (0, 1, 2) or "Traceback" in error or seconds > 60
            table["wrong" if is_wrong else "ran"].append(case)
            print(json.dumps(case), flush=True)
    print(json.dumps({name: v if isinstance(v, int) else len(v) for name, v in table.items()}))
    assert not table["wrong"], json.dumps(table["wrong"], indent=1)
