"""What does it gain to store all layers of a speech model and to learn how much each counts?

Documents are embedded once with `layer: all`; features of the last layer alone are cut out of the same store.
HILBERT, HILBERT on audio alone and the regression are cross-validated with both, on the same folds, whose
groups are disjoint; each repeat draws folds and networks from seeds of its own. The gain is the difference of
the headline (macro AUC within test sets, or concordance). Its intervals are t intervals: over groups, as
`evaluate` compares two systems, and over repeats, which says only how much folds and seeds matter.

    python -m bench.layers --audio hf:MODEL --manifest MANIFEST --task TASK --store STORE [--text none]
                           [--repeats 5] [--folds 5] [--seeds 3] [--inner 3]
"""

import argparse
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
from scipy import stats

from bench.measure import Record, format_table
from hilbert_ray.config import BASELINE, HILBERT, Config, EncoderConfig, FitConfig, FoldsConfig
from hilbert_ray.embedding import embed
from hilbert_ray.evaluation import Variant, choose_variants, gather, run_fold_on_one_thread
from hilbert_ray.features import Dataset, Features, Ragged, open_dataset
from hilbert_ray.folds import Fold, choose_strata, make_folds
from hilbert_ray.metrics import Predictions, compare_predictions
from hilbert_ray.run import FoldResult

LEARNED, LAST = "all layers", "the last"
COMPARED = (HILBERT, "audio_only", BASELINE)


def last_layer(ragged: Ragged) -> Ragged:
    """Return the features of the last of several layers, as `layer: last` stores them."""
    dim = ragged.dim // ragged.layers
    return replace(
        ragged,
        values=np.ascontiguousarray(ragged.values[:, -dim:]),
        wide=np.ascontiguousarray(ragged.wide_by_layer[:, -1]),
        layers=1,
    )


def only_task(dataset: Dataset, task: str) -> Dataset:
    """Return the same documents with the labels of one task."""
    config = replace(dataset.config, tasks={task: dataset.config.tasks[task]})
    features = replace(dataset.features, targets={task: dataset.features.targets[task]})
    return replace(dataset, config=config, features=features)


def work(dataset: Dataset) -> Iterator[tuple[str, Features, Variant, Fold]]:
    """Yield which features, variants and folds to run."""
    config, features = dataset.config, dataset.features
    assert features.audio is not None
    strata = choose_strata(config.tasks, features.targets, features.groups, config.folds)
    folds = make_folds(
        features.doc_ids, features.groups, strata.members, config.folds, config.fit.seed, strata.names
    )
    variants = [each for each in choose_variants(config, features, compare=False) if each.name in COMPARED]
    for variant, fold in itertools.product(variants, folds):
        yield LEARNED, features, variant, fold
        yield LAST, replace(features, audio=last_layer(features.audio)), variant, fold


def run(one: tuple[str, Features, Variant, Fold]) -> tuple[str, FoldResult]:
    """Run one fold, in a process of the pool."""
    layers, features, variant, fold = one
    return layers, run_fold_on_one_thread(features, variant, fold)


def compare(learned: Predictions, last: Predictions) -> Mapping[str, object]:
    """Return the scores with all layers and with the last, and the gain with its two intervals."""
    over_groups = compare_predictions(learned, last)
    of_repeats = []
    for repeat in np.unique(learned.repeat):
        rows = learned.repeat == repeat
        of_repeats.append(compare_predictions(learned[rows], last[rows])["difference"])
    low, high = stats.t.interval(
        0.95, len(of_repeats) - 1, np.mean(of_repeats), stats.sem(of_repeats)
    )  # NaN for a single repeat
    return {
        LEARNED: over_groups["first"],
        LAST: over_groups["second"],
        "gain (groups)": [over_groups[name] for name in ("difference", "low", "high")],
        "gain (repeats)": [float(np.mean(of_repeats)), float(low), float(high)],
        "all": of_repeats,
    }


def rows_of(dataset: Dataset, results: Sequence[tuple[str, FoldResult]]) -> dict[str, Mapping[str, object]]:
    """Return the table's rows, by variant."""
    (task, settings), *_ = dataset.config.tasks.items()
    rows = {}
    for name in dict.fromkeys(result.variant for _, result in results):
        by_layers = {
            which: gather(
                dataset.features,
                settings,
                task,
                [result for layers, result in results if layers == which and result.variant == name],
            )
            for which in (LEARNED, LAST)
        }
        rows[name] = compare(by_layers[LEARNED], by_layers[LAST])
    return rows


def main() -> None:
    """Embed what is missing, cross-validate, print and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--audio", required=True, help="a speech model, hf:<id or folder>")
    parser.add_argument("--text", default="hashing")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--task", required=True, help="the one label to predict")
    parser.add_argument("--store", required=True, help="where features are kept; a rerun finds them")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=FitConfig().seeds, help="networks of a fold")
    parser.add_argument("--inner", type=int, default=FoldsConfig().inner, help="inner folds, 0: none")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    config = Config(
        audio=options.audio, text=options.text, audio_encoder=EncoderConfig(layer="all"),
        folds=FoldsConfig(folds=options.folds, repeats=options.repeats, inner=options.inner),
        fit=FitConfig(seeds=options.seeds),
    )  # fmt: skip
    embed(options.manifest, options.store, config)
    dataset = only_task(open_dataset(options.store, config), options.task)
    results = []
    with ProcessPoolExecutor(options.processes) as pool:
        for layers, result in pool.map(run, work(dataset)):
            results.append((layers, result))
            what = f"{result.variant}, {layers}, repeat {result.repeat}, fold {result.fold}"
            print(f"  {len(results)} {what}: {result.seconds:.0f} s", file=sys.stderr)
    features = dataset.features
    title = (
        f"{options.task}: {len(features)} documents, {len(np.unique(features.groups))} groups, "
        f"{' and '.join(features.by_modality)}, {options.repeats} repeats of {options.folds} folds"
    )
    rows = rows_of(dataset, results)
    about = {"formats": dict.fromkeys((LEARNED, LAST, "gain (groups)", "gain (repeats)"), ".3f")}
    print(f"\n{title}\n{format_table({'rows': rows, **about})}")
    Record("layers").keep(title, rows, **about)


if __name__ == "__main__":
    main()
