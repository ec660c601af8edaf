"""docs/architecture.md is true: its table is that of the docstrings, and every path that it names exists."""

import ast
import re
from pathlib import Path

import pytest

import hilbert_ray
from tests.architecture import PAGE, rendered
from tests.test_layers import PACKAGE, ROOT, ROWS

PATHS = sorted(set(re.findall(r"`((?:[\w.]+/)*\w+\.(?:py|txt|css))`", PAGE.read_text())))


def test_the_table_of_rooms_is_that_of_the_docstrings() -> None:
    page = PAGE.read_text()
    assert rendered(page) == page, "run `python -m tests.architecture`"


@pytest.mark.parametrize("path", PATHS)
def test_every_path_of_the_page_exists(path: str) -> None:
    assert any((folder / path).exists() for folder in (ROOT, ROOT / PACKAGE))


def test_the_picture_shows_every_room() -> None:
    shown = re.findall(r'class="title"[^>]*>(\w+)<', (ROOT / "docs" / "architecture.svg").read_text())
    assert sorted(shown) == sorted(room for row in ROWS for room in row)


def test_the_public_api_is_the_committed_list() -> None:
    """A change of the public API is a change of a file that reviewers see."""
    committed = (Path(__file__).parent / "public_api.txt").read_text().split()
    assert sorted(hilbert_ray.__all__) == committed
    assert all(getattr(hilbert_ray, name) is not None for name in committed)
    with pytest.raises(
        AttributeError, match="has no attribute 'embedd'; it offers Config, Document, Hilbert,"
    ):
        hilbert_ray.__getattr__("embedd")


def test_the_python_example_of_the_readme_imports_once_and_uses_names_that_exist() -> None:
    example = (ROOT / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    tree = ast.parse(example)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imports] == ["import hilbert_ray as hr"]
    used = set(re.findall(r"\bhr\.(\w+)", example))
    assert len(used) > 5
    assert used <= set(hilbert_ray.__all__)
