"""How well, and how fast, is a folder of recordings transcribed, beside faster-whisper and transformers?

A manifest gives recordings with their true words: utterances with times, a word each for starts to be
compared word by word. The same Whisper model is given as a folder of transformers and, for faster-whisper, in
the format of CTranslate2. Every system hears the same samples. Word error rates are jiwer's, after digits are
spelt out and punctuation is left out. A start is that of an utterance whose first word is matched with a true
one; its error is the difference to the start of that word's utterance.

Throughput is seconds of audio per second, in turns: recordings through `windows` and `recognize` by workers
of a thread each, which share them, as the command runs on as many cores; `recognize` on ready windows, and
the bare model, which is `generate` of transformers on ready features of the same windows in batches;
transformers' pipeline as it comes; and faster-whisper, plain and batched. Each has processes of its own:
where torch computes too, faster-whisper is a third slower.

    python -m bench.transcribe --manifest M.jsonl --model FOLDER --ct2 FOLDER [--every 1] [--repeats 3]
        [--threads 2] [--minutes 5] [--precision float32|bf16] [--only wer speed] [--systems NAME ...]
"""

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import jiwer
import numpy as np
import torch
import transformers
from faster_whisper import BatchedInferencePipeline, WhisperModel

from bench.measure import Bar, Record, timed, turns
from hilbert_ray.asr import Recognizer, Window, build_recognizer, document_speech, recognize, windows
from hilbert_ray.audio import stream
from hilbert_ray.config import Config, RecognitionConfig

RATE_HZ = 16_000
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OURS, OURS_CT2, OURS_INT8 = "hilbert_ray", "hilbert_ray, CTranslate2", "hilbert_ray, CTranslate2, int8"
PIPELINE = "transformers' pipeline"
FASTER, FASTER_INT8 = "faster-whisper", "faster-whisper, int8"
BATCHED, BATCHED_INT8 = "faster-whisper, batched", "faster-whisper, batched, int8"
BARE, READY = "bare model", "hilbert_ray, ready windows"
BATCH = 8
Utterances = Sequence[tuple[float, str]]
"""Start in seconds and text of each utterance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """A recording, float32 [samples] at `RATE_HZ`, and its true utterances."""

    name: str
    samples: np.ndarray
    truth: Utterances


Shares = Sequence[Sequence[Recording]]
System = Callable[[Sequence[Recording]], list[Utterances]]
"""Takes recordings and returns the utterances of each."""


def recordings(manifest: Path, every: int) -> list[Recording]:
    """Return every `every`-th recording of a manifest of JSON lines that has its words with their times."""
    listed = [json.loads(line) for line in manifest.open()]
    rows = [row for row in listed if row.get("audio") and isinstance(row.get("text"), list)][::every]
    return [
        Recording(
            name=row["doc_id"],
            samples=np.concatenate([*stream(str(manifest.parent / row["audio"]))]),
            truth=[(one["start"], one["text"]) for one in row["text"]],
        )
        for row in rows
    ]


def words(text: str) -> list[str]:
    """Return a text's words in lower case, digits spelt out one by one."""
    spelt = re.sub(r"\d", lambda digit: f" {DIGITS[int(digit[0])]} ", text.lower())
    return re.findall(r"[a-z']+", spelt)


def score(truths: Sequence[Utterances], written: Sequence[Utterances]) -> dict[str, float]:
    """Return the word error rate, its parts, and the median error of the starts in seconds."""
    true_words = [[word for _, text in truth for word in words(text)] for truth in truths]
    our_words = [[word for _, text in one for word in words(text)] for one in written]
    result = jiwer.process_words([" ".join(one) for one in true_words], [" ".join(one) for one in our_words])
    errors: list[float] = []
    for truth, utterances, chunks in zip(truths, written, result.alignments, strict=True):
        begins, true_begins = _begins(utterances), _begins(truth)
        for chunk in (chunk for chunk in chunks if chunk.type == "equal"):
            for ours in range(chunk.hyp_start_idx, chunk.hyp_end_idx):
                true = chunk.ref_start_idx + ours - chunk.hyp_start_idx
                if ours in begins and true in true_begins:
                    errors.append(abs(begins[ours] - true_begins[true]))
    return {
        "WER": result.wer,
        "substituted": result.substitutions,
        "left out": result.deletions,
        "added": result.insertions,
        "starts": len(errors),
        "median start error, s": statistics.median(errors) if errors else float("nan"),
    }


def _begins(utterances: Utterances) -> dict[int, float]:
    """Return the start of each utterance by the number of its first word."""
    begins, count = {}, 0
    for start, text in utterances:
        if spoken := words(text):
            begins[count] = start
            count += len(spoken)
    return begins


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What systems are built from: the model in both formats, and the threads and precision of one."""

    model: str
    ct2: str
    threads: int
    precision: str


def build_ours(setup: Setup) -> System:
    """Return our engine of transformers."""
    return partial(transcribed, recognizer_of(setup, f"hf:{setup.model}"))


def build_ours_ct2(setup: Setup) -> System:
    """Return our engine of CTranslate2."""
    return partial(transcribed, recognizer_of(setup, f"faster-whisper:{setup.ct2}"))


def build_pipeline(setup: Setup) -> System:
    """Return transformers' pipeline as it comes."""
    dtype = {"float32": torch.float32, "bf16": torch.bfloat16}[setup.precision]
    pipeline: Any = transformers.pipeline("automatic-speech-recognition", model=setup.model, dtype=dtype)

    def run(audio: Sequence[Recording]) -> list[Utterances]:
        sounds = [{"raw": one.samples, "sampling_rate": RATE_HZ} for one in audio]
        results = [pipeline(sound, return_timestamps=True) for sound in sounds]
        return [[(chunk["timestamp"][0], chunk["text"]) for chunk in one["chunks"]] for one in results]

    return run


def build_faster(setup: Setup) -> System:
    """Return faster-whisper, one window after the other."""
    return partial(_faster, faster_whisper_of(setup), {})


def build_batched(setup: Setup) -> System:
    """Return faster-whisper's batched pipeline."""
    return partial(_faster, BatchedInferencePipeline(faster_whisper_of(setup)), {"batch_size": BATCH})


def faster_whisper_of(setup: Setup) -> WhisperModel:
    """Return faster-whisper's model."""
    kind = {"float32": "float32", "bf16": "bfloat16", "int8": "int8"}[setup.precision]
    return WhisperModel(setup.ct2, device="cpu", compute_type=kind, cpu_threads=setup.threads)


def _faster(
    system: WhisperModel | BatchedInferencePipeline, options: Mapping[str, Any], audio: Sequence[Recording]
) -> list[Utterances]:
    results = [system.transcribe(one.samples, language="en", **options)[0] for one in audio]
    return [[(segment.start, segment.text) for segment in segments] for segments in results]


def build_ready(setup: Setup) -> System:
    """Return our engine of transformers on ready windows."""
    recognizer = recognizer_of(setup, f"hf:{setup.model}")
    heard: list[Window] = []

    def run(audio: Sequence[Recording]) -> list[Utterances]:
        if not heard:
            heard.extend(windows_of(audio, recognizer))
        recognizer.recognize(heard)
        return []

    return run


def build_bare(setup: Setup) -> System:
    """Return transformers' `generate` on ready features of our windows."""
    engine = cast(Any, recognizer_of(setup, f"hf:{setup.model}"))
    ready: list[torch.Tensor] = []

    def run(audio: Sequence[Recording]) -> list[Utterances]:
        if not ready:
            made = [
                engine.extractor(one.samples, sampling_rate=RATE_HZ, return_tensors="pt").input_features
                for one in windows_of(audio, engine)
            ]
            ready.extend(torch.split(torch.cat(made).to(engine.dtype), BATCH))
        for rows in ready:
            engine.model.generate(rows, return_timestamps=True)
        return []

    return run


def recognizer_of(setup: Setup, asr: str) -> Recognizer:
    """Return one of our recognisers."""
    options = RecognitionConfig(precision=cast(Any, setup.precision), language="en")
    return build_recognizer(Config(asr=asr, recognition=options))


def windows_of(audio: Sequence[Recording], recognizer: Recognizer) -> list[Window]:
    """Return the windows of recordings."""
    return [one for recording in audio for one in windows(iter([recording.samples]), recognizer.longest_s)]


Systems = Mapping[str, tuple[Callable[[Setup], System], str | None]]
"""What builds each, and its precision; None for that of the command line."""
SYSTEMS: Systems = {
    OURS: (build_ours, None),
    OURS_CT2: (build_ours_ct2, None),
    OURS_INT8: (build_ours_ct2, "int8"),
    PIPELINE: (build_pipeline, None),
    FASTER: (build_faster, None),
    FASTER_INT8: (build_faster, "int8"),
    BATCHED: (build_batched, None),
    BATCHED_INT8: (build_batched, "int8"),
}


class Running:
    """A system in processes of its own, of which each has a share of the recordings."""

    def __init__(self, build: Callable[[Setup], System], setup: Setup, shares: Shares) -> None:
        """Start the processes; each builds the system at first use and nothing else."""
        self._pools = [
            # Spawned, since threads of this process would not be there after a fork.
            ProcessPoolExecutor(1, get_context("spawn"), _begin, (build, setup, share))
            for share in shares
        ]

    def __call__(self) -> tuple[list[Utterances], float]:
        """Return what is written of the recordings, in the order of the shares, and seconds of CPU."""
        results = [one.result() for one in [pool.submit(_run_here) for pool in self._pools]]
        return [each for utterances, _ in results for each in utterances], sum(cpu_s for _, cpu_s in results)

    def close(self) -> None:
        """End the processes."""
        for pool in self._pools:
            pool.shutdown()


_HERE: list[Callable[[], list[Utterances]]] = []
"""In a process of `Running`: the system, with the recordings that it is to hear."""


def _begin(build: Callable[[Setup], System], setup: Setup, share: Sequence[Recording]) -> None:
    torch.set_num_threads(setup.threads)
    _HERE.append(partial(build(setup), share))


def _run_here() -> tuple[list[Utterances], float]:
    began = time.process_time()
    return _HERE[0](), time.process_time() - began


def shares_of(audio: Sequence[Recording], count: int) -> Shares:
    """Return the recordings in shares of about the same length."""
    shares: list[list[Recording]] = [[] for _ in range(count)]
    for recording in sorted(audio, key=lambda one: -len(one.samples)):
        min(shares, key=lambda share: sum(len(one.samples) for one in share)).append(recording)
    return shares


def transcribed(recognizer: Recognizer, audio: Sequence[Recording]) -> list[Utterances]:
    """Return what we write of recordings, all their windows together."""
    documents = []
    for recording in audio:
        document = document_speech("en")
        document.waiting += windows(iter([recording.samples]), recognizer.longest_s)
        document.is_complete = True
        documents.append(document)
    recognize(documents, recognizer)
    return [[(one.start, one.text) for one in document.transcription().utterances] for document in documents]


def main() -> int:
    """Measure word errors and throughput; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--ct2", required=True)
    parser.add_argument("--every", type=int, default=1, help="use every N-th recording")
    parser.add_argument("--minutes", type=float, default=5.0, help="audio in a turn of throughput")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="float32", choices=["float32", "bf16"])
    parser.add_argument("--only", nargs="+", default=["wer", "speed"], choices=["wer", "speed"])
    parser.add_argument("--systems", nargs="+", default=[*SYSTEMS], choices=[*SYSTEMS])
    options = parser.parse_args()
    systems = {name: SYSTEMS[name] for name in options.systems}
    audio = recordings(options.manifest, options.every)
    record = Record("transcribe")
    setup = Setup(model=options.model, ct2=options.ct2, threads=options.threads, precision=options.precision)
    if "wer" in options.only:
        _word_errors(record, systems, setup, audio)
    if "speed" in options.only:
        _throughput(record, systems, setup, audio, options.minutes, options.repeats)
    return 0


def _word_errors(record: Record, systems: Systems, setup: Setup, audio: Sequence[Recording]) -> None:
    rows = {}
    for name, (build, precision) in systems.items():
        running = Running(build, replace(setup, precision=precision or setup.precision), [audio])
        written, cpu_s = running()
        running.close()
        rows[name] = score([one.truth for one in audio], written) | {"CPU s": cpu_s}
        print(name, json.dumps(rows[name]), flush=True)
    formats = {"WER": ".4f", "median start error, s": ".3f", "CPU s": ".0f"}
    hours = sum(len(one.samples) for one in audio) / RATE_HZ / 3600
    record.keep(f"Word errors in {len(audio)} recordings, {hours:.2f} h", rows, formats=formats)


def _throughput(
    record: Record,
    systems: Systems,
    setup: Setup,
    audio: Sequence[Recording],
    minutes: float,
    repeats: int,
) -> None:
    chosen: list[Recording] = []
    while (
        audio
        and sum(len(one.samples) for one in chosen) < 60 * minutes * RATE_HZ
        and len(chosen) < len(audio)
    ):
        chosen.append(audio[len(chosen)])
    seconds = sum(len(one.samples) for one in chosen) / RATE_HZ
    ours = shares_of(chosen, setup.threads)
    runs = {}
    for name, (build, precision) in {**systems, BARE: (build_bare, None), READY: (build_ready, None)}.items():
        own = replace(setup, precision=precision or setup.precision)
        if build in (build_ours, build_ours_ct2):
            runs[name] = Running(build, replace(own, threads=1), ours)
        else:
            runs[name] = Running(build, own, [chosen])
    for run in runs.values():
        run()  # weights are loaded, kernels chosen
    rates = turns({name: partial(_rate, seconds, run) for name, run in runs.items()}, repeats)
    for run in runs.values():
        run.close()
    record.table(
        f"Throughput on {seconds / 60:.1f} minutes in {len(chosen)} recordings",
        "s of audio/s",
        rates,
        base=next(iter(systems)),
        bars=[
            Bar(row=READY, against=BARE, least=0.9),
            Bar(row=OURS, against=PIPELINE, least=2.0),
            *(Bar(row=row, against=BATCHED, least=1.0) for row in (OURS, OURS_CT2)),
            Bar(row=OURS_INT8, against=BATCHED_INT8, least=1.0),
        ],
    )


def _rate(seconds: float, run: Running) -> float:
    return seconds / timed(run)


if __name__ == "__main__":
    sys.exit(main())
