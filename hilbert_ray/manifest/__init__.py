"""Manifests of every kind as blocks of rows: tables, JSON lines, and what other programs write."""

from hilbert_ray.manifest.blocks import Block, files_of, manifest_notes, map_blocks, read_manifest
from hilbert_ray.manifest.rows import ManifestError
from hilbert_ray.manifest.unpacking import Unpacked, unpack

__all__ = [
    "Block",
    "ManifestError",
    "Unpacked",
    "files_of",
    "manifest_notes",
    "map_blocks",
    "read_manifest",
    "unpack",
]
