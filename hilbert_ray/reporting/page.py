"""The report of a run as one self-contained HTML file: no network, no script, figures drawn inside the page.

`report` reads the run folder that `evaluate` (and, where they ran, `train` and `tune`) wrote; each module
here is one part of the page. The same run gives the same bytes.
"""

from pathlib import Path

from hilbert_ray.reporting.classes import classes
from hilbert_ray.reporting.embeddings import embedding
from hilbert_ray.reporting.html import page
from hilbert_ray.reporting.methods import methods, settings
from hilbert_ray.reporting.overview import data, top
from hilbert_ray.reporting.scores import scores
from hilbert_ray.reporting.search import search
from hilbert_ray.reporting.svg import numbered
from hilbert_ray.reporting.timelines import timelines
from hilbert_ray.reporting.training import training
from hilbert_ray.run import NOT_COPIED, RunResults, read_run
from hilbert_ray.storage import open_workspace
from hilbert_ray.version import __version__


def report(run: str | Path) -> str:
    """Write RUN/report.html and return its path or URI.

    Args:
        run: folder that `evaluate` wrote, path or URI; what `train` and `tune` added is shown too.

    Raises:
        ReportError: when the folder holds no scores (metrics.json, config.json), or they are damaged.
    """
    with open_workspace(str(run), (*NOT_COPIED, "folds", "search")) as opened:
        path = opened.path / "report.html"
        path.write_text(_page(read_run(opened.path)), encoding="utf-8", newline="\n")
        return f"{opened.uri}/report.html"


def _page(found: RunResults) -> str:
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
