"""Voices whose pitch, periods, amplitudes and pauses are known because they are made of them; 16 kHz."""

import numpy as np

RATE = 16_000
TIME = np.arange(2 * RATE) / RATE


def harmonics(f0: float, count: int, tilt: float = 1.0) -> np.ndarray:
    """Return two seconds of harmonics below 8 kHz, the k-th with the amplitude k ** -tilt."""
    count = min(count, int(7800 / f0))
    # Phases that spread the energy over the period, as a flat sum of cosines would not.
    return np.asarray(sum(np.cos(2 * np.pi * f0 * k * TIME + k * k) / k**tilt for k in range(1, count + 1)))


def pulses(starts: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """Return a resonance at 700 Hz that is struck at `starts`, in samples, with these amplitudes.

    It fades within a period, so that no period reaches into the next, and is computed at the exact times.
    """
    samples = np.zeros(int(starts[-1]) + 400)
    for start, amplitude in zip(starts, amplitudes, strict=True):
        positions = np.arange(int(np.ceil(start)), int(start) + 128)
        seconds = (positions - start) / RATE
        samples[positions] += amplitude * np.exp(-seconds / 0.0012) * np.sin(2 * np.pi * 700 * seconds)
    return samples


def syllables(count: int, length_s: float, gap_s: float, f0: float = 140.0) -> np.ndarray:
    """Return vowels of `length_s` with silence of `gap_s` between them and at both ends."""
    vowel = harmonics(f0, 20)[: int(length_s * RATE)] / 5
    vowel = vowel * np.sin(np.pi * np.arange(len(vowel)) / len(vowel)) ** 0.25
    gap = np.zeros(int(gap_s * RATE))
    return np.concatenate([gap, *[np.concatenate([vowel, gap]) for _ in range(count)]])
