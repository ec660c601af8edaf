"""The report of a run as one self-contained HTML file: no network, no script, figures drawn inside the page.

`report` reads the run folder that `evaluate` (and, where they ran, `train` and `tune`) wrote; each module
here is one part of the page. The same run gives the same bytes.
"""

from pathlib import Path

from hilbert_ray import __version__
from hilbert_ray.report.classes import classes
from hilbert_ray.report.drawing import numbered
from hilbert_ray.report.embedding import embedding
from hilbert_ray.report.methods import methods, settings
from hilbert_ray.report.overview import data, top
from hilbert_ray.report.page import page
from hilbert_ray.report.run import ReportError, read_run
from hilbert_ray.report.scores import scores
from hilbert_ray.report.search import search
from hilbert_ray.report.timelines import timelines
from hilbert_ray.report.training import training

__all__ = ["ReportError", "report"]


def report(run: str | Path) -> Path:
    """Write RUN/report.html and return its path.

    Args:
        run: folder that `evaluate` wrote; what `train` and `tune` added is shown too.

    Raises:
        ReportError: when the folder holds no scores (metrics.json, config.json), or they are damaged.
    """
    folder = Path(run)
    found = read_run(folder)
    searched = search(found)
    sections = [
        ("data", "Data", data(found)),
        ("scores", "Scores", scores(found)),
        ("classes", "Classes", classes(found)),
        ("embeddings", "Embeddings", embedding(found)),
        ("training", "Training", training(found)),
        ("timelines", "Timelines", timelines(found)),
        *([("search", "Search", searched)] if searched else []),
        ("methods", "Methods", methods(found)),
        ("settings", "Settings", settings(found)),
    ]
    title = f"HILBERT report: {found.name}"
    foot = (
        f"Made by hilbert-ray {__version__}. Scores are cross-validated; do not use predictions as the "
        "only ground for a decision about a person."
    )
    path = folder / "report.html"
    path.write_text(numbered(page(title, top(found), sections, foot)), encoding="utf-8", newline="\n")
    return path
