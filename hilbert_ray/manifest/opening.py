"""Opening a manifest: what kind it is, by its ending and by what it holds, and the reader of that kind."""

import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from hilbert_ray.manifest import audio_folder, huggingface, kaldi, lhotse, nemo
from hilbert_ray.manifest.arrow import Batches, arrow_batches, class_names, parquet_batches, read_batches
from hilbert_ray.manifest.columns import assign_columns
from hilbert_ray.manifest.delimited import find_dialect, read_cells
from hilbert_ray.manifest.json_lines import Reshape, chunks_of, first_object, read_array, read_lines, reshaped
from hilbert_ray.manifest.rows import LONGEST, BadRow, ManifestError, Record, Source, blocks_of
from hilbert_ray.storage import absolute, access_errors, is_uri, local_path

_KINDS = {
    "jsonl": "jsonl", "ndjson": "jsonl", "json": "json",
    "csv": "csv", "tsv": "csv", "tab": "csv",
    "parquet": "parquet", "pq": "parquet", "arrow": "arrow", "feather": "arrow",
}  # fmt: skip
_TEXTUAL = ("jsonl", "json", "csv")
_COMPRESSED = ("gz", "bz2", "xz", "zst")
_HEAD_BYTES = 2**20
_BOMS = {
    b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig",
}  # fmt: skip
READ = (
    ".jsonl, .csv, .tsv and .parquet (also .json, .arrow, and compressed as .gz), and folders of Kaldi, "
    "Lhotse "
    "and Hugging Face, and of recordings"
)


@contextmanager
def open_source(manifest: str, block_bytes: int) -> Iterator[Source]:
    """Open a manifest while its contents are read.

    Raises:
        ManifestError: if it is absent, of an unknown kind, or unlike what its ending says.
    """
    path = local_path(manifest)
    if path is not None and os.path.exists(path):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            yield _open_folder(path, block_bytes)
            return
        if not stat.S_ISREG(mode):
            # A pipe could be read only once, and reading a terminal would wait for ever.
            raise ManifestError(
                f"manifest {manifest} is not a regular file; manifests are read twice: write it to a file "
                "first"
            )
    kind = _kind_of(manifest)
    with fsspec.open(
        manifest, "rb", compression="infer" if kind in ("jsonl", "json", "csv") else None
    ) as file:
        head = file.read(_HEAD_BYTES)
        file.seek(0)
        yield _OPENERS[_checked(manifest, kind, head)](manifest, file, head, block_bytes)


def _kind_of(manifest: str) -> str:
    stem, dot, ending = manifest.rpartition("/")[2].lower().rpartition(".")
    if not dot:
        if not is_uri(manifest):
            raise FileNotFoundError(manifest)
        raise ManifestError(f"manifest {manifest} has no ending that says its format: {READ}")
    if ending in _COMPRESSED:
        inner = stem.rpartition(".")[2]
        if _KINDS.get(inner) in _TEXTUAL:
            return _KINDS[inner]
        ending = f"{inner}.{ending}"
    if ending not in _KINDS:
        raise ManifestError(f"manifest {manifest} ends in .{ending[-40:]}; the formats are {READ}")
    return _KINDS[ending]


def _checked(manifest: str, kind: str, head: bytes) -> str:
    """Return what a file is by its first bytes, where they tell."""
    if head[:4] == b"PAR1":
        return "parquet"
    if kind == "parquet":
        return kind
    for begins, what in (
        (b"PK\x03\x04", "is an Excel workbook or another ZIP file: save it as CSV (UTF-8)"),
        (b"\xd0\xcf\x11\xe0", "is an old Excel workbook: save it as CSV (UTF-8)"),
        (b"\x1f\x8b", "is compressed: let its name end in .gz, or decompress it"),
        (b"version https://git-lfs", "is a pointer of Git LFS and not the file: run `git lfs pull`"),
        (b"\x89HDF", "is an HDF5 file: write it as Parquet or CSV"),
        (b"SQLite format", "is an SQLite database: write the table as Parquet or CSV"),
    ):
        if head.startswith(begins):
            raise ManifestError(f"manifest {manifest} {what}")
    if kind in _TEXTUAL and _encoding(head).startswith("utf-8") and b"\0" in head[:4096]:
        raise ManifestError(
            f"manifest {manifest} holds zero bytes: it is no text, or UTF-16 without a byte-order mark; "
            "save it "
            "as UTF-8"
        )
    return kind


def _encoding(head: bytes) -> str:
    return next((encoding for bom, encoding in _BOMS.items() if head.startswith(bom)), "utf-8")


def _decoded(head: bytes, encoding: str) -> str:
    # Errors are left to the reader: the head may end inside a character.
    return head.decode(encoding, errors="replace")


def folder_of(manifest: str) -> str:
    """Return the folder that relative paths in a manifest are relative to."""
    # Absolute, since workers on other nodes have other working directories.
    return manifest.rpartition("/")[0] if is_uri(manifest) else os.path.dirname(os.path.abspath(manifest))


def _open_lines(manifest: str, file: BinaryIO, head: bytes, block_bytes: int) -> Source:
    encoding = _encoding(head)
    if encoding == "utf-8-sig":
        file.seek(3)
        encoding = "utf-8"
    source = Source(
        contents=read_lines(manifest, chunks_of(file, encoding, block_bytes)),
        folder=folder_of(manifest),
        notes=_encoding_notes(encoding),
    )
    first = first_object(_decoded(head, _encoding(head)).encode())
    return _recognised(manifest, source, first, block_bytes)


def _encoding_notes(encoding: str) -> list[str]:
    return (
        [] if encoding.startswith("utf-8") else [f"read as {encoding.upper()}, as its byte-order mark says"]
    )


def _recognised(manifest: str, source: Source, first: Mapping[str, Any], block_bytes: int) -> Source:
    """Return the source with its rows reshaped if its first row is of another program."""
    reshape: Reshape | None = None
    note = ""
    if "doc_id" in first:
        return source
    if nemo.is_nemo(first):
        reshape, note = nemo.documents, nemo.NOTE
    elif lhotse.is_cut(first):
        reshape, note = lhotse.cuts, lhotse.NOTE
    elif lhotse.is_recording(first) or lhotse.is_supervision(first):
        return lhotse.open_pair(manifest, source.folder, lhotse.is_recording(first), block_bytes)
    elif huggingface.is_metadata(manifest) and "file_name" in first:
        reshape = huggingface.audiofolder_rows
        note = huggingface.note_of(huggingface.renamed(list(first), "file_name"))
    if reshape is None:
        return source
    records = reshaped(source.contents, reshape)
    return replace(source, contents=blocks_of(records, block_bytes), notes=[*source.notes, note])


def _open_json(manifest: str, file: BinaryIO, head: bytes, block_bytes: int) -> Source:
    encoding = _encoding(head)
    text = _decoded(head, encoding).lstrip("\ufeff").lstrip()
    if text[:1] != "[" and first_object((text.splitlines() or [""])[0].encode()):
        return _open_lines(manifest, file, head, block_bytes)
    data = file.read(2 * LONGEST + 1)
    if len(data) > 2 * LONGEST:
        raise ManifestError(
            f"manifest {manifest} is one JSON value of more than {2 * LONGEST // 2**20} MiB; write one row "
            "per line "
            "(JSON lines), which is read piece by piece"
        )
    try:
        rows = read_array(manifest, data.decode(encoding).encode())
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"manifest {manifest} cannot be read as .json: {error}; save it as UTF-8"
        ) from None
    first = next((row for row in rows if isinstance(row, dict)), {})
    source = Source(
        contents=blocks_of(iter(rows), block_bytes),
        folder=folder_of(manifest),
        notes=_encoding_notes(encoding),
    )
    return _recognised(manifest, source, first, block_bytes)


def _open_csv(manifest: str, file: BinaryIO, head: bytes, block_bytes: int) -> Source:
    encoding = _encoding(head)
    ids = ("doc_id", "file_name") if huggingface.is_metadata(manifest) else ("doc_id",)
    dialect = find_dialect(manifest, _decoded(head, encoding).lstrip("\ufeff"), ids)
    # Also without a mark: `utf-8-sig` takes one away if it is there.
    names = [name.strip() for name in dialect.names]
    notes = [*_encoding_notes(encoding), *dialect.notes()]
    mapping: Mapping[str, str] = {}
    if "doc_id" not in names and "file_name" in names and huggingface.is_metadata(manifest):
        mapping = huggingface.renamed(names, "file_name")
        notes.append(huggingface.note_of(mapping))
    columns = assign_columns(manifest, names, mapping, _stem(manifest) if mapping else None)
    notes += columns.notes
    if columns.index is not None:
        notes.append(
            "the first column has no name and is not used: it numbers the rows, as pandas writes its index"
        )
    return Source(
        contents=read_cells(manifest, file, encoding, dialect, columns, block_bytes),
        folder=folder_of(manifest),
        notes=notes,
    )


def _open_parquet(manifest: str, file: BinaryIO, head: bytes, block_bytes: int) -> Source:
    parquet = pq.ParquetFile(file)
    schema = parquet.schema_arrow
    audio = huggingface.audio_column(schema)
    if audio is not None and huggingface.holds_bytes(parquet, audio):
        raise huggingface.unpack_first(manifest)
    content, notes = table_columns(manifest, schema, audio)
    contents = read_batches(parquet_batches(parquet, schema.names), content, block_bytes)
    return Source(contents=contents, folder=folder_of(manifest), notes=notes)


def _open_arrow(manifest: str, file: BinaryIO, head: bytes, block_bytes: int) -> Source:
    schema, batches = arrow_batches(file)
    audio = huggingface.audio_column(schema)
    if audio is not None:
        batches = huggingface.without_bytes(manifest, batches, audio)
    content, notes = table_columns(manifest, schema, audio)
    return Source(
        contents=read_batches(batches, content, block_bytes), folder=folder_of(manifest), notes=notes
    )


def table_columns(manifest: str, schema: Any, audio: str | None) -> tuple[Batches, list[str]]:  # noqa: ANN401
    """Return what the columns of a table are, without rows, and notes for the user."""
    names = list(schema.names)
    classes = class_names(schema)
    mapping: Mapping[str, str] = {}
    notes, stem = [], None
    if "doc_id" not in names and (
        audio is not None or ("file_name" in names and huggingface.is_metadata(manifest))
    ):
        mapping = huggingface.renamed(names, audio or "file_name", list(classes))
        notes.append(huggingface.note_of(mapping))
        stem = _stem(manifest)
    columns = assign_columns(manifest, names, mapping, stem)
    positions = {names.index(name): values for name, values in classes.items()}
    return Batches(columns=columns, data=b"", classes=positions), [*notes, *columns.notes]


def _open_folder(path: str, block_bytes: int) -> Source:
    """Open a folder of another program."""
    folder = absolute(path)
    if kaldi.is_data_folder(folder):
        return Source(
            contents=blocks_of(kaldi.documents(folder), block_bytes), folder=os.getcwd(), notes=[kaldi.NOTE]
        )
    pair = lhotse.pair_in(folder)
    if pair is not None:
        return lhotse.open_pair(pair, folder, True, block_bytes)
    tables = huggingface.tables_of(folder)
    recordings, others = ([], []) if tables else audio_folder.files_in(folder)
    if recordings:
        audio_folder.require_no_manifest(folder, list(_KINDS))
        return Source(
            contents=blocks_of(audio_folder.documents(recordings), block_bytes),
            folder=folder,
            notes=[audio_folder.note_of(recordings, others)],
        )
    if not tables:
        raise ManifestError(
            f"manifest {path} is a folder; name the manifest in it ({READ}): a folder is read if it has "
            "Kaldi's wav.scp, one file of Lhotse's recordings or cuts, metadata.csv, metadata.jsonl or "
            "state.json of Hugging Face, or nothing but recordings"
        )
    notes: list[str] = []
    for table, _, _ in tables:
        with _whole(folder), open_source(table, block_bytes) as source:
            notes += [note for note in source.notes if note not in notes]
    rows = _rows_of(folder, tables, block_bytes)
    return Source(contents=blocks_of(rows, block_bytes), folder=folder, notes=notes)


@contextmanager
def _whole(folder: str) -> Iterator[None]:
    """Say of the whole folder that it holds audio, rather than of one of its tables."""
    try:
        yield
    except huggingface.EmbeddedAudioError:
        raise huggingface.unpack_first(folder) from None


def _rows_of(folder: str, tables: Sequence[tuple[str, str, str]], block_bytes: int) -> Iterator[Record]:
    """Yield the rows of several tables, with the split that their names tell."""
    for table, below, split in tables:
        with _whole(folder), open_source(table, block_bytes) as source:
            for row, content in source.contents:
                for record in content.records(row):
                    yield record if isinstance(record, BadRow) else _placed(record, below, split)


def _placed(record: Mapping[str, Any], below: str, split: str) -> Mapping[str, Any]:
    """Return a row of a table in a folder `below` that of the dataset, as one of the dataset's."""
    changed = dict(record)
    if split:
        changed.setdefault("split", split)
    for name in ("doc_id", "audio", "text_file") if below else ():
        value = changed.get(name)
        if isinstance(value, str) and not is_uri(value) and not os.path.isabs(value):
            changed[name] = f"{below}/{value}"
    return changed


def _stem(manifest: str) -> str:
    return manifest.rpartition("/")[2].partition(".")[0]


_OPENERS: Mapping[str, Callable[[str, BinaryIO, bytes, int], Source]] = {
    "jsonl": _open_lines,
    "json": _open_json,
    "csv": _open_csv,
    "parquet": _open_parquet,
    "arrow": _open_arrow,
}


def _damaged(manifest: str, error: Exception | str) -> ManifestError:
    what = str(error).strip().replace("\n", ": ")
    return ManifestError(f"manifest {manifest} is cut off or damaged: {what}; fetch or write it again")


@contextmanager
def errors_of(manifest: str) -> Iterator[None]:
    """Turn what may go wrong with a file into one error that names it.

    Raises:
        ManifestError: if the manifest is absent, damaged, or not in the format that its ending says.
    """
    kind = manifest.rpartition("/")[2].rpartition(".")[2].lower()
    try:
        with access_errors(manifest):
            yield
    except FileNotFoundError:
        raise ManifestError(f"there is no manifest {manifest}; name an existing file: {READ}") from None
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"manifest {manifest} cannot be read as .{kind}: {error}; save it as UTF-8 (in Excel: CSV UTF-8)"
        ) from error
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise _damaged(manifest, error) from error
    except pa.ArrowException as error:
        form = "Parquet" if kind in ("parquet", "pq") else f".{kind}"
        raise ManifestError(f"manifest {manifest} cannot be read as {form}: {error}") from error
    except MemoryError as error:
        # Damaged files state sizes of petabytes.
        raise _damaged(manifest, "it states more bytes than fit into memory") from error
    except OSError as error:
        # Libraries raise it without a number for what they read: bzip2, Parquet, Arrow.
        if error.errno is None:
            raise _damaged(manifest, error) from error
        raise ManifestError(f"manifest {manifest} cannot be opened: {error.strerror}") from error
