"""How close does `encode` come to the bare network, and how much does padding waste?

Each encoder has the shape of a published model, with random weights except for MiniLM. `encode` gets segments
as `embed` passes them (windows of 10 s, 30 s for Whisper; texts of many lengths); the bare network gets as
many seconds or tokens as ready tensors of equal length. Speech is encoded with all layers, as by default, and
with the last alone: the difference is what layers cost. Text is also compared with transformers' own feature
pipeline on the same texts. All take turns, in alternating order.

    python -m bench.encoders [--threads 1 2] [--repeats 5] [--windows 3] [--texts 128] [--precision auto]
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.measure import Bar, Record, in_process, timed, turns
from bench.shapes import RATE_HZ, SHAPES, SPEECH, minilm, save_model, window_s
from hilbert_ray.encoders import build_encoder

if TYPE_CHECKING:
    from hilbert_ray.document import TextSegment

ALL, LAST, BARE = "encode", "encode, last layer alone", "bare network"
Action = Callable[[], object]
FULL = 1024
"""Texts that `embed` passes to an encoder at once."""
TEXTS_HELP = f"texts per turn; MiniLM gets {FULL}, except in the comparison with the pipeline"
MEDIAN_WORDS, SPREAD = 18, 0.6
"""Median number of words per text, and standard deviation of its logarithm."""


def varied_texts(count: int) -> "list[TextSegment]":
    """Return texts of whole words from MiniLM's vocabulary: most short, some long."""
    from hilbert_ray.document import TextSegment

    rng = np.random.default_rng(0)
    words = [w for w in (minilm() / "vocab.txt").read_text().split() if w.isascii() and w.isalpha()]
    lengths = np.clip(rng.lognormal(np.log(MEDIAN_WORDS), SPREAD, count), 1, 400).astype(int)
    return [TextSegment(start=0.0, end=1.0, text=" ".join(rng.choice(words, n))) for n in lengths]


def speech(encoder: Any, shape: str, windows: int, batch: int) -> tuple[Sequence[Any], Action]:  # noqa: ANN401
    """Return windows of audio, and an action that runs the bare network on as many, `batch` at once."""
    import torch

    from hilbert_ray.document import AudioSegment

    rng = np.random.default_rng(0)
    long_s = window_s(shape)
    waves = (0.1 * rng.standard_normal((windows, round(long_s * RATE_HZ)))).astype(np.float32)
    segments = [
        AudioSegment(start=long_s * row, end=long_s * (row + 1), samples=wave)
        for row, wave in enumerate(waves)
    ]
    if encoder.config.model_type == "whisper":
        features = encoder.extractor(list(waves), sampling_rate=RATE_HZ, return_tensors="pt")
        inputs = features.input_features.to(encoder.device, encoder.dtype)
    else:
        inputs = torch.from_numpy(waves).to(encoder.device, encoder.dtype)

    def bare() -> None:
        with torch.inference_mode():
            for rows in torch.split(inputs, batch):
                encoder.model(rows)

    return segments, bare


def text(encoder: Any, count: int, batch: int) -> tuple[Sequence[Any], Action]:  # noqa: ANN401
    """Return texts, and an action that runs the bare network on as many tokens, `batch` rows at once."""
    import torch

    segments = varied_texts(count)
    total = sum(tokens(encoder, segments))
    length = round(total / count)
    ids = torch.randint(1000, encoder.config.vocab_size, (total // length, length), device=encoder.device)

    def bare() -> None:
        with torch.inference_mode():
            for rows in torch.split(ids, batch):
                encoder.model(input_ids=rows, attention_mask=torch.ones_like(rows))

    return segments, bare


def pipelines(encoder: Any, segments: Sequence[Any], batch: int) -> dict[str, Action]:  # noqa: ANN401
    """Return transformers' pipeline on the same texts: with defaults, in our precision, and in batches."""
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


def measure(shape: str, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """Time a shape's encoder and its rivals in this process, pinned to `threads` cores; return seconds."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch
    import transformers

    from hilbert_ray.config import EncoderConfig, Modality, SegmentConfig

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    modality: Modality = "audio" if shape in SPEECH else "text"
    config, segment = EncoderConfig(precision=options.precision, pooling="mean"), SegmentConfig()
    with tempfile.TemporaryDirectory() as folder:
        spec = save_model(shape, Path(folder))
        encoder: Any = build_encoder(spec, modality, config, segment)
        if modality == "audio":
            segments, bare = speech(encoder, shape, options.windows, options.audio_batch)
        else:
            count = FULL if shape == "minilm" else options.texts
            segments, bare = text(encoder, count, options.text_batch)
        encoder.encode(segments[:1])
        actions: dict[str, Action] = {ALL: lambda: encoder.encode(segments), BARE: bare}
        if modality == "audio":
            last = build_encoder(spec, modality, replace(config, layer="last"), segment)
            last.encode(segments[:1])
            actions[LAST] = lambda: last.encode(segments)
        tables = {f"{len(segments)} segments": _seconds(actions, options.repeats)}
        if modality == "text":
            few = segments[: options.texts]
            actions = {ALL: lambda: encoder.encode(few), **pipelines(encoder, few, options.text_batch)}
            tables[f"{len(few)} segments"] = _seconds(actions, options.pipeline_repeats)
    padding_share = (
        padding(np.array(tokens(encoder, varied_texts(FULL))), encoder) if modality == "text" else 0.0
    )
    return {
        "precision": encoder.precision,
        "tables": tables,
        "padding": 100 * max(padding_share, encoder.padding.fraction),
    }


def _seconds(actions: Mapping[str, Action], repeats: int) -> dict[str, list[float]]:
    return turns({name: partial(timed, action) for name, action in actions.items()}, repeats)


def tokens(encoder: Any, segments: "Sequence[TextSegment]") -> list[int]:  # noqa: ANN401
    """Return the length of each text as the network sees it."""
    return [count + encoder.special for count in encoder.count_tokens([segment.text for segment in segments])]


def padding(sizes: np.ndarray, encoder: Any) -> float:  # noqa: ANN401
    """Return the fraction of padding in an encoder's batches of inputs of these sizes."""
    from hilbert_ray.encoders import pack

    batches = list(pack(sizes, encoder.budget, encoder.overhead))
    return 1 - float(sizes.sum()) / sum(int(sizes[batch].max()) * len(batch) for batch in batches)


def main() -> None:
    """Measure each shape with each number of threads, in its own process pinned to that many cores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pipeline-repeats", type=int, default=2)
    parser.add_argument("--windows", type=int, default=3, help="windows per turn")
    parser.add_argument("--texts", type=int, default=128, help=TEXTS_HELP)
    parser.add_argument("--audio-batch", type=int, default=1, help="batch of the bare network on speech")
    parser.add_argument(
        "--text-batch", type=int, default=32, help="batch of the bare network and the pipeline on text"
    )
    parser.add_argument("--precision", choices=("auto", "float32", "bf16"), default="auto")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.threads[0], options)))
        return
    record = Record("encoders")
    for shape, threads in itertools.product(options.shapes, options.threads):
        arguments = [*sys.argv[1:], "--threads", str(threads), "--measure", shape]
        measured = in_process("bench.encoders", *arguments)
        for what, seconds in measured["tables"].items():
            rates = {name: [1 / one for one in values] for name, values in seconds.items()}
            title = f"{shape}, {measured['precision']}, {threads} threads, {what} per turn"
            record.table(title, "turns per second", rates, ALL, [Bar(row=ALL, against=LAST, least=0.95)])
        title = f"{shape}, {measured['precision']}, {threads} threads, padding"
        record.table(title, "%", {ALL: [measured["padding"]]})


if __name__ == "__main__":
    main()
