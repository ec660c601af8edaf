"""What the header of an audio file says, and the bounds it must keep."""

from dataclasses import dataclass
from typing import Protocol

from hilbert_ray.audio.errors import CONVERT, FETCH_AGAIN, ChannelError, RateError
from hilbert_ray.document import Hertz, Samples, Seconds

# No recorder for speech works outside these bounds; a header that does has damaged bytes, and following it
# would resample hours of audio to nonsense or allocate memory for thousands of channels.
LOWEST_HZ, HIGHEST_HZ = 4_000, 384_000
MOST_CHANNELS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioInfo:
    """What the header says: `frames` samples per channel at `rate_hz`, in a `format` such as `WAV`.

    Of several sound `tracks`, the first is read.
    """

    rate_hz: Hertz
    channels: int
    frames: Samples
    format: str
    tracks: int = 1

    @property
    def duration_s(self) -> Seconds:
        """Length of the audio."""
        return self.frames / self.rate_hz


class Sampled(Protocol):
    """Anything that states a sampling rate and a number of channels: a header, or one frame of a stream."""

    @property
    def rate_hz(self) -> Hertz: ...  # noqa: D102 - stated above

    @property
    def channels(self) -> int: ...  # noqa: D102


def check_bounds(rate_hz: Hertz, channels: int, uri: str) -> None:
    """Check a stated rate and number of channels against the bounds.

    Raises:
        RateError: when the rate is outside `LOWEST_HZ` to `HIGHEST_HZ`.
        ChannelError: when there are no channels or more than `MOST_CHANNELS`.
    """
    if not LOWEST_HZ <= rate_hz <= HIGHEST_HZ:
        raise RateError(
            f"{uri} states a sampling rate of {rate_hz} Hz; it must be {LOWEST_HZ} to {HIGHEST_HZ}: if the "
            f"header is wrong, {FETCH_AGAIN}"
        )
    if not 1 <= channels <= MOST_CHANNELS:
        raise ChannelError(
            f"{uri} states {channels} channels; there must be 1 to {MOST_CHANNELS}: if the header is wrong, "
            f"{FETCH_AGAIN}"
        )


def check_unchanged(rate_hz: Hertz, channels: int, first: Sampled, where: str, uri: str) -> None:
    """Check that a later part of a stream has the rate and channels of its first.

    Decoders silently continue when either changes, and play what follows at the wrong speed.

    Raises:
        RateError: when the rate changes.
        ChannelError: when the number of channels changes.
    """
    if rate_hz != first.rate_hz:
        raise RateError(
            f"{uri} changes from {first.rate_hz} to {rate_hz} Hz {where}; the rate must stay the same: "
            f"{CONVERT}"
        )
    if channels != first.channels:
        raise ChannelError(
            f"{uri} changes from {first.channels} to {channels} channels {where}; the number must stay the "
            f"same: {CONVERT}"
        )
