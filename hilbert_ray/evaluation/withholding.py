"""Labels of training groups withheld, as if nobody had labelled them: what a learning curve is made of.

Whole groups lose the labels of all tasks, since people are labelled, not recordings. Their features stay:
an unlabelled document takes part in every term of the objective that needs no label.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int

from hilbert_ray.config import TaskConfig
from hilbert_ray.features import Features
from hilbert_ray.folds import Fold


def withhold(
    features: Features, tasks: Mapping[str, TaskConfig], fold: Fold, share: float, seed: int
) -> Features:
    """Return the features with labels for only a `share` of the fold's labelled training groups.

    Which groups keep theirs depends on the seed, the fold and its repeat, and not on who is trained: all
    variants see the same labels. A smaller share is a subset of a larger one. Every class that has a labelled
    training group keeps one, if need be by keeping more groups than the share. Tested documents keep their
    labels.

    Args:
        features: of all documents.
        tasks: all tasks; a withheld group loses the labels of each.
        fold: whose training documents lose labels.
        share: of the labelled training groups, above 0; 1 returns the features as they are.
        seed: of the draw.
    """
    if share >= 1:
        return features
    train = fold.train[features.is_labelled[fold.train]]
    if not len(train):
        return features
    _, group = np.unique(features.groups[train], return_inverse=True)
    classes = [_classes(task, features.targets[name][train]) for name, task in tasks.items()]
    order, needed = _order(
        group.reshape(-1), np.concatenate(classes, 1), np.random.default_rng([seed, fold.repeat, fold.fold])
    )
    kept = order[: max(needed, round(share * len(order)))]
    withheld = train[~np.isin(group.reshape(-1), kept)]
    targets = dict(features.targets)
    for name in tasks:
        masked = targets[name].copy()
        masked[withheld] = -1 if np.issubdtype(masked.dtype, np.integer) else np.nan
        targets[name] = masked
    return replace(features, targets=targets)


def _classes(task: TaskConfig, targets: np.ndarray) -> Bool[np.ndarray, "documents classes"]:
    """Return what of a task should not be missing from the labels: classes, both answers, both halves."""
    match task.kind:
        case "multilabel":
            # A label that is always, or never, there cannot be learned.
            return np.concatenate([targets == 1, targets == 0], 1)
        case "regression":
            known = np.isfinite(targets)
            if not known.any():
                return np.zeros((len(targets), 0), bool)
            # No line can be drawn through one value.
            middle = np.median(targets[known])
            return np.stack([known & (targets <= middle), known & (targets > middle)], 1)
        case _:
            return np.asarray(targets[:, None] == np.arange(len(task.classes)))


def _order(
    group: Int[np.ndarray, " documents"],
    classes: Bool[np.ndarray, "documents classes"],
    generator: np.random.Generator,
) -> tuple[Int[np.ndarray, " groups"], int]:
    """Return the groups in an order whose every beginning has about the same share of each class.

    The class with the smallest share of its documents so far gets the next group, a random one of those that
    have it (iterative stratification, Sechidis et al. 2011, one group at a time).

    Args:
        group: of each document, from 0; every group has a document of some class.
        classes: which document has which class.
        generator: source of randomness.

    Returns:
        The groups, and how many of the first have all classes between them.
    """
    counts: Float[np.ndarray, "groups classes"] = np.stack(
        [np.bincount(group, column, group.max() + 1) for column in classes.T[classes.any(0)]], 1
    )
    shares = counts / counts.sum(0)
    rarity = (counts > 0).sum(0)
    shuffled = generator.permutation(len(counts))
    # Of each class, the groups that have it, to be taken from the end.
    waiting = [shuffled[counts[shuffled, k] > 0].tolist() for k in range(counts.shape[1])]
    taken = np.zeros(len(counts), bool)
    reached = np.zeros(counts.shape[1])
    order: list[int] = []
    needed = 0
    while len(order) < len(counts):
        # The rarest first among equals: it has the fewest groups to choose from. A class whose groups are all
        # taken has reached 1, up to rounding, and must not be asked again.
        for k, groups_of in enumerate(waiting):
            while groups_of and taken[groups_of[-1]]:
                groups_of.pop()
            if not groups_of:
                reached[k] = np.inf
        next_group = waiting[int(np.lexsort((rarity, reached))[0])].pop()
        if (reached == 0).any():
            needed = len(order) + 1
        taken[next_group] = True
        reached += shares[next_group]
        order.append(next_group)
    return np.array(order, np.int64), needed
