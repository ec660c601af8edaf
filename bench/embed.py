"""How fast and how large is `embed`, compared with bare forward passes and with what others would run?

Speed: recordings of 5 s to 2 min (44.1 kHz stereo FLAC) go through all of `embed` with encoders of the shapes
of published models (random weights), and transcripts through MiniLM (its own weights) or the shape of
RoBERTa-base. The baseline is one process per worker that does nothing but forward passes, on batches of equal
length that are in memory. Speech is embedded with all layers, as by default, and with the last alone. All use
the same number of workers, of one thread each; their order alternates. The rate of `embed` is measured from
the first commits of all workers until the first worker runs out of work, at least four units per worker; the
time before is start-up and has a table of its own. What others would run is in `bench.peers`. Anything with a
constant rate runs for half a minute.

Whisper's input is 30 s long whatever it hears: `whisper-fills` compares windows of 10 s that fill it together
with windows that have one each, on recordings of up to 10 min, so that few inputs stay half empty.

Memory: the peak of a process that embeds one document of 1 h and of 4 h, and of one that only decodes.

    python -m bench.embed [--only memory minilm hubert-base] [--minutes 5] [--repeats 3] [--longest 120]
                          [--precision auto]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import Bar, Record, in_process, turns
from bench.peers import rows
from bench.shapes import RATE_HZ, SHAPES, SPEECH, save_model, window_s
from hilbert_ray.encoders import build_encoder, resolve_precision

BARE, EMBED, LAST = "bare forward", "embed", "embed, last layer alone"
WAYS = (BARE, EMBED, LAST, "sentence-transformers", "transformers pipeline", "Ray Data script")
LEAST_UNITS = 4  # per worker in the measured time; with fewer, where the last commit falls decides the rate
STEADY_S = 30.0  # measured time of anything with a constant rate
DEFAULT = ("memory", "minilm", "hubert-base")
FILLS = "whisper-fills"
LONGEST_FILLED_S = 600.0
WORDS = (
    "the a we they went came said about nothing garden morning people work never always house and then "
    "because remember feel better tired doctor sleep week family talk quiet between something long"
)


def recordings(folder: Path, total_s: float, longest_s: float) -> tuple[str, np.ndarray]:
    """Write recordings of noise, about `total_s` in all; return a manifest and durations, log-uniform."""
    import soundfile

    generator = np.random.default_rng(0)
    noise = (0.1 * generator.standard_normal((round(longest_s * 44100), 2))).astype(np.float32)
    rows: list[dict[str, Any]] = []
    durations: list[float] = []
    while sum(durations) < total_s:
        seconds = float(np.exp(generator.uniform(np.log(5.0), np.log(longest_s))))
        name = f"r{len(rows):04d}.flac"
        soundfile.write(folder / name, noise[: round(seconds * 44100)], 44100)
        rows.append({"doc_id": name, "audio": name})
        durations.append(seconds)
    return _manifest(folder, rows), np.array(durations)


def transcripts(folder: Path, total: int) -> str:
    """Write documents of utterances of 3 to 60 words, about `total` utterances; return a manifest."""
    generator = np.random.default_rng(0)
    words = np.array(WORDS.split())
    rows: list[dict[str, Any]] = []
    written = 0
    while written < total:
        count = int(generator.integers(40, 400))
        lengths = np.exp(generator.uniform(np.log(3), np.log(60), count)).astype(int)
        texts = [" ".join(generator.choice(words, length)) for length in lengths]
        rows.append({"doc_id": f"t{len(rows):04d}", "text": texts})
        written += count
    return _manifest(folder, rows)


def _manifest(folder: Path, rows: Sequence[dict[str, Any]]) -> str:
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run_embed(
    manifest: str,
    store: Path,
    workers: int,
    audio: str,
    text: str,
    unit_s: float,
    window_s: float,
    precision: str,
    context: str = "segment",
    layer: str = "auto",
) -> tuple[float, float]:
    """Run `embed` in its own process; return its rate (s of audio or tokens, per second) and start-up, s."""
    program = (
        "import sys; from hilbert_ray.config import Config, EmbedConfig, EncoderConfig, SegmentConfig\n"
        "from hilbert_ray.embedding import embed\n"
        "manifest, store, audio, text, workers, unit_s, window_s, precision, context, layer = sys.argv[1:]\n"
        "segment = SegmentConfig(window_s=float(window_s), hop_s=float(window_s))\n"
        "settings = EmbedConfig(workers=int(workers), unit_s=float(unit_s), threads=1, buckets=1)\n"
        "heard = EncoderConfig(precision=precision, context=context, layer=layer)\n"
        "read = EncoderConfig(precision=precision)\n"
        "embed(manifest, store, Config(audio=audio, text=text, audio_encoder=heard, text_encoder=read,"
        " segment=segment, embed=settings))"
    )
    began = time.time()
    command = [sys.executable, "-c", program, manifest, str(store), audio, text]
    command += [str(workers), str(unit_s), str(window_s), precision, context, layer]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    commits = commits_of(store)
    # The first commits were computed before the clock starts; at the end some worker may be out of work.
    steady = commits[workers - 1 : 1 - workers or None]
    least_commits = LEAST_UNITS * workers
    if len(steady) <= least_commits:
        factor = (least_commits + 1) / max(len(steady), 1)
        sys.exit(
            f"{len(commits)} units are too few to measure {workers} workers: use {factor:.1f} x --minutes"
        )
    amount = sum(amount for _, amount in steady[1:])
    return amount / (steady[-1][0] - steady[0][0]), steady[0][0] - began


def commits_of(store: Path) -> list[tuple[float, float]]:
    """Return when each commit of a local store was written and how much it holds, in order of time."""
    return sorted(
        (path.stat().st_mtime, json.loads(path.read_text())["amount"])
        for path in store.glob("features/*/*/commits/*/*.json")
    )


def forward(spec: str, shape: tuple[int, int], seconds: float, precision: str) -> tuple[float, float]:
    """Run bare forward passes on random input for some seconds; return the rows done and the time, s."""
    import torch
    import transformers

    torch.set_num_threads(1)
    dtype = torch.bfloat16 if resolve_precision(precision) == "bf16" else torch.float32
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModel.from_pretrained(spec.removeprefix("hf:")).to(dtype).eval()
    mask = {}
    if model.config.model_type == "whisper":
        model, inputs = model.get_encoder(), torch.randn(shape[0], 80, 3000, dtype=dtype)
    elif model.config.model_type in ("hubert", "wavlm"):
        inputs = torch.randn(shape, dtype=dtype)
    else:
        inputs = torch.randint(1000, 2000, shape)
        mask = {"attention_mask": torch.ones_like(inputs)}
    done = 0
    with torch.inference_mode():
        model(inputs, **mask)
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            model(inputs, **mask)
            done += shape[0]
    return done, time.perf_counter() - began


def run_forward(
    spec: str, shapes: Sequence[tuple[int, int]], seconds: float, workers: int, precision: str
) -> float:
    """Return rows per second of all workers together, with the fastest of some batch shapes."""
    rates = []
    with ProcessPoolExecutor(workers) as pool:
        for shape in shapes:
            one = partial(forward, spec, shape, seconds / len(shapes))
            results = pool.map(one, [precision] * workers)
            rates.append(sum(done / passed for done, passed in results))
    return max(rates)


def peak_mb(program: str, *arguments: str) -> float:
    """Return the peak resident memory of a Python program, MiB."""
    measured_program = (
        f"{program}\nimport re; print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    process = subprocess.run(
        [sys.executable, "-c", measured_program, *arguments], capture_output=True, text=True, check=True
    )
    return int(process.stdout.split()[-1]) / 1024


DECODE = "import sys; from hilbert_ray import audio\nfor block in audio.stream(sys.argv[1]): pass"
EMBED_ONE = """
import sys
from hilbert_ray.config import Config, EmbedConfig
from hilbert_ray.embedding import configured_encoder, embed_documents
from hilbert_ray.units import versioned_rows
from hilbert_ray.store import Store, write_snapshot
config = Config()
encoder = configured_encoder(config, "audio")
store = Store.create(sys.argv[1] + ".store", 1)
documents = list(write_snapshot(store, versioned_rows(sys.argv[1], False)).documents())
rows, failures = embed_documents(documents, ["k"], "audio", encoder, config)
assert len(rows) == 1 and rows[0].seen == rows[0].present, failures
"""


def memory(record: Record, folder: Path) -> None:
    """Measure peak memory by duration."""
    import soundfile

    generator = np.random.default_rng(0)
    block = (0.1 * generator.standard_normal((60 * 44100, 2))).astype(np.float32)
    peaks: dict[str, list[float]] = {}
    for hours in (1, 4):
        path = folder / f"{hours}h.flac"
        with soundfile.SoundFile(path, "w", 44100, 2) as file:
            for _ in range(60 * hours):
                file.write(block)
        manifest = _manifest(folder, [{"doc_id": path.name, "audio": path.name}])
        peaks[f"embed one document, {hours} h"] = [peak_mb(EMBED_ONE, manifest)]
        peaks[f"decode only, {hours} h"] = [peak_mb(DECODE, str(path))]
        path.unlink()
    bars = [
        Bar(row="embed one document, 4 h", against="embed one document, 1 h", most=1.05),
        Bar(row="decode only, 4 h", most=400),
    ]
    record.table("mfcc, peak memory", "MB", peaks, "embed one document, 1 h", bars)


def speech(record: Record, shape: str, folder: Path, settings: argparse.Namespace) -> None:
    """Measure the speed of a speech encoder."""
    spec, workers, seconds = save_model(shape, folder / shape), settings.workers, 60 * settings.minutes
    samples = round(window_s(shape) * RATE_HZ)
    shapes = [(1, samples), (6, samples)]
    precision = settings.precision
    expected_rate = window_s(shape) * run_forward(spec, shapes, 10.0, workers, precision)
    manifest, durations = recordings(folder, expected_rate * seconds, settings.longest)
    row_s = window_s(shape)
    if shape.startswith("whisper"):  # a partial window costs as much as a full one
        row_s *= float(durations.sum() / (np.ceil(durations / row_s) * row_s).sum())
    starts = []

    def embed(layer: str) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as store:
            settings = (spec, "none", 60.0, window_s(shape), precision, "segment", layer)
            rate, start = run_embed(manifest, Path(store) / "store", workers, *settings)
        starts.append(start)
        return rate

    actions: dict[str, Callable[[], float]] = {
        BARE: lambda: row_s * run_forward(spec, shapes, STEADY_S, workers, precision),
        EMBED: partial(embed, "auto"),
        LAST: partial(embed, "last"),
        "transformers pipeline": partial(peer, "speech-pipeline", spec, manifest, workers, shape),
        "Ray Data script": partial(peer, "ray-data", spec, manifest, workers, shape),
    }
    rates = turns({name: actions[name] for name in actions if name in settings.ways}, settings.repeats)
    title = f"{shape}, recordings of 5 to {settings.longest:g} s, {workers} workers of one thread"
    bars = [
        Bar(row=EMBED, against=BARE, least=0.92),
        Bar(row=EMBED, against=LAST, least=0.95),
        Bar(row=EMBED, against="transformers pipeline", least=1.5),
        Bar(row=EMBED, against="Ray Data script", least=1.3),
    ]
    record.table(title, "s of audio per second", rates, next(iter(rates)), bars)
    record.table(f"{shape}, until the first commits of all workers", "s", {EMBED: starts})


def fills(record: Record, folder: Path, settings: argparse.Namespace) -> None:
    """Measure Whisper on windows of 10 s that share its input, against windows that have one each."""
    spec, workers = save_model("whisper-base", folder / "whisper-base"), settings.workers
    rate = 10.0 * run_forward(spec, [(1, 30 * RATE_HZ)], 10.0, workers, settings.precision)
    manifest, durations = recordings(folder, rate * 60 * settings.minutes, LONGEST_FILLED_S)
    alone, together = "each window in an input", "windows that fill an input"

    def embed(context: str) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as store:
            options = (spec, "none", 60.0, 10.0, settings.precision, context)
            return run_embed(manifest, Path(store) / "store", workers, *options)[0]

    contexts = {alone: "segment", together: "fill"}
    rates = turns({row: partial(embed, context) for row, context in contexts.items()}, settings.repeats)
    inputs = np.ceil(durations / 10).sum() / np.ceil(durations / 30).sum()
    title = (
        f"whisper-base, windows of 10 s, recordings of 5 to {LONGEST_FILLED_S:g} s ({inputs:.2f} times fewer "
        f"inputs), {workers} workers of one thread"
    )
    bars = [Bar(row=together, against=alone, least=2.5)]
    record.table(title, "s of audio per second", rates, alone, bars)


def words(record: Record, shape: str, folder: Path, settings: argparse.Namespace) -> None:
    """Measure the speed of a text encoder."""
    from hilbert_ray.config import EmbedConfig, EncoderConfig, SegmentConfig

    spec, workers, seconds = save_model(shape, folder / shape), settings.workers, 60 * settings.minutes
    encoder = build_encoder(spec, "text", EncoderConfig(), SegmentConfig())
    texts = [text for row in rows(transcripts(folder, 2000)) for text in row["text"]]
    tokens_per_text = sum(encoder.count_tokens(texts)) / len(texts)
    shapes = [(16, round(tokens_per_text) + 2), (64, round(tokens_per_text) + 2)]
    precision = settings.precision
    expected_rate = run_forward(spec, shapes, 10.0, workers, precision)
    manifest = transcripts(folder, round(expected_rate * seconds))
    starts = []

    def embed() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as store:
            settings = ("none", spec, EmbedConfig().unit_s, 10.0, precision)
            rate, start = run_embed(manifest, Path(store) / "store", workers, *settings)
        starts.append(start)
        return rate

    rivals = ("sentence-transformers", "text-pipeline")
    actions: dict[str, Callable[[], float]] = {
        BARE: lambda: tokens_per_text * run_forward(spec, shapes, STEADY_S, workers, precision),
        EMBED: embed,
        "sentence-transformers": lambda: tokens_per_text * peer(rivals[0], spec, manifest, workers, shape),
        "transformers pipeline": lambda: tokens_per_text * peer(rivals[1], spec, manifest, workers, shape),
    }
    rates = turns({name: actions[name] for name in actions if name in settings.ways}, settings.repeats)
    bars = [
        Bar(row=EMBED, against=BARE, least=0.85),
        Bar(row=EMBED, against="sentence-transformers", least=1.0),
        Bar(row=EMBED, against="transformers pipeline", least=3.0),
    ]
    title = f"{shape}, utterances of 3 to 60 words, {workers} workers of one thread"
    record.table(title, "tokens per second (without special tokens)", rates, next(iter(rates)), bars)
    record.table(f"{shape}, until the first commits of all workers", "s", {EMBED: starts})


def peer(way: str, spec: str, manifest: str, workers: int, shape: str) -> float:
    """Return the rate of what a user would run instead, see `bench.peers`."""
    arguments = (way, spec, manifest, str(STEADY_S), str(workers), str(window_s(shape)))
    return float(in_process("bench.peers", *arguments)["rate"])


def main() -> None:
    """Run the requested benchmarks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=(*SHAPES, "memory", FILLS), default=DEFAULT)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument(
        "--minutes", type=float, default=5.0, help="work for `embed`: what bare passes do in this time"
    )
    parser.add_argument("--longest", type=float, default=120.0, help="longest recording, seconds")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", choices=("auto", "float32", "bf16"), default="auto")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    settings = parser.parse_args()
    record = Record("embed")
    for name in settings.only:
        with tempfile.TemporaryDirectory() as folder:
            if name == "memory":
                memory(record, Path(folder))
            elif name == FILLS:
                fills(record, Path(folder), settings)
            else:
                (speech if name in SPEECH else words)(record, name, Path(folder), settings)


if __name__ == "__main__":
    main()
