"""What a user would run instead of `embed`: each as its documentation shows it, in its default precision.

Speech: transformers' audio-classification pipeline (no pipeline returns a recording's features) on windows
cut beforehand, eight at once; and a Ray Data script (`read_audio`, `flat_map`, `map_batches`). Text:
transformers' feature-extraction pipeline, and sentence-transformers' `encode`. For speech, decoding is
included. Each prints its steady-state rate, with one process or actor per worker and one thread each.

    python -m bench.peers WAY SPEC MANIFEST SECONDS WORKERS WINDOW_S
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from bench.shapes import RATE_HZ

BATCH = 8  # windows per batch
TEXTS = 512  # passed to a text encoder per call


def rows(manifest: str) -> list[dict[str, Any]]:
    """Return the rows of a JSON lines manifest."""
    return [json.loads(line) for line in Path(manifest).read_text().splitlines()]


def windows(samples: np.ndarray, window_s: float) -> list[np.ndarray]:
    """Cut samples at 16 kHz into windows; the last is kept if a speech encoder's convolutions can take it."""
    size = round(window_s * RATE_HZ)
    return [part for at in range(0, len(samples), size) if len(part := samples[at : at + size]) >= 400]


def speech_pipeline(spec: str, manifest: str, window_s: float, number: int) -> Iterator[float]:
    """Yield seconds of audio as transformers' pipeline finishes them, starting at recording `number`."""
    import soundfile
    import soxr
    import transformers

    folder = Path(manifest).parent
    paths = [folder / row["audio"] for row in rows(manifest)]
    pipe = transformers.pipeline("audio-classification", model=spec.removeprefix("hf:"), device="cpu")

    def cut() -> Iterator[np.ndarray]:
        for path in itertools.cycle(paths[number:] + paths[:number]):
            samples, rate_hz = soundfile.read(path, dtype="float32")
            yield from windows(soxr.resample(samples.mean(1), rate_hz, RATE_HZ), window_s)

    for_pipe, for_us = itertools.tee(cut())
    answers = pipe((part for part in for_pipe), batch_size=BATCH)  # the pipeline streams only generators
    for _, part in zip(answers, for_us, strict=False):
        yield len(part) / RATE_HZ


def text_pipeline(spec: str, manifest: str, window_s: float, number: int) -> Iterator[float]:
    """Yield texts as transformers' pipeline finishes them, 16 at once."""
    import transformers

    pipe = transformers.pipeline("feature-extraction", model=spec.removeprefix("hf:"), device="cpu")
    for texts in _portions(manifest, number):
        pipe(texts, batch_size=16)
        yield len(texts)


def sentence_transformers(spec: str, manifest: str, window_s: float, number: int) -> Iterator[float]:
    """Yield texts as sentence-transformers' `encode` finishes them, 32 at once (its default)."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(spec.removeprefix("hf:"), device="cpu")
    for texts in _portions(manifest, number):
        model.encode(texts, show_progress_bar=False)
        yield len(texts)


def _portions(manifest: str, number: int) -> Iterator[list[str]]:
    texts = [text for row in rows(manifest) for text in row["text"]]
    for at in itertools.count(number):
        begin = at * TEXTS % len(texts)
        yield texts[begin : begin + TEXTS]


Way = Callable[[str, str, float, int], Iterable[float]]
IN_PROCESS_WAYS: dict[str, Way] = {
    "speech-pipeline": speech_pipeline,
    "text-pipeline": text_pipeline,
    "sentence-transformers": sentence_transformers,
}


def run_one_process(
    number: int, way: str, spec: str, manifest: str, seconds: float, window_s: float
) -> float:
    """Run one way in one thread for some seconds after its first result; return its amount per second."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    amounts = iter(IN_PROCESS_WAYS[way](spec, manifest, window_s, number))
    next(amounts)
    began, done = time.perf_counter(), 0.0
    while time.perf_counter() - began < seconds:
        done += next(amounts)
    return done / (time.perf_counter() - began)


class Features:
    """The actor of the Ray Data script: windows to mean features."""

    def __init__(self, folder: str) -> None:
        """Load the network once."""
        import transformers

        self.model = transformers.AutoModel.from_pretrained(folder).eval()
        self.extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the features of a batch of windows, and when and where they were computed."""
        import torch

        is_whisper = self.model.config.is_encoder_decoder
        inputs = self.extractor(
            list(batch["samples"]),
            sampling_rate=RATE_HZ,
            padding="max_length" if is_whisper else True,
            return_tensors="pt",
        )
        network = self.model.get_encoder() if is_whisper else self.model
        with torch.inference_mode():
            states = network(**inputs).last_hidden_state
        columns = {"features": states.mean(1).numpy(), "seconds": batch["seconds"]}
        return columns | {
            "ended": np.full(len(states), time.time()),
            "pid": np.full(len(states), os.getpid()),
        }


def ray_data(spec: str, manifest: str, workers: int, window_s: float) -> float:
    """Return the Ray Data script's seconds of audio per second, while all of its actors have work."""
    import ray
    import soxr

    def cut(row: dict[str, Any]) -> list[dict[str, Any]]:
        samples = soxr.resample(row["amplitude"].mean(0), row["sample_rate"], RATE_HZ)
        return [{"samples": part, "seconds": len(part) / RATE_HZ} for part in windows(samples, window_s)]

    ray.init(num_cpus=max(4, workers + 2), include_dashboard=False, log_to_driver=False)
    folder = Path(manifest).parent
    dataset = (
        ray.data.read_audio([str(folder / row["audio"]) for row in rows(manifest)])
        .flat_map(cut)
        .map_batches(
            Features,
            fn_constructor_args=[spec.removeprefix("hf:")],
            batch_size=BATCH,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
    )
    out = folder / "ray-data"
    dataset.write_parquet(str(out))
    table = pq.read_table(out, columns=["seconds", "ended", "pid"]).to_pandas()
    begins, ends = table.groupby("pid")["ended"].min().max(), table.groupby("pid")["ended"].max().min()
    steady = table[(table["ended"] > begins) & (table["ended"] <= ends)]
    if steady.empty:
        sys.exit(f"{manifest} has too little work for {workers} workers: pass more --minutes to bench.embed")
    return float(steady["seconds"].sum() / (ends - begins))


def main() -> None:
    """Print the rate of all workers together as JSON."""
    way, spec, manifest, seconds, workers, window_s = sys.argv[1:]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if way == "ray-data":
        rate = ray_data(spec, manifest, int(workers), float(window_s))
    else:
        task = partial(
            run_one_process,
            way=way,
            spec=spec,
            manifest=manifest,
            seconds=float(seconds),
            window_s=float(window_s),
        )
        with ProcessPoolExecutor(int(workers)) as pool:
            rate = sum(pool.map(task, range(int(workers))))
    print(json.dumps({"rate": rate}))


if __name__ == "__main__":
    main()
