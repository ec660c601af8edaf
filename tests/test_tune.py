"""The search: what it writes, what it refuses, and that finished trials are not run again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hilbert_ray.config import Config, ConfigError, FitConfig, FoldsConfig, ModelConfig, TuneConfig, from_dict
from hilbert_ray.config import load_file as load_settings
from hilbert_ray.tune import Summary, apply, tune
from tests import make

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

CONFIG = Config(
    model=ModelConfig(dim=8, hops=1),
    fit=FitConfig(epochs=1, seeds=1, batch_size=16),
    folds=FoldsConfig(folds=2, repeats=1, inner=2),
    tune=TuneConfig(
        trials=2, max_concurrent=2, space={"loss.cka": (0.01, 4.0), "loss.balance": (0.05, 20.0)}
    ),
)
SEARCHES = {"outer-0", "outer-1", "all"}


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
        assert {"loss.cka": 0.4, "loss.balance": 7.5} in [
            {key: pytest.approx(value) for key, value in settings.items()} for settings in tried
        ]
        for settings in tried:
            assert 0.01 <= settings["loss.cka"] <= 4.0
            assert 0.05 <= settings["loss.balance"] <= 20.0


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
