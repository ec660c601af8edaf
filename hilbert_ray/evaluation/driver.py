"""`evaluate`: `fit` over group-disjoint folds as Ray tasks, with baselines on the same folds.

Out-of-fold predictions are stored, and all scores are computed from them. Each finished fold is written to
RUN/folds, so that a rerun runs only the folds that are missing.
"""

import logging
import time
from collections.abc import Sequence

import ray

from hilbert_ray.cluster import connect, maps_removed_at_exit
from hilbert_ray.config import Config
from hilbert_ray.evaluation.cross_validation import run_folds
from hilbert_ray.evaluation.learning_curve import check_shares, choose_learners, score_curve
from hilbert_ray.evaluation.scores import count_labelled, score
from hilbert_ray.evaluation.shortcuts import describe_duplicates, score_shortcuts
from hilbert_ray.evaluation.variants import choose_variants
from hilbert_ray.features import Dataset, open_dataset
from hilbert_ray.folds import Folds, Strata, choose_strata, make_folds, read_folds, write_folds
from hilbert_ray.run import (
    NOT_COPIED,
    Evaluation,
    RunFile,
    write_metrics,
    write_predictions,
    write_run_config,
)
from hilbert_ray.storage import Workspace, open_workspace

log = logging.getLogger(__name__)


def evaluate(
    store: str,
    out: str,
    config: Config | None = None,
    *,
    audio: str | None = None,
    text: str | None = None,
    compare: bool = False,
    subsets: bool = False,
    labels: Sequence[float] = (),
    allow_pending: bool = False,
) -> Evaluation:
    """Cross-validate a store's documents and write the run's folder.

    RUN gets config.json, folds.parquet, predictions.parquet (out of fold), embeddings.parquet and
    attention.parquet (out of fold, first repeat), and metrics.json. Each finished fold is in RUN/folds, so
    that a rerun, after a kill or with more variants, runs only those that are missing.

    Args:
        store: feature store, path or URI.
        out: folder of the run, path or URI.
        config: settings; the defaults where None.
        audio: which audio encoder, see `open_dataset`.
        text: which text encoder.
        compare: add all named baselines and ablations.
        subsets: score the network of both modalities on audio alone and on text alone too.
        labels: shares of the training groups whose labels are kept, for a learning curve of HILBERT, the
            same network trained on the task loss alone, and the baselines; the folds stay the same.
        allow_pending: go on although documents are not embedded yet, see `open_dataset`.

    Returns:
        The scores; `Evaluation.to_dict` is what metrics.json holds.

    Raises:
        PendingError: when documents are not embedded yet, without `allow_pending`.
        ConfigError: for settings that do not fit the store, or a share of labels that is not in (0, 1].
        FoldsError: when groups or classes make the folds impossible.
        SplitError: when the documents of a group are of several splits.
    """
    shares = check_shares(labels)
    dataset = open_dataset(
        store, config or Config(), audio, text, held_out=False, allow_pending=allow_pending
    )
    with maps_removed_at_exit(dataset.features.mapped_files), open_workspace(out, NOT_COPIED) as run:
        return _evaluate(run, dataset, compare, subsets, shares)


def _evaluate(
    run: Workspace, dataset: Dataset, compare: bool, subsets: bool, shares: Sequence[float]
) -> Evaluation:
    features, config = dataset.features, dataset.config
    write_run_config(run, dataset)
    _log_labels(dataset)
    strata = choose_strata(config.tasks, features.targets, features.groups, config.folds)
    folds = _choose_folds(dataset, strata)
    # Stored before anything is trained: other tools, and `tune`, can use the same folds.
    write_folds(folds, str(run.path / RunFile.FOLDS))
    connect()
    began = time.perf_counter()
    # Once per node in shared memory, and not once per fold.
    features_ref = ray.put(features)
    variants = choose_variants(config, features, compare, subsets)
    learners = choose_learners(config, features, shares, subsets)
    # After what is compared, and without what is compared anyway: with all labels it is the same folds.
    to_run = variants + [learner for learner in learners if learner not in variants]
    variants_on_folds = [(variant, fold) for variant in to_run for fold in folds]
    results, computed = run_folds(features_ref, variants_on_folds, run, dataset.fingerprint)
    seconds = time.perf_counter() - began
    # A learner is no rival unless it is compared: it would count in Holm's correction.
    names = {variant.name for variant in variants}
    compared = [result for result in results if result.labels == 1 and result.variant in names]
    # Only now: RUN/folds has one file per fit, scores have one entry per subset.
    with_subsets = [each for result in compared for each in result.split()]
    values = score(dataset, with_subsets)
    values["learning_curve"] = score_curve(features, config, folds, learners, results) if shares else {}
    values["shortcuts"] = score_shortcuts(dataset, folds)
    values["duplicates"] = describe_duplicates(dataset)
    values["folds"] = folds.describe(strata.members, strata.names)
    values["splits"] = {"documents": len(dataset.documents), "held_out": dict(dataset.held_out)}
    # The only part of the file that differs between two runs of the same folds.
    values["run"] = {
        "seconds": seconds,
        "fold_seconds": sum(result.seconds for result in computed),
        "fits": len(computed),
        "reused": len(results) - len(computed),
    }
    write_predictions(run.path, dataset, with_subsets)
    evaluation = Evaluation(values)
    # Last: its presence says that the other files of the run are complete.
    write_metrics(run.path, evaluation)
    return evaluation


def _log_labels(dataset: Dataset) -> None:
    """Say how many documents are labelled, and what the others are good for."""
    for task, counts in count_labelled(dataset).items():
        rest = "; the others take part in the terms that need no label" if counts["unlabelled"] else ""
        total = sum(counts.values())
        log.info("task `%s`: %d of %d documents are labelled%s", task, counts["labelled"], total, rest)


def _choose_folds(dataset: Dataset, strata: Strata) -> Folds:
    """Return the folds that the settings name in a file, or draw them."""
    features, config = dataset.features, dataset.config
    if config.folds.file:
        return read_folds(config.folds.file, features.doc_ids, features.groups)
    seed, names = config.fit.seed, strata.names
    return make_folds(features.doc_ids, features.groups, strata.members, config.folds, seed, names)
