"""Cells of tables to values: labels and attributes of CSV, and lists that a program printed."""

import ast
import json
import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec

from hilbert_ray.document import MISSING, number_of

_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_LITERAL = re.compile(
    r"\s*(?:array\(\s*)?(?:[\[{]\s*|\(\s*(?=[\[{]))(?:[\[({]\s*)*(?:['\"]|[\])}]|array\(|\w+\(\w+=)"
)
"""How a list or mapping of strings begins that a program wrote; speech may begin with `[inaudible]`."""
_WRAPPERS = frozenset(
    ("array", "list", "tuple", "float16", "float32", "float64", "int32", "int64", "str_", "bool_")
)
_LONGEST_LITERAL = 2**24
"""Most characters of a Python literal that is read: its tree takes some hundred bytes each."""


def read_json(data: str | bytes) -> object:
    """Parse JSON whose strings can be written again.

    Raises:
        ValueError: if it is not JSON, not UTF-8, or an escape names half of a character.
        RecursionError: if it is nested too deeply.
    """
    try:
        return msgspec.json.decode(data)
    except ValueError:
        # The standard library accepts a little more, such as NaN, and explains better what is wrong. But it
        # also accepts lone surrogates (`\\ud800`), which no file could store: encoding finds them.
        text = data if isinstance(data, str) else data.decode()
        value: object = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
        return value


def looks_like_literal(text: str) -> bool:
    """Whether a text is the JSON or Python form of a list or mapping, whole or cut off, and not speech."""
    return _LITERAL.match(text) is not None


def read_literal(text: str) -> object:
    """Return the list or mapping that a text writes as JSON or as Python does (`str` of a list of dicts).

    Raises:
        ValueError: if it writes none, or not all of one.
    """
    try:
        return read_json(text)
    except (ValueError, RecursionError):
        if len(text) > _LONGEST_LITERAL:
            raise ValueError("it is too long to be read as Python") from None
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return ast.literal_eval(_Plain().visit(tree))
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise ValueError(f"it is not written in full as JSON or Python ({type(error).__name__})") from None


class _Plain(ast.NodeTransformer):
    """Makes literals of what NumPy and JSON write in a list that Python prints: `np.float64(0.5)`, `nan`."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in _WRAPPERS and len(node.args) == 1:
            return self.visit(node.args[0])  # type: ignore[no-any-return]
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        values = {"nan": None, "NaN": None, "null": None, "NaT": None, "true": True, "false": False}
        return ast.Constant(values[node.id]) if node.id in values else node


def label_of(cell: str, decimal_comma: bool = False) -> Any:  # noqa: ANN401 - any label
    """Return the label that a CSV cell writes: a number, true or false, a list or mapping, or its text."""
    return _short_label(cell, decimal_comma) if len(cell) <= 32 else _label(cell, decimal_comma)


def _label(cell: str, decimal_comma: bool) -> Any:  # noqa: ANN401 - any label
    text = cell.strip()
    number = _number(text, decimal_comma)
    if number is not None:
        return number
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text[:1] in ("[", "{"):
        try:
            return read_literal(text)
        except ValueError:
            return text
    return text


_short_label = lru_cache(maxsize=65536)(_label)


@lru_cache(maxsize=65536)
def attribute_of(cell: str, decimal_comma: bool = False) -> str | int | float | bool | None:
    """Return the attribute that a CSV cell writes: a number, true or false, or text; None if it is missing.

    Text like `007` stays text: a number does not begin so, but the code of a site may.
    """
    text = cell.strip()
    if not text or text in MISSING:
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    digits = text.lstrip("+-")
    is_code = text[0] == "+" or (digits[:1] == "0" and digits[1:2].isdigit())
    number = None if is_code else _number(text, decimal_comma)
    return cell if number is None or "e" in text.lower() else number


def _number(text: str, decimal_comma: bool) -> int | float | None:
    if decimal_comma and _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    return number_of(text)


def plain_value(value: object) -> object:
    """Return a value of an Arrow table as JSON could hold it: dates as text, decimals as numbers."""
    if isinstance(value, dict):
        return {key: plain_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_value(item) for item in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, timedelta) else value
