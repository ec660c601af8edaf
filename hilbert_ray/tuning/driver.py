"""`tune`: Ray Tune over named settings, scored on inner folds, judged on outer folds that it never saw.

For each outer fold of one repeat, and once for all documents, a search (Optuna, pruned after each inner fold)
runs on inner folds of the training documents. The outer folds give the honest score of "search, then train"
against that of the defaults; the last search gives the settings to use.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import ray
import yaml
from optuna.distributions import BaseDistribution

from hilbert_ray import metrics
from hilbert_ray.cluster import connect, maps_removed_at_exit
from hilbert_ray.config import Config, ConfigError, from_dict, to_dict, with_settings_checksum
from hilbert_ray.evaluation import Variant, adjust_p_values, gather, run_folds
from hilbert_ray.features import Dataset, open_dataset
from hilbert_ray.folds import Fold, Strata, choose_strata, inner_folds, make_folds, read_folds
from hilbert_ray.run import NOT_COPIED, FoldResult, RunDir, RunFile, write_run_config, write_tune
from hilbert_ray.storage import Workspace, open_workspace, write_text
from hilbert_ray.tuning.importance import importances
from hilbert_ray.tuning.search import SearchOutcome, run_search
from hilbert_ray.tuning.space import apply, defaults, make_space, nearest
from hilbert_ray.tuning.summary import TuneSummary
from hilbert_ray.tuning.trials import SearchPlan, concurrency

LEADING = 5
"""Trials that a terminal lists."""
SETTINGS = ("tasks", "model", "moe", "loss", "fit", "folds", "train")
"""Settings that best.yaml holds: all that `train` and `evaluate` depend on."""
LEVEL = 0.05
"""Level of the test that says whether the search helped."""


def tune(
    store: str,
    out: str,
    config: Config | None = None,
    *,
    audio: str | None = None,
    text: str | None = None,
    resume: bool = False,
    allow_pending: bool = False,
) -> TuneSummary:
    """Search `config.tune.space` and write RUN/best.yaml, RUN/trials.jsonl and RUN/tune.json.

    Args:
        store: feature store, path or URI.
        out: folder of the run, path or URI.
        config: settings, the defaults where None; the search changes the fields that the space names. With
            `folds.file` the outer folds are the first repeat of that file.
        audio: which audio encoder, see `open_dataset`.
        text: which text encoder.
        resume: continue the searches in the folder: finished trials are not run again, and the scheduler
            compares new trials with each other only. Searches with other settings or data are not touched.
        allow_pending: go on although documents are not embedded yet, see `open_dataset`.

    Raises:
        PendingError: when documents are not embedded yet, without `allow_pending`.
        ConfigError: when the space names what cannot be searched or trained, without inner folds, and when
            the cluster cannot run the trials.
        FoldsError: when groups or classes make the folds impossible, or the file does not fit.
        SplitError: when the documents of a group are of several splits.
    """
    config = config or Config()
    space = make_space(config)
    if not config.folds.inner:
        raise ConfigError("folds.inner is 0, but `tune` scores trials on inner folds; set it to at least 2")
    dataset = open_dataset(store, config, audio, text, held_out=False, allow_pending=allow_pending)
    kinds = {task.kind for task in dataset.config.tasks.values()}
    # Only now: tasks may have been inferred from the labels.
    if "brier" in config.tune.objectives and kinds == {"regression"}:
        raise ConfigError(
            "tune.objectives includes brier, but no task has classes; set tune.objectives to [score]"
        )
    with maps_removed_at_exit(dataset.features.mapped_files), open_workspace(out, NOT_COPIED) as run:
        write_run_config(run, dataset)
        return _tune(run, dataset, space, resume)


def _tune(
    run: Workspace, dataset: Dataset, space: Mapping[str, BaseDistribution], resume: bool
) -> TuneSummary:
    config, features = dataset.config, dataset.features
    strata = choose_strata(config.tasks, features.targets, features.groups, config.folds)
    outer_folds = _outer_folds(dataset, strata)
    connect()
    searcher = _Searcher(
        run=run,
        dataset=dataset,
        strata=strata,
        space=space,
        concurrent=concurrency(config.tune),
        # Once for all searches: each trial and fold reads the same copy in shared memory.
        features_ref=ray.put(features),
        key=_search_key(dataset, outer_folds),
    )
    # Of these settings and data only: the key leaves other searches in the folder alone.
    if not resume:
        shutil.rmtree(run.path / RunDir.SEARCHES / searcher.key, ignore_errors=True)
    searches = {
        f"outer-{fold.fold}": searcher.search(f"outer-{fold.fold}", fold.train) for fold in outer_folds
    }
    results = _predict_outer_folds(searcher, outer_folds, list(searches.values()))
    # On all documents, so that no fold is left to judge it: the searches above say what such a search is
    # worth.
    searches["all"] = searcher.search("all", np.arange(len(features)))
    summary = _summarise(dataset, results, searches, f"{run.uri}/{RunFile.BEST_SETTINGS}")
    # tune.json is written last: its presence says that the rest is complete.
    write_text(run.path / RunFile.BEST_SETTINGS, _settings_file(config, summary))
    write_tune(run.path, summary.to_dict(), {name: outcome.trials for name, outcome in searches.items()})
    return summary


@dataclass(frozen=True, kw_only=True, slots=True)
class _Searcher:
    """What all searches of a run share. concurrent: trials at once. key: folder of their journals."""

    run: Workspace
    dataset: Dataset
    strata: Strata
    space: Mapping[str, BaseDistribution]
    concurrent: int
    features_ref: Any
    key: str

    def search(self, name: str, indices: np.ndarray) -> SearchOutcome:
        """Search on inner folds of the documents at `indices`."""
        config, groups = self.dataset.config, self.dataset.features.groups
        folds = inner_folds(indices, groups, self.strata.members, config.folds, config.fit.seed)
        plan = SearchPlan(
            name=name,
            run=self.run,
            key=self.key,
            settings=config.tune,
            space=self.space,
            first=nearest(config, self.space),
            defaults=defaults(config),
            folds=len(folds),
            seed=config.fit.seed,
            concurrent=self.concurrent,
        )
        return run_search(plan, config, self.features_ref, folds)


def _outer_folds(dataset: Dataset, strata: Strata) -> list[Fold]:
    """Return the outer folds: one repeat, drawn or from the file that the settings name."""
    features, settings = dataset.features, dataset.config.folds
    if settings.file:
        folds = read_folds(settings.file, features.doc_ids, features.groups)
        return [fold for fold in folds if fold.repeat == 0]
    # A search per outer fold is expensive; repeats would multiply that.
    once, seed = replace(settings, repeats=1), dataset.config.fit.seed
    return list(make_folds(features.doc_ids, features.groups, strata.members, once, seed, strata.names))


def _predict_outer_folds(
    searcher: _Searcher, outer_folds: Sequence[Fold], outcomes: Sequence[SearchOutcome]
) -> list[FoldResult]:
    """Return predictions of each outer fold, by `default` settings and by those `tuned` without it.

    Where a search kept the defaults, both are the same fit, which is made once.
    """
    default = Variant(name="default", config=searcher.dataset.config)
    # Each search only saw the training documents of its fold, so that its settings can be judged there.
    searched = list(zip(outcomes, outer_folds, strict=True))
    variants_on_folds = [(default, fold) for fold in outer_folds]
    variants_on_folds += [
        (Variant(name="tuned", config=outcome.config), fold) for outcome, fold in searched if outcome.beaten
    ]
    results, _ = run_folds(
        searcher.features_ref, variants_on_folds, searcher.run, searcher.dataset.fingerprint
    )
    # A paired comparison needs both variants on every fold.
    unchanged = {fold.fold for outcome, fold in searched if not outcome.beaten}
    return results + [
        replace(result, variant="tuned")
        for result in results
        if result.variant == "default" and result.fold in unchanged
    ]


def _summarise(
    dataset: Dataset, results: Sequence[FoldResult], searches: Mapping[str, SearchOutcome], file: str
) -> TuneSummary:
    """Compare searched with default settings on the outer folds, and gather what the searches found."""
    config, last = dataset.config, searches["all"]
    comparison = _compare(dataset, results)
    ranges = config.tune.ranges()
    shares, important_trials = importances([outcome.trials for outcome in searches.values()], ranges)
    # More finished folds first: means over different folds cannot be ranked together.
    ranked = sorted(last.trials, key=lambda trial: (-len(trial["folds"]), -trial["score"]))
    return TuneSummary(
        best=last.best,
        beaten=last.beaten,
        trials=sum(len(outcome.trials) for outcome in searches.values()),
        tuned={name: compared["first"] for name, compared in comparison.items()},
        default={name: compared["second"] for name, compared in comparison.items()},
        comparison=comparison,
        helped={name: _helped(compared) for name, compared in comparison.items()},
        settings=defaults(config),
        pending={str(modality): count for modality, count in dataset.pending.items()},
        space={name: asdict(searched) for name, searched in ranges.items()},
        objectives=config.tune.objectives,
        importances=shares,
        important_trials=important_trials,
        leading=ranked[:LEADING],
        file=file,
    )


def _compare(dataset: Dataset, results: Sequence[FoldResult]) -> dict[str, dict[str, Any]]:
    """Return searched minus default settings on the outer folds, by task."""
    comparison: dict[str, dict[str, Any]] = {}
    for name, task in dataset.config.tasks.items():
        tuned, default = (
            gather(dataset.features, task, name, [r for r in results if r.variant == variant])
            for variant in ("tuned", "default")
        )
        comparison[name] = metrics.compare_predictions(tuned, default)
    # Over tasks: each of them is a chance to find that the search helped.
    adjust_p_values(comparison)
    return comparison


def _helped(compared: Mapping[str, Any]) -> bool:
    """Tell whether searched settings are better than the defaults by the corrected test."""
    p, difference = compared["p_corrected_t_holm"], compared["difference"]
    return p is not None and difference is not None and difference > 0 and p < LEVEL


def _settings_file(config: Config, summary: TuneSummary) -> str:
    """Return all settings that `train` and `evaluate` depend on, with the searched ones, as YAML."""
    head = "# Made by `hilbert-ray tune`; the search changed nothing.\n"
    if summary.best:
        changes = [
            f"# {name}: {value} (was {summary.settings[name]})" for name, value in summary.best.items()
        ]
        head = "\n".join(["# Made by `hilbert-ray tune`, which changed:", *changes, ""])
    # Whole sections and not the changes alone: later versions may have other defaults.
    values = to_dict(apply(config, summary.best))
    sections = yaml.safe_dump({name: values[name] for name in SETTINGS}, sort_keys=False)
    return with_settings_checksum(head + sections)


def _search_key(dataset: Dataset, outer_folds: Sequence[Fold]) -> str:
    """Return a hash of all that searches depend on: settings, data and folds; no others are resumed."""
    # Through `from_dict` and back, since 1 and 1.0 are the same setting but not the same JSON.
    settings = to_dict(from_dict(Config, to_dict(dataset.config)))
    # No trial depends on how `train`, `embed` and `transcribe` run.
    del settings["train"], settings["embed"], settings["asr"], settings["recognition"]
    # How many trials run at once does not change what a trial computes.
    for name in ("max_concurrent", "cpus_per_trial", "gpus_per_trial"):
        del settings["tune"][name]
    # Documents and not the name of the folds file, whose content may change.
    tested = [fold.test.tolist() for fold in outer_folds]
    facts = [dataset.fingerprint, settings, tested]
    # Searches of version 0.1.0 judged probabilities before calibration: no trial of theirs is comparable.
    if "brier" in dataset.config.tune.objectives:
        facts.append("calibrated")
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()[:16]
