"""The folds file: written with every run, and read where `folds.file` names one."""

from collections.abc import Sequence

import numpy as np

from hilbert_ray.folds.draw import group_codes
from hilbert_ray.folds.records import Folds, FoldsError


def write_folds(folds: Folds, uri: str) -> None:
    """Write folds as Parquet with columns repeat, fold, doc_id, group: a row a document and repeat."""
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = folds.assignment.shape[1]
    columns = {
        "repeat": pa.array(np.repeat(np.arange(folds.repeats), count), pa.int32()),
        "fold": pa.array(folds.assignment.reshape(-1), pa.int32()),
        "doc_id": pa.array(np.tile(folds.doc_ids, folds.repeats).tolist(), pa.string()),
        "group": pa.array([str(group) for group in folds.groups] * folds.repeats, pa.string()),
    }
    with fsspec.open(uri, "wb") as file:
        pq.write_table(pa.table(columns), file)


def read_folds(uri: str, doc_ids: Sequence[str] | np.ndarray, groups: np.ndarray) -> Folds:
    """Read folds from Parquet (columns repeat, fold, doc_id) and check them against the documents.

    Args:
        uri: what `save` wrote, or the same made by hand.
        doc_ids: the documents that will be evaluated, [N]; the result has their order.
        groups: of these documents; a `group` column in the file is not read.

    Raises:
        FoldsError: when there is no such file, a document is absent, unknown or twice in a repeat, folds are
            not numbered 0, 1, ... in each repeat, or a group straddles folds.
    """
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with fsspec.open(uri, "rb") as file:
            table = pq.read_table(file)
    except FileNotFoundError:
        raise FoldsError(
            f"no folds file at {uri}; mend folds.file, or leave it empty to draw folds"
        ) from None
    except ValueError as error:  # pyarrow.ArrowInvalid is a ValueError
        raise FoldsError(f"folds file {uri} cannot be read as Parquet: {error}") from None
    missing = [name for name in ("repeat", "fold", "doc_id") if name not in table.column_names]
    if missing:
        raise FoldsError(
            f"folds file {uri} has columns {', '.join(table.column_names)}; it needs repeat, fold and doc_id"
        )
    for name in ("repeat", "fold", "doc_id"):
        column = table[name]
        if column.null_count or (name != "doc_id" and not pa.types.is_integer(column.type)):
            raise FoldsError(
                f"folds file {uri}, column {name}: {column.null_count} of {len(column)} rows are empty and "
                f"its type is {column.type}; repeat and fold must be whole numbers, and no row may lack one"
            )
    repeat, fold = (table[name].to_numpy().astype(np.int64) for name in ("repeat", "fold"))
    named = np.array(table["doc_id"].to_pylist(), dtype=str)
    ids, groups = np.asarray(doc_ids, dtype=str), np.asarray(groups)
    index = {doc_id: i for i, doc_id in enumerate(ids)}
    unknown = sorted(set(named) - set(index))
    if unknown:
        raise FoldsError(
            f"folds file {uri} names {len(unknown)} documents that are not evaluated here, such as "
            f"{str(unknown[0])!r}; give a file made for these documents, or leave folds.file empty"
        )
    numbers = np.unique(repeat)
    if not np.array_equal(numbers, np.arange(len(numbers))) or not len(numbers):
        raise FoldsError(f"folds file {uri} has repeats {numbers.tolist()}; they must be numbered 0, 1, ...")
    size = int(fold.max()) + 1
    assignment = np.empty((len(numbers), len(ids)), np.int64)
    for r in numbers:
        rows = np.flatnonzero(repeat == r)
        present = np.unique(fold[rows])
        if size < 2 or not np.array_equal(present, np.arange(size)):
            raise FoldsError(
                f"folds file {uri}, repeat {r}: folds are {present.tolist()}; each repeat needs the same "
                "folds, numbered 0, 1, ... and at least 2"
            )
        times = np.bincount([index[doc_id] for doc_id in named[rows]], minlength=len(ids))
        if (times != 1).any():
            wrong = int((times != 1).argmax())
            raise FoldsError(
                f"folds file {uri}, repeat {r}: document {str(ids[wrong])!r} stands in {times[wrong]} folds "
                f"({int((times != 1).sum())} such documents); each document must stand in exactly one fold"
            )
        assignment[r, [index[doc_id] for doc_id in named[rows]]] = fold[rows]
        _check_straddling(assignment[r], groups, f"folds file {uri}, repeat {r}")
    return Folds(doc_ids=ids, groups=groups, assignment=assignment)


def _check_straddling(part: np.ndarray, groups: np.ndarray, where: str) -> None:
    code, size = group_codes(groups)
    first = np.full(size, -1, np.int64)
    first[code] = part
    straddling = np.flatnonzero(first[code] != part)
    if len(straddling):
        group = groups[straddling[0]]
        found = np.unique(part[groups == group]).tolist()
        raise FoldsError(
            f"{where}: group {str(group)!r} stands in folds {found}; a group must not straddle folds, or its "
            "documents would be trained on and tested at once: put each group in one fold"
        )
