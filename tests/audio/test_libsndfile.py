"""WAV, AIFF and FLAC: odd but complete files are decoded whole, incomplete ones are refused."""

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hilbert_ray import audio
from hilbert_ray.audio.errors import (
    AudioError,
    ChannelError,
    CorruptAudioError,
    EmptyAudioError,
    LengthError,
    NonFiniteAudioError,
    RateError,
    TruncatedAudioError,
    UnfinishedAudioError,
)
from tests.audio.recordings import (
    assert_refused,
    decoded_at_once,
    encode,
    half,
    id3,
    id3v1,
    noise,
    patched,
    sample,
    signal,
    streamed,
    written,
)


def wav(samples: np.ndarray, at: int = 0, data: bytes = b"", **options: Any) -> bytes:  # noqa: ANN401
    return patched(encode("wav", samples, **options), at, data)


def holed(value: float) -> np.ndarray:
    samples = signal(4.0, 16000, 2)
    samples[40000, 1] = value
    return samples


WHOLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a WAV with chunks before and after its samples": (
        lambda: patched(
            sample("wav")[:36] + b"junk\x05\0\0\0abcde\0" + sample("wav")[36:] + b"LIST\x04\0\0\0INFO",
            4,
            bytes(4),
        ),
        "wav",
    ),
    "an RF64": (lambda: encode("rf64", signal(), format="RF64"), "wav"),
    "an extensible WAV": (lambda: encode("wavex", signal()), "wav"),
    "a big-endian WAV": (lambda: encode("wav", signal(), endian="BIG"), "wav"),
    "a FLAC behind two ID3 tags": (lambda: id3() + id3(70000) + sample("flac"), "flac"),
    "a FLAC before an ID3v1 tag": (lambda: sample("flac") + id3v1(), "flac"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_an_odd_but_whole_file_is_decoded_whole(name: str, tmp_path: Path) -> None:
    make_odd, like = WHOLE[name]
    uri = written(tmp_path, make_odd(), "wrong.ending")
    expected = decoded_at_once(make_odd() if like == "fragments" else sample(like))
    found = streamed(uri)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4
    assert audio.probe(uri).duration_s == pytest.approx(len(found) / 16000, abs=0.25)


FAULTS: dict[str, tuple[Callable[[], bytes], type[AudioError], str]] = {
    "a WAV header cut off": (lambda: sample("wav")[:30], CorruptAudioError, "no chunk 'data'"),
    "noise behind RIFF": (
        lambda: b"RIFF\xff\xff\0\0WAVE" + noise(),
        CorruptAudioError,
        "no chunk 'data' with samples",
    ),
    "a WAV without format": (
        lambda: sample("wav")[:12] + sample("wav")[36:],
        CorruptAudioError,
        "cannot be opened",
    ),
    "a WAV cut off": (
        lambda: sample("wav")[: half("wav")],
        TruncatedAudioError,
        "states 128000 bytes of samples but ends after 63978",
    ),
    "a WAV that lacks a byte": (lambda: sample("wav")[:-1], TruncatedAudioError, "but ends after 127999"),
    "a WAV of unknown length": (
        lambda: patched(sample("wav"), 40, b"\xff" * 4),
        UnfinishedAudioError,
        "does not state how many samples",
    ),
    "a WAV never finished": (
        lambda: patched(sample("wav"), 40, bytes(4)),
        UnfinishedAudioError,
        "if you know that it is complete, repack it",
    ),
    "a WAV without samples": (lambda: wav(np.zeros(0)), EmptyAudioError, "holds no samples"),
    "a WAV of 0 Hz": (lambda: wav(signal(), 24, bytes(4)), CorruptAudioError, "cannot be opened"),
    "a WAV of 1 Hz": (
        lambda: wav(signal(), 24, struct.pack("<I", 1)),
        RateError,
        "rate of 1 Hz; it must be 4000 to 384000",
    ),
    "a WAV of 2 GHz": (lambda: wav(signal(), 24, struct.pack("<I", 2 * 10**9)), RateError, "2000000000 Hz"),
    "a WAV of 4 GHz": (lambda: wav(signal(), 24, b"\xff" * 4), CorruptAudioError, "cannot be opened"),
    "a WAV of no channels": (lambda: wav(signal(), 22, bytes(2)), CorruptAudioError, "cannot be opened"),
    "a WAV of 65535 channels": (
        lambda: wav(signal(), 22, b"\xff\xff"),
        CorruptAudioError,
        "cannot be opened",
    ),
    "a WAV of 33 channels": (
        lambda: wav(signal(0.1, 16000, 33)),
        ChannelError,
        "states 33 channels; there must be 1 to 32",
    ),
    "a WAV of 0 bits": (lambda: wav(signal(), 34, bytes(2)), CorruptAudioError, "cannot be opened"),
    "a WAV with NaN": (
        lambda: wav(holed(math.nan), subtype="FLOAT"),
        NonFiniteAudioError,
        "NaN or infinite, the first at 2.500 s",
    ),
    "a WAV with infinity": (
        lambda: wav(holed(-math.inf), subtype="FLOAT"),
        NonFiniteAudioError,
        "the first at 2.500 s",
    ),
    "an RF64 cut off": (
        lambda: encode("rf64", signal(), format="RF64")[:20000],
        TruncatedAudioError,
        "states 128000 bytes",
    ),
    "an RF64 cut off in its header": (
        lambda: encode("rf64", signal(), format="RF64")[:24],
        CorruptAudioError,
        "no chunk 'data'",
    ),
    "an AIFF cut off": (lambda: sample("aiff")[: half("aiff")], TruncatedAudioError, "is truncated"),
    "an AIFF without samples": (lambda: encode("aiff", np.zeros(0)), EmptyAudioError, "holds no samples"),
    "a FLAC header alone": (lambda: sample("flac")[:42], LengthError, "but 0 "),
    "a FLAC cut off": (
        lambda: sample("flac")[: half("flac")],
        CorruptAudioError,
        r"cannot be decoded after \d\.\d\d s",
    ),
    "a FLAC damaged inside": (
        lambda: patched(sample("flac"), half("flac"), noise(50)),
        CorruptAudioError,
        "cannot be decoded after",
    ),
    "a FLAC that states too many samples": (
        lambda: patched(sample("flac"), 22, struct.pack(">I", 65000)),
        LengthError,
        r"states 65000 samples \(4.06 s\), but 64000 \(4.00 s\)",
    ),
    "a FLAC of unknown length": (
        lambda: patched(sample("flac"), 22, bytes(4)),
        UnfinishedAudioError,
        "does not state how many samples",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_incomplete_or_damaged_file_is_refused_with_its_own_error(name: str, tmp_path: Path) -> None:
    make_faulty, error, message = FAULTS[name]
    assert_refused(written(tmp_path, make_faulty(), f"{name}.wav"), error, message)
