"""Listening to recordings: their level, their share of speech, and what else decoding brings to light."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hilbert_ray import audio
from hilbert_ray.config import Channels
from hilbert_ray.document import Seconds
from hilbert_ray.segmentation import VAD_RATE_HZ, CountedBlocks, is_vad_installed, speech_share

BEGINNING_S = 30.0
"""How much of a recording is decoded unless all of it is requested: what is wrong with levels or channels is
mostly wrong from the start."""
_BLOCK_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """What was heard of a recording in its first `heard_s` seconds; see `Recording` for the other values."""

    heard_s: Seconds
    level_db: float | None
    speech: float | None
    findings: tuple[str, ...]


def listen(uri: str, channels: Channels, duration_s: Seconds, is_whole: bool) -> Heard:
    """Decode a recording, or its beginning, and measure it.

    Args:
        uri: the recording.
        channels: which of its channels are used.
        duration_s: its length by the header.
        is_whole: decode all of it, and not only the first `BEGINNING_S`.

    Raises:
        AudioError: when what is decoded is damaged, its channels cancel each other, or it is out of scale.
    """
    is_whole = is_whole or duration_s <= BEGINNING_S
    stream = audio.stream(uri, VAD_RATE_HZ, _BLOCK_S, channels)
    blocks = CountedBlocks(_one_channel(stream, None if is_whole else round(BEGINNING_S * VAD_RATE_HZ)))
    speech = speech_share(blocks) if is_vad_installed() else None
    for _ in blocks:  # without the detector nobody has read them
        pass
    stream.close()
    level_db = None
    if stream.levels is not None:
        stream.levels.finish()
        stream.levels.check(uri)
        level_db = None if stream.levels.is_silent else stream.levels.decibels
    begin = "" if is_whole else f"in its first {BEGINNING_S:.0f} s, "
    return Heard(
        heard_s=blocks.samples / VAD_RATE_HZ,
        level_db=level_db,
        speech=speech,
        findings=tuple(begin + finding for finding in stream.findings),
    )


def _one_channel(blocks: Iterator[np.ndarray], limit: int | None) -> Iterator[np.ndarray]:
    """Yield blocks with the mean of their columns, up to `limit` samples in all; None: all of them."""
    passed = 0
    while limit is None or passed < limit:
        block = next(blocks, None)
        if block is None:
            return
        block = block[: None if limit is None else limit - passed]
        passed += len(block)
        yield block if block.ndim == 1 else block.mean(axis=1, dtype=np.float32)
