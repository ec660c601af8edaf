"""Bytes at a path or URI: files, checksums, versions, working copies of folders, folders of tensors."""

from typing import TYPE_CHECKING

from hilbert_ray.lazy import lazy_names

if TYPE_CHECKING:
    from hilbert_ray.storage.access import AccessError, StorageError, access_error, access_errors, place_of
    from hilbert_ray.storage.files import TEMPORARY, DamagedError, Entry, Files, WriteError, write_errors
    from hilbert_ray.storage.json_files import (
        CHECKSUM,
        has_checksum,
        json_line,
        parse_json,
        parse_json_lines,
        reading_json,
        with_checksum,
        without_checksum,
    )
    from hilbert_ray.storage.parquet_files import (
        CheckedBlocks,
        block_checksums,
        parquet_writer,
        read_parquet,
        reading_parquet,
    )
    from hilbert_ray.storage.regular import irregular, require_regular
    from hilbert_ray.storage.tensor_folder import (
        WEIGHTS,
        TensorFolderError,
        read_tensor_folder,
        write_tensor_folder,
    )
    from hilbert_ray.storage.uri import absolute, is_local, is_uri, local_path
    from hilbert_ray.storage.versions import file_versions, missing_files
    from hilbert_ray.storage.workspace import (
        Workspace,
        new_folder,
        open_output,
        open_workspace,
        require_writable,
        write_text,
    )

__all__ = [
    "CHECKSUM",
    "TEMPORARY",
    "WEIGHTS",
    "AccessError",
    "CheckedBlocks",
    "DamagedError",
    "Entry",
    "Files",
    "StorageError",
    "TensorFolderError",
    "Workspace",
    "WriteError",
    "absolute",
    "access_error",
    "access_errors",
    "block_checksums",
    "file_versions",
    "has_checksum",
    "irregular",
    "is_local",
    "is_uri",
    "json_line",
    "local_path",
    "missing_files",
    "new_folder",
    "open_output",
    "open_workspace",
    "parquet_writer",
    "parse_json",
    "parse_json_lines",
    "place_of",
    "read_parquet",
    "read_tensor_folder",
    "reading_json",
    "reading_parquet",
    "require_regular",
    "require_writable",
    "with_checksum",
    "without_checksum",
    "write_errors",
    "write_tensor_folder",
    "write_text",
]

# Rooms that only ask whether a path is a URI must not load fsspec, pyarrow and safetensors for it.
__getattr__ = lazy_names(
    __name__,
    {
        "access": ("AccessError", "StorageError", "access_error", "access_errors", "place_of"),
        "files": ("TEMPORARY", "DamagedError", "Entry", "Files", "WriteError", "write_errors"),
        "json_files": (
            "CHECKSUM",
            "has_checksum",
            "json_line",
            "parse_json",
            "parse_json_lines",
            "reading_json",
            "with_checksum",
            "without_checksum",
        ),
        "parquet_files": (
            "CheckedBlocks",
            "block_checksums",
            "parquet_writer",
            "read_parquet",
            "reading_parquet",
        ),
        "regular": ("irregular", "require_regular"),
        "tensor_folder": ("WEIGHTS", "TensorFolderError", "read_tensor_folder", "write_tensor_folder"),
        "uri": ("absolute", "is_local", "is_uri", "local_path"),
        "versions": ("file_versions", "missing_files"),
        "workspace": (
            "Workspace",
            "new_folder",
            "open_output",
            "open_workspace",
            "require_writable",
            "write_text",
        ),
    },
)
