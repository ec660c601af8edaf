"""What can be wrong with a recording, one class per fault, and the advice that messages share."""

from hilbert_ray.document import DocumentError

# The remedies, each the end of a message. Every recording can be saved by one of them.
CONVERT = "convert it, for example `ffmpeg -i FILE out.flac`"
REPACK = "repack it, for example `ffmpeg -i FILE -c copy OUT`"
FETCH_AGAIN = "fetch or export it again"
SET_NULL = "set `audio` to null in the manifest"


class AudioError(DocumentError):
    """A recording that cannot be read completely and exactly."""


class AudioNotFoundError(AudioError):
    """No file at this path or URI."""


class UnsupportedAudioError(AudioError):
    """A file in an unsupported format, or on a server that does not serve byte ranges."""


class MissingExtraError(AudioError):
    """A container that needs PyAV, which is not installed."""


class NoAudioStreamError(AudioError):
    """A video without a sound track."""


class RateError(AudioError):
    """A sampling rate out of bounds, or one that changes within the file."""


class ChannelError(AudioError):
    """No channels, too many, or a number of channels that changes within the file."""


class EmptyAudioError(AudioError):
    """A valid file without samples."""


class NonFiniteAudioError(AudioError):
    """Samples that are NaN or infinite."""


class ScaleError(AudioError):
    """Samples that were never scaled to floats: whole numbers far beyond full scale."""


class CancellingChannelsError(AudioError):
    """Channels that cancel each other in their mean, as where one was inverted."""


class TruncatedAudioError(AudioError):
    """A file that ends before its content does."""


class UnfinishedAudioError(AudioError):
    """A file whose writer never stated how much it holds, so that nothing shows whether it is complete."""


class CorruptAudioError(AudioError):
    """A file with damage inside: an invalid header, checksum, page or frame."""


class LengthError(AudioError):
    """More or fewer samples than the header states."""


class GapError(AudioError):
    """A sound track with a gap, which would shift everything after it against the transcript."""


def truncated(uri: str, problem: str) -> TruncatedAudioError:
    """Return the error for a file that ends too early; `problem` completes a sentence begun by its name."""
    return TruncatedAudioError(f"{uri} {problem}; it is truncated: {FETCH_AGAIN}")


def damaged(uri: str, problem: str) -> CorruptAudioError:
    """Return the error for a damaged file; `problem` completes a sentence begun by its name."""
    return CorruptAudioError(f"{uri} {problem}; it is damaged: {FETCH_AGAIN}")


def unfinished(uri: str, problem: str, remedy: str | None = None) -> UnfinishedAudioError:
    """Return the error for a file whose writer did not finish; `problem` completes a sentence as above."""
    return UnfinishedAudioError(
        f"{uri} {problem}: it was streamed live or its writer did not finish, so it may be truncated; if you "
        f"know that it is complete, {remedy or REPACK}"
    )
