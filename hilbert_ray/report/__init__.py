"""The report of a run as one self-contained HTML file: no network, no script, figures drawn inside the page.

`report` reads the run folder that `evaluate` (and, where they ran, `train` and `tune`) wrote; each module
here is one part of the page. The same run gives the same bytes.
"""

from pathlib import Path

from hilbert_ray import __version__
from hilbert_ray.folders import APART, folder
from hilbert_ray.report.classes import classes
from hilbert_ray.report.drawing import numbered
from hilbert_ray.report.embedding import embedding
from hilbert_ray.report.methods import methods, settings
from hilbert_ray.report.overview import data, top
from hilbert_ray.report.page import page
from hilbert_ray.report.run import ReportError, Run, read_run
from hilbert_ray.report.scores import scores
from hilbert_ray.report.search import search
from hilbert_ray.report.timelines import timelines
from hilbert_ray.report.training import training

__all__ = ["ReportError", "report"]


def report(run: str | Path) -> str:
    """Write RUN/report.html and return its path or URI.

    Args:
        run: folder that `evaluate` wrote, path or URI; what `train` and `tune` added is shown too.

    Raises:
        ReportError: when the folder holds no scores (metrics.json, config.json), or they are damaged.
    """
    with folder(str(run), (*APART, "folds", "search")) as opened:
        path = opened.path / "report.html"
        path.write_text(_page(read_run(opened.path)), encoding="utf-8", newline="\n")
        return f"{opened.uri}/report.html"


def _page(found: Run) -> str:
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
    return numbered(page(title, top(found), sections, foot))
