"""A run with all five kinds of task, made without Ray, and a parser of its report."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from hilbert_ray.config import Config as Settings
from hilbert_ray.config import EncoderConfig, FitConfig, FoldsConfig, ModelConfig, TaskConfig, to_dict
from hilbert_ray.document.records import Document, Recognition, Utterance
from hilbert_ray.evaluation.cross_validation import run_fold
from hilbert_ray.evaluation.scores import score
from hilbert_ray.evaluation.variants import Variant
from hilbert_ray.features.arrays import Features
from hilbert_ray.features.dataset import Dataset
from hilbert_ray.folds.draw import choose_strata, make_folds
from hilbert_ray.folds.file import write_folds
from hilbert_ray.run.folder import write_run_config
from hilbert_ray.run.tables import write_predictions
from hilbert_ray.storage.files import Files
from hilbert_ray.storage.workspace import Workspace
from hilbert_ray.store.snapshot import Snapshot
from hilbert_ray.store.store import Store
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


RECOGNIZED = {
    "d1": Recognition("whisper", "4e5f", 0.9),
    "d2": Recognition("whisper", "4e5f", 0.75),
    "d3": Recognition(EVIL, "6a7b"),
}
FUSION = {
    "state": {
        "both": {"experts": 1.5, "audio": 1.44, "text": 0.06, "temperature": 1.25, "labels": 40, "cases": 4},
        "audio": {"experts": 0.5, "audio": 1.5, "text": 0.0, "temperature": 1.0, "labels": 30},
    },
    "heard": {"both": {"experts": 1.0, "audio": 1.0, "text": 1.0, "temperature": 1.0, "labels": 0}},
}
LAYERS = {"audio": {"weight": [0.25, 0.5, 0.25], "deviation": [0.125, 0.25, 0.0]}}
LEARNING = {
    "hilbert": [
        {"fraction": 1.0, "labels": 24, "within": 0.9, "low": 0.8, "high": 0.95},
        {"fraction": 0.1, "labels": 3, "within": 0.6, "low": 0.4, "high": 0.7},
        {"fraction": 0.5, "labels": 12, "within": 0.89, "low": 0.7, "high": 0.95},
    ],
    "task_only": [
        {"fraction": 0.1, "labels": 3, "within": None, "low": None, "high": None},
        {"fraction": 1.0, "labels": 24, "within": 0.85, "low": None, "high": None},
    ],
}


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
        store=Store("nowhere", 1),
        snapshot=Snapshot(files=Files("nowhere")),
        features=features,
        documents=documents,
        config=CONFIG,
        encoders={"audio": audio, "text": text},
        quarantined={"audio": 2, "text": 0},
        pending={"audio": 0, "text": 3},
        absent={"audio": 4, "text": 0},
        left_out=1,
        recognized=RECOGNIZED,
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
    results = [run_fold(features, variant, fold) for variant in variants for fold in folds]
    values = score(data, results)
    values["folds"] = folds.describe(strata.members, strata.names)
    values["folds"]["warnings"] = [f"class {EVIL!r} is rare"]
    values["run"] = {"seconds": 1.0, "fold_seconds": 2.0, "fits": len(results)}
    values["fusion"] = FUSION
    assert values["layers"] == {}
    values["layers"] = LAYERS
    values["learning_curve"] = {"state": LEARNING}
    values["splits"] = {"documents": 48, "held_out": {"test": 7}}
    values["duplicates"] = {
        "found": 3, "documents": 4, "groups": 3, "are_joined": False, "checked": {"audio": 48},
        "pairs": [{"first": "<b>01</b>", "second": "<b>02</b>", "audio": 0.9, "text": None}],
        "held_out_found": 1,
        "held_out_pairs": [{"first": "<b>03</b>", "second": "<i>99</i>", "audio": None, "text": 0.75}],
    }  # fmt: skip
    values["shortcuts"] = {
        f"turns of {EVIL}": {
            task: {"within": 0.5 + k / 64, "within_low": 0.25, "within_high": 0.75}
            for k, task in enumerate(TASKS)
        }
        | {"level": {"within": 0.95, "within_low": 0.7, "within_high": 0.98}},
        "shared_sentences": {"sentences": 7, "documents": 5, "of": 48},
    }
    write_predictions(run, data, results)
    (run / "metrics.json").write_text(json.dumps(values))


def trained(run: Path, features: Features) -> None:
    """Write what `train` writes."""
    fitted = fit(CONFIG, features, np.arange(len(features)))
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in fitted.history))
    (run / "training.json").write_text(
        json.dumps({"heads": fitted.plain_heads(), "last": fitted.history[-1]})
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


@dataclass
class Table:
    """A table of the page: caption, column names, and of each row the texts and the full numbers."""

    caption: str = ""
    head: list[str] = field(default_factory=list)
    rows: list[tuple[list[str], list[list[float]]]] = field(default_factory=list)

    def names(self) -> list[str]:
        """Return the names of all rows, with their marks."""
        return [texts[0] for texts, _ in self.rows]

    def row(self, name: str) -> list[list[float]]:
        """Return the numbers of each cell of the row called `name`, with or without the mark of caution."""
        return next(values for texts, values in self.rows if texts[0].removeprefix("\u25b2 ") == name)


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


def given(*values: float | None) -> list[float]:
    return [value for value in values if value is not None]


def around(score: Mapping[str, Any], way: str = "pooled", prefix: str = "") -> list[float]:
    """Return a score with its interval, as a cell of the page holds them."""
    return given(score[way], score[f"{prefix}low"], score[f"{prefix}high"])


NAMES = {"hilbert": "HILBERT", "audio_only": "Audio only", "mean_std_logistic": "Mean + std, logistic"}


def named(variant: str, task: str) -> str:
    name = NAMES[variant]
    return name.replace("logistic", "ridge") if task == "score" else name
