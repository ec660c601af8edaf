"""Formats of recorders, telephones and corpora: read whole, however they are named, or refused.

The files are written by libsndfile and FFmpeg, and by SoX where it is installed; frames of AMR by hand, after
RFC 4867.
"""

import io
import itertools
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from hilbert_ray import audio
from hilbert_ray.audio.decoding import FORMATS
from hilbert_ray.audio.errors import (
    AudioError,
    CorruptAudioError,
    LengthError,
    TruncatedAudioError,
    UnfinishedAudioError,
    UnsupportedAudioError,
)
from hilbert_ray.audio.format import START_BYTES
from tests.audio.recordings import (
    assert_refused,
    decoded_at_once,
    encode,
    id3,
    id3v1,
    noise,
    outcome,
    patched,
    sample,
    signal,
    streamed,
    written,
)

NARROW = {0: 13, 1: 14, 2: 16, 3: 18, 4: 20, 5: 21, 6: 27, 7: 32, 8: 6, 15: 1}
WIDE = {0: 18, 1: 24, 2: 33, 3: 37, 4: 41, 5: 47, 6: 51, 7: 59, 8: 61, 9: 6, 14: 1, 15: 1}


def amr(magic: bytes, sizes: dict[int, int]) -> bytes:
    """Return an AMR file of ten frames of each type, with random sound; 20 ms each."""
    rng = np.random.default_rng(2)
    frames = [bytes([kind << 3 | 4]) + rng.bytes(sizes[kind] - 1) for kind in [*sizes] * 10]
    return magic + b"".join(frames)


def sphere(samples: np.ndarray, coding: str = "pcm") -> bytes:
    """Return a SPHERE file of 16 bits, little-endian, as its specification shows them."""
    count, channels = samples.shape
    lines = (
        "NIST_1A",
        "   1024",
        "database_id -s3 own",
        f"channel_count -i {channels}",
        f"sample_count -i {count}",
        "sample_rate -i 16000",
        "sample_n_bytes -i 2",
        "sample_byte_format -s2 01",
        "sample_sig_bits -i 16",
        f"sample_coding -s{len(coding)} {coding}",
        "end_head\n",
    )
    header = "\n".join(lines).encode().ljust(1024)
    return header + np.round(samples * 32767).astype("<i2").tobytes()


def make(kind: str) -> bytes:
    """Return 4 s of one channel at 16 kHz."""
    sound = signal()
    by_ffmpeg = {
        "aac": ("adts", "aac"),
        "wma": ("asf", "wmav2"),
        "oga": ("ogg", "flac"),
        "wav-mp3": ("wav", "libmp3lame"),
        "wav-g726": ("wav", "g726"),
    }
    by_libsndfile: dict[str, dict[str, Any]] = {
        "w64": {"format": "W64"},
        "caf": {"format": "CAF"},
        "caf-alac": {"format": "CAF", "subtype": "ALAC_16"},
        "au": {"format": "AU"},
        "au-little": {"format": "AU", "endian": "LITTLE"},
        "au-mulaw": {"format": "AU", "subtype": "ULAW"},
        "nist-mulaw": {"format": "NIST", "subtype": "ULAW"},
        "nist": {"format": "NIST"},
    }
    if kind == "sphere":
        return sphere(sound)
    if kind == "wav-g726":
        return encode("wav", signal(4.0, 8000), 8000, codec="g726")
    if kind in by_ffmpeg:
        form, codec = by_ffmpeg[kind]
        return encode(form, sound, codec=codec, settings={"b": "64000"})
    subtype = by_libsndfile[kind].get("subtype", "PCM_16")
    return encode(kind, sound, **{**by_libsndfile[kind], "subtype": subtype})


# How many samples at 16 kHz, and how close to the original: exact, by its words, or not to be compared.
EXACT, LOSSY = 2e-4, 0.08
KINDS = {
    "w64": EXACT,
    "caf": EXACT,
    "caf-alac": EXACT,
    "au": EXACT,
    "au-little": EXACT,
    "sphere": EXACT,
    "nist": EXACT,
    "oga": EXACT,
    "au-mulaw": LOSSY,
    "nist-mulaw": LOSSY,
    "aac": LOSSY,
    "wma": LOSSY,
    "wav-mp3": LOSSY,
    "wav-g726": LOSSY,
}


def lag_and_distance(found: np.ndarray, expected: np.ndarray) -> tuple[int, float]:
    """Return by how many samples `found` is late, and the root mean square of what then differs."""
    near = slice(16000, 48000)
    score = [float(expected[near] @ found[16000 + lag : 48000 + lag]) for lag in range(-1500, 3000)]
    lag = int(np.argmax(score)) - 1500
    difference = found[16000 + lag : 48000 + lag] - expected[near]
    return lag, float(np.sqrt(np.mean(difference**2)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_format_gives_the_sound_that_was_written(kind: str, tmp_path: Path) -> None:
    uri = written(tmp_path, make(kind), "wrong.mp3")
    found = streamed(uri)
    rate_hz = 8000 if kind == "wav-g726" else 16000
    expected = decoded_at_once(encode("wav", signal(4.0, rate_hz), rate_hz))
    lag, distance = lag_and_distance(found, expected)
    if KINDS[kind] == EXACT:
        assert (lag, len(found)) == (0, len(expected))
        assert distance <= EXACT
    else:
        # Raw frames and WAV do not state the delay of the encoder: up to two frames of AAC, or of MP3. FFmpeg
        # takes a frame off the start of WMA.
        assert (-512 if kind == "wma" else 0) <= lag <= 2048 + 64
        assert distance <= LOSSY
        assert abs(len(found) - len(expected)) <= 3 * 1152
    assert audio.probe(uri).duration_s == pytest.approx(len(found) / 16000, abs=0.25)


@pytest.mark.parametrize(
    ("magic", "sizes", "rate_hz"), [(b"#!AMR\n", NARROW, 8000), (b"#!AMR-WB\n", WIDE, 16000)]
)
def test_amr_has_20_ms_for_each_frame_of_every_type(
    magic: bytes, sizes: dict[int, int], rate_hz: int, tmp_path: Path
) -> None:
    if "libopencore_amrwb" not in av.codecs_available:
        pytest.skip("FFmpeg's own decoders of AMR lack comfort noise")
    content = amr(magic, sizes)
    uri = written(tmp_path, content)
    frames = 10 * len(sizes)
    assert audio.probe(uri) == audio.AudioInfo(
        rate_hz=rate_hz, channels=1, frames=frames * rate_hz // 50, format="AMR"
    )
    assert len(streamed(uri, rate_hz)) == frames * rate_hz // 50
    # At any other end than that of a frame, something is missing.
    ends = {len(magic)}
    for kind in [*sizes] * 10:
        ends.add(max(ends) + sizes[kind])
    for end in range(len(content) - 60, len(content)):
        assert isinstance(outcome(written(tmp_path, content[:end])), AudioError) == (end not in ends)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_off_anywhere_is_never_taken_for_whole(kind: str, tmp_path: Path) -> None:
    content = make(kind)
    ends = set(np.linspace(1, len(content) - 1, 25).astype(int).tolist())
    if kind == "aac":  # what ends between two frames cannot be told from a whole file
        ends -= set(itertools.accumulate(map(len, aac_frames(content))))
    if kind == "caf-alac":  # libsndfile writes a byte of padding
        ends.discard(len(content) - 1)
    found = {end: outcome(written(tmp_path, content[:end])) for end in ends}
    assert [end for end, what in found.items() if not isinstance(what, AudioError)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_recognised_by_one_format_only(kind: str) -> None:
    start = make(kind)[:START_BYTES]
    assert [format_.recognises(start) for format_ in FORMATS].count(True) == 1


def aac_frames(content: bytes) -> list[bytes]:
    frames, at = [], 0
    while at < len(content):
        size = (content[at + 3] & 3) << 11 | content[at + 4] << 3 | content[at + 5] >> 5
        frames.append(content[at : at + size])
        at += size
    return frames


WHOLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a W64 followed by padding": (lambda: make("w64") + bytes(512), "w64"),
    "a SPHERE followed by padding": (lambda: make("sphere") + bytes(1000), "sphere"),
    "an AAC behind a tag": (lambda: id3() + make("aac"), "aac"),
    "an AAC before a tag": (lambda: make("aac") + id3v1(), "aac"),
    "an AAC with tags between frames": (
        lambda: id3(70).join([b"", *_halves(aac_frames(make("aac")))]),
        "aac",
    ),
    "a WAV before a tag": (lambda: sample("wav") + id3v1(), "wav"),
    "a WAV before an ID3v2 tag": (lambda: sample("wav") + id3(500), "wav"),
    "a WAV before padding": (lambda: sample("wav") + bytes(4096), "wav"),
    "a WAV before a chunk that is cut off": (lambda: sample("wav") + b"LIST\xff\0\0\0INFOISFT", "wav"),
    "a WAV before two chunks": (lambda: sample("wav") + b"note\x03\0\0\0abc\0xyz \x02\0\0\0ab", "wav"),
    "an AIFF before a chunk": (lambda: sample("aiff") + b"ANNO\0\0\0\x04abcd", "aiff"),
}


def _halves(frames: list[bytes]) -> list[bytes]:
    return [b"".join(frames[:30]), b"".join(frames[30:])]


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_no_sound_changes_nothing(name: str, tmp_path: Path) -> None:
    make_odd, like = WHOLE[name]
    plain = sample(like) if like in ("wav", "aiff") else make(like)
    expected = streamed(written(tmp_path, plain, "plain"))
    np.testing.assert_array_equal(streamed(written(tmp_path, make_odd())), expected)


def stale(stated: int) -> bytes:
    return patched(sample("wav"), 40, struct.pack("<I", stated))


FAULTS: dict[str, tuple[Callable[[], bytes], type[AudioError], str]] = {
    "a WAV whose size was not updated": (
        lambda: stale(32000),
        LengthError,
        r"states 32000 bytes of samples, but 96000 bytes follow .* `ffmpeg -ignore_length 1 -i FILE -c copy",
    ),
    "a WAV that ends in noise": (lambda: sample("wav") + noise(), LengthError, "3000 bytes follow"),
    "a WAV that ends in much silence": (
        lambda: sample("wav") + bytes(2**17),
        LengthError,
        "131072 bytes follow",
    ),
    "a WAV of FFmpeg's pipe": (lambda: stale(2**32 - 1), UnfinishedAudioError, "-ignore_length 1"),
    "a WAV of SoX's pipe": (lambda: stale(0x7FFFF000), UnfinishedAudioError, "-ignore_length 1"),
    "a WAV of arecord's pipe": (lambda: stale(2**31), UnfinishedAudioError, "-ignore_length 1"),
    "an AIFF whose size was not updated": (
        lambda: patched(sample("aiff"), sample("aiff").index(b"SSND") + 4, struct.pack(">I", 32008)),
        LengthError,
        "states 32008 bytes",
    ),
    "a W64 whose size was not updated": (
        lambda: patched(make("w64"), make("w64").index(b"data\xf3\xac") + 16, struct.pack("<Q", 24 + 32000)),
        LengthError,
        "states 32000 bytes of samples, but 96000 bytes follow",
    ),
    "a W64 of a pipe": (
        lambda: patched(make("w64"), make("w64").index(b"data\xf3\xac") + 16, bytes(8)),
        UnfinishedAudioError,
        "to a file instead of a pipe",
    ),
    "a CAF of unknown size": (
        lambda: patched(make("caf"), make("caf").index(b"data") + 4, b"\xff" * 8),
        UnfinishedAudioError,
        "does not state how many samples",
    ),
    "a CAF whose size was not updated": (
        lambda: patched(make("caf"), make("caf").index(b"data") + 4, struct.pack(">Q", 32004)),
        LengthError,
        "states 32004 bytes",
    ),
    "an AU of a pipe": (
        lambda: patched(make("au"), 8, b"\xff" * 4),
        UnfinishedAudioError,
        "does not state how many samples",
    ),
    "an AU whose size was not updated": (
        lambda: patched(make("au"), 8, struct.pack(">I", 32000)),
        LengthError,
        "states 32000 bytes of samples, but 96000",
    ),
    "a SPHERE that was compressed": (
        lambda: sphere(signal(), "pcm,embedded-shorten-v2.00"),
        UnsupportedAudioError,
        "decompress it, for example `sph2pipe -f wav",
    ),
    "a SPHERE that lacks a byte": (lambda: make("sphere")[:-1], TruncatedAudioError, "after 127999"),
    "a SPHERE with samples that are not counted": (
        lambda: make("sphere") + noise(),
        LengthError,
        "3000 bytes follow",
    ),
    "a SPHERE without an end of its header": (
        lambda: make("sphere").replace(b"end_head", b"end_tail"),
        CorruptAudioError,
        "header without an end",
    ),
    "an AAC with noise inside": (
        lambda: patched(make("aac"), 9000, noise(3000)),
        CorruptAudioError,
        "no AAC frame at byte",
    ),
    "an AAC of one frame": (lambda: aac_frames(make("aac"))[0], UnsupportedAudioError, "only 1 frame"),
    "an AMR of several channels": (
        lambda: b"#!AMR_MC1.0\n\0\0\0\x02" + bytes(100),
        UnsupportedAudioError,
        "several channels",
    ),
    "an AMR with noise inside": (
        lambda: patched(amr(b"#!AMR\n", NARROW), 400, b"\xff" * 300),
        CorruptAudioError,
        "no AMR frame at byte",
    ),
    "a WMA that was broadcast": (lambda: _broadcast(make("wma")), UnfinishedAudioError, "how long it is"),
    "a WMA without data": (lambda: make("wma")[: _header_size(make("wma"))], CorruptAudioError, "with data"),
}


def _broadcast(content: bytes) -> bytes:
    at = content.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")) + 88
    return patched(content, at, b"\x01")


def _header_size(content: bytes) -> int:
    return int(struct.unpack_from("<Q", content, 16)[0])


@pytest.mark.parametrize("name", FAULTS)
def test_an_incomplete_or_damaged_file_is_refused_with_its_own_error(name: str, tmp_path: Path) -> None:
    make_faulty, error, message = FAULTS[name]
    assert_refused(written(tmp_path, make_faulty(), f"{name}.wav"), error, message)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
@pytest.mark.parametrize("stated", [0, 32000, 0x7FFFF000, 2**31, 2**32 - 1])
def test_the_advice_for_a_wav_of_wrong_size_saves_all_of_it(stated: int, tmp_path: Path) -> None:
    uri = written(tmp_path, stale(stated), "a.wav")
    with pytest.raises(AudioError) as caught:
        streamed(uri)
    command = str(caught.value).split("`")[1]
    whole = str(tmp_path / "out.wav")
    words = [{"FILE": uri, "OUT.wav": whole}.get(word, word) for word in command.split()]
    subprocess.run([*words, "-v", "error"], check=True)
    np.testing.assert_array_equal(streamed(whole), streamed(written(tmp_path, sample("wav"))))


@pytest.mark.skipif(not shutil.which("sox"), reason="SoX is not installed")
@pytest.mark.parametrize("kind", ["sph", "au", "w64", "caf", "wav", "aiff", "amr-nb"])
def test_files_of_sox_are_read_whole_and_its_pipes_refused(kind: str, tmp_path: Path) -> None:
    source = written(tmp_path, sample("wav"), "a.wav")
    rate = ["rate", "8000"] if kind == "amr-nb" else []
    subprocess.run(["sox", source, str(tmp_path / f"out.{kind}"), *rate], check=True)
    assert len(streamed(str(tmp_path / f"out.{kind}"))) == pytest.approx(64000, abs=400)
    if kind == "amr-nb":
        return
    raw = ["sox", "-t", "raw", "-r", "16000", "-e", "signed", "-b", "16", "-c", "1", "-", "-t", kind, "-"]
    piped = subprocess.run(raw, input=sample("wav")[44:], capture_output=True, check=True).stdout
    assert isinstance(outcome(written(tmp_path, piped)), UnfinishedAudioError)


def test_an_mp3_in_a_wav_is_as_long_as_its_frames(tmp_path: Path) -> None:
    """Its chunk `fact` states another length: that of what the encoder was given, and its delay."""
    content = make("wav-mp3")
    with av.open(io.BytesIO(content)) as container:
        expected = sum(frame.samples for frame in container.decode(audio=0))
    uri = written(tmp_path, content)
    assert audio.probe(uri).frames == len(streamed(uri)) == expected
