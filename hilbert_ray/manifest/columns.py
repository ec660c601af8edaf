"""Columns of a table: which field, label or attribute each holds, and names that no table may have."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hilbert_ray.document import FIELDS, misspelt
from hilbert_ray.manifest.rows import ManifestError

_INDEX = re.compile(r"__index_level_\d+__|Unnamed: 0(\.\d+)?|level_0")
"""What pandas calls an index without a name, in Parquet and when it reads its own CSV again."""
_SHOWN = 12
_LONGEST_SHOWN = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Where the cells of a row belong: (position, name) of each field, label and attribute.

    `nameless` columns must be empty. `index` is the first column where it has no name: the row numbers of
    pandas, or a mistake. Where `stem` is given, a row without an id has its audio's path as its id, or the
    stem and its number. `notes` are for the user.
    """

    names: tuple[str, ...]
    fields: tuple[tuple[int, str], ...]
    labels: tuple[tuple[int, str], ...]
    attributes: tuple[tuple[int, str], ...]
    nameless: tuple[int, ...] = ()
    index: int | None = None
    stem: str | None = None
    notes: tuple[str, ...] = ()

    def id_of(self, record: Mapping[str, object], row: int) -> object:
        """Return the id of a row's record, made up where the table has none."""
        if self.stem is None or "doc_id" in record:
            return record.get("doc_id")
        audio = record.get("audio")
        return audio if isinstance(audio, str) else f"{self.stem}-{row:06d}"


def assign_columns(
    manifest: str, names: Sequence[str], renamed: Mapping[str, str] | None = None, stem: str | None = None
) -> Columns:
    """Return what each column of a table holds.

    Args:
        manifest: for messages.
        names: of all columns, in order.
        renamed: names of another program, with what they are here (`file_name`: `audio`).
        stem: what ids begin with, where the table of another program has none.

    Raises:
        ManifestError: if a name is there twice, the table has no `doc_id`, or a field that it needs is
            misspelt.
    """
    renamed = renamed or {}
    names = [renamed.get(name.strip(), name.strip()) for name in names]
    notes = []
    fields, labels, attributes, nameless = [], [], [], []
    index = None
    for position, name in enumerate(names):
        if not name:
            if position == 0:
                index = position
            else:
                nameless.append(position)
        elif _INDEX.fullmatch(name):
            notes.append(f"the column `{name}` is the index of a pandas table and is not used")
        elif name in FIELDS:
            fields.append((position, name))
        elif name.startswith("labels."):
            labels.append((position, name.removeprefix("labels.")))
        else:
            attributes.append((position, name.removeprefix("attributes.")))
    columns = Columns(
        names=tuple(names),
        fields=tuple(fields),
        labels=tuple(labels),
        attributes=tuple(attributes),
        nameless=tuple(nameless),
        index=index,
        stem=stem,
        notes=tuple(notes),
    )
    _check(manifest, columns)
    return columns


def _check(manifest: str, columns: Columns) -> None:
    for name, count in Counter(name for name in columns.names if name).items():
        if count > 1:
            places = [str(i) for i, other in enumerate(columns.names, start=1) if other == name]
            raise ManifestError(
                f"manifest {manifest}: the column `{_short(name)}` is there {count} times (columns "
                f"{', '.join(places)}); give each column a name of its own, or remove it"
            )
    for name in ("labels.", "attributes."):
        if name in columns.names:
            raise ManifestError(
                f"manifest {manifest}: the column `{name}` names no {name.strip('.').rstrip('s')}; write "
                f"`{name}<name>`"
            )
    present = [name for _, name in columns.fields]
    others = [name for _, name in columns.attributes]
    hint = misspelt(others, present)
    if hint is None and ("doc_id" in present or columns.stem is not None):
        return
    first = (
        "" if columns.names[:1] != ("",) else "; the first column has no name: if it holds the ids, name it"
    )
    raise ManifestError(
        f"manifest {manifest}: "
        + (hint or f"there is no column `doc_id`{first}")
        + f"; the columns are {_listed(columns.names)}"
    )


def _listed(names: Sequence[str]) -> str:
    """Return names for a message, shortened: without a header they may be what people said."""
    shown = ", ".join(_short(name) or "(no name)" for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_SHOWN and len(name.split()) < 5 else "(a long text)"
