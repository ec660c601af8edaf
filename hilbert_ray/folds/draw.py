"""Drawing repeated stratified group k-fold, so that no group is on both sides of a split."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int

from hilbert_ray.config import ConfigError, FoldsConfig, TaskConfig
from hilbert_ray.folds.records import Fold, Folds, FoldsError, Strata, strata_members

# Partitions drawn at once; the best balanced one without a repeated test set is taken. More candidates
# balance better, with less and less gain, at linear cost.
CANDIDATES = 32
# Batches of candidates per repeat while each of them repeats an earlier test set. The noise grows from 0.1 by
# half per batch, to 8.6: the last batches are all but random, so a new partition is missed only if rare.
MAX_CANDIDATE_BATCHES = 12
# A repeat can use up the test sets that a later one needs; drawing all repeats again escapes that.
MAX_REDRAWS = 4
# Bands into which a regression target is cut, so that it can be spread over folds like classes.
MAX_BANDS = 5


def choose_strata(
    tasks: Mapping[str, TaskConfig],
    targets: Mapping[str, np.ndarray],
    groups: np.ndarray,
    config: FoldsConfig,
) -> Strata:
    """Return the classes of the task that `config.stratify` names; by default, that with the rarest class.

    Args:
        tasks: all tasks by name; without any, only the number of documents is balanced.
        targets: the targets of each task, as `batch.Features` has them.
        groups: group of each document; bands of a regression target are widened until each has two groups.
        config: which task to take.

    Raises:
        ConfigError: if `config.stratify` names no task.
    """
    if config.stratify and config.stratify not in tasks:
        raise ConfigError(
            f"folds.stratify is {config.stratify!r}; the tasks are {', '.join(tasks) or '(none)'}"
        )
    by_task = [_strata(name, task, targets[name], groups) for name, task in tasks.items()]
    eligible = [strata for strata in by_task if config.stratify in ("", strata.task)]
    if not eligible:
        return Strata(task="", names=(), members=np.zeros((len(groups), 0), bool))
    # Only one task can be balanced well at once. The one with the rarest class has most to lose: without care
    # its class would be missing from whole test sets.
    return min(eligible, key=lambda strata: strata.members.sum(0).min(initial=len(groups)))


def _strata(name: str, task: TaskConfig, target: np.ndarray, groups: np.ndarray) -> Strata:
    match task.kind:
        case "multilabel":
            return Strata(task=name, names=task.classes, members=np.nan_to_num(target) > 0.5)
        case "regression":
            known = np.isfinite(target)
            # A band of one group would be refused like a class of one group, but unlike classes, bands are
            # ours to choose: take fewer, wider ones. One band always remains.
            for num_bands in range(MAX_BANDS, 0, -1):
                levels = np.arange(1, num_bands if known.any() else 1) / num_bands
                # Quantiles coincide where many documents share a value, hence `unique`.
                edges = np.unique(np.quantile(target[known], levels)) if len(levels) else levels
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
    """Draw repeated folds: no group straddles folds, classes are balanced and test sets do not repeat.

    Groups are assigned one at a time, heavy ones first, each to the fold that has least of what it contains
    (which greedily minimises the sum of squared class shares). Order and choice are perturbed at random, and
    the best balanced of many candidates without a repeated test set is taken. Equal groups are dealt out
    evenly beforehand.

    Args:
        doc_ids: unique document ids, [N].
        groups: group of each document, int or str [N]; each group is assigned to exactly one fold.
        strata: class of each document, int [N] with -1 for unlabelled, or bool [N, C] if a document can have
            several.
        config: numbers of folds and repeats.
        seed: the same seed gives the same folds.
        names: class names for messages, [C].

    Returns:
        The folds, with warnings about classes missing from some test sets and about repeated test sets.

    Raises:
        FoldsError: for arrays of different lengths, duplicate ids, fewer groups than folds, or a class that
            occurs in only one group.
    """
    ids, groups = np.asarray(doc_ids, dtype=str), np.asarray(groups)
    members = strata_members(strata)
    _check_documents(ids, groups, members)
    group_code, num_groups = group_codes(groups)
    _check_groups(num_groups, config.folds, len(ids))
    warnings = _check_classes(group_code, members, config.folds, names)
    generator = np.random.default_rng(seed)
    best: Folds | None = None
    # As many groups as folds allow one partition only (leave one group out): drawing again cannot help.
    for _ in range(1 if num_groups == config.folds else MAX_REDRAWS):
        partitions = _draw_partitions(group_code, members, config.folds, config.repeats, generator)
        candidate = Folds(doc_ids=ids, groups=groups, assignment=partitions[:, group_code], warnings=warnings)
        if best is None or candidate.distinct > best.distinct:
            best = candidate
        if best.distinct == len(best):
            return best
    assert best is not None
    # Equal test sets are no error (scores stay valid), but their repeats are not independent evidence.
    repetition = (
        f"only {best.distinct} of {len(best)} test sets are distinct: no others were drawn for {num_groups} "
        f"groups in {config.folds} folds and {config.repeats} repeats, so later repeats add little to "
        "earlier ones"
    )
    return replace(best, warnings=(*warnings, repetition))


def inner_folds(
    train: Int[np.ndarray, " train"],
    groups: np.ndarray,
    strata: np.ndarray,
    config: FoldsConfig,
    seed: int,
) -> list[Fold]:
    """Draw `config.inner` folds within the training documents of an outer fold.

    The training documents have fewer groups than all: there are at most as many folds as groups, and a class
    that occurs in only one group is not an error here (one fold trains without it).

    Args:
        train: indices of the training documents.
        groups: group of every document, [N].
        strata: strata of every document, as `make_folds` takes them.
        config: `inner` is the number of folds; 0 gives an empty list.
        seed: the same seed gives the same folds.

    Returns:
        Folds whose indices count all N documents, not only the training ones.

    Raises:
        FoldsError: if the training documents are all of one group.
    """
    if config.inner == 0:
        return []
    group_code, num_groups = group_codes(np.asarray(groups)[train])
    _check_groups(num_groups, 2, len(train))
    (partition,) = _draw_partitions(
        group_code,
        strata_members(strata)[train],
        min(config.inner, num_groups),
        1,
        np.random.default_rng(seed),
    )
    fold_of = partition[group_code]
    return [
        Fold(repeat=0, fold=fold, train=train[fold_of != fold], test=train[fold_of == fold])
        for fold in range(fold_of.max() + 1)
    ]


def group_codes(groups: np.ndarray) -> tuple[Int[np.ndarray, " documents"], int]:
    """Return each document's group as an integer from 0, and the number of groups."""
    unique, code = np.unique(groups, return_inverse=True)
    return code.reshape(-1).astype(np.int64), len(unique)


def _check_documents(ids: np.ndarray, groups: np.ndarray, members: np.ndarray) -> None:
    if not len(ids) == len(groups) == len(members):
        raise FoldsError(
            f"folds need one group and one stratum per document, but there are {len(ids)} documents, "
            f"{len(groups)} groups and {len(members)} strata; pass arrays of the same length"
        )
    # A document listed twice under different groups would be trained on and tested at once, and the folds
    # file, whose rows are found by id, could not hold it.
    if len(np.unique(ids)) != len(ids):
        raise FoldsError(
            f"folds of {len(ids)} documents with {len(np.unique(ids))} different ids: ids must be unique; "
            "remove or rename the duplicates"
        )


def _check_groups(num_groups: int, folds: int, documents: int) -> None:
    if num_groups < folds:
        raise FoldsError(
            f"{folds} folds were requested, but the {documents} documents have only {num_groups} "
            f"group{'' if num_groups == 1 else 's'}, and a group never straddles folds; set folds.folds to "
            "at most the number of groups, or check whether `group` in the manifest is coarser than intended"
        )


def _check_classes(
    group_code: np.ndarray,
    members: Bool[np.ndarray, "documents classes"],
    folds: int,
    names: Sequence[str],
) -> tuple[str, ...]:
    """Refuse classes that cannot be tested at all; warn of those missing from some test sets."""
    warnings = []
    for k, is_member in enumerate(members.T):
        name, groups_with_class = _class_name(k, names), len(np.unique(group_code[is_member]))
        # Whichever fold tests the only group, training has not seen the class: no score of it means anything.
        if groups_with_class == 1:
            raise FoldsError(
                f"class {name} occurs in only one group ({int(is_member.sum())} documents); "
                "cross-validation needs a class in at least 2 groups, one to train on and one to test; add "
                "documents of other groups, merge the class with another, or remove its labels"
            )
        if groups_with_class == 0:
            warnings.append(f"class {name} has no documents, so it can be neither learned nor scored")
        elif groups_with_class < folds:
            warnings.append(
                f"class {name} occurs in {groups_with_class} groups, fewer than the {folds} folds: at least "
                f"{folds - groups_with_class} test sets of each repeat lack it and do not count in its mean"
            )
    return tuple(warnings)


def _class_name(k: int, names: Sequence[str]) -> str:
    return repr(names[k]) if k < len(names) else str(k)


def _draw_partitions(
    group_code: np.ndarray,
    members: Bool[np.ndarray, "documents classes"],
    folds: int,
    repeats: int,
    generator: np.random.Generator,
) -> Int[np.ndarray, "repeats groups"]:
    """Draw the fold of each group, once per repeat, avoiding test sets of earlier repeats where possible."""
    num_groups = int(group_code.max()) + 1
    # Documents themselves are one more column, so that fold sizes are balanced like a class.
    columns = (*members.T, np.ones(len(group_code)))
    content = np.stack([np.bincount(group_code, column, num_groups) for column in columns], 1)
    content = content[:, content.sum(0) > 0]
    # As shares of their class, rare classes weigh as much as common ones.
    content = content / content.sum(0)
    earlier_tests: set[bytes] = set()
    partitions = []
    for _ in range(repeats):
        # Fewest repeated test sets so far: (how many, the test sets, the partition).
        best: tuple[int, list[bytes], np.ndarray] | None = None
        for batch in range(MAX_CANDIDATE_BATCHES):
            # Candidates come best balanced first, so the first without a repeated test set is the choice.
            for partition in _candidates(content, folds, 0.1 * 1.5**batch, generator):
                tests = [np.packbits(partition == fold).tobytes() for fold in range(folds)]
                num_repeated = len(earlier_tests.intersection(tests))
                if best is None or num_repeated < best[0]:
                    best = num_repeated, tests, partition
                if num_repeated == 0:
                    break
            if best is not None and (best[0] == 0 or num_groups == folds):
                break
        assert best is not None, "there is at least one candidate"
        earlier_tests.update(best[1])
        partitions.append(best[2])
    return np.stack(partitions)


def _candidates(
    content: Float[np.ndarray, "groups classes"], folds: int, noise: float, generator: np.random.Generator
) -> Iterator[Int[np.ndarray, " groups"]]:
    """Yield random partitions of groups, best balanced first.

    Finding the best balanced partition is NP-hard (it contains number partitioning), hence a greedy rule that
    is perturbed and repeated; all candidates are built at once, as rows of arrays.

    Args:
        content: share of each class (last column: of all documents) that a group has.
        folds: number of folds, k.
        noise: size of the perturbation: of the logarithm of group weights (which sets the order), and of the
            burden, in units of the squared content of the group.
        generator: source of randomness.
    """
    kinds, kind, count = np.unique(content, axis=0, return_inverse=True, return_counts=True)
    kind = kind.reshape(-1)
    # Groups of equal content are interchangeable: of each kind, a multiple of k is dealt out evenly, which is
    # perfectly balanced and leaves fewer than k per kind to the greedy rule. With one document per group,
    # that is ten groups instead of ten thousand.
    rest = np.repeat(np.arange(len(kinds)), count % folds)
    rows = np.arange(CANDIDATES)
    # Heavy groups first, while all folds have room for them; light ones, placed last, even out what is left.
    weight = np.linalg.norm(kinds[rest], axis=1) * np.exp(
        noise * generator.normal(size=(CANDIDATES, len(rest)))
    )
    order = np.argsort(-weight, axis=1)
    loads = np.zeros((CANDIDATES, folds, content.shape[1]))
    placed = np.empty((CANDIDATES, len(rest)), np.int64)
    all_folds_filled = (count >= folds).any()  # by the groups that are dealt out
    for position in order.T:
        added = kinds[rest[position]]
        # Twice this, plus a constant, is what the group would add to the sum of squared loads.
        burden = np.einsum("rkc,rc->rk", loads - loads.mean(1, keepdims=True), added)
        # Without noise all candidates would be one; noise also leads past partitions of earlier repeats.
        burden += noise * (added**2).sum(1)[:, None] * generator.normal(size=burden.shape)
        # Equal burdens are common (all folds start empty): a random choice, not always the lowest fold.
        burden += 1e-9 * generator.random(burden.shape)
        if not all_folds_filled:
            burden[loads[:, :, -1] == 0] -= 1e9  # no fold may stay empty
        fold = np.argmin(burden, axis=1)
        loads[rows, fold] += added
        placed[rows, position] = fold
    imbalance = ((loads - loads.mean(1, keepdims=True)) ** 2).sum((1, 2))
    even = np.tile(np.arange(folds), len(content) // folds + 1)
    ends = np.cumsum(count % folds)
    for best in np.argsort(imbalance, kind="stable"):
        # The folds that groups of each kind go to, kind after kind: dealt out evenly, then placed.
        slots = np.concatenate(
            [
                np.concatenate([even[: n - n % folds], placed[best, end - n % folds : end]])
                for n, end in zip(count, ends, strict=True)
            ]
        )
        partition = np.empty(len(content), np.int64)
        # Which group of a kind takes which slot is random: here most of the variety between repeats arises.
        partition[np.lexsort((generator.random(len(content)), kind))] = slots
        yield partition
