"""What can be wrong with a recording, one class for each fault, and the advice that messages share."""

from hilbert_ray.document import DocumentError

CONVERT = "convert it, for example `ffmpeg -i FILE out.flac`"
REPACK = "repack it, for example `ffmpeg -i FILE -c copy OUT`"
FETCH_AGAIN = "fetch or export it again"


class AudioError(DocumentError):
    """Audio that cannot be read whole and as it was meant."""


class AudioNotFoundError(AudioError):
    """No file at this path or URI."""


class UnsupportedAudioError(AudioError):
    """A file of a kind that is not read, or that cannot be read by ranges."""


class MissingExtraError(AudioError):
    """A container that needs PyAV, which is not installed."""


class NoAudioStreamError(AudioError):
    """A video without a sound track."""


class RateError(AudioError):
    """A sampling rate out of bounds, or one that changes on the way."""


class ChannelError(AudioError):
    """Too many channels, none, or a number that changes on the way."""


class EmptyAudioError(AudioError):
    """A valid file without samples."""


class NonFiniteAudioError(AudioError):
    """Samples that are NaN or infinite."""


class TruncatedAudioError(AudioError):
    """A file that ends before its content does."""


class UnfinishedAudioError(AudioError):
    """A file whose writer never stated how much it holds, so that nobody can tell whether it is whole."""


class CorruptAudioError(AudioError):
    """A file with damage inside: a bad header, checksum, page or frame."""


class LengthError(AudioError):
    """More or fewer samples than the file states."""


class GapError(AudioError):
    """A sound track with a hole, which would shift everything after it against the transcript."""


def cut_off(uri: str, what: str) -> TruncatedAudioError:
    """Return the error of a file that ends too early; `what` continues its name."""
    return TruncatedAudioError(f"{uri} {what}; it is cut off: fetch it again")


def damaged(uri: str, what: str) -> CorruptAudioError:
    """Return the error of a damaged file; `what` continues its name."""
    return CorruptAudioError(f"{uri} {what}; it is damaged: {FETCH_AGAIN}")


def unfinished(uri: str, what: str) -> UnfinishedAudioError:
    """Return the error of a file whose writer did not finish; `what` continues its name."""
    return UnfinishedAudioError(
        f"{uri} {what}: it was written live, or its writer did not finish, so it may be cut off; if you "
        f"know that it is whole, {REPACK}"
    )
