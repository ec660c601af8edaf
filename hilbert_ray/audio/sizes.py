"""Sizes that headers state, against the bytes that are there: is all of the sound stated, and is it there?

Decoders read what a header states, or what there is, without a word about the rest. The formats that state
the size of their samples (`riff`, `w64`, `caf`, `au`, `sphere`) share these checks.
"""

from typing import BinaryIO

from hilbert_ray.audio.errors import LengthError, truncated, unfinished

PADDING_BYTES = 2**16
"""How many zeros may follow the sound as padding: the largest block of a file system or tape; more may be
silence that belongs to the recording."""
# Writers that cannot go back to the header, since they write to a pipe, state about as much as 31 or 32 bits
# hold: 2**31 or somewhat less (arecord, SoX), or 2**32 - 1 (FFmpeg).
_PIPE_SIZES = (range(0x7F000000, 2**31 + 1), range(2**32 - 2**16, 2**32))


def check_stated(
    uri: str, stated: int, available: int, sample_bytes: int = 1, remedy: str | None = None
) -> None:
    """Check the stated size of the samples against the bytes from their first one to the end of the file.

    Args:
        uri: names the file.
        stated: bytes of samples by the header.
        available: bytes from the first sample to the end of the file.
        sample_bytes: the fewest bytes that can hold a sample.
        remedy: what to do where the size was never written.

    Raises:
        UnfinishedAudioError: when the size was never written.
        TruncatedAudioError: when it is larger than what is left of the file.
    """
    is_of_a_pipe = stated > available and any(stated in sizes for sizes in _PIPE_SIZES)
    # Recorders write a size of 0 first and the true one when they stop.
    if is_of_a_pipe or (stated == 0 and available > sample_bytes):
        raise unfinished(uri, "does not state how many samples it holds", remedy)
    if stated > available:
        raise truncated(uri, f"states {stated} bytes of samples but ends after {available}")


def is_padding(file: BinaryIO, begin: int, end: int) -> bool:
    """Whether the bytes from `begin` to `end` are no more than padding: zeros, and not many; or none."""
    if end - begin > PADDING_BYTES:
        return False
    file.seek(begin)
    return not any(file.read(max(0, end - begin)))


def not_stated(uri: str, stated: int, rest: int, remedy: str) -> LengthError:
    """Return the error for a file that holds more than it states.

    Args:
        uri: names the file.
        stated: bytes of samples by the header.
        rest: bytes behind them that belong to nothing.
        remedy: what to do, the end of the message.
    """
    return LengthError(
        f"{uri} states {stated} bytes of samples, but {rest} bytes follow them that belong to nothing; a "
        f"recorder may not have updated its header, and the rest of the sound would be lost: {remedy}"
    )
