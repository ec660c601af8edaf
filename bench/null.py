"""Does the permutation null keep its level? Counted with HILBERT itself on data without any signal.

Documents of a group share a disturbance in every feature, groups differ in size (2 to 6 documents), and
labels are drawn for whole groups, for single documents, or half of each. A small network is cross-validated
as `evaluate` does. The table shows how often p <= 0.05, which should be 0.05 at most:

- documents: labels exchanged between single documents, under the predictions as they are;
- groups: labels exchanged as `permutation_null` does, under the predictions as they are;
- p: the same with the null widened, the p-value that `evaluate` reports.

`value` is the mean AUC within folds, 0.5 without signal; `spread` its standard deviation over data sets, and
`null` the mean standard deviation of the permuted values (groups), which would equal it if networks were
trained again for each permutation.

    python -m bench.null [--datasets 60] [--groups 20] [--epochs 8] [--seeds 1] [--processes 2]
"""

import argparse
import os
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch

from bench.measure import Record
from hilbert_ray.config import Config, FitConfig, FoldsConfig, ModelConfig, TaskConfig
from hilbert_ray.evaluation import Variant, gather, run_fold
from hilbert_ray.features import Features, Ragged, mean_std
from hilbert_ray.folds import FoldsError, make_folds
from hilbert_ray.metrics import Predictions, permutation_null, permuted_headlines

LEVEL = 0.05
DIM = 12
PREVALENCE = 0.4
SHARED: Mapping[str, float] = {
    "labels of groups": 1.0,
    "labels of documents": 0.0,
    "half of the labels of groups": 0.5,
}
"""Which share of documents has its group's label; the others draw their own."""
TASK = TaskConfig(kind="binary", classes=("no", "yes"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One data set: the score, the p-value of each null, and the standard deviation of permuted values."""

    value: float
    documents: float
    groups: float
    p: float
    deviation: float


def draw(groups: int, shared: float, generator: np.random.Generator) -> Features:
    """Return documents whose features know their group and nothing of their label."""
    group = np.repeat(np.arange(groups), generator.integers(2, 7, groups))
    by_modality = []
    for _ in range(2):
        lengths = generator.integers(2, 5, len(group))
        offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
        of_groups, of_documents = (generator.normal(size=(n, DIM)) for n in (groups, len(group)))
        means = np.repeat(of_groups[group] + of_documents, lengths, axis=0)
        values = (means + generator.normal(size=means.shape)).astype(np.float32)
        place = np.concatenate([(np.arange(n) + 0.5) / n for n in lengths]).astype(np.float32)
        wide = np.stack([mean_std(values[a:b]) for a, b in pairwise(offsets)])
        by_modality.append(
            Ragged(values=values, position=place, start=place, end=place, offsets=offsets, wide=wide)
        )
    has_group_label = generator.random(len(group)) < shared
    labels = np.where(
        has_group_label,
        (generator.random(groups) < PREVALENCE)[group],
        generator.random(len(group)) < PREVALENCE,
    )
    return Features(
        doc_ids=np.array([f"d{i:04d}" for i in range(len(group))]), groups=group,
        audio=by_modality[0], text=by_modality[1], targets={"label": labels.astype(np.int64)},
    )  # fmt: skip


def cross_validate(config: Config, groups: int, shared: float, seed: int) -> Predictions:
    """Return out-of-fold predictions on one data set."""
    generator = np.random.default_rng([seed, groups])
    while True:  # draw again if cross-validation refuses the data: such data are not in question
        features = draw(groups, shared, generator)
        strata = features.targets["label"][:, None] == np.arange(2)
        try:
            folds = make_folds(features.doc_ids, features.groups, strata, config.folds, seed)
            break
        except FoldsError:
            continue
    seeded = replace(config, fit=replace(config.fit, seed=seed))
    variant = Variant(name="hilbert", config=seeded)
    return gather(features, TASK, "label", [run_fold(features, variant, fold) for fold in folds])


def simulate(config: Config, groups: int, shared: float, permutations: int, seed: int) -> Outcome:
    """Cross-validate one data set and test it with each null."""
    torch.set_num_threads(1)
    predictions = cross_validate(config, groups, shared, seed)
    found = permutation_null(predictions, permutations)
    value = float(found["value"])
    alone = replace(predictions, group=predictions.document)
    nulls = [permuted_headlines(one, permutations)[0] for one in (alone, predictions)]
    documents, by_groups = ((1 + int((null >= value - 1e-12).sum())) / (1 + len(null)) for null in nulls)
    return Outcome(
        value=value, documents=documents, groups=by_groups, p=found["p"], deviation=float(nulls[1].std())
    )


def concluded(outcomes: list[Outcome]) -> dict[str, float]:
    """Return one row of the table: rejection rates, and what they rest on."""
    rates = {
        name: float(np.mean([getattr(outcome, name) <= LEVEL for outcome in outcomes]))
        for name in ("documents", "groups", "p")
    }
    values = np.array([outcome.value for outcome in outcomes])
    about = {
        "value": float(values.mean()),
        "spread": float(values.std(ddof=1)),
        "null": float(np.mean([outcome.deviation for outcome in outcomes])),
    }
    return rates | about


def main() -> None:
    """Print and record one row for each way labels are drawn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", type=int, default=60, help="data sets per row")
    parser.add_argument("--groups", type=int, default=20, help="groups of a data set")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of each network")
    parser.add_argument("--seeds", type=int, default=1, help="networks of each fold, averaged")
    parser.add_argument("--permutations", type=int, default=200, help="permutations of each null")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="worker processes")
    settings = parser.parse_args()
    config = Config(
        tasks={"label": TASK},
        model=ModelConfig(dim=8, hops=2),
        # A high rate, so that few steps are enough to learn training labels by heart.
        fit=FitConfig(epochs=settings.epochs, seeds=settings.seeds, batch_size=32, learning_rate=5e-3),
        folds=FoldsConfig(folds=5, repeats=1, inner=0),
    )
    error = 1.96 * np.sqrt(LEVEL * (1 - LEVEL) / settings.datasets)
    print(f"{settings.datasets} data sets per row; a rate near {LEVEL} is known to +-{error:.3f}")
    began, record, rows = time.perf_counter(), Record("null"), {}
    with ProcessPoolExecutor(settings.processes) as pool:
        for name, shared in SHARED.items():
            one = partial(simulate, config, settings.groups, shared, settings.permutations)
            rows[name] = concluded(list(pool.map(one, range(settings.datasets))))
            print(f"{name:32}" + "".join(f"{k:>12} {v:.3f}" for k, v in rows[name].items()), flush=True)
    formats = dict.fromkeys(next(iter(rows.values())), ".3f")
    title = f"rejected at 5 % without signal, {settings.groups} groups"
    record.keep(title, rows, datasets=settings.datasets, epochs=settings.epochs, formats=formats)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
