"""WAV above 4 GiB, as files with a hole: what 32 bits cannot state is read, or refused with what saves it."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from hilbert_ray import audio
from hilbert_ray.audio.decoding import _decoder, _opened
from hilbert_ray.audio.errors import LengthError, UnfinishedAudioError
from hilbert_ray.audio.libsndfile import LibsndfileDecoder

RATE_HZ, CHANNELS = 48_000, 8
FRAMES = (2**32 + 7 * 2**20) // (4 * CHANNELS)
BYTES = 4 * CHANNELS * FRAMES
END = (np.arange(RATE_HZ)[:, None] / RATE_HZ - 0.5 + np.arange(CHANNELS) / 100).astype("<f4")
"""The last second, float32 [samples, channels]; all before it is a hole, which reads as zeros."""


def write(path: Path, stated: int | None) -> str:
    """Write a recording whose header states this many bytes of samples; None: RF64, which states all."""
    chunk = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, CHANNELS, RATE_HZ, RATE_HZ * 32, 32, 32)
    if stated is None:
        sizes = struct.pack("<4sIQQQI", b"ds64", 28, BYTES + 72, BYTES, FRAMES, 0)
        header = b"RF64\xff\xff\xff\xffWAVE" + sizes + chunk + b"data\xff\xff\xff\xff"
    else:
        header = struct.pack("<4sI4s", b"RIFF", min(stated + 36, 2**32 - 1), b"WAVE") + chunk
        header += struct.pack("<4sI", b"data", stated)
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + BYTES)
        if stated:
            # FFmpeg looks for chunks behind the stated samples, and would walk through the hole by 8 bytes.
            file.seek(len(header) + stated)
            file.write(b"\xff" * 8)
        file.seek(len(header) + BYTES - END.nbytes)
        file.write(END.tobytes())
    return str(path)


def test_rf64_is_read_to_its_end(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.wav", None)
    assert audio.probe(uri).frames == FRAMES
    with _opened(uri) as file:
        decoder = _decoder(file, uri)
        assert isinstance(decoder, LibsndfileDecoder)
        decoder.file.seek(FRAMES - len(END) - 100)  # of the hole, all of which would take minutes to decode
        samples = np.concatenate(list(decoder.decode(10_000)))
    np.testing.assert_array_equal(samples[:100], 0)
    np.testing.assert_array_equal(samples[100:], END)


@pytest.mark.parametrize(
    ("stated", "error"),
    [
        (0, UnfinishedAudioError),
        (2**32 - 1, LengthError),
        (BYTES % 2**32, LengthError),
        (0x7FFFF000, LengthError),
    ],
    ids=["never written", "FFmpeg's pipe", "wrapped around", "SoX's pipe"],
)
def test_what_states_too_little_is_refused_with_a_command_that_takes_all(
    stated: int, error: type[Exception], tmp_path: Path
) -> None:
    uri = write(tmp_path / "a.wav", stated)
    with pytest.raises(error, match=r"`ffmpeg -ignore_length 1 -i FILE -c copy -rf64 auto OUT\.wav`"):
        audio.probe(uri)
    with av.open(uri, format="wav", options={"ignore_length": "1"}) as container:
        stream = container.streams.audio[0]
        container.seek(FRAMES - len(END), stream=stream)
        taken = b"".join(bytes(packet) for packet in container.demux(stream))
    assert taken[-END.nbytes :] == END.tobytes()
