"""What an audio file's header says, and the bounds it must keep."""

from dataclasses import dataclass
from typing import Protocol

from hilbert_ray.audio.errors import CONVERT, FETCH_AGAIN, ChannelError, RateError
from hilbert_ray.document import Hertz, Samples, Seconds

LOWEST_HZ, HIGHEST_HZ = 4_000, 384_000
MOST_CHANNELS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioInfo:
    """What the header says: `frames` samples a channel at `rate_hz`, in a `format` such as `WAV`."""

    rate_hz: Hertz
    channels: int
    frames: Samples
    format: str

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
        RateError, ChannelError: when one is out of bounds; no real recording is, so the header is damaged.
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


def check_same(rate_hz: Hertz, channels: int, first: Sampled, where: str, uri: str) -> None:
    """Check that a later part of a stream has the rate and channels of its first.

    Raises:
        RateError, ChannelError: when one changes.
    """
    if rate_hz != first.rate_hz:
        raise RateError(
            f"{uri} changes from {first.rate_hz} to {rate_hz} Hz {where}, but must not: {CONVERT}"
        )
    if channels != first.channels:
        raise ChannelError(
            f"{uri} changes from {first.channels} to {channels} channels {where}, but must not: {CONVERT}"
        )
