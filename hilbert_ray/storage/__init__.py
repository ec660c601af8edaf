"""Bytes at a path or URI: files, their versions, working copies of folders, folders of tensors."""

from hilbert_ray.storage.files import TEMPORARY, DamagedError, Entry, Files, StorageError
from hilbert_ray.storage.tensor_folder import (
    WEIGHTS,
    TensorFolderError,
    read_tensor_folder,
    write_tensor_folder,
)
from hilbert_ray.storage.uri import absolute, local_path
from hilbert_ray.storage.versions import file_versions, missing_files
from hilbert_ray.storage.workspace import Workspace, open_output, open_workspace

__all__ = [
    "TEMPORARY",
    "WEIGHTS",
    "DamagedError",
    "Entry",
    "Files",
    "StorageError",
    "TensorFolderError",
    "Workspace",
    "absolute",
    "file_versions",
    "local_path",
    "missing_files",
    "open_output",
    "open_workspace",
    "read_tensor_folder",
    "write_tensor_folder",
]
