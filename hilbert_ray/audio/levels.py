"""How loud the channels of a recording are and what they have in common, gathered while it is decoded.

What cannot be meant is an error: channels that cancel in their mean, and numbers that were never scaled to 1.
What may be meant is a finding, which `validate` and `embed` report as a warning.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from hilbert_ray.audio.errors import CancellingChannelsError, ScaleError
from hilbert_ray.document import Hertz, Samples

SILENT = 1e-8
"""Mean square, without its mean, from which on a recording is sound: -80 dB of full scale."""
_FAINT = 1e-4
"""Share of the loudest channel's energy below which another channel counts as silent: 40 dB less."""
_CANCELLED = 0.3
"""Channels cancel where their mean has less than this share of the energy that it would have if they had
nothing in common. Two then are correlated by -0.7 or less, as no two microphones are."""
_MOST_CANCELLED = 0.05
"""Share of a recording in which its channels may cancel."""
_WINDOW_S = 10.0
_ROUNDING = 1e-5
_FULL_SCALE = 0.99
_MOST_CLIPPED = 1e-3
"""Share of samples at full scale from which on a recording counts as clipped; peaks of speech are fewer."""
_PIECE = 2**13
_EVERY = 8
"""Of this many pieces of `_PIECE` samples, one is counted: enough for levels, at a fraction of the time."""


@dataclass(kw_only=True, slots=True)
class Levels:
    """Sums over a fixed part of the samples of a recording that have been decoded so far.

    channels: their number. rate_hz: samples per second. is_mixed: whether the mean of several is used.
    """

    channels: int
    rate_hz: Hertz
    is_mixed: bool
    samples: Samples = 0
    peak: float = 0.0
    cancelled: Samples = 0
    _pieces: int = 0
    _counted: Samples = 0
    _clipped: int = 0
    _energies: np.ndarray = field(init=False)
    """Sum of squares of each channel around its mean, float64 [channels]."""
    _window: np.ndarray = field(init=False)
    """float64 [channels + 1, 2]: sums of squares and of samples since the window began; last of the mean."""
    _window_counted: Samples = 0
    _window_begin: Samples = 0

    def __post_init__(self) -> None:
        self._energies = np.zeros(self.channels)
        self._window = np.zeros((self.channels + 1, 2))

    def add(self, block: np.ndarray, mono: np.ndarray | None = None) -> bool:
        """Count a block; return whether all its samples are finite numbers.

        Args:
            block: float32 [samples, channels].
            mono: float32 [samples], its mean over channels where that is used.
        """
        flat = block.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            # A sum of squares is finite only if every sample is, unless some are absurdly large.
            if not math.isfinite(np.dot(flat, flat)):
                return bool(np.isfinite(block).all())
        for begin in range(0, len(block), _PIECE):
            if self._pieces % _EVERY == 0:
                piece = block[begin : begin + _PIECE]
                self._count(piece, None if mono is None else mono[begin : begin + _PIECE])
            self._pieces += 1
        self.samples += len(block)
        if self.samples - self._window_begin >= _WINDOW_S * self.rate_hz:
            self.finish()
        return True

    def _count(self, piece: np.ndarray, mono: np.ndarray | None) -> None:
        # One by one: along columns, dot products and sums take a hundredth of the time of sums over axes.
        columns = [piece[:, channel] for channel in range(self.channels)]
        if mono is not None:
            columns.append(mono)
        self._window[: len(columns)] += [(np.dot(column, column), column.sum()) for column in columns]
        flat = piece.reshape(-1)
        peak = max(float(flat.max()), -float(flat.min()))
        self.peak = max(self.peak, peak)
        if peak >= _FULL_SCALE:
            self._clipped += int(np.count_nonzero(np.abs(flat) >= _FULL_SCALE))
        self._counted += len(piece)
        self._window_counted += len(piece)

    def finish(self) -> None:
        """End the window: whether channels cancel is decided for stretches of about 10 s."""
        count = self._window_counted
        if count:
            squares, sums = self._window.T
            # Without the mean: an offset of a recorder is no sound. Nor is what float32 sums leave of one.
            energies = squares - sums**2 / count
            energies[energies < _ROUNDING * squares] = 0.0
            self._energies += energies[:-1]
            energy = float(energies[:-1].mean())
            is_sound = energy > SILENT * count
            if self.is_mixed and is_sound and energies[-1] < _CANCELLED / self.channels * energy:
                self.cancelled += self.samples - self._window_begin
        self._window = np.zeros((self.channels + 1, 2))
        self._window_counted, self._window_begin = 0, self.samples

    @property
    def powers(self) -> np.ndarray:
        """Mean square of each channel around its mean, float64 [channels]."""
        powers: np.ndarray = self._energies / max(1, self._counted)
        return powers

    @property
    def decibels(self) -> float:
        """Level of the loudest channel in dB of full scale (a constant of 1 is 0)."""
        return 10 * math.log10(max(float(self.powers.max(initial=0.0)), 1e-20))

    @property
    def is_silent(self) -> bool:
        """Whether nothing is to be heard in any channel."""
        return bool(self.powers.max(initial=0.0) < SILENT)

    @property
    def silent(self) -> tuple[int, ...]:
        """Channels in which nothing is to be heard, though others have sound."""
        powers = self.powers
        if self.is_silent:
            return ()
        return tuple(np.flatnonzero(powers < max(SILENT, _FAINT * float(powers.max()))).tolist())

    def check(self, uri: str) -> None:
        """Check what no recording that is meant to be heard can be like.

        Raises:
            ScaleError: when the samples are numbers far beyond full scale.
            CancellingChannelsError: when the mean is used and the channels cancel in it.
        """
        if self.powers.max(initial=0.0) > 1:
            raise ScaleError(
                f"{uri} holds samples with a root mean square of {math.sqrt(self.powers.max()):.4g} and a "
                f"peak of {self.peak:.4g}; full scale is 1: whole numbers were written as floats; divide "
                "them by 32768 (or the full scale of their type) and export the recording again"
            )
        if self.is_mixed and self.cancelled > _MOST_CANCELLED * self.samples:
            raise CancellingChannelsError(
                f"{uri} has {self.channels} channels that cancel each other in "
                f"{self.cancelled / self.rate_hz:.0f} of {self.samples / self.rate_hz:.0f} s, as if one had "
                "been inverted, so that their mean loses the speech: use one of them (`channels` left or "
                "right in the manifest, or `segment.channels`)"
            )

    def findings(self) -> tuple[str, ...]:
        """Return what a user should know, in words that are the same for all recordings alike."""
        if not self.samples:
            return ()
        found = []
        if self.is_silent:
            found.append("the recording is silent (below -80 dB)")
        elif self.is_mixed and self.silent:
            found.append(
                f"{len(self.silent)} of {self.channels} channels silent, so that their mean is quieter by "
                f"{20 * math.log10(self.channels / (self.channels - len(self.silent))):.0f} dB than the "
                "others; `channels` left, right or loudest uses one"
            )
        if self._clipped > _MOST_CLIPPED * self._counted * self.channels:
            found.append("the recording is clipped (more than 0.1 % of its samples are at full scale)")
        return tuple(found)
