"""Folders of recordings without a manifest: what `transcribe` starts from when there is nothing else."""

import os
from collections.abc import Iterator, Sequence

from hilbert_ray.manifest.rows import ManifestError, Record

_AUDIO = {
    "wav", "wave", "rf64", "w64", "caf", "aif", "aiff", "aifc", "au", "snd", "sph", "flac", "ogg", "oga",
    "opus", "spx", "mp3", "aac", "amr", "m4a", "mp4", "mov", "3gp", "mkv", "webm", "wma", "wmv",
}  # fmt: skip
"""Endings of recordings, see docs/audio.md: here alone names must tell, as other files lie beside them."""


def files_in(folder: str) -> tuple[list[str], list[str]]:
    """Return the names of the recordings in a folder and below it, and of its other files, both sorted."""
    found: tuple[list[str], list[str]] = ([], [])
    for name in sorted(_files(folder)):
        found[_ending(name) not in _AUDIO].append(name)
    return found


def documents(names: Sequence[str]) -> Iterator[Record]:
    """Yield a document for each recording, named as its file is."""
    for name in names:
        yield {"doc_id": name, "audio": name}


def note_of(names: Sequence[str], others: Sequence[str]) -> str:
    """Return how a folder is read, and what in it is not, for the user."""
    rest = f"; {len(others)} other files, such as {others[0]}, are not read" if others else ""
    return (
        f"read as a folder of recordings: {len(names)} documents named as their files, without text, groups "
        f"and labels{rest}; write a manifest to add what else is known"
    )


def require_no_manifest(folder: str, endings: Sequence[str]) -> None:
    """Check that no file of a folder may be the manifest of its recordings.

    Raises:
        ManifestError: if one has the ending of a manifest.
    """
    found = sorted(name for name in os.listdir(folder) if _ending(name) in endings)
    if found:
        raise ManifestError(
            f"manifest {folder} is a folder with {', '.join(found[:3])}; name the manifest, or move what is "
            "none of these recordings elsewhere to read the folder as recordings alone"
        )


def _files(folder: str) -> Iterator[str]:
    """Yield the names of all files below a folder but hidden ones, such as macOS leaves beside each file."""
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(at, name), folder)


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower()
