"""The report: its numbers are those of the run."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import confusion_matrix

from hilbert_ray.reporting.html import MINUS
from hilbert_ray.reporting.learning import enough
from hilbert_ray.reporting.page import report
from hilbert_ray.reporting.summary import verdict
from hilbert_ray.run.evaluation import Comparison, LearningPoint
from tests.reporting.pages import (
    EVIL,
    KIND,
    SPACE,
    TASKS,
    Page,
    around,
    given,
    named,
)


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
            given(c["p_paired_t"]),
            given(c["p_paired_t_holm"]),
            given(c["smallest_detectable_difference"]),
        ]


def test_shortcuts_are_listed_with_the_scores(page: Page, metrics: dict[str, Any]) -> None:
    cells = page.table("What shortcuts alone predict").row(f"turns of {EVIL}")
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


def test_cut_points_of_an_ordinal_task_are_apart_from_its_classes(page: Page) -> None:
    assert [texts[0] for texts, _ in page.table("Cut-points of level").rows] == [">= mid", ">= high"]
    classes = [name.removeprefix("\u25b2 ") for name in page.table("Classes of level").names()]
    assert classes == ["low", "mid", "high"]


@pytest.mark.parametrize("task", TASKS)
def test_the_top_has_one_line_per_task_against_the_best_rival(
    page: Page, metrics: dict[str, Any], task: str
) -> None:
    headline = "concordance" if task == "score" else "auc"
    values = {name: scores[headline] for name, scores in metrics["tasks"][task].items()}
    rival = max(("audio_only", "mean_std_logistic"), key=lambda name: values[name]["within"])
    linear = f"{'ridge' if task == 'score' else 'logistic'} regression on mean + std"
    called = {"audio_only": "audio only", "mean_std_logistic": linear}[rival]
    found = re.search(rf"Exploratory with 12 groups: on \u201c{task}\u201d, HILBERT ([^.;:]*)", page.text)
    assert found
    assert found[1].endswith(f"its best rival, {called}")
    difference = metrics["comparisons"][task][rival]["difference"]
    own, other = (f"{values[name]['within']:.3f}" for name in ("hilbert", rival))
    shown = f"{difference:+.3f}".replace("-", MINUS)
    assert re.search(
        rf"within folds {own} \([^)]*\) against {other} \([^)]*\); difference {re.escape(shown)} ", page.text
    )
    row = page.table("Headline within folds with").row(task)
    assert [cell[0] for cell in row[2:]] == [
        values[n]["within"] for n in ("hilbert", "mean_std_logistic", "audio_only")
    ]


INTERVALS = [
    (
        0.1,
        0.05,
        0.15,
        "HILBERT beats its best rival, late fusion.",
        "HILBERT is ahead of its best rival",
        "good",
    ),
    (0.1, -0.05, 0.25, "is not shown to beat .*: it is ahead, but the interval includes 0", None, "plain"),
    (-0.1, -0.25, 0.05, "does not beat its best rival, late fusion; the interval includes 0", None, "bad"),
    (-0.1, -0.15, -0.05, "HILBERT is worse than its best rival", None, "bad"),
    (0.1, None, None, "is not shown to beat .*, but there is no interval", None, "plain"),
    (None, None, None, "HILBERT is not compared with its best rival", None, "plain"),
]


@pytest.mark.parametrize(("difference", "low", "high", "said", "of_few", "mood"), INTERVALS)
def test_a_verdict_is_plain_and_few_groups_never_win(
    difference: float | None, low: float | None, high: float | None, said: str, of_few: str | None, mood: str
) -> None:
    comparison = Comparison(metric="auc", difference=difference, low=low, high=high)
    found, sentence = verdict("\u201cmood\u201d", "late fusion", comparison, None)
    assert found == mood
    assert re.search(said, sentence), sentence
    found, sentence = verdict("\u201cmood\u201d", "late fusion", comparison, 12)
    assert found == mood.replace("good", "plain")
    assert sentence.startswith("Exploratory with 12 groups: on \u201cmood\u201d, HILBERT ")
    assert re.search(of_few or said, sentence), sentence
    assert "beats" not in sentence


def test_cautions_come_before_every_score_and_are_marked_in_their_tables(
    page: Page, metrics: dict[str, Any]
) -> None:
    top = page.text[: page.text.index("Headline within folds with")]
    for said in (
        "Exploratory: 12 groups, fewer than 40.",
        f"Shortcut for \u201clevel\u201d: \u201cturns of {EVIL}\u201d 0.950 (0.700 to 0.980) alone",
        "Turns of the speaker whom the labels are about are no shortcut",
        "5 of 48 documents have a sentence of four words or more in common with another group",
        "Near duplicates: 3 pairs of documents of different groups, such as <b>01</b> and <b>02</b>.",
        "1 pair of a document that takes part and one that is held out, such as <b>03</b> and <i>99</i>.",
        "Left out: 1 document has no features at all",
        "Quarantined: 2 documents have audio that could not be embedded",
        "Pending: 3 documents have text that is not embedded yet",
        "Absent: 4 documents have no audio in the manifest",
        "The folds have 1 warning",
    ):
        assert said in top
    assert top.index("Before you read the scores") < top.index("Exploratory with 12 groups: on")
    assert "Shortcut for \u201cstate\u201d" not in page.text
    rows = [texts for texts, _ in page.table("Near duplicates").rows]
    assert rows[0][0] == "<b>01</b>, <b>02</b>"
    assert rows[1][0] == "<b>03</b>, <i>99</i>"
    assert rows[1][-1] == "the second is held out"
    [(texts, _), _] = page.table("What shortcuts alone predict").rows
    assert [text.startswith("\u25b2") for text in texts] == [True, False, True, False, False, False]
    (audio, _), (text, _) = page.table("Documents by modality").rows
    assert [cell.startswith("\u25b2") for cell in audio] == [False, False, False, False, True, False]
    assert [cell.startswith("\u25b2") for cell in text] == [False, False, False, True, False, False]
    assert page.table("Documents by modality").row("audio")[2:5] == [[4], [0], [2]]


def test_no_table_has_two_columns_of_one_name(page: Page) -> None:
    for table in page.tables:
        if not table.caption.startswith("Confusion"):
            assert len(table.head) == len(set(table.head)), table.caption


def test_a_class_that_is_mostly_missed_is_remarked_on_where_scores_hide_it(page: Page, run: Path) -> None:
    rows = pq.read_table(run / "predictions.parquet").to_pylist()
    rows = [r for r in rows if r["task"] == "level" and r["variant"] == "hilbert" and r["target"][0] >= 0]
    for k, name in enumerate(TASKS["level"].classes):
        found = [r["decision"][0] == k for r in rows if r["target"][0] == k]
        is_low = np.mean(found) < 1 / 3
        marked = page.table("Classes of level").names()
        assert (f"\u25b2 {name}" in marked) == is_low
        said = f"Low recall of[^:]*\u201c{name}\u201d {np.mean(found):.2f}"
        assert len(re.findall(said, page.text)) == (2 if is_low else 0)


def test_numbers_that_are_labels_have_a_histogram(page: Page) -> None:
    table = page.table("Documents by score")
    assert sum(values[1][0] for _, values in table.rows) == 45


def test_heads_have_shares_and_what_was_not_fitted_says_so(page: Page) -> None:
    assert "\u201cstate\u201d: experts (joint) 50 %, audio head 48 %, text head 2 %, fitted" in page.text
    assert "The text head hardly counts. Rough: they rest on 4 documents of the rarest class." in page.text
    assert "\u201cheard\u201d: all heads count alike, since there were too few labels" in page.text
    table = page.table("Weights of the heads")
    assert [values[2:7] for _, values in table.rows][:2] == [
        [[1.5], [1.44], [0.06], [1.25], [40]],
        [[0.5], [1.5], [0.0], [1.0], [30]],
    ]


def test_layers_have_the_weights_that_training_gave_them(page: Page) -> None:
    rows = page.table("Weights of the layers of the audio encoder").rows
    assert [values[1:] for _, values in rows] == [[[0.25], [0.125]], [[0.5], [0.25]], [[0.25], [0.0]]]
    assert [texts[0] for texts, _ in rows] == ["0", "1", "2"]
    assert "The heaviest: audio: layer 1." in page.text
    assert "the network reads a weighted mean of the standardised layers" in page.text


def test_a_learning_curve_says_how_many_labels_are_enough(page: Page) -> None:
    assert (
        "\u201cstate\u201d: 12 labels are enough (macro AUC 0.890, with all 24 0.900); with 12 HILBERT "
        "reaches what \u201cTask loss only\u201d reaches with all."
    ) in page.text
    table = page.table("Learning curve of state")
    assert [values[1:4] for _, values in table.rows if values][:3] == [
        [[3], [10], [0.6]],
        [[12], [50], [0.89]],
        [[24], [100], [0.9]],
    ]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.6, 0.79, 0.8], 1),
        ([0.79, 0.6, 0.8], 2),
        ([0.6, 0.7, 0.8], 2),
        ([0.8, 0.9, 0.8], 0),
        ([0.7, 0.6, 0.5], None),
        ([0.8], None),
    ],
)
def test_labels_are_enough_from_where_all_later_scores_keep_the_lead(
    scores: Sequence[float], expected: int | None
) -> None:
    points = [LearningPoint(fraction=0.1, labels=k, within=value) for k, value in enumerate(scores)]
    found = enough(points)
    assert (None if found is None else found.labels) == expected


def test_few_groups_are_called_exploratory_and_the_null_is_described(
    page: Page, metrics: dict[str, Any]
) -> None:
    assert "Exploratory: with 12 groups (fewer than 40), neither test" in page.text
    null = metrics["permutation"]["state"]
    assert f"is {null['mean']:.3f} on average and lies between {null['low']:.3f} and" in page.text


def test_data_and_folds_are_described(page: Page, metrics: dict[str, Any]) -> None:
    data = metrics["data"]
    balance = page.table("Documents per class")
    for name, count in data["labels"]["state"]["classes"].items():
        assert balance.row(name)[1] == [count]
    missing = data["documents"] - data["labels"]["state"]["labelled"]
    assert f"of {data['documents']} documents are labelled, {missing} are not." in page.text
    sizes = page.table("Documents in each test set")
    assert [[cell[0] for cell in row[1][1:]] for row in sizes.rows] == metrics["folds"]["sizes"]
    assert f"class {EVIL!r} is rare" in page.text


def test_automatic_transcripts_are_counted_by_recogniser_and_mixed_origins_are_a_caution(page: Page) -> None:
    table = page.table("Automatic transcripts")
    assert table.row("whisper")[2:] == [[2], given(0.825)]
    assert table.row(EVIL)[2:] == [[1], []]
    sentence = "transcripts are automatic: 2 by whisper (fingerprint 4e5f); 1 by "
    # Above the scores, in Data, in Methods, and in two items of the checklist.
    assert page.text.count(sentence) == 5
    assert "Transcripts of several origins: 3 of " in page.text


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
        "most confident correct decision",
        "most confident wrong decision",
        "median probability of the true class",
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
    summary["pending"] = {"audio": 3, "text": 0}
    (again / "tune.json").write_text(json.dumps(summary))
    other = Page(Path(report(again)).read_text())
    assert "On outer folds the search helped for state." in other.text
    assert "The search did not help" not in other.text
    assert "incomplete: 3 documents count as having no audio" in other.text
    assert "incomplete:" not in page.text
    assert "keep the defaults" in other.text
    assert other.table("Settings to use").row("loss.cka")[1:] == [[0.4], [0.4]]
    assert "36 trials are too few, or too similar" in other.text


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
