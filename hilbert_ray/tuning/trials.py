"""Trials under Ray Tune: how they are proposed, run, stopped early and recorded.

Each finished trial is one line of a journal that only the driver appends to. A resumed search reads its
journal: Optuna learns these trials, and they are not run again.
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
from hilbert_ray.run import RunDir
from hilbert_ray.storage import StorageError, Workspace, json_line, parse_json_lines, write_errors, write_text
from hilbert_ray.tuning.space import Settings

log = logging.getLogger(__name__)
Trial = Mapping[str, Any]
"""A finished trial: `settings`, `score` and `brier` (means), `folds` and `briers` (of each inner fold that it
finished), `is_default`, and where training diverged the `error`. Brier scores are of calibrated probabilities
where they are an objective, otherwise of one network as it is."""
WORST = {"score": 0.0, "brier": 2.0}
"""Of a trial whose training diverged: the ends of both scales, so that Optuna avoids its settings."""
SAVE_INTERVAL_S = 5.0
"""How often finished trials are uploaded where the run is on an object store."""
MODES = {"score": "max", "brier": "min"}
_SILENT = ("ray.train._internal.syncer", "ray.tune.execution.tune_controller")
"""Logs of Tune that show tracebacks of what we report, or of files that nothing of ours reads."""
SLACK = 1e-9
"""Against rounding: 0.3 of 0.9 CPUs must fit three times."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchPlan:
    """What one search does.

    name: of the search. run, key: its journal is in RUN/search/KEY, Ray's own files are with the checkpoints.
    settings: of the search. space: what may be changed. first: the member of the space that represents the
    defaults, the first trial; defaults: the values that this trial really uses. folds: inner folds of a
    complete trial. seed: of the sampler. concurrent: trials at once.
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
        return self.run.path / RunDir.SEARCHES / self.key / f"{self.name}.jsonl"


def run_trials(plan: SearchPlan, trainable: Callable[..., None], **shared: Any) -> list[Trial]:  # noqa: ANN401
    """Run the trials of a search that its journal does not have yet; return all, the defaults first.

    Args:
        plan: what to do.
        trainable: called with a trial's settings and with `shared`; reports `score`, `brier`, `folds`,
            `briers` and perhaps `error` after each inner fold.
        shared: further arguments of all trials, put into Ray's object store once.

    Raises:
        StorageError: when a finished trial cannot be recorded.
    """
    done = read_journal(plan.journal)
    missing = plan.settings.trials - len(done)
    if missing > 0:
        plan.journal.parent.mkdir(parents=True, exist_ok=True)
        journal = TrialJournal(plan, len(done))
        for name in _SILENT:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        tuner = ray_tune.Tuner(
            # One bundle per worker: ranks may run on different nodes, each worker on one.
            ray_tune.with_resources(
                ray_tune.with_parameters(trainable, **shared),
                ray_tune.PlacementGroupFactory([bundle(plan.settings)] * plan.settings.workers_per_trial),
            ),
            tune_config=ray_tune.TuneConfig(
                search_alg=ConcurrencyLimiter(make_searcher(plan, done), max_concurrent=plan.concurrent),
                scheduler=make_scheduler(plan),
                num_samples=missing,
                # A process takes longer to start than a trial on few documents.
                reuse_actors=True,
            ),
            run_config=ray_tune.RunConfig(
                name=plan.name,
                **plan.run.storage(f"{RunDir.CHECKPOINTS}/search-{plan.key}"),
                # Of workers and nodes; training that diverges is a result, see `run_trial`.
                failure_config=ray_tune.FailureConfig(max_failures=2),
                callbacks=[journal],
                stop=journal,
                verbose=0,
            ),
        )
        # Tune's newer output prints to standard output even with verbose=0, and that is for our results.
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        # Tune would take Ctrl-C for the wish to end the search early and go on with what it has found.
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        results = tuner.fit()
        if journal.failure:
            raise journal.failure
        for result in results:
            if result.error:
                log.warning(
                    "search %s: a trial failed (%s); rerun with --resume to replace it",
                    plan.name,
                    result.error,
                )
        done = read_journal(plan.journal)
    # Trials that run at once end in any order, which must not decide between equal scores (`choose_trial`).
    return sorted(done, key=lambda trial: (not trial["is_default"], json.dumps(trial, sort_keys=True)))


def make_searcher(plan: SearchPlan, done: Sequence[Trial]) -> OptunaSearch:
    """Return the sampler of settings: it starts with the defaults, unless done, and knows finished trials."""
    settings, objectives = plan.settings, list(plan.settings.objectives)
    modes = [MODES[name] for name in objectives]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kind = optuna.samplers.TPESampler if settings.algorithm == "tpe" else optuna.samplers.RandomSampler
    # In memory: the journal is the record, and a database would be a second source of truth.
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(
        storage=storage, study_name=plan.name, directions=[f"{mode}imize" for mode in modes]
    )
    for trial in done:
        values = [trial[name] for name in objectives]
        # The journal has the real defaults, which may lie outside the space, and Optuna refuses those.
        params = plan.first if trial["is_default"] else trial["settings"]
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=dict(plan.space), values=values)
        )
    return OptunaSearch(
        dict(plan.space),
        metric=objectives if len(objectives) > 1 else objectives[0],
        mode=modes if len(modes) > 1 else modes[0],
        # With the same seed, a resumed search would propose again what it proposed before.
        sampler=kind(seed=plan.seed + len(done)),
        storage=storage,
        study_name=plan.name,
        points_to_evaluate=None if any(trial["is_default"] for trial in done) else [dict(plan.first)],
    )


def make_scheduler(plan: SearchPlan) -> TrialScheduler:
    """Return what stops poor trials after an inner fold.

    Hyperband is asynchronous with several brackets: each spares its trials for another number of folds (Li et
    al. 2018; ASHA, Li et al. 2020, is the same with one).
    """
    kind = plan.settings.scheduler
    if kind == "none":
        return FIFOScheduler()
    factor = 4 if kind == "asha" else 3
    return AsyncHyperBandScheduler(
        # One report per inner fold, so that Tune's iterations are folds.
        time_attr="training_iteration",
        metric="score",
        mode="max",
        max_t=plan.folds,
        reduction_factor=factor,
        # Hyperband's number of brackets: one more per power of the factor in the number of folds.
        brackets=1 if kind == "asha" else 1 + int(math.log(plan.folds, factor)),
    )


class TrialJournal(ray_tune.Callback, ray_tune.Stopper):  # type: ignore[misc]
    """Appends each finished trial to the search's journal and logs it.

    Where that fails, as on a full disk, it stops the search: Tune only logs what its callbacks raise, and
    would go on with trials that nobody keeps.
    """

    def __init__(self, plan: SearchPlan, done: int) -> None:
        """Continue after `done` trials."""
        self.plan = plan
        self.done = done
        self.failure: StorageError | None = None
        # Rewritten, so that a last line that a kill cut off does not merge with the next one.
        write_text(plan.journal, "".join(map(json_line, read_journal(plan.journal))))

    def on_trial_complete(
        self,
        iteration: int,
        trials: list[Any],
        trial: Any,  # noqa: ANN401 - Tune's own record
        **info: Any,  # noqa: ANN401
    ) -> None:
        """Record a trial that ended or was stopped; one that failed before its first report is left out."""
        result = trial.last_result or {}
        if "score" not in result:
            return
        # The defaults ran as the member of the space that represents them; the journal has their values.
        is_default = trial.config == self.plan.first
        record = {
            "settings": dict(self.plan.defaults if is_default else trial.config),
            "is_default": is_default,
            **{name: result[name] for name in ("score", "brier", "folds", "briers")},
            **({"error": result["error"]} if "error" in result else {}),
        }
        try:
            self._append(record)
        except StorageError as error:
            self.failure = error
            return
        self.done += 1
        log.info(
            "search %s, trial %d/%d: %.4f after %d of %d inner folds",
            self.plan.name, self.done, self.plan.settings.trials, record["score"], len(record["folds"]),
            self.plan.folds,
        )  # fmt: skip

    def _append(self, record: Trial) -> None:
        """Append to the journal, which is never rewritten then: a kill can damage the last line only."""
        with write_errors(str(self.plan.journal)), self.plan.journal.open("a") as file:
            file.write(json_line(record))
            # A trial can take hours: what is finished must survive a crash of the machine.
            file.flush()
            os.fsync(file.fileno())
        self.plan.run.save(every_s=SAVE_INTERVAL_S)

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Stop no trial by its result."""
        return False

    def stop_all(self) -> bool:
        """Stop the search once a trial could not be recorded."""
        return self.failure is not None


def read_journal(path: Path) -> list[Trial]:
    """Return the finished trials of a search; a last line that a kill cut off is left out.

    Raises:
        DamagedError: when a line is not what was written.
    """
    repair = "delete that line and rerun `hilbert-ray tune --resume`, which replaces the trial"
    return [*parse_json_lines(path.read_bytes(), str(path), repair)] if path.exists() else []


def bundle(settings: TuneConfig) -> dict[str, float]:
    """Return the resources that one worker of a trial takes from its node."""
    return {"CPU": settings.cpus_per_trial, "GPU": settings.gpus_per_trial}


def concurrency(settings: TuneConfig) -> int:
    """Return how many trials to run at once.

    A cluster without any CPU is an autoscaling one that has not started workers yet. It does not report its
    maximum size, so that nothing can be checked.

    Raises:
        ConfigError: when a trial, or the requested number at once, can never run on this cluster.
    """
    needs = {name: amount for name, amount in bundle(settings).items() if amount}
    workers, nodes = settings.workers_per_trial, [n["Resources"] for n in ray.nodes() if n["Alive"]]
    if not any(node.get("CPU") for node in nodes):
        return settings.max_concurrent or settings.trials
    # A worker runs on one node, so that what is left on several cannot be added up.
    fitting = sum(
        min(int(node.get(name, 0) / amount + SLACK) for name, amount in needs.items()) for node in nodes
    )
    # Workers of a trial may run on different nodes, so that places on several nodes do add up here.
    most_trials = fitting // workers
    per_worker = " and ".join(f"{amount:g} {name}" for name, amount in needs.items())
    if not fitting:
        largest = ", ".join(f"{max(node.get(n, 0) for node in nodes):g} {n}" for n in needs)
        raise ConfigError(
            f"a worker of a trial needs {per_worker}, but no node has that much (most on one node: "
            f"{largest}); lower tune.cpus_per_trial or tune.gpus_per_trial, or use larger nodes"
        )
    if not most_trials:
        raise ConfigError(
            f"tune.workers_per_trial is {workers}, each with {per_worker}, but only {fitting} such workers "
            f"fit on the cluster; set it to at most {fitting}, or lower what each needs"
        )
    if settings.max_concurrent > most_trials:
        raise ConfigError(
            f"tune.max_concurrent is {settings.max_concurrent}, but only {most_trials} trials of {workers} x "
            f"{per_worker} fit on the cluster at once; set it to at most {most_trials} (0: as many as fit), "
            "or lower what each needs"
        )
    return settings.max_concurrent or min(most_trials, settings.trials)
