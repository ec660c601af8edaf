"""Trials under Ray Tune: how they are proposed, run, stopped early and written down.

Each finished trial is one line of a file that only the driver appends to. A search that was killed starts
anew with what its file holds: these trials are told to Optuna and never run again.
"""

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import ray
from optuna.distributions import BaseDistribution
from ray import tune as ray_tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from hilbert_ray.config import ConfigError, TuneConfig
from hilbert_ray.storage import Workspace
from hilbert_ray.tuning.space import Settings

log = logging.getLogger(__name__)
Trial = Mapping[str, Any]
"""A finished trial: `settings`, `score` and `brier` (means), `folds` and `briers` (of each inner fold that it
saw), `is_default`, and where training diverged the `error`."""
WORST = {"score": 0.0, "brier": 2.0}  # of a trial whose training diverged
SAVED_S = 5.0  # how often finished trials are saved where the run is on an object store
MODES = {"score": "max", "brier": "min"}


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchPlan:
    """What one search does.

    name: of the search. run, key: it is kept in RUN/search/KEY, and what Ray itself writes of it among the
    checkpoints. settings: of the search. space: what may be changed.
    first: the member of the space that stands for the defaults, the first trial; defaults: the values that
    it really has. folds: inner folds of a whole trial. seed: of what is proposed. concurrent: trials at once.
    """

    name: str
    run: Workspace
    key: str
    settings: TuneConfig
    space: Mapping[str, BaseDistribution]
    first: Settings
    defaults: Settings
    folds: int
    seed: int
    concurrent: int

    @property
    def journal(self) -> Path:
        """The file of finished trials."""
        return self.run.path / "search" / self.key / f"{self.name}.jsonl"


def run_trials(plan: SearchPlan, trainable: Callable[..., None], **shared: Any) -> list[Trial]:  # noqa: ANN401
    """Run the trials of a search that its journal does not hold yet; return all, the defaults first.

    Args:
        plan: what to do.
        trainable: called with a trial's settings and with `shared`; reports `score`, `brier`, `folds`,
            `briers` and perhaps `error` after each inner fold.
        shared: what all trials are given; put into Ray's store once.
    """
    done = read_journal(plan.journal)
    missing = plan.settings.trials - len(done)
    if missing > 0:
        plan.journal.parent.mkdir(parents=True, exist_ok=True)
        tuner = ray_tune.Tuner(
            ray_tune.with_resources(
                ray_tune.with_parameters(trainable, **shared),
                ray_tune.PlacementGroupFactory([bundle(plan.settings)] * plan.settings.workers_per_trial),
            ),
            tune_config=ray_tune.TuneConfig(
                search_alg=ConcurrencyLimiter(make_searcher(plan, done), max_concurrent=plan.concurrent),
                scheduler=make_scheduler(plan),
                num_samples=missing,
                reuse_actors=True,  # a process takes longer to start than a trial of small data
            ),
            run_config=ray_tune.RunConfig(
                name=plan.name,
                **plan.run.storage(f"checkpoints/search-{plan.key}"),
                failure_config=ray_tune.FailureConfig(max_failures=2),  # of workers and nodes
                callbacks=[TrialJournal(plan, len(done))],
                verbose=0,
            ),
        )
        # Tune's newer output prints to standard output however quiet it is told to be.
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        for result in tuner.fit():
            if result.error:
                log.warning("search %s: a trial failed (%s); resume to try others", plan.name, result.error)
        done = read_journal(plan.journal)
    # Trials that run at once end in any order, which must not decide between equal scores.
    return sorted(done, key=lambda trial: (not trial["is_default"], json.dumps(trial, sort_keys=True)))


def make_searcher(plan: SearchPlan, done: Sequence[Trial]) -> OptunaSearch:
    """Return what proposes settings: the defaults first, unless they are done; it knows what is done."""
    settings, objectives = plan.settings, list(plan.settings.objectives)
    modes = [MODES[name] for name in objectives]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kind = optuna.samplers.TPESampler if settings.algorithm == "tpe" else optuna.samplers.RandomSampler
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(
        storage=storage, study_name=plan.name, directions=[f"{mode}imize" for mode in modes]
    )
    for trial in done:
        values = [trial[name] for name in objectives]
        params = plan.first if trial["is_default"] else trial["settings"]
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=dict(plan.space), values=values)
        )
    return OptunaSearch(
        dict(plan.space),
        metric=objectives if len(objectives) > 1 else objectives[0],
        mode=modes if len(modes) > 1 else modes[0],
        sampler=kind(seed=plan.seed + len(done)),  # what was proposed before must not come again
        storage=storage,
        study_name=plan.name,
        points_to_evaluate=None if any(trial["is_default"] for trial in done) else [dict(plan.first)],
    )


def make_scheduler(plan: SearchPlan) -> TrialScheduler:
    """Return what stops poor trials after an inner fold."""
    kind = plan.settings.scheduler
    if kind == "none":
        return FIFOScheduler()
    factor = 4 if kind == "asha" else 3
    return AsyncHyperBandScheduler(
        time_attr="training_iteration",
        metric="score",
        mode="max",
        max_t=plan.folds,
        reduction_factor=factor,
        brackets=1 if kind == "asha" else 1 + int(math.log(plan.folds, factor)),
    )


class TrialJournal(ray_tune.Callback):  # type: ignore[misc]
    """Appends each finished trial to the search's file and logs it."""

    def __init__(self, plan: SearchPlan, done: int) -> None:
        """Go on after `done` trials."""
        self.plan = plan
        self.done = done
        # A line that a kill cut off must not run into the next.
        plan.journal.write_text("".join(f"{json.dumps(trial)}\n" for trial in read_journal(plan.journal)))

    def on_trial_complete(
        self,
        iteration: int,
        trials: list[Any],
        trial: Any,  # noqa: ANN401 - Tune's own record
        **info: Any,  # noqa: ANN401
    ) -> None:
        """Write a trial that ended or was stopped; one that failed before its first report is left out."""
        result = trial.last_result or {}
        if "score" not in result:
            return
        is_default = trial.config == self.plan.first
        record = {
            "settings": dict(self.plan.defaults if is_default else trial.config),
            "is_default": is_default,
            **{name: result[name] for name in ("score", "brier", "folds", "briers")},
            **({"error": result["error"]} if "error" in result else {}),
        }
        with self.plan.journal.open("a") as file:
            file.write(f"{json.dumps(record)}\n")
            file.flush()
            os.fsync(file.fileno())
        self.plan.run.save(every_s=SAVED_S)
        self.done += 1
        log.info(
            "search %s, trial %d/%d: %.4f after %d of %d inner folds",
            self.plan.name, self.done, self.plan.settings.trials, record["score"], len(record["folds"]),
            self.plan.folds,
        )  # fmt: skip


def read_journal(path: Path) -> list[Trial]:
    """Return the finished trials of a search; a last line that a kill cut off is left out."""
    found: list[Trial] = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def bundle(settings: TuneConfig) -> dict[str, float]:
    """Return what one worker of a trial takes of its node."""
    return {"CPU": settings.cpus_per_trial, "GPU": settings.gpus_per_trial}


def concurrency(settings: TuneConfig) -> int:
    """Return how many trials to run at once.

    A cluster without any CPU is one that grows, to what is asked for; nobody can tell how far.

    Raises:
        ConfigError: when a trial, or so many at once, can never run on this cluster.
    """
    need = {name: amount for name, amount in bundle(settings).items() if amount}
    workers, nodes = settings.workers_per_trial, [n["Resources"] for n in ray.nodes() if n["Alive"]]
    if not any(node.get("CPU") for node in nodes):
        return settings.max_concurrent or settings.trials
    fitting = sum(
        min(int(node.get(name, 0) / amount + 1e-9) for name, amount in need.items()) for node in nodes
    )
    room = fitting // workers
    shown = " and ".join(f"{amount:g} {name}" for name, amount in need.items())
    if not fitting:
        most = ", ".join(f"{max(node.get(n, 0) for node in nodes):g} {n}" for n in need)
        raise ConfigError(
            f"a trial's worker takes {shown}, but no node has as much (most on one node: {most}); lower "
            "tune.cpus_per_trial or tune.gpus_per_trial to what a node has, or run on larger nodes"
        )
    if not room:
        raise ConfigError(
            f"tune.workers_per_trial is {workers}, each with {shown}, but the cluster holds {fitting} such "
            f"workers; set it to at most {fitting}, or let each take less"
        )
    if settings.max_concurrent > room:
        raise ConfigError(
            f"tune.max_concurrent is {settings.max_concurrent}, but the cluster holds {room} trials at once, "
            f"each of {workers} x {shown}; set it to at most {room} (0: as many as fit), or let each take "
            "less"
        )
    return settings.max_concurrent or min(room, settings.trials)
