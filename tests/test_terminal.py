"""What a person reads in a terminal: nothing that a file is named can move its cursor or add lines."""

import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilbert_ray.cli import main
from hilbert_ray.terminal import LineFormatter, duration, lines, one_line


def test_control_characters_are_spelled_out_and_others_stay() -> None:
    assert one_line("a\nb\x1b[31m\r\u2028\u202ec\udc80") == r"a\nb\x1b[31m\r\u2028\u202ec\udc80"
    # Urdu has a zero-width non-joiner inside words, and French a space that does not break.
    kept = "gro\u00dfe B\u00e4ume, \u0628\u06c1\u200c\u0628, \u65e5\u672c, 12\u00a0%, \U0001f600"
    assert one_line(kept) == lines(kept) == kept
    assert lines("a\nb\x07") == "a\nb\\x07"


@given(st.text())
def test_a_line_is_one_line_and_can_be_written(text: str) -> None:
    shown = one_line(text)
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert one_line(shown) == shown
    assert lines(text).count("\n") == text.count("\n")


def test_a_record_of_the_log_is_one_line_and_a_traceback_follows() -> None:
    formatter = LineFormatter("%(message)s")
    error = ValueError("wrong")
    record = logging.LogRecord("a", 30, "f", 1, "no %s", ("a\nb\x1b[2J",), (ValueError, error, None))
    assert formatter.format(record) == "no a\\nb\\x1b[2J\nValueError: wrong"


def test_a_command_escapes_the_names_that_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "info", "a\nb\x1b[31m"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert r"no store at a\nb\x1b[31m: " in line


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["train", "--stroe", "x"], "unknown flag --stroe: did you mean --store?"),
        (["train", "--store", "x", "--out", "y", "--fit.epoch=3"], "did you mean --fit.epochs?"),
        (["store", "gc", "x", "--min-age", "3"], "unknown flag --min-age: did you mean --min-age-h?"),
    ],
)
def test_a_misspelt_flag_is_answered_with_the_nearest(words: list[str], hint: str) -> None:
    ended = subprocess.run([sys.executable, "-m", "hilbert_ray", *words], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].endswith(hint)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.4, "0 s"),
        (119.0, "119 s"),
        (120.0, "2 min"),
        (7199.0, "120 min"),
        (7200.0, "2.0 h"),
        (9e4, "25.0 h"),
    ],
)
def test_durations_are_shown_in_the_unit_that_suits_them(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
