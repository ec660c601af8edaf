"""`tune`: Ray Tune over named settings, scored on inner folds, judged on outer folds that it never saw.

For each outer fold of one repeat, and once for all documents, a search (Optuna, pruned after each inner fold)
runs on inner folds of the training part. The outer folds give the honest score of "search, then train" beside
that of the defaults; the last search gives the settings to use.
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
from hilbert_ray.config import Config, ConfigError, from_dict, to_dict
from hilbert_ray.evaluation import Variant, gather, run_folds
from hilbert_ray.features import Dataset, open_dataset
from hilbert_ray.folds import Fold, Strata, choose_strata, inner_folds, make_folds, read_folds
from hilbert_ray.run import NOT_COPIED, FoldResult, write_run_config
from hilbert_ray.storage import Workspace, open_workspace
from hilbert_ray.tuning.importance import LEAST_TRIALS, importances
from hilbert_ray.tuning.search import SearchOutcome, run_search
from hilbert_ray.tuning.space import Settings, apply, defaults, make_space, nearest
from hilbert_ray.tuning.trials import SearchPlan, Trial, concurrency

SHOWN = 5  # trials that a terminal shows
SETTINGS = ("tasks", "model", "moe", "loss", "fit", "folds", "train")  # that best.yaml holds
LEVEL = 0.05  # of the test that says whether the search helped


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneSummary:
    """What a run of `tune` found.

    best: what the search changes, by dotted name (empty where the defaults stay); beaten: whether the
    best trial beat the defaults on inner folds (`search.choose`); trials: how many were run, in all searches;
    tuned, default: headline on outer folds of searched and of default settings; comparison: their difference
    with interval and tests, by task, p-values also adjusted for their number; helped: by task, whether
    the searched settings are better by the corrected test; settings: what the searched fields are by default;
    space: what was searched; importances: share of each setting (`importances`), from so many
    important_trials; leading: the best trials of the last search; file: the settings to use, for `--config`.
    """

    best: Settings
    beaten: bool
    trials: int
    tuned: Mapping[str, float]
    default: Mapping[str, float]
    comparison: Mapping[str, Any]
    helped: Mapping[str, bool]
    settings: Settings
    space: Mapping[str, Any]
    objectives: Sequence[str]
    importances: Mapping[str, Mapping[str, float]]
    important_trials: int
    leading: Sequence[Trial]
    file: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    def text(self) -> str:
        """Return lines for a terminal."""
        lines = [f"best of {self.trials} trials (search over all documents, mean over inner folds)"]
        for trial in self.leading:
            named = ", ".join(f"{name} {_shown(value)}" for name, value in trial["settings"].items())
            kind = "defaults" if trial["is_default"] else ""
            brier = f"  Brier {trial['brier']:.4f}" if len(self.objectives) > 1 else ""
            lines.append(f"  {trial['score']:.4f}{brier}  {len(trial['folds'])} folds  {kind:8}  {named}")
        if self.importances:
            lines.append(f"importance (share of the variance between {self.important_trials} trials)")
            width = max(map(len, self.importances))
            lines += [
                f"  {name:<{width}}  {share['mean']:.2f} ({share['least']:.2f} to {share['most']:.2f})"
                for name, share in self.importances.items()
            ]
        else:
            lines.append(
                f"no importances: {self.important_trials} trials, all alike or fewer than {LEAST_TRIALS}"
            )
        lines.append(
            f"best settings: {', '.join(f'{name} {_shown(value)}' for name, value in self.best.items())}"
            if self.beaten
            else "no trial was more than one standard error above the defaults: the defaults stay"
        )
        for task, value in self.tuned.items():
            p = self.comparison[task]["p_corrected_t_holm"]
            tested = f"p {p:.3f}, corrected t" if p is not None else "not testable"
            verdict = "the search helped" if self.helped[task] else "the search did not help"
            lines.append(
                f"{task}, outer folds: searched {value:.3f}, defaults {self.default[task]:.3f} ({tested}): "
                f"{verdict}"
            )
        return "\n".join([*lines, f"settings: {self.file}"])


def _shown(value: Any) -> str:  # noqa: ANN401 - a setting
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tune(
    store: str,
    out: str,
    config: Config,
    *,
    audio: str | None = None,
    text: str | None = None,
    resume: bool = False,
) -> TuneSummary:
    """Search `config.tune.space` and write RUN/best.yaml, RUN/trials.jsonl and RUN/tune.json.

    Args:
        store: feature store.
        out: folder of the run, path or URI.
        config: settings; the search changes the fields that the space names. With `folds.file` the outer
            folds are the first repeat of that file.
        audio: which audio encoder, see `open_dataset`.
        text: which text encoder.
        resume: go on with the searches in the folder; finished trials are not run again, and the scheduler
            compares new trials with each other only. Searches of other settings or data are left alone.

    Raises:
        ConfigError: when the space names what cannot be searched or trained, without inner folds, and when
            the cluster cannot hold the trials.
        FoldsError: when groups or classes make the folds impossible, or the file does not fit.
    """
    space = make_space(config)
    if not config.folds.inner:
        raise ConfigError("folds.inner is 0, but `tune` scores trials on inner folds; set it to at least 2")
    dataset = open_dataset(store, config, audio, text)
    kinds = {task.kind for task in dataset.config.tasks.values()}
    if "brier" in config.tune.objectives and kinds == {"regression"}:
        raise ConfigError("tune.objectives holds brier, but no task has classes; set it to [score]")
    with maps_removed_at_exit(dataset.features.mapped), open_workspace(out, NOT_COPIED) as run:
        write_run_config(run, dataset)
        return _tune(run, dataset, space, resume)


def _tune(
    run: Workspace, dataset: Dataset, space: Mapping[str, BaseDistribution], resume: bool
) -> TuneSummary:
    config, features = dataset.config, dataset.features
    strata = choose_strata(config.tasks, features.targets, features.groups, config.folds)
    outer = _outer_folds(dataset, strata)
    connect()
    concurrent = concurrency(config.tune)
    shared = ray.put(features)
    key = _key(dataset, outer)
    if not resume:
        shutil.rmtree(run.path / "search" / key, ignore_errors=True)

    def find(name: str, indices: np.ndarray) -> SearchOutcome:
        parts = inner_folds(indices, features.groups, strata.members, config.folds, config.fit.seed)
        plan = SearchPlan(
            name=name,
            run=run,
            key=key,
            settings=config.tune,
            space=space,
            first=nearest(config, space),
            defaults=defaults(config),
            folds=len(parts),
            seed=config.fit.seed,
            concurrent=concurrent,
        )
        return run_search(plan, config, shared, parts)

    searches = {f"outer-{part.fold}": find(f"outer-{part.fold}", part.train) for part in outer}
    results = _judge(shared, dataset, outer, list(searches.values()), run)
    searches["all"] = find("all", np.arange(len(features)))
    summary = _summarise(dataset, results, searches, f"{run.uri}/best.yaml")
    (run.path / "best.yaml").write_text(_settings_file(config, summary))
    (run.path / "trials.jsonl").write_text(
        "".join(
            json.dumps({"search": name, **trial}) + "\n"
            for name, found in searches.items()
            for trial in found.trials
        )
    )
    (run.path / "tune.json").write_text(json.dumps(summary.to_dict(), indent=1))
    return summary


def _outer_folds(dataset: Dataset, strata: Strata) -> list[Fold]:
    """Return the outer folds: one repeat, drawn or from the file that the settings name."""
    features, settings = dataset.features, dataset.config.folds
    if settings.file:
        given = read_folds(settings.file, features.doc_ids, features.groups)
        return [part for part in given if part.repeat == 0]
    once, seed = replace(settings, repeats=1), dataset.config.fit.seed
    return list(make_folds(features.doc_ids, features.groups, strata.members, once, seed, strata.names))


def _judge(
    shared: Any,  # noqa: ANN401 - an object reference
    dataset: Dataset,
    outer: Sequence[Fold],
    found: Sequence[SearchOutcome],
    run: Workspace,
) -> list[FoldResult]:
    """Return the outer folds' predictions by `default` settings and by those `tuned` on each training part.

    Where a search kept the defaults, both are the same fit.
    """
    default = Variant(name="default", config=dataset.config)
    wanted = [(default, part) for part in outer]
    wanted += [
        (Variant(name="tuned", config=one.config), part)
        for one, part in zip(found, outer, strict=True)
        if one.beaten
    ]
    results, _ = run_folds(shared, wanted, run, dataset.fingerprint)
    kept = {part.fold for one, part in zip(found, outer, strict=True) if not one.beaten}
    return results + [
        replace(result, variant="tuned")
        for result in results
        if result.variant == "default" and result.fold in kept
    ]


def _summarise(
    dataset: Dataset, results: Sequence[FoldResult], searches: Mapping[str, SearchOutcome], file: str
) -> TuneSummary:
    """Compare searched with default settings on the outer folds, and gather what the searches found."""
    config, last = dataset.config, searches["all"]
    comparison: dict[str, Any] = {}
    for name, task in config.tasks.items():
        searched, plain = (
            gather(dataset.features, task, name, [r for r in results if r.variant == variant])
            for variant in ("tuned", "default")
        )
        comparison[name] = metrics.compare_predictions(searched, plain)
    for key in ("p_bootstrap", "p_corrected_t"):
        adjusted = metrics.holm([np.nan if c[key] is None else c[key] for c in comparison.values()])
        for compared, p in zip(comparison.values(), adjusted, strict=True):
            compared[f"{key}_holm"] = p if np.isfinite(p) else None
    ranges = config.tune.ranges()
    shares, counted = importances([found.trials for found in searches.values()], ranges)
    ranked = sorted(last.trials, key=lambda trial: (-len(trial["folds"]), -trial["score"]))
    return TuneSummary(
        best=last.best,
        beaten=last.beaten,
        trials=sum(len(found.trials) for found in searches.values()),
        tuned={name: compared["first"] for name, compared in comparison.items()},
        default={name: compared["second"] for name, compared in comparison.items()},
        comparison=comparison,
        helped={name: _helped(compared) for name, compared in comparison.items()},
        settings=defaults(config),
        space={name: asdict(wanted) for name, wanted in ranges.items()},
        objectives=config.tune.objectives,
        importances=shares,
        important_trials=counted,
        leading=ranked[:SHOWN],
        file=file,
    )


def _helped(compared: Mapping[str, Any]) -> bool:
    """Tell whether searched settings are better than the defaults by the corrected test."""
    p, difference = compared["p_corrected_t_holm"], compared["difference"]
    return p is not None and difference is not None and difference > 0 and p < LEVEL


def _settings_file(config: Config, summary: TuneSummary) -> str:
    """Return all settings that `train` and `evaluate` depend on, with those found, as YAML."""
    head = "# Made by `hilbert-ray tune`; the search changed nothing.\n"
    if summary.best:
        changes = [
            f"# {name}: {value} (was {summary.settings[name]})" for name, value in summary.best.items()
        ]
        head = "\n".join(["# Made by `hilbert-ray tune`, which changed:", *changes, ""])
    values = to_dict(apply(config, summary.best))
    return head + yaml.safe_dump({part: values[part] for part in SETTINGS}, sort_keys=False)


def _key(dataset: Dataset, outer: Sequence[Fold]) -> str:
    """Return a hash of all that searches depend on: settings, data and folds; no others are resumed."""
    settings = to_dict(from_dict(Config, to_dict(dataset.config)))  # 1 and 1.0 are the same setting
    del settings["train"], settings["embed"]
    for name in ("max_concurrent", "cpus_per_trial", "gpus_per_trial"):
        del settings["tune"][name]
    folds = [part.test.tolist() for part in outer]
    facts = json.dumps([dataset.fingerprint, settings, folds], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]
