"""Folders of recordings without a manifest: what `transcribe` starts from when there is nothing else."""

import os
from collections.abc import Iterator, Sequence

from hilbert_ray.manifest.rows import ManifestError, Record

_AUDIO = {
    "wav", "wave", "rf64", "w64", "caf", "aif", "aiff", "aifc", "au", "snd", "sph", "flac", "ogg", "oga",
    "opus", "spx", "mp3", "aac", "amr", "m4a", "mp4", "mov", "3gp", "mkv", "webm", "wma", "wmv",
}  # fmt: skip
"""Endings of recordings, see docs/audio.md: here alone names must tell, as other files lie beside them."""


def recordings_in(folder: str) -> list[str]:
    """Return the names of the audio files in a folder and below it, relative to it, sorted."""
    return sorted(name for name in _files(folder) if _ending(name) in _AUDIO)


def documents(names: Sequence[str]) -> Iterator[Record]:
    """Yield a document for each recording, named as its file is."""
    for name in names:
        yield {"doc_id": name, "audio": name}


def note_of(folder: str, names: Sequence[str]) -> str:
    """Return how a folder is read, and what in it is not, for the user."""
    others = sorted(name for name in _files(folder) if _ending(name) not in _AUDIO)
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
