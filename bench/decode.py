"""How fast is decoding and resampling to 16 kHz mono, compared with a pipe from ffmpeg on the same core?

Typical stereo recordings: FLAC and MP3 at 44.1 kHz, Opus at 48 kHz (its only rate). Ours is `audio.stream`,
which also checks that the file is complete. ffmpeg runs with one thread and writes float32 to a pipe that is
read block by block: with its default resampler and, if it has soxr, with our resampler too. Each measurement
is a process of its own, pinned to one core with all its children; starting Python is not counted.

Memory: the peak of our process for a recording and for one six times as long, and that of ffmpeg.

    python -m bench.decode [--minutes 20] [--repeats 5] [--formats flac mp3 opus]
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from bench.measure import Bar, Record, in_process, peak_bytes, turns

RATE_HZ = 16_000
FORMATS = {"flac": ("FLAC", "PCM_16", 44_100), "mp3": ("MP3", None, 44_100), "opus": ("OGG", "OPUS", 48_000)}
LONGER = 6
WAYS = ("audio.stream", "ffmpeg pipe", "ffmpeg pipe, soxr")


def write_recording(path: Path, minutes: float) -> None:
    """Write noise with the spectrum and the loudness pattern of speech; the two channels differ slightly."""
    import soundfile
    from scipy.signal import lfilter

    container, subtype, rate_hz = FORMATS[path.suffix[1:]]
    generator = np.random.default_rng(0)
    syllables = np.repeat(generator.uniform(0.02, 1.0, 60 * 4), rate_hz // 4)
    voice = lfilter([0.02], [1, -0.97], generator.standard_normal((2, 60 * rate_hz))) * syllables
    block = np.stack([voice[0], 0.7 * voice[0] + 0.3 * voice[1]], 1).astype(np.float32)
    remaining = round(60 * minutes * rate_hz)
    with soundfile.SoundFile(path, "w", rate_hz, 2, format=container, subtype=subtype) as file:
        while remaining > 0:
            for at in range(0, min(remaining, len(block)), rate_hz):  # libsndfile's Opus dislikes long blocks
                file.write(block[at : at + min(rate_hz, remaining - at)])
            remaining -= len(block)


def ours(path: str) -> int:
    """Decode with the library; return the number of samples."""
    from hilbert_ray import audio

    return sum(len(block) for block in audio.stream(path, RATE_HZ))


def ffmpeg(path: str, *options: str) -> int:
    """Decode with ffmpeg; return the number of samples."""
    command = ["ffmpeg", "-v", "error", "-threads", "1", "-i", path, *options]
    command += ["-ac", "1", "-ar", str(RATE_HZ), "-f", "f32le", "-"]
    samples = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while data := process.stdout.read(4 * 30 * RATE_HZ):
            samples += len(np.frombuffer(data, np.float32))
    if process.returncode:
        sys.exit(f"ffmpeg ended with {process.returncode}")
    return samples


def measure(way: str, path: str) -> None:
    """Decode on one core and print, as JSON, seconds of audio per second and peak memory in bytes."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    options = ("-af", "aresample=resampler=soxr") if way.endswith("soxr") else ()
    decode = partial(ours, path) if way == WAYS[0] else partial(ffmpeg, path, *options)
    began = time.perf_counter()
    samples = decode()
    seconds = time.perf_counter() - began
    child = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    peak = peak_bytes() if way == WAYS[0] else child
    print(json.dumps({"rate": samples / RATE_HZ / seconds, "seconds": samples / RATE_HZ, "peak": peak}))


def compare(folder: Path, kind: str, minutes: float, repeats: int, record: Record) -> None:
    """Print the table of one format."""
    path, longer = folder / f"short.{kind}", folder / f"long.{kind}"
    write_recording(path, minutes)
    write_recording(longer, LONGER * minutes)
    ways: tuple[str, ...] = WAYS if shutil.which("ffmpeg") else WAYS[:1]
    if (
        ways == WAYS
        and "--enable-libsoxr"
        not in subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout
    ):
        ways = WAYS[:2]
    peaks: dict[str, list[float]] = {way: [] for way in ways}

    def run(way: str) -> float:
        result = in_process("bench.decode", "--measure", way, str(path))
        assert abs(result["seconds"] - 60 * minutes) < 0.5, result
        peaks[way].append(result["peak"] / 1e6)
        return float(result["rate"])

    rates = turns({way: partial(run, way) for way in ways}, repeats)
    title = f"{kind}, {FORMATS[kind][2] / 1000:g} kHz stereo to 16 kHz mono, {minutes:g} min, one core"
    bars = [Bar(row=WAYS[0], against=WAYS[1], least=0.8)]
    record.table(title, "s of audio per second", rates, ways[-1] if len(ways) == 1 else ways[1], bars)
    peaks["audio.stream, six times as long"] = [
        in_process("bench.decode", "--measure", WAYS[0], str(longer))["peak"] / 1e6
    ]
    record.table(
        f"{kind}, peak memory", "MB", peaks, WAYS[0],
        [Bar(row="audio.stream, six times as long", against=WAYS[0], most=1.05)],
    )  # fmt: skip
    path.unlink()
    longer.unlink()


def main() -> None:
    """Compare the requested formats."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="length of a recording")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.measure:
        measure(*settings.measure)
        return
    record = Record("decode")
    with tempfile.TemporaryDirectory() as folder:
        for kind in settings.formats:
            compare(Path(folder), kind, settings.minutes, settings.repeats, record)


if __name__ == "__main__":
    main()
