"""The search: what it writes, what it refuses, and that finished trials are not run again."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import yaml
from ray import tune as ray_tune

from hilbert_ray.config import (
    Config,
    ConfigError,
    FitConfig,
    FoldsConfig,
    ModelConfig,
    SpaceConfig,
    TaskConfig,
    TuneConfig,
    from_dict,
    to_dict,
)
from hilbert_ray.config import load_file as load_settings
from hilbert_ray.evaluation.cross_validation import run_fold
from hilbert_ray.evaluation.variants import Variant
from hilbert_ray.features.arrays import Features
from hilbert_ray.features.dataset import Dataset, open_dataset
from hilbert_ray.folds.draw import choose_strata, inner_folds, make_folds
from hilbert_ray.folds.file import read_folds, write_folds
from hilbert_ray.folds.records import Fold
from hilbert_ray.run.folder import RunFile, read_json, read_lines
from hilbert_ray.storage.workspace import Workspace
from hilbert_ray.tuning.driver import _outer_folds, _search_key, _settings_file, tune
from hilbert_ray.tuning.search import brier, headline, run_search, run_trial
from hilbert_ray.tuning.space import apply, defaults, make_space, nearest
from hilbert_ray.tuning.summary import TuneSummary
from hilbert_ray.tuning.trials import SearchPlan, concurrency, read_journal
from tests import make

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("one_thread", "ray_cluster")]

CONFIG = Config(
    model=ModelConfig(dim=8, hops=1),
    fit=FitConfig(epochs=1, seeds=1, batch_size=16),
    folds=FoldsConfig(folds=2, repeats=1, inner=2),
    tune=TuneConfig(
        trials=2,
        max_concurrent=1,
        space={
            "loss.cka": (0.01, 4.0),
            "loss.balance": (0.05, 20.0),
            "fit.epochs": SpaceConfig(low=1, high=2),
            "model.layers": SpaceConfig(choices=(0, 1)),
        },
    ),
)
SEARCHES = {"outer-0", "outer-1", "all"}
DEFAULTS = {"loss.cka": 0.4, "loss.balance": 7.5, "fit.epochs": 1, "model.layers": 1}


@pytest.fixture(scope="module")
def given(embedded: make.Embedded, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Settings with a folds file whose first repeat is not the one that would be drawn: two, in reverse."""
    dataset = open_dataset(embedded.store, CONFIG, held_out=False)
    features, twice = dataset.features, replace(CONFIG.folds, repeats=2)
    strata = choose_strata(dataset.config.tasks, features.targets, features.groups, twice).members
    file = tmp_path_factory.mktemp("folds") / "folds.parquet"
    drawn = make_folds(features.doc_ids, features.groups, strata, twice, seed=0)
    write_folds(replace(drawn, assignment=drawn.assignment[::-1]), str(file))
    return replace(CONFIG, folds=replace(CONFIG.folds, file=str(file)))


@pytest.fixture(scope="module")
def searched(
    embedded: make.Embedded, given: Config, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TuneSummary]:
    run = tmp_path_factory.mktemp("search") / "run"
    return run, tune(embedded.store, str(run), given)


def trials_of(run: Path) -> list[dict[str, Any]]:
    return read_lines(run, RunFile.TRIALS)


def test_each_outer_fold_and_the_whole_are_searched_from_the_defaults_on(
    searched: tuple[Path, TuneSummary],
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
            assert settings["fit.epochs"] in (1, 2)
            assert settings["model.layers"] in (0, 1)


def outer_folds(dataset: Dataset) -> tuple[np.ndarray, list[Fold]]:
    """Return the strata and the outer folds that `tune` must have used."""
    config, features = dataset.config, dataset.features
    strata = choose_strata(config.tasks, features.targets, features.groups, config.folds).members
    if config.folds.file:
        folds = read_folds(config.folds.file, features.doc_ids, features.groups)
        return strata, [fold for fold in folds if fold.repeat == 0]
    return strata, list(make_folds(features.doc_ids, features.groups, strata, config.folds, config.fit.seed))


def scores_of(
    dataset: Dataset, settings: dict[str, Any], folds: list[Fold]
) -> tuple[list[float], list[float]]:
    """Return headline and Brier score on each fold, computed in this process."""
    changed = apply(dataset.config, settings)
    # Probabilities are calibrated where they are judged.
    inner = changed.folds.inner if "brier" in changed.tune.objectives else 0
    plain = replace(changed, folds=replace(changed.folds, inner=inner))
    results = [run_fold(dataset.features, Variant(name="trial", config=plain), fold) for fold in folds]
    return (
        [headline(dataset.features, plain, [result]) for result in results],
        [brier(dataset.features, plain, [result]) for result in results],
    )


def test_trials_of_an_outer_fold_are_scored_on_inner_folds_of_its_training_part(
    searched: tuple[Path, TuneSummary], embedded: make.Embedded, given: Config
) -> None:
    dataset = open_dataset(embedded.store, given, held_out=False)
    strata, [first, _] = outer_folds(dataset)
    inner = inner_folds(first.train, dataset.features.groups, strata, CONFIG.folds, CONFIG.fit.seed)
    assert not {i for fold in inner for i in (*fold.train, *fold.test)} & set(first.test)
    for trial in trials_of(searched[0]):
        if trial["search"] == "outer-0":
            scores, briers = scores_of(dataset, trial["settings"], inner)
            seen = len(trial["folds"])
            assert trial["folds"] == pytest.approx(scores[:seen], abs=1e-9)
            assert trial["briers"] == pytest.approx(briers[:seen], abs=1e-9)
            assert trial["score"] == pytest.approx(np.mean(trial["folds"]), abs=1e-12)


def test_the_rule_of_choice_is_applied_to_the_search_over_all_documents(
    searched: tuple[Path, TuneSummary],
) -> None:
    run, summary = searched
    trials = [trial for trial in trials_of(run) if trial["search"] == "all"]
    [base] = [trial for trial in trials if trial["is_default"]]
    assert base["settings"] == DEFAULTS
    assert len(base["folds"]) == CONFIG.folds.inner
    whole = [trial for trial in trials if len(trial["folds"]) == CONFIG.folds.inner]
    best = max(whole, key=lambda trial: float(trial["score"]))
    error = np.std(base["folds"], ddof=1) / np.sqrt(CONFIG.folds.inner)
    assert summary.beaten == (best["score"] > base["score"] + error)
    assert summary.best == (best["settings"] if summary.beaten else {})


def first_search(embedded: make.Embedded) -> tuple[Dataset, list[Fold]]:
    """Return the data, and the inner folds that the search for the first outer fold is scored on."""
    dataset = open_dataset(embedded.store, CONFIG, held_out=False)
    strata, [first, _] = outer_folds(dataset)
    return dataset, inner_folds(first.train, dataset.features.groups, strata, CONFIG.folds, CONFIG.fit.seed)


def test_the_scheduler_cannot_cut_the_defaults_short(
    embedded: make.Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All others are compared with them; a trial can be stopped whenever it reports before its end."""
    dataset, folds = first_search(embedded)
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(ray_tune, "report", reports.append)
    shared = [ray.put(dataset.features)]
    run_trial(DEFAULTS, shared, dataset.config, folds, DEFAULTS)
    assert [len(report["folds"]) for report in reports] == [2]
    run_trial({**DEFAULTS, "loss.cka": 1.0}, shared, dataset.config, folds, DEFAULTS)
    assert [len(report["folds"]) for report in reports] == [2, 1, 2]


def test_brier_is_judged_on_calibrated_probabilities(
    embedded: make.Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings were once chosen for how sure their networks are before calibration."""
    dataset, folds = first_search(embedded)
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(ray_tune, "report", reports.append)
    shared = [ray.put(dataset.features)]
    for objectives in (("score",), ("score", "brier")):
        searching = replace(CONFIG.tune, objectives=objectives, scheduler="none")
        config = replace(dataset.config, tune=searching)
        run_trial(DEFAULTS, shared, config, folds, DEFAULTS)
        judged = replace(dataset, config=config)
        assert reports[-1]["briers"] == pytest.approx(scores_of(judged, {}, folds)[1], abs=1e-9)
    plain, calibrated = (np.array(report["briers"]) for report in reports)
    assert not np.allclose(plain, calibrated, atol=1e-4)


def test_a_trial_that_diverges_ends_with_the_worst_score_and_says_why(
    embedded: make.Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, folds = first_search(embedded)
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(ray_tune, "report", reports.append)
    sample = {"fit.learning_rate": 1000.0, "fit.clip_norm": 1e30, "fit.epochs": 3}
    run_trial(sample, [ray.put(dataset.features)], dataset.config, folds, DEFAULTS)
    [report] = reports
    assert (report["score"], report["brier"], report["folds"]) == (0.0, 2.0, [])
    assert "not finite" in report["error"] or "nan" in report["error"].lower()


def test_the_settings_it_ends_with_are_read_by_the_other_commands(
    searched: tuple[Path, TuneSummary], embedded: make.Embedded, given: Config
) -> None:
    """The file alone is enough: it holds the tasks and all settings of what is trained."""
    run, summary = searched
    resolved = open_dataset(embedded.store, given, held_out=False).config
    expected = replace(apply(resolved, summary.best), tune=TuneConfig())
    read = from_dict(Config, load_settings(run / "best.yaml"))
    # How documents are cut and encoded, the store says.
    of_store = {name: getattr(expected, name) for name in ("segment", "audio_encoder", "text_encoder")}
    assert replace(read, **of_store) == expected
    assert bool(summary.best) == summary.beaten
    assert read_json(run, RunFile.TUNE) == summary.to_dict()


def test_the_settings_file_says_what_the_search_changed(searched: tuple[Path, TuneSummary]) -> None:
    _, summary = searched
    changed = replace(summary, best={"loss.cka": 0.25, "model.layers": 0}, beaten=True)
    text = _settings_file(replace(CONFIG, tasks={"a": TaskConfig(classes=("x", "y"))}), changed)
    assert "# loss.cka: 0.25 (was 0.4)\n# model.layers: 0 (was 1)\n" in text
    read = from_dict(Config, yaml.safe_load(text))
    assert (read.loss.cka, read.model.layers, read.model.dim) == (0.25, 0, 8)


def test_outer_scores_of_searched_and_default_settings_stand_side_by_side(
    searched: tuple[Path, TuneSummary],
) -> None:
    _, summary = searched
    assert set(summary.tuned) == set(summary.default) == {"age", "mood", "place", "themes", "topic"}
    for task, compared in summary.comparison.items():
        assert compared["first"] == summary.tuned[task]
        assert compared["second"] == summary.default[task]
        assert compared["p_corrected_t_holm"] >= compared["p_corrected_t"]
        helped = compared["difference"] > 0 and compared["p_corrected_t_holm"] < 0.05
        assert summary.helped[task] == helped
        said = f"{task}, outer folds: searched {summary.tuned[task]:.3f}"
        [line] = [line for line in summary.text().splitlines() if line.startswith(said)]
        assert line.endswith("the search helped" if helped else "the search did not help")


def test_the_terminal_shows_the_best_trials_and_says_that_there_are_too_few_for_importances(
    searched: tuple[Path, TuneSummary],
) -> None:
    run, summary = searched
    ranked = [trial for trial in trials_of(run) if trial["search"] == "all"]
    assert sorted(t["score"] for t in summary.leading) == sorted(t["score"] for t in ranked)
    lines = summary.text().splitlines()
    assert lines[0].startswith("best of 6 trials")
    assert "defaults  loss.cka 0.4, loss.balance 7.5, fit.epochs 1, model.layers 1" in summary.text()
    assert "no importances: 6 trials, all alike or fewer than 20" in lines
    assert summary.importances == {}


def test_the_outer_scores_are_those_of_plain_fits(
    searched: tuple[Path, TuneSummary], embedded: make.Embedded, given: Config
) -> None:
    dataset = open_dataset(embedded.store, given, held_out=False)
    one = Variant(name="default", config=dataset.config)
    results = [run_fold(dataset.features, one, fold) for fold in outer_folds(dataset)[1]]
    scores = searched[1].default.values()
    assert headline(dataset.features, dataset.config, results) == pytest.approx(
        np.mean(list(scores)), abs=1e-9
    )


def test_resuming_a_finished_search_runs_no_trial_again(
    searched: tuple[Path, TuneSummary], embedded: make.Embedded, given: Config
) -> None:
    run, before = searched
    started = sorted(run.rglob("params.json"))
    assert len(started) == len(SEARCHES) * CONFIG.tune.trials
    journals = {path: path.read_text() for path in (run / "search").rglob("*.jsonl")}
    again = tune(embedded.store, str(run), given, resume=True)
    assert sorted(run.rglob("params.json")) == started
    assert {path: path.read_text() for path in (run / "search").rglob("*.jsonl")} == journals
    assert again == before


def test_searches_of_other_settings_data_or_folds_are_never_resumed(
    embedded: make.Embedded, tmp_path: Path
) -> None:
    """What a search may use of the machine is no such setting."""
    dataset = open_dataset(embedded.store, CONFIG, held_out=False)
    outer = outer_folds(dataset)[1]
    others = [
        replace(dataset, config=replace(dataset.config, fit=replace(CONFIG.fit, epochs=2))),
        replace(dataset, config=replace(dataset.config, tune=replace(CONFIG.tune, trials=3))),
        open_dataset(embedded.store, CONFIG, text="none", held_out=False),
    ]
    folders = {_search_key(one, outer) for one in (dataset, *others)}
    folders.add(_search_key(dataset, outer[::-1]))
    assert len(folders) == 5
    wider = replace(dataset.config, tune=replace(CONFIG.tune, max_concurrent=7, cpus_per_trial=2.0))
    read = from_dict(Config, to_dict(wider))  # as the command line has it, with 1.0 where 1 stands above
    for config in (wider, read):
        assert _search_key(replace(dataset, config=config), outer) in folders


def plan_of(config: Config, folder: Path, name: str) -> SearchPlan:
    """Return what one search on two inner folds does, as `tune` plans it."""
    space = make_space(config)
    return SearchPlan(
        name=name, run=Workspace(str(folder), folder), key="k", settings=config.tune, space=space,
        first=nearest(config, space), defaults=defaults(config), folds=2, seed=0,
        concurrent=concurrency(config.tune),
    )  # fmt: skip


def test_outer_folds_are_drawn_where_no_file_is_given(embedded: make.Embedded, given: Config) -> None:
    for config in (replace(CONFIG, folds=replace(CONFIG.folds, repeats=3)), given):
        dataset = open_dataset(embedded.store, config, held_out=False)
        features, once = dataset.features, replace(config.folds, repeats=1)
        strata = choose_strata(dataset.config.tasks, features.targets, features.groups, once)
        found = [fold.test.tolist() for fold in _outer_folds(dataset, strata)]
        assert sorted(i for test in found for i in test) == list(range(len(features)))
        drawn = make_folds(features.doc_ids, features.groups, strata.members, once, config.fit.seed)
        assert (found == [fold.test.tolist() for fold in drawn]) == (not config.folds.file)


def test_two_objectives_at_random_in_trials_of_two_ranks_score_as_one_process(
    embedded: make.Embedded, tmp_path: Path
) -> None:
    """Without dropout, which each rank draws for itself, the numbers are those of one process."""
    calm = ModelConfig(dim=8, hops=1, dropout=0, wide_dropout=0, segment_dropout=0, modality_dropout=0)
    searching = replace(
        CONFIG.tune, objectives=("score", "brier"), algorithm="random", scheduler="none",
        workers_per_trial=2, cpus_per_trial=0.5,
    )  # fmt: skip
    dataset = open_dataset(embedded.store, replace(CONFIG, model=calm, tune=searching))
    strata, [first, _] = outer_folds(dataset)
    folds = inner_folds(first.train, dataset.features.groups, strata, CONFIG.folds, CONFIG.fit.seed)
    plan = plan_of(dataset.config, tmp_path, "pairs")
    outcome = run_search(plan, dataset.config, ray.put(dataset.features), folds)
    assert len(outcome.trials) == 2
    for trial in outcome.trials:
        scores, briers = scores_of(dataset, trial["settings"], folds)
        assert len(trial["folds"]) == 2  # nothing stops a trial
        assert trial["folds"] == pytest.approx(scores, abs=0.01)
        assert trial["briers"] == pytest.approx(briers, abs=1e-4)


def test_brier_without_classes_is_refused(embedded: make.Embedded, tmp_path: Path) -> None:
    searching = replace(CONFIG.tune, objectives=("score", "brier"), scheduler="none")
    config = replace(CONFIG, tune=searching, tasks={"age": TaskConfig(kind="regression")})
    with pytest.raises(ConfigError, match="objectives includes brier, but no task has classes"):
        tune(embedded.store, str(tmp_path / "run"), config)


DRIVER = """
import json, sys
from hilbert_ray.config import Config, from_dict
from hilbert_ray import tune

tune(sys.argv[1], sys.argv[2], from_dict(Config, json.loads(sys.argv[3])))
"""


@pytest.mark.soak
@pytest.mark.parametrize("attempt", range(3))
def test_a_search_killed_at_a_random_moment_and_resumed_runs_no_finished_trial_again(
    attempt: int, embedded: make.Embedded, tmp_path: Path
) -> None:
    config = replace(CONFIG, tune=replace(CONFIG.tune, trials=4, max_concurrent=2))
    run, chance = tmp_path / "run", random.Random()
    finished, wait = chance.randrange(12), chance.uniform(0, 1)
    print(f"killed {wait:.3f} s after {finished} of 12 trials")
    command = [sys.executable, "-c", DRIVER, embedded.store, str(run), json.dumps(to_dict(config))]
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    driver = subprocess.Popen(command, env=environment, start_new_session=True)
    deadline = time.monotonic() + 200
    while sum(len(read_journal(path)) for path in run.glob("search/*/*.jsonl")) < finished:
        assert driver.poll() is None, "the search ended before it could be killed"
        assert time.monotonic() < deadline, "too few trials have finished"
        time.sleep(0.02)
    time.sleep(wait)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = {path.name: read_journal(path) for path in run.glob("search/*/*.jsonl")}
    started = set(run.rglob("params.json"))
    summary = tune(embedded.store, str(run), config, resume=True)
    after = {path.name: read_journal(path) for path in run.glob("search/*/*.jsonl")}
    assert set(after) == {f"{name}.jsonl" for name in SEARCHES}
    for name, trials in after.items():
        known = before.get(name, [])
        assert trials[: len(known)] == known
        assert len(trials) == 4
        assert sum(trial["is_default"] for trial in trials) == 1
        assert len({json.dumps(trial["settings"]) for trial in trials}) == 4
    rerun = set(run.rglob("params.json")) - started
    assert len(rerun) == 12 - sum(map(len, before.values()))
    assert summary.trials == 12


@contextmanager
def most_held() -> Iterator[list[int]]:
    """Note the most shared memory that Ray holds beyond what it holds now, bytes."""

    def held() -> int:
        free = ray.available_resources().get("object_store_memory", 0)
        return int(ray.cluster_resources()["object_store_memory"] - free)

    # What is no longer needed is let go late, and would be taken for what this holds less.
    seen = [held()]
    while len(seen) < 20 or len(set(seen[-20:])) > 1:
        time.sleep(0.1)
        seen.append(held())
    most, before, done = [0], seen[-1], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            most[0] = max(most[0], held() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield most
    done.set()
    watcher.join()


def large_features() -> Features:
    """Return documents whose features, about 20 MB, are far larger than all else that trials are given."""
    rng = np.random.default_rng(0)
    lengths = np.full(64, 60)
    return Features(
        doc_ids=np.array([f"d{i:02d}" for i in range(64)]),
        groups=np.arange(64) // 4,
        audio=make.ragged(lengths, 640, rng.normal(size=64), rng),
        text=make.ragged(lengths, 640, rng.normal(size=64), rng),
        targets={"state": np.arange(64) % 2},
    )


def test_trials_share_the_features_whatever_their_number(tmp_path: Path) -> None:
    features = large_features()
    config = replace(
        CONFIG,
        tasks={"state": TaskConfig(kind="binary", classes=("no", "yes"))},
        tune=replace(CONFIG.tune, max_concurrent=2),
    )
    folds = inner_folds(np.arange(64), features.groups, features.targets["state"], CONFIG.folds, 0)
    size = sum(ragged.values.nbytes + ragged.wide.nbytes for ragged in features.by_modality.values())
    for trials in (2, 6):  # two at once; a copy for each would take twice the size, or six times
        tried = replace(config, tune=replace(config.tune, trials=trials))
        plan = plan_of(tried, tmp_path, f"of-{trials}")
        with most_held() as most:
            outcome = run_search(plan, tried, ray.put(features), folds)
        assert len(outcome.trials) == trials
        assert size <= most[0] < 1.3 * size


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"cpus_per_trial": 5},
            "needs 5 CPU, but no node has that much .most on one node: 4 CPU.; lower tune",
        ),
        ({"gpus_per_trial": 0.5}, "needs 1 CPU and 0.5 GPU, but no node has that much"),
        (
            {"max_concurrent": 5},
            "max_concurrent is 5, but only 4 trials of 1 x 1 CPU fit on the cluster at once; .* at most 4",
        ),
        ({"max_concurrent": 3, "workers_per_trial": 2}, "only 2 trials of 2 x 1 CPU fit"),
        ({"workers_per_trial": 5}, "workers_per_trial is 5, each with 1 CPU, but only 4 such workers fit"),
    ],
)
def test_what_the_cluster_cannot_hold_is_refused_with_what_it_can(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        concurrency(replace(TuneConfig(), **values))


def test_as_many_trials_run_at_once_as_the_cluster_holds() -> None:
    assert concurrency(TuneConfig()) == 4
    assert concurrency(TuneConfig(cpus_per_trial=0.25)) == 16
    assert concurrency(TuneConfig(cpus_per_trial=0.1, trials=8)) == 8
    assert concurrency(TuneConfig(workers_per_trial=3)) == 1
    assert concurrency(TuneConfig(max_concurrent=3)) == 3


PACKED = """
import json, sys
from pathlib import Path
import ray
from ray import tune
from hilbert_ray.config import Config, ConfigError, TuneConfig
from hilbert_ray.storage import Workspace
from hilbert_ray.tuning import SearchPlan, concurrency, defaults, make_space, nearest, run_trials

cpus, combinations, folder = int(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)

def trial(sample):
    for k in (1, 2):
        values = {"score": sample["loss.cka"] / k, "brier": 0.5, "folds": [0.5] * k, "briers": [0.5] * k}
        tune.report(values)

for workers, count, scheduler in combinations:
    settings = TuneConfig(trials=count + 2, max_concurrent=count, workers_per_trial=workers,
                          cpus_per_trial=min(1.0, cpus / count / workers), scheduler=scheduler)
    config = Config(tune=settings)
    space = make_space(config)
    plan = SearchPlan(name=f"{workers}-{count}-{scheduler}", run=Workspace(str(folder), folder), key="k",
                settings=settings, space=space,
                first=nearest(config, space), defaults=defaults(config), folds=2, seed=0,
                concurrent=concurrency(settings))
    print(json.dumps([workers, count, scheduler, len(run_trials(plan, trial))]), flush=True)
"""


EVERY = [(workers, n, kind) for workers in (1, 2) for n in range(1, 9) for kind in ("asha", "hyperband")]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("cpus", "combinations"),
    [
        (2, [(1, 4, "asha"), (2, 1, "hyperband")]),
        *(pytest.param(cpus, EVERY, marks=pytest.mark.soak) for cpus in (2, 4, 8)),
    ],
)
def test_trials_at_once_never_wait_for_each_other(
    cpus: int, combinations: list[tuple[int, int, str]], tmp_path: Path
) -> None:
    """Each combination of workers, trials at once and scheduler ends, on a cluster of its own.

    Tune must print nothing meanwhile: standard output is for results.
    """
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", PACKED, str(cpus), json.dumps(combinations), str(tmp_path)]
    limit = 300 + 35 * len(combinations)
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit)
    assert shown.returncode == 0, shown.stderr[-3000:]
    ended = [json.loads(line) for line in shown.stdout.splitlines()]
    assert ended == [[workers, n, kind, n + 2] for workers, n, kind in combinations]


def test_a_search_without_inner_folds_is_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, folds=FoldsConfig(folds=2, inner=0))
    with pytest.raises(ConfigError, match=r"folds\.inner is 0, but `tune` scores trials on inner folds"):
        tune("no-store", str(tmp_path), config)


def test_a_space_of_what_cannot_be_searched_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    config = replace(CONFIG, tune=TuneConfig(space={"loss.ckaa": (0.1, 1.0)}))
    with pytest.raises(ConfigError, match=r"`loss\.ckaa`, which is not a setting; use a name such as"):
        tune("no-store", str(tmp_path), config)
