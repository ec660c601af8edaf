"""The report: its numbers are those of the run, it escapes what users write, and it stands alone."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.axes import Axes
from sklearn.metrics import confusion_matrix, roc_auc_score

from hilbert_ray.config.reading import to_dict
from hilbert_ray.config.settings import Config as Settings
from hilbert_ray.config.settings import EncoderConfig, FitConfig, FoldsConfig, ModelConfig, TaskConfig
from hilbert_ray.document.records import Document, Utterance
from hilbert_ray.evaluation.cross_validation import run_fold
from hilbert_ray.evaluation.scores import score
from hilbert_ray.evaluation.variants import Variant
from hilbert_ray.features.arrays import Features
from hilbert_ray.features.dataset import Dataset
from hilbert_ray.folds.draw import choose_strata, make_folds
from hilbert_ray.folds.file import write_folds
from hilbert_ray.metrics.predictions import Predictions
from hilbert_ray.reporting.overview import verdict
from hilbert_ray.reporting.page import report
from hilbert_ray.reporting.plot_data import (
    GRID,
    choose_documents,
    judge,
    precision_curves,
    principal_plane,
    roc_curves,
)
from hilbert_ray.reporting.svg import draw
from hilbert_ray.run.folder import write_run_config
from hilbert_ray.run.results import ReportError
from hilbert_ray.run.tables import without_paths, write_predictions
from hilbert_ray.storage.workspace import Workspace
from hilbert_ray.training.loop import fit
from tests import make

EVIL = "<script>alert(1)</script>"
SECRET = "words that only the transcript holds"
CLASSES = ("plain", EVIL, 'a "quoted" & long name of a class', "$x_1$")
TASKS = {
    "state": TaskConfig(classes=CLASSES),
    "level": TaskConfig(kind="ordinal", classes=("low", "mid", "high")),
    "heard": TaskConfig(kind="binary", classes=("no", "yes")),
    "tags": TaskConfig(kind="multilabel", classes=("x", "y", "z")),
    "score": TaskConfig(kind="regression"),
}
FOLDER = "/home/somebody/models/wavlm"
CONFIG = Settings(
    audio=f"hf:{FOLDER}",
    tasks=TASKS,
    model=ModelConfig(dim=8, hops=2, heads=2),
    fit=FitConfig(epochs=2, seeds=2, batch_size=16),
    folds=FoldsConfig(folds=2, repeats=2, inner=2),
)
KIND = {name: task.kind for name, task in TASKS.items()}


def dataset() -> Dataset:
    """Return documents with all five kinds of task; the first id looks like markup."""
    features = make.features(48)
    assert features.audio is not None
    rng = np.random.default_rng(0)
    heard, level = features.targets["heard"], features.targets["level"]
    tags = np.stack([heard, level > 1, rng.random(48) < 0.3], 1).astype(np.float32)
    tags[rng.random(tags.shape) < 0.1] = np.nan
    score = (level + rng.normal(size=48)).astype(np.float32)
    score[:3] = np.nan
    starts = np.concatenate([10.0 * np.arange(n) for n in features.audio.lengths]).astype(np.float32)
    features = replace(
        features,
        doc_ids=np.array([f"<b>{i:02d}</b>" for i in range(48)]),
        audio=replace(features.audio, start=starts, end=starts + 10),
        targets={**features.targets, "tags": tags, "score": score},
    )
    documents = [
        Document(doc_id=str(d), text=(Utterance(text=SECRET),), group=f"g{g}")
        for d, g in zip(features.doc_ids, features.groups, strict=True)
    ]
    about = {"dim": 12, "options": to_dict(EncoderConfig()), "segment": {}, "precision": "float32"}
    audio = {"name": f"hf:{FOLDER}", "spec": f"hf:{FOLDER}", "fingerprint": "0a1b", **about}
    text = {"name": "hashing", "spec": "hashing", "fingerprint": "2c3d", **about}
    return Dataset(
        features=features,
        documents=documents,
        config=CONFIG,
        encoders={"audio": audio, "text": text},
        quarantined={"audio": 2, "text": 0},
    )


def evaluated(run: Path) -> None:
    """Write what `evaluate` writes, without Ray; a text-only network stands for the linear baseline."""
    data = dataset()
    features = data.features
    write_run_config(Workspace(str(run), run), data)
    strata = choose_strata(TASKS, features.targets, features.groups, CONFIG.folds)
    folds = make_folds(features.doc_ids, features.groups, strata.members, CONFIG.folds, 0, strata.names)
    write_folds(folds, str(run / "folds.parquet"))
    variants = [
        Variant(name="hilbert", config=CONFIG),
        Variant(name="audio_only", config=CONFIG, modality="audio"),
        Variant(name="mean_std_logistic", config=CONFIG, modality="text"),
    ]
    results = [run_fold(features, variant, part) for variant in variants for part in folds]
    values = score(data, results)
    values["folds"] = folds.describe(strata.members, strata.names)
    values["folds"]["warnings"] = [f"class {EVIL!r} is rare"]
    values["run"] = {"seconds": 1.0, "fold_seconds": 2.0, "fits": len(results)}
    values["shortcuts"] = {
        f"turns of {EVIL}": {
            task: {"within": 0.5 + k / 64, "within_low": 0.25, "within_high": 0.75}
            for k, task in enumerate(TASKS)
        },
        "shared_sentences": {"sentences": 7, "documents": 5, "of": 48},
    }
    write_predictions(run, data, results)
    (run / "metrics.json").write_text(json.dumps(values))


def trained(run: Path, features: Features) -> None:
    """Write what `train` writes."""
    fitted = fit(CONFIG, features, np.arange(len(features)))
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in fitted.history))
    (run / "training.json").write_text(
        json.dumps({"temperature": fitted.temperature, "last": fitted.history[-1]})
    )


SPACE = {
    "loss.cka": {"low": 0.01, "high": 4.0, "log": True, "choices": []},
    "fit.epochs": {"low": 2.0, "high": 9.0, "log": False, "choices": []},
    "moe.kind": {"low": None, "high": None, "log": False, "choices": ["experts", "mlp"]},
}


def tuned(run: Path) -> None:
    """Write what `tune` writes, with made-up trials: the defaults, one that diverged, some stopped early."""
    rng = np.random.default_rng(0)
    trials = []
    for i in range(12):
        folds = [] if i == 7 else [float(x) for x in rng.uniform(0.5, 0.9, 1 + (i % 3 > 0))]
        settings = {
            "loss.cka": float(rng.uniform(0.1, 1)),
            "fit.epochs": int(rng.integers(2, 10)),
            "moe.kind": ("experts", "mlp")[i % 2],
        }
        trials.append(
            {
                "search": "all",
                "settings": settings,
                "score": float(np.mean(folds)) if folds else 0.0,
                "brier": 0.25,
                "folds": folds,
                "briers": [0.25] * len(folds),
                "is_default": i == 1,
                **({} if folds else {"error": f"loss is {EVIL}"}),
            }
        )
    (run / "trials.jsonl").write_text("".join(json.dumps(trial) + "\n" for trial in trials))
    comparison = {
        "difference": 0.0125,
        "low": -0.5,
        "high": 0.5,
        "p_corrected_t_holm": 0.0625,
        "exploratory": True,
    }
    summary = {
        "best": {"loss.cka": 0.33, "fit.epochs": 7, "moe.kind": "mlp"},
        "beaten": True,
        "trials": 12,
        "tuned": {"state": 0.8125},
        "default": {"state": 0.8},
        "comparison": {"state": comparison},
        "helped": {"state": False},
        "settings": {"loss.cka": 0.4, "fit.epochs": 20, "moe.kind": "experts"},
        "space": SPACE,
        "objectives": ["score"],
        "importances": {
            "loss.cka": {"mean": 0.75, "least": 0.5, "most": 0.875},
            "fit.epochs": {"mean": 0.1875, "least": 0.125, "most": 0.25},
            "moe.kind": {"mean": 0.0625, "least": 0.0, "most": 0.125},
        },
        "important_trials": 36,
        "file": "/home/somebody/best.yaml",
    }
    (run / "tune.json").write_text(json.dumps(summary))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that was evaluated, trained and tuned."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the networks are so small that threads only wait for each other
    folder = tmp_path_factory.mktemp("report") / "run"
    evaluated(folder)
    trained(folder, dataset().features)
    tuned(folder)
    yield folder
    torch.set_num_threads(threads)


@dataclass
class Table:
    """A table of the page: caption, column names, and of each row the texts and the full numbers."""

    caption: str = ""
    head: list[str] = field(default_factory=list)
    rows: list[tuple[list[str], list[list[float]]]] = field(default_factory=list)

    def row(self, name: str) -> list[list[float]]:
        """Return the numbers of each cell of the row called `name`."""
        return next(values for texts, values in self.rows if texts[0] == name)


class Page(HTMLParser):
    """What the tests ask of a page: its tables, figures, headings, attributes and text."""

    VOID = frozenset({"meta", "link", "br", "use", "path", "rect", "circle", "line", "image"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[Table] = []
        self.figures: list[dict[str, int]] = []
        self.headings: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open, f"elements left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "figure":
            self.figures.append({"table": 0, "figcaption": 0, "svg": 0})
        if self.figures and "figure" in self.open and tag in self.figures[-1]:
            self.figures[-1][tag] += 1
        if tag == "table":
            self.tables.append(Table())
        elif tag == "tr" and "tbody" in self.open:
            self.tables[-1].rows.append(([], []))
        elif tag in ("th", "td") and "tbody" in self.open:
            self.tables[-1].rows[-1][0].append("")
            self.tables[-1].rows[-1][1].append([])
        elif tag == "th":
            self.tables[-1].head.append("")
        elif tag == "data" and "tbody" in self.open:
            self.tables[-1].rows[-1][1][-1].append(float(str(dict(attrs)["value"])))
        elif tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((tag, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element that has no content."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Close an element."""
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note text."""
        if "style" in self.open:
            return
        self.words.append(data)
        if "caption" in self.open:
            self.tables[-1].caption += data
        elif "tbody" in self.open and self.open[-1] != "tr":
            self.tables[-1].rows[-1][0][-1] += data
        elif "th" in self.open:
            self.tables[-1].head[-1] += data
        elif self.headings and self.open and self.open[-1] == self.headings[-1][0]:
            self.headings[-1] = (self.headings[-1][0], self.headings[-1][1] + data)

    @property
    def text(self) -> str:
        """All words of the page, blanks made one."""
        return " ".join("".join(self.words).split())

    def table(self, start: str) -> Table:
        """Return the first table whose caption starts so."""
        return next(table for table in self.tables if table.caption.startswith(start))


@pytest.fixture(scope="module")
def source(run: Path) -> str:
    path = Path(report(run))
    assert path == run / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


@pytest.fixture
def smaller(run: Path, metrics: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of the run that scores one task alone, which is quicker to draw."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    kept = {name: {"state": metrics[name]["state"]} for name in ("tasks", "comparisons", "permutation")}
    (folder / "metrics.json").write_text(json.dumps({**metrics, **kept}))
    return folder


@pytest.fixture(scope="module")
def metrics(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return values


def given(*values: float | None) -> list[float]:
    return [value for value in values if value is not None]


def around(score: Mapping[str, Any], way: str = "pooled", prefix: str = "") -> list[float]:
    """Return a score with its interval, as a cell of the page holds them."""
    return given(score[way], score[f"{prefix}low"], score[f"{prefix}high"])


NAMES = {"hilbert": "HILBERT", "audio_only": "Audio only", "mean_std_logistic": "Mean + std, logistic"}


def named(variant: str, task: str) -> str:
    name = NAMES[variant]
    return name.replace("logistic", "ridge") if task == "score" else name


@pytest.mark.parametrize("task", TASKS)
def test_scores_and_comparisons_are_those_of_metrics_json(
    page: Page, metrics: dict[str, Any], task: str
) -> None:
    first = "concordance" if task == "score" else "auc"
    table = page.table(f"Scores of {task}")
    for variant, scores in metrics["tasks"][task].items():
        cells = table.row(named(variant, task))
        others = [name for name in cells_of(task) if name in scores]
        expected = [
            around(scores[first], "within", "within_"),
            given(scores[first]["mean"]),
            around(scores[first]),
            *(around(scores[name]) for name in others),
            [scores[first]["folds"]],
        ]
        assert cells[1:] == expected
    for variant, c in metrics["comparisons"][task].items():
        cells = page.table(f"HILBERT against each variant, {task}").row(named(variant, task))
        assert cells[1:] == [
            given(c["difference"], c["low"], c["high"]),
            given(c["t"]),
            given(c["p_corrected_t"]),
            given(c["p_corrected_t_holm"]),
            given(c["p_bootstrap"]),
            given(c["p_bootstrap_holm"]),
            given(c["smallest_detectable_difference"]),
        ]


def test_shortcuts_stand_beside_the_scores(page: Page, metrics: dict[str, Any]) -> None:
    cells = page.table("What shortcuts alone tell").row(f"turns of {EVIL}")
    found = metrics["shortcuts"][f"turns of {EVIL}"]
    assert cells[1:] == [around(found[task], "within", "within_") for task in TASKS]
    assert "that several groups share: 7; 5 of 48 documents have one" in page.text


def cells_of(task: str) -> Sequence[str]:
    """Return the metrics of a task's columns after the headline, in the order of the page."""
    if task == "score":
        return ("r2", "mae", "spearman")
    usual = ("pr_auc", "balanced_accuracy", "macro_f1", "mcc", "ece", "brier", "calibration_slope")
    return ("quadratic_kappa", *usual)


@pytest.mark.parametrize("task", ["state", "tags"])
def test_classes_are_those_of_metrics_json(page: Page, metrics: dict[str, Any], task: str) -> None:
    table, found = page.table(f"Classes of {task}"), metrics["tasks"][task]["hilbert"]
    for name, auc in found["auc"]["classes"].items():
        precision = found["pr_auc"]["classes"][name]
        assert table.row(name)[1:] == [
            [auc["positives"]],
            [auc["groups"]],
            around(auc, "within", "within_"),
            around(auc),
            around(precision),
            [precision["prevalence"]],
            around(found["balanced_accuracy"]["classes"][name]),
            around(found["macro_f1"]["classes"][name]),
        ]


def test_cut_points_of_an_ordinal_task_stand_beside_its_classes(page: Page) -> None:
    assert [texts[0] for texts, _ in page.table("Cut-points of level").rows] == [">= mid", ">= high"]
    assert [texts[0] for texts, _ in page.table("Classes of level").rows] == ["low", "mid", "high"]


def test_the_summary_names_the_task_with_most_classes_and_its_baselines(
    page: Page, metrics: dict[str, Any]
) -> None:
    scores = metrics["tasks"]["state"]
    assert "HILBERT on \u201cstate\u201d" in page.headings[0][1]
    for variant, said in (("audio_only", "audio only"), ("mean_std_logistic", "mean + std, logistic")):
        assert f"{scores[variant]['auc']['within']:.3f} for {said}" in page.text
    found = scores["hilbert"]["auc"]
    assert f"of {found['within']:.3f} (95 % interval {found['within_low']:.3f} to " in page.text


@pytest.mark.parametrize(
    ("difference", "low", "high", "said"),
    [
        (0.1, 0.05, 0.15, "HILBERT beats logistic regression on mean"),
        (0.1, -0.05, 0.25, "HILBERT is not shown to beat logistic regression .* the interval includes 0"),
        (-0.1, -0.25, 0.05, "HILBERT does not beat logistic regression .* the interval includes 0"),
        (-0.1, -0.15, -0.05, "HILBERT does not beat logistic regression .*: it is worse"),
        (0.1, None, None, "HILBERT is not shown to beat logistic regression .* there is no interval"),
        (None, None, None, "no comparison with the baseline"),
    ],
)
def test_the_verdict_is_plain(
    difference: float | None, low: float | None, high: float | None, said: str
) -> None:
    compared = {"difference": difference, "low": low, "high": high, "exploratory": True, "groups": 12}
    shown = Page(verdict(compared, "multiclass")).text
    assert re.search(said, shown), shown
    assert difference is None or "With 12 groups (under 40) this is exploratory." in shown


def test_few_groups_are_called_exploratory_and_the_null_is_told(page: Page, metrics: dict[str, Any]) -> None:
    assert "Exploratory: 12 groups are under 40" in page.text
    null = metrics["permutation"]["state"]
    assert f"is {null['mean']:.3f} on average and between {null['low']:.3f} and" in page.text


def test_data_and_folds_are_described(page: Page, metrics: dict[str, Any]) -> None:
    data = metrics["data"]
    balance = page.table("Documents of each class")
    for name, count in data["labels"]["state"]["classes"].items():
        assert balance.row(name)[1] == [count]
    missing = data["documents"] - data["labels"]["state"]["labelled"]
    assert f"of {data['documents']} documents are labelled, {missing} are not." in page.text
    sizes = page.table("Documents in each test set")
    assert [[cell[0] for cell in row[1][1:]] for row in sizes.rows] == metrics["folds"]["sizes"]
    assert f"class {EVIL!r} is rare" in page.text
    assert "2 of the documents without audio have some, but it could not be embedded." in page.text


@pytest.mark.parametrize("task", [name for name, kind in KIND.items() if kind != "regression"])
def test_confusion_counts_are_those_of_the_predictions(page: Page, run: Path, task: str) -> None:
    rows = [
        r
        for r in pq.read_table(run / "predictions.parquet").to_pylist()
        if r["task"] == task and r["variant"] == "hilbert"
    ]
    classes = TASKS[task].classes
    table = page.table(f"Confusion of {'each label of ' if KIND[task] == 'multilabel' else ''}{task}")
    if KIND[task] == "multilabel":
        for k, name in enumerate(classes):
            pairs = [(r["target"][k], r["decision"][k]) for r in rows if np.isfinite(r["target"][k])]
            expected = [sum(pair == want for pair in pairs) for want in ((1, 1), (1, 0), (0, 1), (0, 0))]
            assert [cell[0] for cell in table.row(name)[1:5]] == expected
        return
    known = [r for r in rows if r["target"][0] >= 0]
    expected = confusion_matrix(
        [r["target"][0] for r in known], [r["decision"][0] for r in known], labels=range(len(classes))
    ).tolist()
    assert [[cell[0] for cell in table.row(name)[1:-1]] for name in classes] == expected


def test_a_regression_task_shows_predicted_against_true(page: Page) -> None:
    assert len(page.table("Predictions of score").rows) == 45  # three of 48 have no number
    assert not [t for t in page.tables if t.caption.startswith("Confusion of score")]


def test_retrieval_training_search_and_timelines_are_shown(page: Page, metrics: dict[str, Any]) -> None:
    cells = page.table("Retrieval out of fold").row("Audio to text (headline)")
    assert cells[1] == around(metrics["embedding"]["audio_to_text_recall_at_1"])
    assert cells[5] == [metrics["embedding"]["audio_to_text_mrr"]["gallery"]]
    assert page.table("Geometry").row("Modality gap")[1] == [metrics["embedding"]["modality_gap"]["mean"]]
    assert len(page.table("Information by epoch").rows) == 2
    assert page.table("Loss terms by epoch").head[:3] == ["Epoch", "loss", "task (weight 1)"]
    assert page.table("Headline within outer folds").row("state")[2:6] == [
        [0.8125],
        [0.8],
        [0.0125, -0.5, 0.5],
        [0.0625],
    ]
    assert page.table("Settings to use").row("loss.cka")[1:] == [[0.4], [0.33]]
    assert page.table("Settings to use").row("fit.epochs")[1:] == [[20], [7]]
    assert [texts[1] for texts, _ in page.table("Chosen documents").rows] == [
        "surest of those decided rightly",
        "surest of those decided wrongly",
        "middle one by probability of the truth",
    ]
    assert len([t for t in page.tables if t.caption.startswith("Segments of <b>")]) == 3


def test_the_trials_of_a_search_are_ranked_and_drawn(page: Page, run: Path) -> None:
    trials = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    ranked = sorted(trials, key=lambda t: (-len(t["folds"]), -t["score"]))
    tables = [table for table in page.tables if table.caption.startswith("All trials")]
    assert len(tables) == 2  # one under each picture
    for table in tables:
        assert table.head == ["Rank", "Score", "Inner folds", *SPACE, "Note"]
        assert [values[1] for _, values in table.rows] == [[t["score"]] for t in ranked]
        assert [values[4] for _, values in table.rows] == [[t["settings"]["fit.epochs"]] for t in ranked]
        assert [texts[-1] for texts, _ in table.rows].count("defaults") == 1
    labels = [attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg"]
    assert "Each trial as a line through its settings and its score" in labels
    assert "Score of each trial by each searched setting" in labels
    assert "12 trials of the search over all documents, 4 stopped early, 1 diverged" in page.text


def test_what_mattered_in_a_search_has_its_spread(page: Page) -> None:
    table = page.table("Importances")
    assert table.row("loss.cka")[1:] == [[0.75], [0.5], [0.875]]
    assert "variance between 36 trials of all searches" in page.text


def test_a_search_that_did_not_help_says_so(page: Page, run: Path, tmp_path: Path) -> None:
    """It may have found better settings on inner folds: outer folds judge."""
    assert "The search did not help: on outer folds" in page.text
    assert "p-values are exploratory" in page.text
    again = tmp_path / "run"
    shutil.copytree(run, again)
    summary = json.loads((again / "tune.json").read_text())
    summary |= {"helped": {"state": True}, "beaten": False, "best": {}, "importances": {}}
    (again / "tune.json").write_text(json.dumps(summary))
    other = Page(Path(report(again)).read_text())
    assert "On outer folds the search helped for state." in other.text
    assert "The search did not help" not in other.text
    assert "the defaults stay" in other.text
    assert other.table("Settings to use").row("loss.cka")[1:] == [[0.4], [0.4]]
    assert "36 trials are too few, or too much alike" in other.text


def test_methods_and_checklist_are_filled_from_the_run(page: Page, run: Path) -> None:
    settings = json.loads((run / "config.json").read_text())
    for said in (
        "width 8, 1 cross-modal fusion layer with 2 heads",
        "cka 0.4, balance 7.5",
        settings["data"],
    ):
        assert said in page.text
    items = page.table("TRIPOD+AI items")
    assert len(items.rows) == 52
    assert {texts[0]: texts[2] for texts, _ in items.rows}["17"] == "to be stated by the authors"
    assert page.headings[-1] == ("h2", "Settings")


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


def test_no_path_and_no_transcript_is_told(run: Path, source: str) -> None:
    for secret in ("/home", "somebody", str(run.parent), SECRET):
        assert secret not in source
    assert "hf:wavlm" in source
    assert without_paths({"a": ["/x/y.parquet", "C:\\z\\w", "s3://bucket/key", "hf:org/name", 3]}) == {
        "a": ["y.parquet", "w", "s3://bucket/key", "hf:org/name", 3]
    }


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
        "The run holds no predictions.parquet with this task",
        "The run lacks attention.parquet or predictions.parquet",
    ),
    "embeddings.parquet": ("The run holds no embeddings.parquet, so there is no map.",),
    "attention.parquet": ("The run lacks attention.parquet or predictions.parquet",),
    "metrics.jsonl": ("This run was evaluated but not trained",),
    "trials.jsonl": ("The run keeps no trials.jsonl",),
}


@pytest.mark.parametrize("name", ABSENT)
def test_what_a_run_lacks_is_said_plainly(smaller: Path, name: str) -> None:
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
        "This run has no comparison with the baseline",
        "The run does not describe its folds.",
        "The run compares HILBERT with nothing on this task.",
        "The run has no permutation null for this task.",
        "Retrieval and geometry need documents with both audio and text",
    ):
        assert sentence in shown
    assert "Search over settings" not in shown


def test_a_run_of_audio_alone_has_one_lane_and_no_retrieval(smaller: Path) -> None:
    settings = json.loads((smaller / "config.json").read_text())
    settings["config"]["text"] = "none"
    del settings["encoders"]["text"]
    (smaller / "config.json").write_text(json.dumps(settings))
    values = json.loads((smaller / "metrics.json").read_text())
    for counts in (values["data"]["with"], values["data"]["segments"]):
        del counts["text"]
    (smaller / "metrics.json").write_text(json.dumps({**values, "embedding": {}}))
    attention = pq.read_table(smaller / "attention.parquet")
    attention = attention.drop_columns([name for name in attention.column_names if name.startswith("text")])
    pq.write_table(attention, smaller / "attention.parquet")
    shown = Page(Path(report(smaller)).read_text(encoding="utf-8"))
    assert "Retrieval and geometry need documents with both audio and text" in shown.text
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
        ReportError, match=r"no .*metrics\.json; run `hilbert-ray evaluate --store STORE --out"
    ):
        report(tmp_path / "nowhere")
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(ReportError, match="is not valid JSON"):
        report(tmp_path)
    (tmp_path / "metrics.json").write_text('{"tasks": {"mood": {}}}')
    with pytest.raises(ReportError, match=r"there is no .*config\.json"):
        report(tmp_path)
    shutil.copy(run / "config.json", tmp_path)
    with pytest.raises(ReportError, match=r"scores tasks mood that config\.json does not have"):
        report(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ReportError, match="scores no task"):
        report(tmp_path)


def test_the_report_loads_neither_ray_nor_torch() -> None:
    code = "import hilbert_ray.report, sys; print([m for m in ('ray', 'torch') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def random_predictions(rows: int = 60, repeats: int = 2) -> Predictions:
    rng = np.random.default_rng(3)
    p = rng.random((rows * repeats, 3)).round(1) + 0.05  # rounded: ties
    y = np.tile(rng.integers(-1, 3, rows), repeats)
    return Predictions(
        kind="multiclass",
        classes=("a", "b", "c"),
        probabilities=p / p.sum(1, keepdims=True),
        decisions=p.argmax(1),
        targets=y,
        fold=np.tile(np.arange(rows) % 4, repeats),
        repeat=np.repeat(np.arange(repeats), rows),
        group=np.tile(np.arange(rows) // 3, repeats),
        document=np.tile(np.arange(rows), repeats),
    )


def test_the_area_under_a_drawn_roc_curve_is_the_pooled_auc() -> None:
    predictions = random_predictions()
    for k, curve in enumerate(roc_curves(predictions)):
        expected = []
        for r in range(2):
            rows = (predictions.repeat == r) & (predictions.targets >= 0)
            truth, score = predictions.targets[rows] == k, predictions.probabilities[rows, k]
            expected.append(roc_auc_score(truth, score))
        assert np.trapezoid(curve.values, GRID) == pytest.approx(np.mean(expected), abs=0.01)


def test_precision_ends_at_the_share_of_positives() -> None:
    predictions = random_predictions()
    for k, curve in enumerate(precision_curves(predictions)):
        share = (predictions.targets == k).sum() / (predictions.targets >= 0).sum()
        assert curve.values[-1] >= share - 1e-9
        assert ((curve.values > 0) & (curve.values <= 1)).all()


def test_chosen_documents_are_the_surest_right_the_surest_wrong_and_the_middle() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6], [0.55, 0.45]])
    y, count = np.array([0, 0, 0, 0, -1]), np.arange(5)
    predictions = Predictions(
        kind="binary", classes=("no", "yes"), probabilities=p, decisions=p.argmax(1), targets=y,
        fold=count * 0, repeat=count * 0, group=count, document=count,
    )  # fmt: skip
    assert choose_documents(judge(predictions)) == [("right", 0), ("wrong", 2), ("middle", 1)]
    predictions = Predictions(
        kind="regression", classes=(), probabilities=np.array([1.0, 5.0, 2.5]), decisions=None,
        targets=np.array([1.1, 1.0, 2.0]), fold=count[:3] * 0, repeat=count[:3] * 0, group=count[:3],
        document=count[:3],
    )  # fmt: skip
    assert choose_documents(judge(predictions)) == [("right", 0), ("wrong", 1), ("middle", 2)]


def test_a_map_keeps_distances_of_a_plane() -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(20, 2))
    points, share = principal_plane(flat @ np.linalg.qr(rng.normal(size=(5, 2)))[0].T + 3)
    assert share == pytest.approx(1)
    before, after = (np.linalg.norm(x[:, None] - x, axis=-1) for x in (flat, points))
    np.testing.assert_allclose(before, after, atol=1e-9)


def test_a_drawing_holds_text_as_written_and_no_colour_of_its_own() -> None:
    name = "#0a0a03 1.23456 $x^2$ <g> --> \u4e2d"

    def paint(axes: Sequence[Axes]) -> None:
        axes[0].set_title(name)

    picture = draw(100, f'says "{name}"', paint)
    shown = Page(picture)
    assert name in shown.text
    assert shown.tags[0][1]["aria-label"] == f'says "{name}"'
    assert "#0a0a" not in str([attributes for tag, attributes in shown.tags if tag != "svg"])
    assert "var(--ink)" in picture


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
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
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "measured" in shown.stdout, shown.stderr
    measured = json.loads(shown.stdout.split("measured ")[1].split(".<")[0].split(".\n")[0])
    assert [one["available"] for one in measured] == list(widths)
    for one in measured:
        assert one["wide"] <= one["available"]
    assert "CONSOLE" not in shown.stderr, shown.stderr
