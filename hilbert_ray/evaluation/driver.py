"""Cross-validation: `fit` over group-disjoint folds as Ray tasks, beside baselines on the same folds.

Out-of-fold predictions are kept, and all scores are computed from them. Each finished fold is written to
RUN/folds, so that a run that was killed goes on with the folds that are missing.
"""

import json
import logging
import time
from typing import Any

import ray

from hilbert_ray.cluster import connect, maps_removed_at_exit
from hilbert_ray.config import Config
from hilbert_ray.evaluation.cross_validation import run_folds
from hilbert_ray.evaluation.scores import score
from hilbert_ray.evaluation.shortcuts import score_shortcuts
from hilbert_ray.evaluation.variants import choose_variants
from hilbert_ray.features import Dataset, open_dataset
from hilbert_ray.folds import choose_strata, make_folds, read_folds, write_folds
from hilbert_ray.run import NOT_COPIED, write_predictions, write_run_config
from hilbert_ray.storage import Workspace, open_workspace

log = logging.getLogger(__name__)


def evaluate(
    store: str,
    out: str,
    config: Config,
    *,
    audio: str | None = None,
    text: str | None = None,
    compare: bool = False,
    subsets: bool = False,
) -> dict[str, Any]:
    """Cross-validate a store's documents and write the run's folder.

    RUN gets config.json, folds.parquet, predictions.parquet (out of fold), embeddings.parquet and
    attention.parquet (out of fold, first repeat), and metrics.json, which is returned. Each finished fold is
    in folds/: run again, whether after a kill or with more to compare, only those that are missing are run.

    Args:
        store: feature store.
        out: folder of the run, path or URI.
        config: settings.
        audio: which audio encoder, see `open_dataset`.
        text: which text encoder.
        compare: add all named baselines and ablations.
        subsets: score the network of both modalities on audio alone and on text alone too.

    Raises:
        ConfigError: for settings that do not fit the store.
        FoldsError: when groups or classes make the folds impossible.
    """
    dataset = open_dataset(store, config, audio, text)
    with maps_removed_at_exit(dataset.features.mapped), open_workspace(out, apart=NOT_COPIED) as run:
        return _evaluate(store, run, dataset, compare, subsets)


def _evaluate(store: str, run: Workspace, dataset: Dataset, compare: bool, subsets: bool) -> dict[str, Any]:
    features, config = dataset.features, dataset.config
    write_run_config(run, dataset)
    strata = choose_strata(config.tasks, features.targets, features.groups, config.folds)
    if config.folds.file:
        folds = read_folds(config.folds.file, features.doc_ids, features.groups)
    else:
        seed, names = config.fit.seed, strata.names
        folds = make_folds(features.doc_ids, features.groups, strata.members, config.folds, seed, names)
    write_folds(folds, str(run.path / "folds.parquet"))
    connect()
    began = time.perf_counter()
    shared = ray.put(features)
    chosen = choose_variants(config, features, compare, subsets)
    wanted = [(variant, part) for variant in chosen for part in folds]
    results, fresh = run_folds(shared, wanted, run, dataset.fingerprint)
    seconds = time.perf_counter() - began
    values = score(dataset, [part for result in results for part in result.split()])
    values["shortcuts"] = score_shortcuts(store, dataset, folds)
    values["folds"] = folds.describe(strata.members, strata.names)
    values["run"] = {
        "seconds": seconds,
        "fold_seconds": sum(result.seconds for result in fresh),
        "fits": len(fresh),
        "reused": len(results) - len(fresh),
    }
    write_predictions(run.path, dataset, [part for result in results for part in result.split()])
    (run.path / "metrics.json").write_text(json.dumps(values, indent=1))
    return values
