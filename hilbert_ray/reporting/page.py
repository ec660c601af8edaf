"""The report of a run as one self-contained HTML file: no network, no script, figures drawn inside the page.

`report` reads the run folder that `evaluate` (and, where they ran, `train` and `tune`) wrote; each section of
the page has a module here. The same run gives the same bytes.
"""

from pathlib import Path

from hilbert_ray.reporting.classes import classes_section
from hilbert_ray.reporting.data import data_section
from hilbert_ray.reporting.embeddings import embeddings_section
from hilbert_ray.reporting.fusion import fusion_section
from hilbert_ray.reporting.html import page
from hilbert_ray.reporting.layers import layers_section
from hilbert_ray.reporting.learning import learning_section
from hilbert_ray.reporting.methods import methods_section
from hilbert_ray.reporting.scores import scores_section
from hilbert_ray.reporting.search import search_section
from hilbert_ray.reporting.settings import settings_section
from hilbert_ray.reporting.summary import summary
from hilbert_ray.reporting.svg import with_unique_ids
from hilbert_ray.reporting.timelines import timelines_section
from hilbert_ray.reporting.training import training_section
from hilbert_ray.run import RESUME_ONLY, RunFile, RunResults, read_run
from hilbert_ray.storage import open_workspace, write_text
from hilbert_ray.version import __version__


def report(run: str | Path) -> str:
    """Write RUN/report.html and return its path or URI.

    Args:
        run: folder that `evaluate` wrote, path or URI; what `train` and `tune` added is shown too.

    Raises:
        RunError: when metrics.json or config.json is missing, or they do not fit each other.
        DamagedError: when a file of the run is not what was written.
        WriteError: when the report cannot be written; one that was there before is intact.
    """
    # Checkpoints, fold results and journals are most of a run's bytes, and no report reads them: not
    # downloaded.
    with open_workspace(str(run), RESUME_ONLY) as opened:
        path = opened.path / RunFile.REPORT
        write_text(path, _page(read_run(opened.path)))
        return f"{opened.uri}/{RunFile.REPORT}"


def _page(run: RunResults) -> str:
    search, fusion, learning = search_section(run), fusion_section(run), learning_section(run)
    layers = layers_section(run)
    # In the order of a reader's questions: on what data, how good, for which class, why, and how it was made.
    sections = [
        ("data", "Data", data_section(run)),
        ("scores", "Scores", scores_section(run)),
        # A run without one of these parts has no entry in the table of contents either.
        *([("learning", "Labels", learning)] if learning else []),
        *([("fusion", "Heads", fusion)] if fusion else []),
        *([("layers", "Layers", layers)] if layers else []),
        ("classes", "Classes", classes_section(run)),
        ("embeddings", "Embeddings", embeddings_section(run)),
        ("training", "Training", training_section(run)),
        ("timelines", "Timelines", timelines_section(run)),
        *([("search", "Search", search)] if search else []),
        ("methods", "Methods", methods_section(run)),
        ("settings", "Settings", settings_section(run)),
    ]
    foot = (
        f"Made with hilbert-ray {__version__}. Scores are cross-validated. Do not base a decision about a "
        "person on predictions alone."
    )
    # On the whole page: a single drawing cannot know which ids the others use.
    return with_unique_ids(page(f"HILBERT report: {run.name}", summary(run), sections, foot))
