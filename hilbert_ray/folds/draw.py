"""Drawing repeated stratified group k-fold, so that no group is on both sides of a split."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int

from hilbert_ray.config import ConfigError, FoldsConfig, TaskConfig
from hilbert_ray.folds.records import Fold, Folds, FoldsError, Strata, strata_members

CANDIDATES = 32  # partitions drawn at once, of which the best balanced new one is taken
ROUNDS = 12  # times that candidates are drawn, ever more at random, while all repeat an earlier test set
ATTEMPTS = 4  # times that all repeats are drawn anew when some test sets are still equal
BANDS = 5  # bands into which a regression target is cut to spread it over folds


def choose_strata(
    tasks: Mapping[str, TaskConfig],
    targets: Mapping[str, np.ndarray],
    groups: np.ndarray,
    config: FoldsConfig,
) -> Strata:
    """Return the classes of the task that `config.stratify` names; by default, that with the rarest class.

    Args:
        tasks: all tasks by name; without any, nothing is spread but the number of documents.
        targets: of each task, as `batch.Features` has them.
        groups: of each document; bands of a regression target are widened until each has two groups.
        config: which task to take.

    Raises:
        ConfigError: when there is no task of that name.
    """
    if config.stratify and config.stratify not in tasks:
        raise ConfigError(
            f"folds.stratify is {config.stratify!r}; the tasks are {', '.join(tasks) or '(none)'}"
        )
    every = [_strata(name, task, targets[name], groups) for name, task in tasks.items()]
    chosen = [strata for strata in every if config.stratify in ("", strata.task)]
    if not chosen:
        return Strata(task="", names=(), members=np.zeros((len(groups), 0), bool))
    return min(chosen, key=lambda strata: strata.members.sum(0).min(initial=len(groups)))


def _strata(name: str, task: TaskConfig, target: np.ndarray, groups: np.ndarray) -> Strata:
    match task.kind:
        case "multilabel":
            return Strata(task=name, names=task.classes, members=np.nan_to_num(target) > 0.5)
        case "regression":
            known = np.isfinite(target)
            for bands in range(BANDS, 0, -1):
                shares = np.arange(1, bands if known.any() else 1) / bands
                edges = np.unique(np.quantile(target[known], shares)) if len(shares) else shares
                band = np.where(known, np.digitize(target, edges), -1)
                members = band[:, None] == np.arange(len(edges) + 1)
                if all(len(np.unique(groups[inside])) >= 2 for inside in members.T):
                    break
            names = tuple(f"band {i + 1} of {members.shape[1]}" for i in range(members.shape[1]))
            return Strata(task=name, names=names, members=members)
        case _:
            return Strata(
                task=name, names=task.classes, members=target[:, None] == np.arange(len(task.classes))
            )


def make_folds(
    doc_ids: Sequence[str] | np.ndarray,
    groups: np.ndarray,
    strata: np.ndarray,
    config: FoldsConfig,
    seed: int,
    names: Sequence[str] = (),
) -> Folds:
    """Draw repeated folds in which no group straddles, classes are spread evenly and test sets do not repeat.

    Groups go one by one, heavy ones first, to the fold that has least of what they bring (this minimises the
    sum of squared class shares); order and choice are disturbed at random, and of many candidates the best
    balanced one with only new test sets is taken. Equal groups are dealt out evenly beforehand.

    Args:
        doc_ids: ids, unique, [N].
        groups: what must not straddle folds, int or str [N].
        strata: class of each document, int [N] with -1 for unlabelled, or bool [N, C] where it may count for
            several.
        config: numbers of folds and repeats.
        seed: the same seed gives the same folds.
        names: of the classes, for messages.

    Raises:
        FoldsError: with fewer groups than folds, or a class in documents of one group only.
    """
    ids, groups = np.asarray(doc_ids, dtype=str), np.asarray(groups)
    members = strata_members(strata)
    if not len(ids) == len(groups) == len(members):
        raise FoldsError(
            f"folds need one group and one stratum a document, but there are {len(ids)} documents, "
            f"{len(groups)} groups and {len(members)} strata; pass arrays of the same length"
        )
    if len(np.unique(ids)) != len(ids):
        raise FoldsError(
            f"folds of {len(ids)} documents with {len(np.unique(ids))} different ids: ids must be unique"
        )
    code, size = group_codes(groups)
    _check_groups(size, config.folds, len(ids))
    warnings = _check_classes(code, members, config.folds, names)
    generator = np.random.default_rng(seed)
    best: Folds | None = None
    for _ in range(1 if size == config.folds else ATTEMPTS):
        parts = _draw(code, members, config.folds, config.repeats, generator)
        drawn = Folds(doc_ids=ids, groups=groups, assignment=parts[:, code], warnings=warnings)
        if best is None or drawn.distinct > best.distinct:
            best = drawn
        if best.distinct == len(best):
            return best
    assert best is not None
    repeated = (
        f"{best.distinct} of {len(best)} test sets are distinct: more were not found for {size} groups in "
        f"{config.folds} folds and {config.repeats} repeats, so later repeats add little to earlier ones"
    )
    return replace(best, warnings=(*warnings, repeated))


def inner_folds(
    train: Int[np.ndarray, " train"],
    groups: np.ndarray,
    strata: np.ndarray,
    config: FoldsConfig,
    seed: int,
) -> list[Fold]:
    """Draw `config.inner` folds inside a training part; indices are those of all documents.

    A training part has fewer groups than the whole: there are at most as many folds as groups, and a class
    that one group alone has is no error here (that fold's predictions lack it).

    Args:
        train: the documents of the training part.
        groups: of all documents [N].
        strata: of all documents, as `make_folds` takes them.
        config: `inner` is the number of folds; 0 gives an empty list.
        seed: the same seed gives the same folds.

    Raises:
        FoldsError: when the training part has one group only.
    """
    if config.inner == 0:
        return []
    code, size = group_codes(np.asarray(groups)[train])
    _check_groups(size, 2, len(train))
    part = _draw(
        code, strata_members(strata)[train], min(config.inner, size), 1, np.random.default_rng(seed)
    )[0][code]
    return [
        Fold(repeat=0, fold=fold, train=train[part != fold], test=train[part == fold])
        for fold in range(part.max() + 1)
    ]


def group_codes(groups: np.ndarray) -> tuple[Int[np.ndarray, " documents"], int]:
    """Return the number of each document's group, and how many groups there are."""
    unique, code = np.unique(groups, return_inverse=True)
    return code.reshape(-1).astype(np.int64), len(unique)


def _check_groups(size: int, folds: int, documents: int) -> None:
    if size < folds:
        raise FoldsError(
            f"{folds} folds were asked for, but the {documents} documents have only {size} "
            f"group{'' if size == 1 else 's'}, and a group never straddles folds; set folds.folds to at most "
            "the number of groups, or look whether `group` in the manifest is coarser than meant"
        )


def _check_classes(
    code: np.ndarray, members: Bool[np.ndarray, "documents classes"], folds: int, names: Sequence[str]
) -> tuple[str, ...]:
    """Refuse classes that cannot be tested at all; return warnings about those absent from some test sets."""
    warnings = []
    for k, inside in enumerate(members.T):
        name, have = _name(k, names), len(np.unique(code[inside]))
        if have == 1:
            raise FoldsError(
                f"class {name} stands in documents of 1 group only ({int(inside.sum())} documents); "
                "cross-validation needs a class in at least 2 groups, one to train on and one to test; add "
                "documents of other groups, join the class with another, or remove its labels"
            )
        if have == 0:
            warnings.append(f"class {name} has no document: it can be neither learnt nor scored")
        elif have < folds:
            warnings.append(
                f"class {name} stands in {have} groups, fewer than the {folds} folds: at least "
                f"{folds - have} test sets of each repeat have none of it and do not count in its mean"
            )
    return tuple(warnings)


def _name(k: int, names: Sequence[str]) -> str:
    return repr(names[k]) if k < len(names) else str(k)


def _draw(
    code: np.ndarray,
    members: Bool[np.ndarray, "documents classes"],
    folds: int,
    repeats: int,
    generator: np.random.Generator,
) -> Int[np.ndarray, "repeats groups"]:
    """Draw partitions of groups one after another, each with test sets that are new where that can be had."""
    size = int(code.max()) + 1
    content = np.stack([np.bincount(code, column, size) for column in (*members.T, np.ones(len(code)))], 1)
    content = content[:, content.sum(0) > 0]
    seen: set[bytes] = set()
    parts = []
    for _ in range(repeats):
        chosen: tuple[int, list[bytes], np.ndarray] | None = None
        for turn in range(ROUNDS):
            for part in _candidates(content / content.sum(0), folds, 0.1 * 1.5**turn, generator):
                tests = [np.packbits(part == fold).tobytes() for fold in range(folds)]
                repeated = len(seen.intersection(tests))
                if chosen is None or repeated < chosen[0]:
                    chosen = repeated, tests, part
                if repeated == 0:
                    break
            if chosen is not None and (chosen[0] == 0 or size == folds):
                break
        assert chosen is not None, "there is at least one candidate"
        seen.update(chosen[1])
        parts.append(chosen[2])
    return np.stack(parts)


def _candidates(
    content: Float[np.ndarray, "groups classes"], folds: int, noise: float, generator: np.random.Generator
) -> Iterator[Int[np.ndarray, " groups"]]:
    """Yield random partitions of groups, best balanced first.

    Args:
        content: share of each class (and of all documents) that a group holds.
        folds: k.
        noise: size of the disturbance, in logarithms of group weights and in squares of what a group brings.
        generator: source of randomness.
    """
    kinds, kind, count = np.unique(content, axis=0, return_inverse=True, return_counts=True)
    kind = kind.reshape(-1)
    # Of each kind, a multiple of k groups goes out evenly; the rest, under k of each, is placed with care.
    rest = np.repeat(np.arange(len(kinds)), count % folds)
    rows = np.arange(CANDIDATES)
    weight = np.linalg.norm(kinds[rest], axis=1) * np.exp(
        noise * generator.normal(size=(CANDIDATES, len(rest)))
    )
    order = np.argsort(-weight, axis=1)
    read_folds = np.zeros((CANDIDATES, folds, content.shape[1]))
    placed = np.empty((CANDIDATES, len(rest)), np.int64)
    dealt = (count >= folds).any()
    for position in order.T:
        brought = kinds[rest[position]]
        # Twice this, plus a constant, is what the group would add to the sum of squared loads.
        burden = np.einsum("rkc,rc->rk", read_folds - read_folds.mean(1, keepdims=True), brought)
        burden += noise * (brought**2).sum(1)[:, None] * generator.normal(size=burden.shape)
        burden += 1e-9 * generator.random(burden.shape)
        if not dealt:
            burden[read_folds[:, :, -1] == 0] -= 1e9  # no fold may stay empty
        fold = np.argmin(burden, axis=1)
        read_folds[rows, fold] += brought
        placed[rows, position] = fold
    imbalance = ((read_folds - read_folds.mean(1, keepdims=True)) ** 2).sum((1, 2))
    even = np.tile(np.arange(folds), len(content) // folds + 1)
    ends = np.cumsum(count % folds)
    for best in np.argsort(imbalance, kind="stable"):
        slots = np.concatenate(
            [
                np.concatenate([even[: n - n % folds], placed[best, end - n % folds : end]])
                for n, end in zip(count, ends, strict=True)
            ]
        )
        partition = np.empty(len(content), np.int64)
        partition[np.lexsort((generator.random(len(content)), kind))] = slots
        yield partition
