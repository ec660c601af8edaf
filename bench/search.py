"""Does the search beat random search where the best settings are known, and does it keep its workers busy?

Regret: a synthetic score depends on one of four loss weights, whose best value is drawn for each seed; the
score of each inner fold has noise. Nothing is trained, but proposing, early stopping and choosing are those
of `tune`.
Packing: one search on the sample corpus, all that `tune` does for one outer fold, compared with an ideal
packing of the same trials.

    python -m bench.search [--seeds 20] [--trials 40] [--busy-trials 64] [--epochs 20]
"""

import argparse
import heapq
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import tune as ray_tune

from bench.evaluate import corpus
from bench.measure import Bar, Record
from hilbert_ray.cluster import connect
from hilbert_ray.config import Config, FitConfig, FoldsConfig, SpaceConfig, TuneConfig
from hilbert_ray.folds import inner_folds
from hilbert_ray.storage import Workspace
from hilbert_ray.tuning import (
    SearchPlan,
    choose_trial,
    concurrency,
    defaults,
    make_space,
    nearest,
    run_search,
    run_trials,
)

FOLDS = 3
NOISE = 0.01  # standard deviation of one inner fold's score
HEIGHT = 0.1  # loss of score when the weight is a full range away from its best value


def plan_of(config: Config, folder: Path, name: str, seed: int) -> SearchPlan:
    """Return the plan of one search, as `tune` makes it."""
    space = make_space(config)
    return SearchPlan(
        name=name,
        run=Workspace(str(folder), folder),
        key=name,
        settings=config.tune,
        space=space,
        first=nearest(config, space),
        defaults=defaults(config),
        folds=FOLDS,
        seed=seed,
        concurrent=concurrency(config.tune),
    )


def regret_of(value: float, known: SpaceConfig, best: float) -> float:
    """Return how far the true score at this value of the weight that matters is below the best."""
    return HEIGHT * (known.place(value) - best) ** 2


def trial(sample: dict[str, Any], matters: str, known: SpaceConfig, best: float, seed: int) -> None:
    """Report noisy scores of one setting, one inner fold after another."""
    rng = np.random.default_rng([seed, abs(hash(tuple(sample.values())))])
    folds: list[float] = []
    for _ in range(FOLDS):
        folds.append(0.9 - regret_of(sample[matters], known, best) + float(rng.normal(0, NOISE)))
        values = {"score": float(np.mean(folds)), "brier": 0.5}
        ray_tune.report({**values, "folds": list(folds), "briers": [0.5] * len(folds)})


def regrets(algorithm: str, seeds: int, trials: int, folder: Path) -> list[float]:
    """Return the true regret of the settings that the search chooses, for each seed."""
    values = []
    for seed in range(seeds):
        config = Config(tune=TuneConfig(trials=trials, algorithm=algorithm))  # type: ignore[arg-type]
        ranges = config.tune.ranges()
        chance = random.Random(seed)
        matters, best = chance.choice(sorted(ranges)), chance.uniform(0.1, 0.9)
        plan = plan_of(config, folder, f"{algorithm}-{seed}", seed)
        known = ranges[matters]
        tried = run_trials(plan, trial, matters=matters, known=known, best=best, seed=seed)
        chosen = choose_trial(tried, config.tune.objectives)
        assert chosen is not None
        values.append(regret_of(chosen["settings"][matters], known, best))
    return values


def show_regrets(record: Record, seeds: int, trials: int, folder: Path) -> None:
    """Compare the regrets of TPE with those of random search."""
    error = NOISE / math.sqrt(FOLDS)
    by_algorithm = {name: regrets(name, seeds, trials, folder) for name in ("tpe", "random")}
    record.table(
        f"regret of what is chosen, {trials} trials, each of {seeds} seeds", "score", by_algorithm, "random"
    )
    means = {f"{name}, mean": [statistics.mean(values)] for name, values in by_algorithm.items()}
    bars = [Bar(row="tpe, mean", against="random, mean", most=1.0)]
    record.table("its mean over seeds", "score", means, "random, mean", bars)
    near_optimum = {name: [sum(value <= error for value in values)] for name, values in by_algorithm.items()}
    record.table(
        f"seeds within one standard error ({error:.4f}) of the optimum, of {seeds}", "seeds", near_optimum
    )


def show_idle(record: Record, trials: int, epochs: int, folder: Path) -> None:
    """Compare a search, from the start of its first trial, with an ideal packing of its trials."""
    config = Config(
        fit=FitConfig(epochs=epochs), folds=FoldsConfig(inner=FOLDS), tune=TuneConfig(trials=trials)
    )
    config, features = corpus(config)
    strata = features.targets[next(iter(config.tasks))]
    inner = inner_folds(np.arange(len(features)), features.groups, strata, config.folds, 0)
    plan = plan_of(config, folder, "idle", 0)
    began, cpu = time.time(), time.process_time()
    run_search(plan, config, ray.put(features), inner)
    wall, driver = time.time() - began, time.process_time() - cpu
    ends: dict[int, float] = {}
    durations, first = [], math.inf
    for path in (folder / "checkpoints" / f"search-{plan.key}" / plan.name).glob("*/result.json"):
        last = json.loads(path.read_text().splitlines()[-1])
        durations.append(last["seconds"])
        first = min(first, last["began"])
        ends[last["pid"]] = max(ends.get(last["pid"], 0.0), path.stat().st_mtime)
    span = max(ends.values()) - first
    tail = sum(max(ends.values()) - end for end in ends.values()) / (plan.concurrent * span)
    title = f"{len(durations)} trials, {len(features)} documents, {plan.concurrent} at once"
    seconds = {
        "ideal packing": [packed(durations, plan.concurrent)],
        "tune": [span],
        "start, apart": [first - began],
    }
    record.table(title, "s", seconds, "ideal packing", [Bar(row="ideal packing", against="tune", least=0.9)])
    shares = {
        "workers idle": [100 * (1 - sum(durations) / (plan.concurrent * span))],
        "of which with no trial left": [100 * tail],
        "driver computes": [100 * driver / wall],
    }
    record.table(f"{title}, idle", "% of the time", shares, bars=[Bar(row="workers idle", most=5)])


def packed(seconds: Sequence[float], workers: int) -> float:
    """Return how long trials take if the longest one left always goes to the first free worker."""
    free = [0.0] * workers
    for duration in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def main() -> None:
    """Run the requested parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20, help="seeds of the regrets; 0 skips them")
    parser.add_argument("--trials", type=int, default=40, help="trials of each search for the regrets")
    parser.add_argument("--busy-trials", type=int, default=64, help="trials of the packing; 0 skips it")
    parser.add_argument("--epochs", type=int, default=FitConfig().epochs)
    settings = parser.parse_args()
    connect()
    record = Record("search")
    with tempfile.TemporaryDirectory() as folder:
        if settings.busy_trials:
            show_idle(record, settings.busy_trials, settings.epochs, Path(folder))
        if settings.seeds:
            show_regrets(record, settings.seeds, settings.trials, Path(folder))


if __name__ == "__main__":
    main()
