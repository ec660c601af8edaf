"""Decoding: the stream equals the whole file, in bounded memory, and partial audio is never taken for whole.

All files are real: soundfile and PyAV make them (`tests.audio.recordings`), then some are damaged.
"""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hilbert_ray import audio
from hilbert_ray.audio.decoding import FORMATS, mean_of_channels, supported_formats
from hilbert_ray.audio.errors import (
    AudioError,
    AudioNotFoundError,
    UnsupportedAudioError,
)
from hilbert_ray.audio.format import START_BYTES
from tests.audio.recordings import (
    BARE,
    KINDS,
    VBR,
    assert_refused,
    decoded_at_once,
    encode,
    mp3_frames,
    outcome,
    patched,
    sample,
    signal,
    streamed,
    written,
)

CASES = [
    ("wav", 8000, 1, {}),
    ("wav", 44100, 2, {"subtype": "FLOAT"}),
    ("wav", 192000, 8, {"subtype": "PCM_24"}),
    ("aiff", 22050, 2, {}),
    ("flac", 11025, 3, {}),
    ("flac", 96000, 2, {"subtype": "PCM_24"}),
    ("mp3", 8000, 1, {"bitrate_mode": "CONSTANT"}),
    ("mp3", 44100, 2, {"bitrate_mode": "VARIABLE", "compression_level": 0.5}),
    ("mp3", 48000, 2, VBR),
    ("mp3", 22050, 1, {"codec": "libmp3lame", "settings": {"b": "64k"}, "muxer": BARE}),
    ("ogg", 44100, 2, {}),
    ("ogg", 192000, 1, {}),
    ("opus", 48000, 2, {}),
    ("opus", 16000, 8, {}),
    ("m4a", 44100, 2, {}),
    ("m4a", 8000, 1, {"codec": "alac"}),
    ("mp4", 48000, 6, {"video_s": 3.0}),
    ("mkv", 96000, 2, {}),
    ("mkv", 44100, 1, {"codec": "aac"}),
    ("mkv", 192000, 8, {"codec": "pcm_s16le"}),
    ("mkv", 32000, 2, {"codec": "pcm_u8"}),
    ("webm", 48000, 2, {}),
]


def _name(case: Any) -> str | None:  # noqa: ANN401
    return "-".join(map(str, case.values())) or "plain" if isinstance(case, dict) else None


@pytest.mark.parametrize(("kind", "rate_hz", "channels", "options"), CASES, ids=_name)
def test_the_stream_equals_the_file_decoded_and_resampled_at_once(
    kind: str, rate_hz: int, channels: int, options: dict[str, Any], tmp_path: Path
) -> None:
    content = encode(kind, signal(3.1, rate_hz, channels), rate_hz, **options)
    uri = written(tmp_path, content)
    info = audio.probe(uri)
    assert (info.rate_hz, info.channels) == (rate_hz, channels)
    assert info.duration_s == pytest.approx(3.1, abs=0.25)
    expected = decoded_at_once(content)
    for block_s in (0.013, 0.7, 30.0):
        found = streamed(uri, block_s=block_s)
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-4


@pytest.mark.soak
@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 88200, 96000, 192000])
@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg", "m4a", "mkv"])
def test_the_stream_equals_the_file_at_any_rate_and_number_of_channels(
    kind: str, rate_hz: int, channels: int, tmp_path: Path
) -> None:
    if (kind == "mp3" and (rate_hz > 48000 or channels > 2)) or (kind == "m4a" and rate_hz > 96000):
        pytest.skip("the format has no such files")
    content = encode(kind, signal(5.03, rate_hz, channels), rate_hz)
    uri = written(tmp_path, content)
    for target_hz, block_s in itertools.product((8000, 16000, 44100), (0.01, 0.31, 100.0)):
        expected = decoded_at_once(content, target_hz)
        found = streamed(uri, target_hz, block_s)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-4


def test_several_channels_become_their_mean(tmp_path: Path) -> None:
    samples = signal(1.0, 16000, 6)
    uri = written(tmp_path, encode("wav", samples, subtype="FLOAT"))
    np.testing.assert_allclose(streamed(uri), samples.mean(1), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mp3", {}),
        ("ogg", {}),
        ("opus", {}),
        ("m4a", {}),
        ("mp4", {"codec": "libopus", "video_s": 4.0}),
        ("mkv", {"codec": "libopus"}),
        ("mkv", {"codec": "libmp3lame"}),
        ("webm", {}),
    ],
    ids=_name,
)
def test_the_delay_of_the_encoder_shifts_nothing(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    samples = signal(4.0, 48000)
    uri = written(tmp_path, encode(kind, samples, 48000, **options))
    found = streamed(uri, 48000)
    near = slice(24000, 96000)
    score = [float(samples[near, 0] @ found[24000 + lag : 96000 + lag]) for lag in range(-3000, 3001)]
    assert int(np.argmax(score)) - 3000 == 0
    assert len(found) == pytest.approx(len(samples), abs=1200)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_off_anywhere_is_never_taken_for_whole(kind: str, tmp_path: Path) -> None:
    """Only an MP3 without a count that ends exactly between two frames cannot be told from a whole one."""
    content = sample(kind)
    ends = np.unique(np.linspace(1, len(content) - 1, 25).astype(int))
    if kind == "vbr":
        ends = np.setdiff1d(ends, list(itertools.accumulate(map(len, mp3_frames(content)))))
    found = {int(end): outcome(written(tmp_path, content[:end])) for end in ends}
    assert [end for end, what in found.items() if not isinstance(what, AudioError)] == []


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_or_keeps_its_length(kind: str, tmp_path: Path) -> None:
    content = sample(kind)
    whole = outcome(written(tmp_path, content))
    assert isinstance(whole, int)
    rng = np.random.default_rng(1)
    for _ in range(400):
        size = int(rng.choice([1, 4, 60, 1000]))
        damaged = patched(content, int(rng.integers(0, len(content) - size)), rng.bytes(size))
        what = outcome(written(tmp_path, damaged))
        assert isinstance(what, AudioError) or abs(what - whole) <= 0.25 * 16000


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_off_after_any_of_its_last_bytes_is_never_taken_for_whole(
    kind: str, tmp_path: Path
) -> None:
    content = sample(kind)
    whole = mp3_frames(content) if kind == "vbr" else []
    between = set(itertools.accumulate(map(len, whole)))
    for end in {*range(1, 200), *range(len(content) - 600, len(content))} - between:
        assert isinstance(outcome(written(tmp_path, content[:end])), AudioError), end


def test_a_file_that_is_not_there_is_named(tmp_path: Path, object_store: str) -> None:
    for uri in (tmp_path / "gone.wav", f"file://{tmp_path}/gone.wav", f"{object_store}/gone.wav"):
        with pytest.raises(AudioNotFoundError, match=f"no audio file at {uri}; correct the path"):
            audio.probe(str(uri))
    with pytest.raises(AudioNotFoundError, match=f"no audio file at {tmp_path}, which is a folder; name a"):
        audio.probe(str(tmp_path))


MEASURE = """
import re, sys
from hilbert_ray import audio
samples = sum(map(len, audio.stream(sys.argv[1], block_s=10.0)))
print(samples, re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "vbr", "ogg", "m4a", "mkv"])
def test_memory_does_not_grow_with_duration(kind: str, tmp_path: Path) -> None:
    """As float32 at 16 kHz, the longer recording alone would be 19 MB more."""
    peaks = []
    for minutes in (1, 6):
        samples = np.tile(signal(60.0, 8000), (minutes, 1))
        options = VBR if kind == "vbr" else {}
        uri = written(tmp_path, encode("mp3" if kind == "vbr" else kind, samples, 8000, **options))
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, uri], capture_output=True, text=True, check=True
        )
        count, kilobytes = map(int, result.stdout.split())
        assert count == pytest.approx(minutes * 60 * 16000, abs=4000)
        peaks.append(kilobytes / 1024)
    assert peaks[1] - peaks[0] < 10


def test_probing_reads_no_more_than_the_header(tmp_path: Path) -> None:
    assert audio.probe(written(tmp_path, sample("flac"))) == audio.AudioInfo(
        rate_hz=16000, channels=1, frames=64000, format="FLAC"
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 7, 8, 9, 32])
def test_channels_are_averaged_as_numpy_does_to_the_last_bit(channels: int) -> None:
    """Features must not change with how the mean is taken: stores hold what earlier versions made."""
    block = np.random.default_rng(channels).standard_normal((10_001, channels)).astype(np.float32)
    before = block.copy()
    found = mean_of_channels(block)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, block.mean(axis=1, dtype=np.float32))
    np.testing.assert_array_equal(block, before)


FAULTS: dict[str, tuple[Callable[[], bytes], type[AudioError], str]] = {
    "an empty file": (lambda: b"", UnsupportedAudioError, "is empty; the formats are WAV"),
    "one byte": (lambda: b"R", UnsupportedAudioError, "begins with the bytes b'R'"),
    "zeros": (lambda: bytes(5000), UnsupportedAudioError, "not a supported audio format"),
    "words": (lambda: b"these are words", UnsupportedAudioError, "begins with the bytes b'these ar'"),
    "an AVI": (
        lambda: patched(sample("wav"), 8, b"AVI "),
        UnsupportedAudioError,
        "not a supported audio format",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_incomplete_or_damaged_file_is_refused_with_its_own_error(name: str, tmp_path: Path) -> None:
    make_faulty, error, message = FAULTS[name]
    assert_refused(written(tmp_path, make_faulty(), f"{name}.wav"), error, message)


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_is_recognised_by_one_format_only(kind: str) -> None:
    start = sample(kind)[:START_BYTES]
    assert [format_.recognises(start) for format_ in FORMATS].count(True) == 1


def test_the_list_of_formats_names_each_with_what_it_needs() -> None:
    assert supported_formats() == (
        "WAV, AIFF, W64, Ogg (Vorbis, Opus; FLAC and Speex with the extra `video`), FLAC, CAF, AU, SPHERE, "
        "MP3, and, with the extra `video`, M4A, MP4, MOV, MKV, WebM, WMA, WMV, AMR, AAC"
    )
