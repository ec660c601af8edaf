"""`evaluate`: `fit` over group-disjoint folds as Ray tasks, with baselines on the same folds.

Out-of-fold predictions are stored, and all scores are computed from them. Each finished fold is written to
RUN/folds, so that a rerun runs only the folds that are missing.
"""

import logging
import time

import ray

from hilbert_ray.cluster import connect, maps_removed_at_exit
from hilbert_ray.config import Config
from hilbert_ray.evaluation.cross_validation import run_folds
from hilbert_ray.evaluation.scores import score
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

    Returns:
        The scores; `Evaluation.to_dict` is what metrics.json holds.

    Raises:
        ConfigError: for settings that do not fit the store.
        FoldsError: when groups or classes make the folds impossible.
        SplitError: when the documents of a group are of several splits.
    """
    dataset = open_dataset(store, config or Config(), audio, text, held_out=False)
    with maps_removed_at_exit(dataset.features.mapped_files), open_workspace(out, NOT_COPIED) as run:
        return _evaluate(run, dataset, compare, subsets)


def _evaluate(run: Workspace, dataset: Dataset, compare: bool, subsets: bool) -> Evaluation:
    features, config = dataset.features, dataset.config
    write_run_config(run, dataset)
    strata = choose_strata(config.tasks, features.targets, features.groups, config.folds)
    folds = _choose_folds(dataset, strata)
    # Stored before anything is trained: other tools, and `tune`, can use the same folds.
    write_folds(folds, str(run.path / RunFile.FOLDS))
    connect()
    began = time.perf_counter()
    # Once per node in shared memory, and not once per fold.
    features_ref = ray.put(features)
    variants = choose_variants(config, features, compare, subsets)
    variants_on_folds = [(variant, fold) for variant in variants for fold in folds]
    results, computed = run_folds(features_ref, variants_on_folds, run, dataset.fingerprint)
    seconds = time.perf_counter() - began
    # Only now: RUN/folds has one file per fit, scores have one entry per subset.
    with_subsets = [each for result in results for each in result.split()]
    values = score(dataset, with_subsets)
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


def _choose_folds(dataset: Dataset, strata: Strata) -> Folds:
    """Return the folds that the settings name in a file, or draw them."""
    features, config = dataset.features, dataset.config
    if config.folds.file:
        return read_folds(config.folds.file, features.doc_ids, features.groups)
    seed, names = config.fit.seed, strata.names
    return make_folds(features.doc_ids, features.groups, strata.members, config.folds, seed, names)
