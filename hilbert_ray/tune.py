"""`tune`: Ray Tune over named settings, scored on inner folds, judged on outer folds that it never saw.

For each outer fold of one repeat, and once for all documents, a search (Optuna's TPE, pruned by ASHA after
each inner fold) runs on inner folds of the training part. The outer folds give the honest score of "search,
then train" beside that of the defaults; the last search gives the settings to use.
"""

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import yaml
from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from hilbert_ray import metrics
from hilbert_ray.batch import Features
from hilbert_ray.cluster import connect, removed_at_the_end
from hilbert_ray.config import Config, ConfigError, from_dict, to_dict
from hilbert_ray.dataset import Dataset, local_path, open_dataset, save_run
from hilbert_ray.evaluate import FoldResult, Variant, gather, run_fold, run_fold_remotely
from hilbert_ray.folds import Fold, choose_strata, inner_folds, make_folds

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a search found.

    best: settings that `--config` reads, by dotted name (empty where the defaults stay); beaten: whether the
    best trial is more than one standard error above the defaults on inner folds; tuned, default: headline on
    outer folds of searched and of default settings; comparison: their difference with interval and tests, by
    task.
    """

    best: Mapping[str, float]
    beaten: bool
    trials: int
    tuned: Mapping[str, float]
    default: Mapping[str, float]
    comparison: Mapping[str, Any]
    file: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def text(self) -> str:
        """Return lines for a terminal."""
        verdict = (
            f"best settings: {', '.join(f'{k} {v:.4g}' for k, v in self.best.items())}"
            if self.beaten
            else "no trial was more than one standard error above the defaults: the defaults stay"
        )
        lines = [verdict]
        for task, value in self.tuned.items():
            lines.append(f"{task}, outer folds: searched {value:.3f}, defaults {self.default[task]:.3f}")
        return "\n".join([*lines, f"settings: {self.file}"])


def tune(
    store: str,
    out: str,
    config: Config,
    *,
    audio: str | None = None,
    text: str | None = None,
    resume: bool = False,
) -> Summary:
    """Search `config.tune.space` and write RUN/best.yaml, RUN/trials.jsonl and RUN/tune.json.

    Args:
        store: feature store.
        out: folder of the run.
        config: settings; the search changes the fields that the space names.
        audio: which audio encoder, see `open_dataset`.
        text: which text encoder.
        resume: go on with the searches in the folder; finished trials are not run again. Searches of other
            settings or data are left alone.

    Raises:
        ConfigError: when the space names a field that does not exist or is no number, or without inner folds.
    """
    for name in config.tune.space:
        _check_field(config, name)
    if not config.folds.inner:
        raise ConfigError("folds.inner is 0, but `tune` scores trials on inner folds; set it to at least 2")
    dataset = open_dataset(store, config, audio, text)
    with removed_at_the_end(dataset.features.mapped):
        return _tune(dataset, local_path(out), resume)


def _tune(dataset: Dataset, run: Path, resume: bool) -> Summary:
    config, features = dataset.config, dataset.features
    save_run(run, dataset)
    strata = choose_strata(config.tasks, features.targets, features.groups, config.folds).members
    outer = make_folds(
        features.doc_ids, features.groups, strata, replace(config.folds, repeats=1), config.fit.seed
    )
    connect()
    shared = ray.put(features)
    results: list[FoldResult] = []
    trials: list[dict[str, Any]] = []
    for part in outer:
        found = _search(run, f"outer-{part.fold}", dataset, shared, strata, part.train, resume)
        trials += found.trials
        for name, settings in (("tuned", found.config), ("default", config)):
            results.append(
                ray.get(run_fold_remotely.remote(shared, Variant(name=name, config=settings), part))
            )
    found = _search(run, "all", dataset, shared, strata, np.arange(len(features)), resume)
    trials += found.trials
    summary = _judge(dataset, results, found, len(trials), run)
    (run / "trials.jsonl").write_text("".join(json.dumps(trial) + "\n" for trial in trials))
    (run / "tune.json").write_text(json.dumps(summary.to_dict(), indent=1))
    return summary


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What one search found: the settings to use, what they change, and every trial."""

    config: Config
    best: Mapping[str, float]
    beaten: bool
    trials: Sequence[dict[str, Any]]


def _search(
    run: Path,
    name: str,
    dataset: Dataset,
    shared: Any,  # noqa: ANN401 - an object reference
    strata: np.ndarray,
    indices: np.ndarray,
    resume: bool,
) -> Found:
    """Search on inner folds of the documents at `indices`; the first trial is the defaults."""
    config = dataset.config
    parts = inner_folds(indices, dataset.features.groups, strata, config.folds, config.fit.seed)
    space = {key: ray_tune.loguniform(*bounds) for key, bounds in config.tune.space.items()}
    defaults = {key: _field(config, key) for key in space}
    inside = {
        key: min(max(value, bounds[0]), bounds[1])
        for (key, value), bounds in zip(defaults.items(), config.tune.space.values(), strict=True)
    }
    searcher = OptunaSearch(metric="score", mode="max", seed=config.fit.seed, points_to_evaluate=[inside])
    concurrent = config.tune.max_concurrent or max(int(ray.cluster_resources()["CPU"]), 1)
    trainable = ray_tune.with_resources(
        ray_tune.with_parameters(_trial, shared=[shared], config=config, parts=parts, whole=inside),
        {"CPU": 1},
    )
    folder = _search_folder(run, dataset)
    if resume and (folder / name).exists():
        tuner = ray_tune.Tuner.restore(str(folder / name), trainable=trainable, resume_unfinished=True)
    else:
        tuner = ray_tune.Tuner(
            trainable,
            param_space=space,
            tune_config=ray_tune.TuneConfig(
                search_alg=ConcurrencyLimiter(searcher, max_concurrent=concurrent),
                scheduler=ASHAScheduler(
                    time_attr="training_iteration",
                    metric="score",
                    mode="max",
                    max_t=len(parts),
                    grace_period=1,
                ),
                num_samples=config.tune.trials,
                reuse_actors=True,  # a process takes longer to start than a trial of small data
            ),
            run_config=ray_tune.RunConfig(name=name, storage_path=str(folder), verbose=0),
        )
    grid = tuner.fit()
    trials = [
        {
            "search": name,
            "settings": r.config,
            "score": r.metrics.get("score"),
            "folds": r.metrics.get("folds"),
        }
        for r in grid
        if r.metrics
    ]
    # A resumed search lists its trials in another order, which must not decide between equal scores.
    trials.sort(key=lambda trial: (trial["settings"] != inside, sorted(trial["settings"].items())))
    whole = [trial for trial in trials if trial["folds"] and len(trial["folds"]) == len(parts)]
    if not whole:
        raise RuntimeError(f"search {name}: no trial finished; see {folder / name}")
    base = next((t for t in whole if t["settings"] == inside), whole[0])
    best = max(whole, key=lambda trial: trial["score"])
    error = float(np.std(base["folds"], ddof=1)) / math.sqrt(len(parts)) if len(parts) > 1 else 0.0
    beaten = best is not base and best["score"] > base["score"] + error
    chosen = best["settings"] if beaten else {}
    return Found(config=apply(config, chosen), best=chosen, beaten=beaten, trials=trials)


def _search_folder(run: Path, dataset: Dataset) -> Path:
    """Return where searches of these settings and data are kept, so that no others are ever resumed."""
    settings = to_dict(dataset.config)
    del settings["train"], settings["embed"], settings["tune"]["max_concurrent"]
    facts = json.dumps([dataset.fingerprint, settings], sort_keys=True)
    return run / "search" / hashlib.sha256(facts.encode()).hexdigest()[:16]


def _trial(
    sample: Mapping[str, float],
    shared: Sequence[Any],
    config: Config,
    parts: Sequence[Fold],
    whole: Mapping[str, float],
) -> None:
    """One trial: the headline of sampled settings, reported after each inner fold.

    The settings `whole` (the defaults, which all others are compared with) report once, at the end: the
    scheduler, which stops trials when they report, cannot cut them short.
    """
    torch.set_num_threads(1)
    features: Features = ray.get(shared[0])
    settings = apply(config, sample)
    settings = replace(settings, folds=replace(settings.folds, inner=0), fit=replace(settings.fit, seeds=1))
    scores: list[float] = []
    for part in parts:
        result = run_fold(features, Variant(name="trial", config=settings), part)
        scores.append(headline(features, settings, [result]))
        if sample == whole and len(scores) < len(parts):
            continue
        ray_tune.report({"score": float(np.mean(scores)), "folds": list(scores)})


def headline(features: Features, config: Config, results: Sequence[FoldResult]) -> float:
    """Return the mean of the tasks' headlines (`within`), over tasks where it is defined."""
    values = []
    for task in config.tasks:
        predictions = gather(features, config.tasks[task], task, results)
        if not (predictions.labelled).any():
            continue
        scores = metrics.evaluate_predictions(predictions, resamples=0)
        first = scores.get("auc") or scores["concordance"]
        if first["within"] is not None:
            values.append(first["within"])
    return float(np.mean(values)) if values else 0.5


def _judge(dataset: Dataset, results: Sequence[FoldResult], found: Found, trials: int, run: Path) -> Summary:
    """Compare searched with default settings on the outer folds, and write the settings to use."""
    tuned, default, comparison = {}, {}, {}
    for name, task in dataset.config.tasks.items():
        searched, plain = (
            gather(dataset.features, task, name, [r for r in results if r.variant == variant])
            for variant in ("tuned", "default")
        )
        compared = metrics.compare_predictions(searched, plain)
        tuned[name], default[name], comparison[name] = compared["first"], compared["second"], compared
    file = run / "best.yaml"
    file.write_text(yaml.safe_dump(_nested(found.best)))
    return Summary(
        best=found.best,
        beaten=found.beaten,
        trials=trials,
        tuned=tuned,
        default=default,
        comparison=comparison,
        file=str(file),
    )


def apply(config: Config, sample: Mapping[str, float]) -> Config:
    """Return `config` with the fields that dotted names give changed."""
    return from_dict(Config, _nested(sample), config)


def _nested(sample: Mapping[str, float]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in sample.items():
        *path, last = name.split(".")
        at = values
        for key in path:
            at = at.setdefault(key, {})
        at[last] = value
    return values


def _field(config: Config, name: str) -> float:
    value: Any = to_dict(config)
    for key in name.split("."):
        value = value[key]
    return float(value)


def _check_field(config: Config, name: str) -> None:
    value: Any = to_dict(config)
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            raise ConfigError(f"tune.space names `{name}`, which is no setting; name one such as `loss.cka`")
        value = value[key]
    if isinstance(value, bool) or not isinstance(value, float):
        raise ConfigError(
            f"tune.space names `{name}`, which is {value!r}; only fractional numbers can be searched"
        )
