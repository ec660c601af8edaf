"""The table of rooms in docs/architecture.md, from the docstrings: `python -m tests.architecture`."""

import ast
from pathlib import Path

from tests.test_layers import OUTSIDE, PACKAGE, ROOT, ROWS

PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: rendered from docstrings -->\n", "<!-- end of rooms -->\n"


def summary(path: Path) -> str:
    """Return the first paragraph of a module's docstring, as a line."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def table() -> str:
    """Return the rooms from the bottom up, each with its files and what they hold."""
    lines = ["| room | file | what it holds |", "|---|---|---|"]
    for room in (room for row in ROWS for room in row if room not in OUTSIDE):
        folder = ROOT / PACKAGE / room
        if not folder.is_dir():
            lines.append(f"| **{room}** | `{room}.py` | {summary(folder.with_suffix('.py'))} |")
            continue
        lines.append(f"| **{room}** | | *{summary(folder / '__init__.py')}* |")
        files = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
        lines += [f"| | `{room}/{path.name}` | {summary(path)} |" for path in files]
    return "\n".join(lines) + "\n"


def rendered(page: str) -> str:
    """Return the page with its table as the docstrings have it now."""
    head, _, rest = page.partition(BEGIN)
    return f"{head}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
