"""Damaged recordings, decoded in a process of its own: `python -m tests.audio.fuzzing FIRST STOP FOLDER`.

Decoders are C libraries: what they do wrong may end the process. The file FOLDER/seed has the seed at work.
"""

import functools
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hilbert_ray import audio
from hilbert_ray.audio.errors import AudioError
from hilbert_ray.validation.listening import listen
from tests.audio.recordings import BARE, encode, id3, signal
from tests.audio.test_formats import NARROW, WIDE, amr, sphere
from tests.mutation import bounded_time, damaged

MEMORY_BYTES = 3 * 2**30
"""More than any recording takes; a damaged header must not make a decoder allocate what it states."""
_SECONDS = 0.4
_BY_LIBSNDFILE: dict[str, dict[str, Any]] = {
    "wav": {},
    "wav-24": {"format": "WAV", "subtype": "PCM_24"},
    "wav-float": {"format": "WAV", "subtype": "DOUBLE"},
    "wav-ima": {"format": "WAV", "subtype": "IMA_ADPCM"},
    "wav-gsm": {"format": "WAV", "subtype": "GSM610"},
    "wavex": {"format": "WAVEX"},
    "rf64": {"format": "RF64"},
    "aiff": {},
    "w64": {"format": "W64"},
    "caf": {"format": "CAF"},
    "caf-alac": {"format": "CAF", "subtype": "ALAC_16"},
    "au": {"format": "AU"},
    "au-mulaw": {"format": "AU", "subtype": "ULAW"},
    "nist": {"format": "NIST"},
    "flac": {},
    "ogg": {},
    "opus": {},
    "mp3": {},
}
_BY_FFMPEG: dict[str, dict[str, Any]] = {
    "m4a": {},
    "mp4": {},
    "mkv": {},
    "webm": {},
    "mp4-video": {"video_s": 0.4},
    "bare mp3": {"codec": "libmp3lame"},
    "oga": {"codec": "flac"},
    "adts": {"codec": "aac"},
    "wav-mp3": {"codec": "libmp3lame"},
    "asf": {"codec": "wmav2", "settings": {"b": "64000"}},
    "mov": {"codec": "pcm_s16le"},
    "mkv-pcm": {"codec": "pcm_s16le"},
    "wav-g726": {"codec": "g726"},
    "3gp": {"codec": "aac"},
    "mp4-alac": {"codec": "alac"},
    "webm-vorbis": {"codec": "vorbis", "settings": {"strict": "-2"}},
}
_MUXERS = {
    "mp4-video": "mp4",
    "bare mp3": "mp3",
    "oga": "ogg",
    "wav-mp3": "wav",
    "mkv-pcm": "matroska",
    "wav-g726": "wav",
    "mp4-alac": "mp4",
    "webm-vorbis": "webm",
}
KINDS = (*_BY_LIBSNDFILE, *_BY_FFMPEG, "sphere", "amr", "amr-wb", "tagged flac")


@functools.cache
def sample(kind: str) -> bytes:
    """Return a small whole file; every second kind has two channels."""
    if kind in ("amr", "amr-wb"):
        return amr(b"#!AMR\n", NARROW) if kind == "amr" else amr(b"#!AMR-WB\n", WIDE)
    if kind == "tagged flac":
        return id3(40) + sample("flac")
    rate_hz = 8000 if kind == "wav-g726" else 48000 if kind == "webm" else 16000
    is_mono = kind in ("wav-g726", "wav-gsm") or KINDS.index(kind) % 2 == 0
    sound = signal(_SECONDS, rate_hz, 1 if is_mono else 2)
    if kind == "sphere":
        return sphere(sound)
    if kind in _BY_LIBSNDFILE:
        return encode(kind, sound, rate_hz, **_BY_LIBSNDFILE[kind])
    muxer = BARE if kind == "bare mp3" else None
    return encode(_MUXERS.get(kind, kind), sound, rate_hz, muxer=muxer, **_BY_FFMPEG[kind])


def decode(path: Path) -> None:
    """Read a file as `validate` and `embed` do.

    Raises:
        AudioError: if it is refused.
    """
    info = audio.probe(str(path))
    samples = 0
    for block in audio.stream(str(path), block_s=5.0):
        assert block.dtype == np.float32
        assert np.isfinite(block).all()
        samples += len(block)
    assert abs(samples / 16000 - info.duration_s) < 0.5
    listen(str(path), audio.MIX, info.duration_s, is_whole=False)


def attack(seed: int, folder: Path) -> None:
    kind = KINDS[seed % len(KINDS)]
    data = damaged(seed, sample(kind), [sample(kind), sample(KINDS[(seed * 7 + 3) % len(KINDS)])])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "damaged").write_bytes(data)
    try:
        with bounded_time():
            decode(folder / "damaged")
    except AudioError as error:
        str(error).encode()
    except BaseException as error:
        error.add_note(f"seed {seed}: {kind}, {len(data)} bytes")
        raise


if __name__ == "__main__":
    first, stop, where = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    for kind in KINDS:
        sample(kind)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for seed in range(first, stop):
        (where / "seed").write_text(str(seed))
        attack(seed, where)
