"""The folds file: written with every run, and read where `folds.file` names one."""

from collections.abc import Sequence

import numpy as np

from hilbert_ray.folds.draw import group_codes
from hilbert_ray.folds.records import Folds, FoldsError
from hilbert_ray.storage import access_errors, open_output, parquet_writer, read_parquet, require_regular


def write_folds(folds: Folds, uri: str) -> None:
    """Write folds as Parquet with columns repeat, fold, doc_id, group: one row per document and repeat.

    The file holds its checksum, and is written whole or not at all.
    """
    import pyarrow as pa

    count = folds.assignment.shape[1]
    columns = {
        "repeat": pa.array(np.repeat(np.arange(folds.repeats), count), pa.int32()),
        "fold": pa.array(folds.assignment.reshape(-1), pa.int32()),
        "doc_id": pa.array(np.tile(folds.doc_ids, folds.repeats).tolist(), pa.string()),
        "group": pa.array([str(group) for group in folds.groups] * folds.repeats, pa.string()),
    }
    table = pa.table(columns)
    with open_output(uri) as path, parquet_writer(path, table.schema) as writer:
        writer.write_table(table)


def read_folds(uri: str, doc_ids: Sequence[str] | np.ndarray, groups: np.ndarray) -> Folds:
    """Read folds from Parquet (columns repeat, fold, doc_id) and check them against the documents.

    Args:
        uri: path or URI of a file by `write_folds`, or of one with the same columns from elsewhere.
        doc_ids: the documents to evaluate, [N]; the result has their order.
        groups: group of each of these documents; a `group` column in the file is not read.

    Raises:
        FoldsError: if there is no such file, a document is missing, unknown or listed twice in a repeat,
            folds are not numbered 0, 1, ... in each repeat, or a group straddles folds.
        DamagedError: if it is not Parquet, or not what `write_folds` wrote.
    """
    repeat, fold, listed = _read_columns(uri)
    ids, groups = np.asarray(doc_ids, dtype=str), np.asarray(groups)
    # The file may come from a run with its manifest in another order: ids, not positions, identify documents.
    # Its groups are ignored, as the manifest may have been corrected since; the folds must suit today's.
    place = {doc_id: i for i, doc_id in enumerate(ids)}
    unknown = sorted(set(listed) - set(place))
    if unknown:
        raise FoldsError(
            f"folds file {uri} names {len(unknown)} documents that are not evaluated here, such as "
            f"{str(unknown[0])!r}; use folds drawn for these documents, or leave folds.file empty"
        )
    repeats = np.unique(repeat)
    if not np.array_equal(repeats, np.arange(len(repeats))) or not len(repeats):
        raise FoldsError(f"folds file {uri} has repeats {repeats.tolist()}; they must be numbered 0, 1, ...")
    num_folds = int(fold.max()) + 1
    assignment = np.empty((len(repeats), len(ids)), np.int64)
    for number in repeats:
        rows = np.flatnonzero(repeat == number)
        where = f"folds file {uri}, repeat {number}"
        places = np.array([place[doc_id] for doc_id in listed[rows]], np.int64)
        _check_repeat(fold[rows], places, num_folds, ids, where)
        assignment[number, places] = fold[rows]
        _check_straddling(assignment[number], groups, where)
    return Folds(doc_ids=ids, groups=groups, assignment=assignment)


def _read_columns(uri: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return repeat and fold, int64, and the document of each row of a folds file."""
    import fsspec
    import pyarrow as pa

    try:
        require_regular(uri)
        with access_errors(uri), fsspec.open(uri, "rb") as file:
            table = read_parquet(file, f"folds file {uri}", "write it again, or leave folds.file empty")
    except FileNotFoundError:
        raise FoldsError(f"no folds file at {uri}; fix folds.file, or leave it empty to draw folds") from None
    if not {"repeat", "fold", "doc_id"} <= set(table.column_names):
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
    return repeat, fold, np.array(table["doc_id"].to_pylist(), dtype=str)


def _check_repeat(fold: np.ndarray, places: np.ndarray, num_folds: int, ids: np.ndarray, where: str) -> None:
    """Check that a repeat has all folds, and each document exactly once."""
    numbers = np.unique(fold)
    # Every repeat must have as many folds as the others: scores are means over equal numbers of test sets.
    if num_folds < 2 or not np.array_equal(numbers, np.arange(num_folds)):
        raise FoldsError(
            f"{where}: folds are {numbers.tolist()}; each repeat needs the same folds, numbered 0, 1, ... "
            "and at least 2"
        )
    times = np.bincount(places, minlength=len(ids))
    if (times != 1).any():
        wrong = int((times != 1).argmax())
        raise FoldsError(
            f"{where}: document {str(ids[wrong])!r} is in {times[wrong]} folds ({int((times != 1).sum())} "
            "such documents); each document must be in exactly one fold"
        )


def _check_straddling(fold: np.ndarray, groups: np.ndarray, where: str) -> None:
    code, num_groups = group_codes(groups)
    # Whichever document of a group comes last sets the fold that its others are compared with.
    fold_of_group = np.full(num_groups, -1, np.int64)
    fold_of_group[code] = fold
    straddling = np.flatnonzero(fold_of_group[code] != fold)
    if len(straddling):
        group = groups[straddling[0]]
        folds = np.unique(fold[groups == group]).tolist()
        raise FoldsError(
            f"{where}: group {str(group)!r} is in folds {folds}; a group must not straddle folds, or its "
            "documents would be trained on and tested at once: put each group in one fold"
        )
