"""The search: what it writes, what it refuses, and that finished trials are not run again."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray import tune as ray_tune

from hilbert_ray.config import (
    Config,
    ConfigError,
    FitConfig,
    FoldsConfig,
    ModelConfig,
    TuneConfig,
    from_dict,
    to_dict,
)
from hilbert_ray.config import load_file as load_settings
from hilbert_ray.dataset import Dataset, open_dataset
from hilbert_ray.evaluate import Variant, run_fold
from hilbert_ray.folds import Fold, choose_strata, inner_folds, make_folds
from hilbert_ray.tune import Summary, _search_folder, _trial, apply, headline, tune
from tests import make

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("one_thread", "ray_cluster")]

CONFIG = Config(
    model=ModelConfig(dim=8, hops=1),
    fit=FitConfig(epochs=1, seeds=1, batch_size=16),
    folds=FoldsConfig(folds=2, repeats=1, inner=2),
    tune=TuneConfig(
        trials=2, max_concurrent=1, space={"loss.cka": (0.01, 4.0), "loss.balance": (0.05, 20.0)}
    ),
)
SEARCHES = {"outer-0", "outer-1", "all"}
DEFAULTS = {"loss.cka": CONFIG.loss.cka, "loss.balance": CONFIG.loss.balance}


@pytest.fixture(scope="module")
def searched(embedded: make.Embedded, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    run = tmp_path_factory.mktemp("search") / "run"
    return run, tune(embedded.store, str(run), CONFIG)


def trials_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (run / "trials.jsonl").read_text().splitlines()]


def test_each_outer_fold_and_the_whole_are_searched_from_the_defaults_on(
    searched: tuple[Path, Summary],
) -> None:
    run, summary = searched
    trials = trials_of(run)
    assert summary.trials == len(trials) == len(SEARCHES) * CONFIG.tune.trials
    for name in SEARCHES:
        tried = [trial["settings"] for trial in trials if trial["search"] == name]
        assert DEFAULTS in tried
        for settings in tried:
            assert 0.01 <= settings["loss.cka"] <= 4.0
            assert 0.05 <= settings["loss.balance"] <= 20.0


def outer_folds(dataset: Dataset) -> tuple[np.ndarray, list[Fold]]:
    """Return the strata and the outer folds that `tune` must have drawn."""
    config, features = dataset.config, dataset.features
    strata = choose_strata(config.tasks, features.targets, features.groups, config.folds).members
    folds = make_folds(features.doc_ids, features.groups, strata, config.folds, config.fit.seed)
    return strata, list(folds)


def test_trials_of_an_outer_fold_are_scored_on_inner_folds_of_its_training_part(
    searched: tuple[Path, Summary], embedded: make.Embedded
) -> None:
    dataset = open_dataset(embedded.store, CONFIG)
    strata, [first, _] = outer_folds(dataset)
    inner = inner_folds(first.train, dataset.features.groups, strata, CONFIG.folds, CONFIG.fit.seed)
    assert not {i for part in inner for i in (*part.train, *part.test)} & set(first.test)
    for trial in trials_of(searched[0]):
        if trial["search"] == "outer-0":
            settings = apply(dataset.config, trial["settings"])
            plain = replace(settings, folds=replace(settings.folds, inner=0))
            scores = [
                headline(
                    dataset.features,
                    plain,
                    [run_fold(dataset.features, Variant(name="trial", config=plain), part)],
                )
                for part in inner
            ]
            assert trial["folds"] == pytest.approx(scores[: len(trial["folds"])], abs=1e-9)
            assert trial["score"] == pytest.approx(np.mean(trial["folds"]), abs=1e-12)


def test_the_defaults_stay_unless_beaten_by_more_than_a_standard_error(
    searched: tuple[Path, Summary],
) -> None:
    run, summary = searched
    trials = [trial for trial in trials_of(run) if trial["search"] == "all"]
    [base] = [trial for trial in trials if trial["settings"] == DEFAULTS]
    assert len(base["folds"]) == CONFIG.folds.inner
    whole = [trial for trial in trials if len(trial["folds"]) == CONFIG.folds.inner]
    best = max(whole, key=lambda trial: float(trial["score"]))
    error = np.std(base["folds"], ddof=1) / np.sqrt(CONFIG.folds.inner)
    assert summary.beaten == (best["score"] > base["score"] + error)
    assert summary.best == (best["settings"] if summary.beaten else {})


def test_the_scheduler_cannot_cut_the_defaults_short(
    embedded: make.Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All others are compared with them; a trial can be stopped whenever it reports before its end."""
    dataset = open_dataset(embedded.store, CONFIG)
    strata, [first, _] = outer_folds(dataset)
    parts = inner_folds(first.train, dataset.features.groups, strata, CONFIG.folds, CONFIG.fit.seed)
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(ray_tune, "report", reports.append)
    shared = [ray.put(dataset.features)]
    _trial(DEFAULTS, shared, dataset.config, parts, DEFAULTS)
    assert [len(report["folds"]) for report in reports] == [2]
    _trial({**DEFAULTS, "loss.cka": 1.0}, shared, dataset.config, parts, DEFAULTS)
    assert [len(report["folds"]) for report in reports] == [2, 1, 2]


def test_the_settings_it_ends_with_are_read_by_the_other_commands(searched: tuple[Path, Summary]) -> None:
    run, summary = searched
    chosen = from_dict(Config, load_settings(run / "best.yaml"), CONFIG)
    assert chosen == apply(CONFIG, summary.best)
    assert bool(summary.best) == summary.beaten
    assert json.loads((run / "tune.json").read_text()) == summary.to_dict()


def test_outer_scores_of_searched_and_default_settings_stand_side_by_side(
    searched: tuple[Path, Summary],
) -> None:
    _, summary = searched
    assert set(summary.tuned) == set(summary.default) == {"age", "mood", "place", "themes", "topic"}
    for task, compared in summary.comparison.items():
        assert compared["first"] == summary.tuned[task]
        assert compared["second"] == summary.default[task]
        assert f"{task}, outer folds: searched {summary.tuned[task]:.3f}" in summary.text()


def test_the_outer_score_of_the_defaults_is_that_of_plain_fits(
    searched: tuple[Path, Summary], embedded: make.Embedded
) -> None:
    dataset = open_dataset(embedded.store, CONFIG)
    one = Variant(name="default", config=dataset.config)
    results = [run_fold(dataset.features, one, part) for part in outer_folds(dataset)[1]]
    scores = searched[1].default.values()
    assert headline(dataset.features, dataset.config, results) == pytest.approx(
        np.mean(list(scores)), abs=1e-9
    )


def test_resuming_a_finished_search_runs_no_trial_again(
    searched: tuple[Path, Summary], embedded: make.Embedded
) -> None:
    run, before = searched
    results = sorted((run / "search").rglob("result.json"))
    assert len(results) == len(SEARCHES) * CONFIG.tune.trials
    reported = [path.read_text() for path in results]
    again = tune(embedded.store, str(run), CONFIG, resume=True)
    assert sorted((run / "search").rglob("result.json")) == results
    assert [path.read_text() for path in results] == reported
    assert again.best == before.best
    assert again.tuned == pytest.approx(before.tuned)


def test_searches_of_other_settings_or_data_are_never_resumed(
    embedded: make.Embedded, tmp_path: Path
) -> None:
    """What a search may use of the machine is no such setting."""
    dataset = open_dataset(embedded.store, CONFIG)
    others = [
        replace(dataset, config=replace(dataset.config, fit=replace(CONFIG.fit, epochs=2))),
        replace(dataset, config=replace(dataset.config, tune=replace(CONFIG.tune, trials=3))),
        open_dataset(embedded.store, CONFIG, text="none"),
    ]
    folders = {_search_folder(tmp_path, one) for one in (dataset, *others)}
    assert len(folders) == 4
    wider = replace(dataset.config, tune=replace(CONFIG.tune, max_concurrent=7))
    assert _search_folder(tmp_path, replace(dataset, config=wider)) in folders


DRIVER = """
import json, sys
from hilbert_ray.config import Config, from_dict
from hilbert_ray.tune import tune

tune(sys.argv[1], sys.argv[2], from_dict(Config, json.loads(sys.argv[3])))
"""


@pytest.mark.soak
def test_a_search_killed_midway_and_resumed_ends_as_an_undisturbed_one(
    searched: tuple[Path, Summary], embedded: make.Embedded, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-c", DRIVER, embedded.store, str(run), json.dumps(to_dict(CONFIG))]
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    driver = subprocess.Popen(command, env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(run.glob("search/*/outer-1/*/result.json")):
        assert driver.poll() is None, "the search ended before it could be killed"
        assert time.monotonic() < deadline, "no trial of the second search began"
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    first = {path: path.read_text() for path in run.glob("search/*/outer-0/*/result.json")}
    summary = tune(embedded.store, str(run), CONFIG, resume=True)
    assert {path: path.read_text() for path in run.glob("search/*/outer-0/*/result.json")} == first
    assert trials_of(run) == trials_of(searched[0])
    assert replace(summary, file="") == replace(searched[1], file="")


def test_a_search_without_inner_folds_is_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, folds=FoldsConfig(folds=2, inner=0))
    with pytest.raises(ConfigError, match=r"folds\.inner is 0, but `tune` scores trials on inner folds"):
        tune("no-store", str(tmp_path), config)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loss.ckaa", "`loss.ckaa`, which is no setting; name one such as `loss.cka`"),
        ("fit.epochs", "`fit.epochs`, which is 1; only fractional numbers can be searched"),
        ("loss", "only fractional numbers can be searched"),
    ],
)
def test_a_space_of_what_cannot_be_searched_is_refused(name: str, message: str, tmp_path: Path) -> None:
    config = replace(CONFIG, tune=TuneConfig(space={name: (0.1, 1.0)}))
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        tune("no-store", str(tmp_path), config)
