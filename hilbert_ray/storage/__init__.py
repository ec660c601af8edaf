"""Bytes at a path or URI: files, their versions, working copies of folders, folders of tensors."""

from typing import TYPE_CHECKING

from hilbert_ray.lazy import lazy_names

if TYPE_CHECKING:
    from hilbert_ray.storage.access import AccessError, StorageError, access_error, access_errors, place_of
    from hilbert_ray.storage.files import TEMPORARY, Entry, Files, WriteError
    from hilbert_ray.storage.regular import irregular
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
        open_output,
        open_workspace,
        require_writable,
        write_text,
    )

__all__ = [
    "TEMPORARY",
    "WEIGHTS",
    "AccessError",
    "Entry",
    "Files",
    "StorageError",
    "TensorFolderError",
    "Workspace",
    "WriteError",
    "absolute",
    "access_error",
    "access_errors",
    "file_versions",
    "irregular",
    "is_local",
    "is_uri",
    "local_path",
    "missing_files",
    "open_output",
    "open_workspace",
    "place_of",
    "read_tensor_folder",
    "require_writable",
    "write_tensor_folder",
    "write_text",
]

# Rooms that only ask whether a path is a URI must not load fsspec, pyarrow and safetensors for it.
__getattr__ = lazy_names(
    __name__,
    {
        "access": ("AccessError", "StorageError", "access_error", "access_errors", "place_of"),
        "files": ("TEMPORARY", "Entry", "Files", "WriteError"),
        "regular": ("irregular",),
        "tensor_folder": ("WEIGHTS", "TensorFolderError", "read_tensor_folder", "write_tensor_folder"),
        "uri": ("absolute", "is_local", "is_uri", "local_path"),
        "versions": ("file_versions", "missing_files"),
        "workspace": ("Workspace", "open_output", "open_workspace", "require_writable", "write_text"),
    },
)
