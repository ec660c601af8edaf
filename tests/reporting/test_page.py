"""The page: it escapes what users write, needs nothing from elsewhere, and says what a run lacks."""

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import pyarrow.parquet as pq
import pytest

from hilbert_ray.reporting.methods import encoder_options
from hilbert_ray.reporting.page import report
from hilbert_ray.run.folder import RunError
from hilbert_ray.run.tables import without_paths
from hilbert_ray.storage.files import DamagedError
from tests.reporting.pages import (
    EVIL,
    SECRET,
    Page,
)


def test_what_users_wrote_is_escaped(page: Page) -> None:
    assert "script" not in {tag for tag, _ in page.tags}
    assert "b" not in {tag for tag, _ in page.tags}
    assert page.table("Classes of state").row(EVIL)
    assert "$x_1$" in page.text
    assert "alert(1)" not in " ".join(
        str(value) for _, a in page.tags for value in a if value != "aria-label"
    )


def test_the_page_needs_nothing_from_elsewhere(source: str, page: Page) -> None:
    assert "http://" not in source
    assert "https://" not in source
    assert "@import" not in source
    assert "url(" not in source.split("</style>")[0]
    for tag, attributes in page.tags:
        assert "src" not in attributes, tag
        for name in ("href", "xlink:href"):
            target = attributes.get(name) or "#"
            assert target.startswith("#") or (tag, target) == ("link", "data:,")
        assert "url(" not in str(attributes.get("clip-path", "url(#")).replace("url(#", "")
    assert len(source) < 3_000_000


def test_details_are_folded_and_printed_in_full(source: str, page: Page) -> None:
    parts = [a for tag, a in page.tags if tag == "details" and a.get("class") == "part"]
    assert len(parts) >= 2 * 4
    assert not any("open" in attributes for attributes in parts)
    # Several tasks: what is folded has its task in the summary, since headings may be out of sight.
    assert "Tests and permutation null of \u201cstate\u201d" in page.text
    printed = source.split("@media print")[1].split("</style>")[0]
    assert "details.part::details-content { content-visibility: visible;" in printed


def test_a_single_task_is_shown_unfolded(smaller: Path) -> None:
    shown = Page(Path(report(smaller)).read_text(encoding="utf-8"))
    parts = [a for tag, a in shown.tags if tag == "details" and a.get("class") == "part"]
    assert sum("open" in attributes for attributes in parts) == 2
    assert "HILBERT on \u201cstate\u201d: cross-validated results" in shown.headings[0][1]


def test_no_path_and_no_transcript_is_shown(run: Path, source: str) -> None:
    for secret in ("/home", "somebody", str(run.parent), SECRET):
        assert secret not in source
    assert "hf:wavlm" in source
    assert without_paths({"a": ["/x/y.parquet", "C:\\z\\w", "s3://bucket/key", "hf:org/name", 3]}) == {
        "a": ["y.parquet", "w", "s3://bucket/key", "hf:org/name", 3]
    }


def test_joined_encoders_show_the_options_of_those_that_have_any() -> None:
    model = {"spec": "hf:x", "options": {"layer": "9"}, "pooling": "mean", "precision": "bf16"}
    joined = {"spec": "mfcc+hf:x", "options": {"layer": "9"}, "parts": [{"spec": "mfcc"}, model]}
    assert encoder_options(joined) == ", layer 9, mean pooling, bf16" == encoder_options(model)


def test_the_page_is_accessible(page: Page) -> None:
    assert ("html", {"lang": "en"}) in page.tags
    assert len(page.figures) > 20
    for figure in page.figures:
        assert figure["svg"] == 1
        assert figure["figcaption"] == 1
        assert figure["table"] >= 1
    for tag, attributes in page.tags:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"]
    assert all(table.caption for table in page.tables)
    levels = [int(tag[1]) for tag, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = [str(a["href"])[1:] for tag, a in page.tags if tag in ("a", "use") and a.get("href")]
    assert set(links) <= set(ids)


def test_the_same_run_gives_the_same_bytes_and_leaves_matplotlib_alone(smaller: Path) -> None:
    first = Path(report(smaller)).read_bytes()
    with matplotlib.rc_context({"font.size": 31, "axes.grid": False}):
        before = dict(matplotlib.rcParams)
        assert Path(report(smaller)).read_bytes() == first
        assert dict(matplotlib.rcParams) == before


ABSENT = {
    "predictions.parquet": (
        "The run has no predictions.parquet with this task",
        "The run has no attention.parquet or predictions.parquet",
    ),
    "embeddings.parquet": ("The run has no embeddings.parquet, so there is no map.",),
    "attention.parquet": ("The run has no attention.parquet or predictions.parquet",),
    "metrics.jsonl": ("This run was evaluated but not trained",),
    "trials.jsonl": ("The run has no trials.jsonl",),
}


@pytest.mark.parametrize("name", ABSENT)
def test_the_report_says_what_a_run_lacks(smaller: Path, name: str) -> None:
    (smaller / name).unlink()
    shown = Page(Path(report(smaller)).read_text(encoding="utf-8")).text
    for sentence in ABSENT[name]:
        assert sentence in shown


def test_scores_alone_make_a_report(run: Path, tmp_path: Path, metrics: dict[str, Any]) -> None:
    """One modality, no comparison, no null, nothing but metrics.json and config.json."""
    shutil.copy(run / "config.json", tmp_path)
    kept = {task: {"hilbert": values["hilbert"]} for task, values in metrics["tasks"].items()}
    (tmp_path / "metrics.json").write_text(json.dumps({"tasks": kept, "embedding": {}}))
    shown = Page(Path(report(tmp_path)).read_text(encoding="utf-8")).text
    for sentence in (
        "HILBERT has no rival in this run.",
        "The run has no description of its folds.",
        "The run does not compare HILBERT with anything on this task.",
        "The run has no permutation null for this task.",
        "Retrieval and geometry need test sets with documents that have both audio and text",
    ):
        assert sentence in shown
    for section in ("Search over settings", "Learning curve", "How much each head counts"):
        assert section not in shown


def test_a_run_of_audio_alone_has_one_lane_and_no_retrieval(smaller: Path) -> None:
    settings = json.loads((smaller / "config.json").read_text())
    del settings["checksum"]  # an edit on purpose
    settings["config"]["text"] = "none"
    del settings["encoders"]["text"]
    (smaller / "config.json").write_text(json.dumps(settings))
    values = json.loads((smaller / "metrics.json").read_text())
    for counts in (values["data"][name] for name in ("with", "segments", "absent", "pending")):
        del counts["text"]
    (smaller / "metrics.json").write_text(json.dumps({**values, "embedding": {}}))
    attention = pq.read_table(smaller / "attention.parquet")
    attention = attention.drop_columns([name for name in attention.column_names if name.startswith("text")])
    pq.write_table(attention, smaller / "attention.parquet")
    shown = Page(Path(report(smaller)).read_text(encoding="utf-8"))
    assert "Retrieval and geometry need test sets with documents that have both audio and text" in shown.text
    assert "No text was used. Audio was cut into windows of 10 s every 10 s. No segment was" in shown.text
    lanes = [texts[0] for t in shown.tables if t.caption.startswith("Segments of") for texts, _ in t.rows]
    assert set(lanes) == {"audio"}


def test_scores_that_are_not_defined_are_dashes(smaller: Path) -> None:
    def emptied(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, dict):
            return {key: emptied(inner) for key, inner in value.items()}
        return None if isinstance(value, float) else value

    (smaller / "metrics.json").write_text(
        json.dumps(emptied(json.loads((smaller / "metrics.json").read_text())))
    )
    table = Page(Path(report(smaller)).read_text(encoding="utf-8")).table("Scores of state")
    assert table.row("HILBERT")[1:4] == [[], [], []]


def test_a_folder_without_scores_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"has no metrics\.json; run `hilbert-ray evaluate --store STORE --out"
    ):
        report(tmp_path / "nowhere")
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(DamagedError, match=r"metrics\.json is damaged .*rerun `hilbert-ray evaluate`"):
        report(tmp_path)
    (tmp_path / "metrics.json").write_text('{"tasks": {"mood": {}}}')
    with pytest.raises(RunError, match=r"has no config\.json"):
        report(tmp_path)
    shutil.copy(run / "config.json", tmp_path)
    with pytest.raises(RunError, match=r"has scores of tasks mood, which config\.json lacks"):
        report(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(RunError, match="has scores of no task"):
        report(tmp_path)


def test_the_report_loads_neither_ray_nor_torch() -> None:
    code = "import hilbert_ray.reporting.page, sys; print([m for m in ('ray', 'torch') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic",
    "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files",
    "--enable-logging=stderr", "--virtual-time-budget=10000",
)  # fmt: skip
FRAME = '<iframe src="{page}" style="width:{width}px;height:800px;border:0"></iframe>'
MEASURE = """<script>addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const inside = frame.contentDocument;
    inside.querySelectorAll("details").forEach(part => part.open = true);
    const wide = Math.max(inside.body.scrollWidth, inside.documentElement.scrollWidth);
    return {wide, available: frame.clientWidth};
  });
  document.body.textContent = "measured " + JSON.stringify(found) + ".";
})</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
def test_a_browser_shows_the_page_without_errors_or_sideways_scrolling(
    run: Path, source: str, tmp_path: Path
) -> None:
    widths = (320, 390, 768, 1200)
    page = (run / "report.html").resolve().as_uri()
    frames = "".join(FRAME.format(page=page, width=width) for width in widths)
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8"><body>{frames}{MEASURE}')
    command = [
        str(BROWSER), *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", wrapper.as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert "measured" in shown.stdout, shown.stderr
    measured = json.loads(shown.stdout.split("measured ")[1].split(".<")[0].split(".\n")[0])
    assert [one["available"] for one in measured] == list(widths)
    for one in measured:
        assert one["wide"] <= one["available"]
    assert "CONSOLE" not in shown.stderr, shown.stderr
