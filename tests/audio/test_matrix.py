"""Every container, sample format, rate and channel that libsndfile and FFmpeg write, against the source."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hilbert_ray import audio
from hilbert_ray.config import parse_channels
from tests.audio.recordings import encode, signal, written

RATES = (8000, 11025, 16000, 44100, 48000)
SECONDS = 0.7
SHARES = [pytest.param(1, id="one rate of each"), pytest.param(5, id="every rate", marks=pytest.mark.soak)]
EXACT = {
    "PCM_S8": 2**-7, "PCM_U8": 2**-7, "PCM_16": 2**-15, "PCM_24": 2**-23, "PCM_32": 2**-30, "FLOAT": 0.0,
    "DOUBLE": 0.0, "ULAW": 0.0085, "ALAW": 0.0085, "ALAC_16": 2**-15, "ALAC_20": 2**-19, "ALAC_24": 2**-23,
    "ALAC_32": 2**-30, "DWVW_16": 2**-15, "DWVW_24": 2**-23,
}  # fmt: skip
"""Largest difference of a sample: a step of the format, or that of the coarsest step of A-law and mu-law."""
BLOCKS = {
    "IMA_ADPCM": 4096, "MS_ADPCM": 4096, "GSM610": 640, "G721_32": 120, "G723_24": 120, "G723_40": 120,
    "NMS_ADPCM_16": 160, "NMS_ADPCM_24": 160, "NMS_ADPCM_32": 160,
    "VORBIS": 0, "OPUS": 0, "MPEG_LAYER_III": 0,
}  # fmt: skip
"""Lossy formats: the most samples of a block, to which writers fill up the last one."""
CONTAINERS = ("WAV", "WAVEX", "RF64", "AIFF", "W64", "CAF", "AU", "NIST", "FLAC", "OGG", "MP3")
FFMPEG = {
    "mp4": "aac alac flac libmp3lame libopus",
    "ipod": "aac alac",
    "mov": "pcm_s16le pcm_s16be pcm_s24le pcm_f32le pcm_mulaw pcm_alaw adpcm_ima_qt aac",
    "3gp": "aac",
    "webm": "libopus vorbis",
    "matroska": "aac flac libopus libmp3lame pcm_s16le pcm_f32le vorbis ac3 tta alac",
    "ogg": "flac libopus vorbis",
    "adts": "aac",
    "asf": "wmav1 wmav2 libmp3lame pcm_s16le aac",
    "caf": "pcm_s16le adpcm_ima_qt",
    "wav": "adpcm_ima_wav adpcm_ms adpcm_yamaha libmp3lame g722 g726 ac3 mp2",
}
LOSSLESS = {"alac": 2**-22, "flac": 2**-15, "tta": 2**-7, "pcm_f32le": 0.0, "pcm_s24le": 2**-22}
LOSSLESS |= {"pcm_s16le": 2**-15, "pcm_s16be": 2**-15, "pcm_mulaw": 0.0085, "pcm_alaw": 0.0085}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A file, the sound that was written into it, and its rate."""

    content: bytes
    sound: np.ndarray
    rate_hz: int

    def decoded(self, folder: Path, block_s: float, channels: str) -> np.ndarray:
        uri = written(folder, self.content)
        blocks = list(audio.stream(uri, self.rate_hz, block_s, parse_channels(channels)))
        return np.concatenate(blocks).reshape(sum(map(len, blocks)), -1)


def cases(container: str, most: int, **options: Any) -> Iterator[Case]:  # noqa: ANN401 - of `encode`
    """Yield files of `most` rates or fewer, with one channel and with two, where the encoder takes them."""
    # Other formats begin with other rates, so that few files cover much.
    first = sum(map(ord, f"{container}{options}")) % len(RATES)
    made: set[int] = set()
    for rate_hz, count in itertools.product(RATES[first:] + RATES[:first], (1, 2)):
        if len(made | {rate_hz}) <= most:
            sound = signal(SECONDS, rate_hz, count)
            try:
                content = encode(container, sound, rate_hz, **options)
            except (soundfile.SoundFileError, ValueError, OSError):  # of FFmpeg: errors of both kinds
                continue
            made.add(rate_hz)
            yield Case(content=content, sound=sound, rate_hz=rate_hz)


def check_blocks_and_channels(case: Case, folder: Path) -> np.ndarray:
    """Return all samples [samples, channels]; no size of blocks changes them, nor reading one channel."""
    count = case.sound.shape[1]
    names = ",".join(f"{channel}=speaker {channel}" for channel in range(count))
    whole = case.decoded(folder, 30.0, names)
    rng = np.random.default_rng(len(case.content))
    for block_s in (0.05, rng.uniform(0.001, SECONDS)):
        np.testing.assert_array_equal(case.decoded(folder, block_s, names), whole)
    for channel, name in enumerate(("left", "right")[:count]):
        np.testing.assert_array_equal(case.decoded(folder, 0.3, name)[:, 0], whole[:, channel])
    # Opus has 48 kHz: the mean is taken before resampling, here after it.
    mean = whole.mean(1, dtype=np.float32)
    np.testing.assert_allclose(case.decoded(folder, 0.3, "mix")[:, 0], mean, rtol=0, atol=1e-6)
    return whole


def check_lossy(found: np.ndarray, sound: np.ndarray, rate_hz: int, late_s: tuple[float, float]) -> None:
    """Check that a lossy copy is the sound, late by a number of seconds between these two."""
    size = 1 << (len(found) + len(sound)).bit_length()
    spectrum = np.fft.rfft(found[:, 0], size) * np.conj(np.fft.rfft(sound[:, 0], size))
    late = int(np.argmax(np.fft.irfft(spectrum)))
    late -= size * (late > size // 2)
    assert late_s[0] * rate_hz <= late <= late_s[1] * rate_hz
    found, sound = found[max(late, 0) :], sound[max(-late, 0) :]
    shared = min(len(found), len(sound))
    assert shared >= len(sound) - 0.07 * rate_hz
    difference = found[:shared] - sound[:shared]
    # The noise above what a codec keeps is lost, not the tone: nine tenths of the energy stay.
    assert (difference**2).mean() <= 0.1 * (sound**2).mean()


@pytest.mark.parametrize("rates", SHARES)
@pytest.mark.parametrize("container", CONTAINERS)
def test_what_libsndfile_writes_is_read_to_its_precision(container: str, rates: int, tmp_path: Path) -> None:
    subtypes = set(soundfile.available_subtypes(container)) & (EXACT.keys() | BLOCKS.keys())
    assert subtypes
    for subtype in sorted(subtypes):
        for case in cases(container, rates, format=container, subtype=subtype):
            if subtype == "ALAC_20" and case.sound.shape[1] == 2:
                continue  # libsndfile writes what FFmpeg cannot read either
            whole = check_blocks_and_channels(case, tmp_path)
            extra = len(whole) - len(case.sound)
            if subtype in EXACT:
                # AIFF of libsndfile counts the byte that fills up an odd number of bytes.
                assert extra in ((0, 1) if container == "AIFF" and subtype != "PCM_16" else (0,))
                assert abs(whole[: len(case.sound)] - case.sound).max() <= EXACT[subtype], (
                    subtype,
                    case.rate_hz,
                )
            else:
                assert 0 <= extra <= BLOCKS[subtype], (subtype, case.rate_hz)
                check_lossy(whole, case.sound, case.rate_hz, (0.0, 0.004))


@pytest.mark.parametrize("rates", SHARES)
@pytest.mark.parametrize(
    ("muxer", "codec"), [(muxer, codec) for muxer, codecs in FFMPEG.items() for codec in codecs.split()]
)
def test_what_ffmpeg_writes_is_late_by_its_delay(muxer: str, codec: str, rates: int, tmp_path: Path) -> None:
    settings = {"strict": "-2", "b": "96000"} if codec != "g726" else {}
    files = list(cases(muxer, rates, codec=codec, settings=settings))
    assert files
    for case in files:
        whole = check_blocks_and_channels(case, tmp_path)
        if codec in LOSSLESS:
            assert len(whole) == len(case.sound)
            assert abs(whole - case.sound).max() <= LOSSLESS[codec]
            continue
        # Neither raw frames nor WAV nor ASF state the encoder's delay: 1,105 samples of MP3, 1,024 of AAC. Of
        # WMA, FFmpeg takes off two blocks; MP4 rounds the 6.5 ms of Opus.
        late_s = (
            (-0.065, 0.001)
            if codec.startswith("wma")
            else (0.0, 0.15 if muxer in ("asf", "adts", "wav") else 0.01)
        )
        assert abs(len(whole) - len(case.sound)) <= 4096
        check_lossy(whole, case.sound, case.rate_hz, late_s)
