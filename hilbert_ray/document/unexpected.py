"""What to say of an exception that a document brings to light, whether it is one of ours or a bug."""

import traceback
from pathlib import Path

from hilbert_ray.errors import HilbertError

_PACKAGE = Path(__file__).parent.parent
_OPENERS = {"fsspec", "s3fs", "gcsfs", "adlfs", "botocore", "aiobotocore", "aiohttp", "google"}
"""Libraries that open files: what they raise is about a place or its credentials, never about contents."""


def message_of(error: Exception, doc_id: str) -> str:
    """Return the message of an exception that was raised for one document.

    Of an exception that is not meant for a user, the place in our code is said but not its own message, which
    may repeat what people said in a transcript.
    """
    if isinstance(error, (HilbertError, OSError)):
        return str(error) or type(error).__name__
    name = f"document {doc_id!r}" if doc_id else "this row"
    # torch has a class of its own for GPUs.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"{name} takes more memory than there is; leave it out, or split it"
    if _raised_in(error) & _OPENERS:
        return (
            f"{name} names a file that cannot be opened: {error} ({type(error).__name__}); check its "
            "URI, and what is needed to open it from here"
        )
    return (
        f"{name} cannot be read: {type(error).__name__} {_place(error)}, which is a fault of hilbert_ray "
        "and not of your data; report it with this line, and leave the document out meanwhile"
    )


def _raised_in(error: Exception) -> set[str]:
    """Return what an exception comes from: the package of its class, and that of the code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    parts = Path(frames[-1].filename).parts if frames else ()
    folder = parts[parts.index("site-packages") + 1 :][:1] if "site-packages" in parts else ()
    return {type(error).__module__.partition(".")[0], *folder}


def _place(error: Exception) -> str:
    """Return the innermost line of our own code that an exception passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        path = Path(frame.filename)
        if path.is_relative_to(_PACKAGE):
            return f"in {path.relative_to(_PACKAGE.parent)}, line {frame.lineno} ({frame.name})"
    return "in a library"
