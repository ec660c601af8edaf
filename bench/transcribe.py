"""How well, and how fast, is a folder of recordings transcribed, beside faster-whisper and transformers?

A manifest gives recordings with their true words: utterances with times, a word each for starts to be
compared word by word. The same Whisper model is given as a folder of transformers and, for faster-whisper, in
the format of CTranslate2. Every system hears the same samples. Word error rates are jiwer's, after digits are
spelt out and punctuation is left out. A start is that of an utterance whose first word is matched with a true
one; its error is the difference to the start of that word's utterance.

Throughput is seconds of audio per second, in turns: recordings through `windows` and `recognize` by workers
of a thread each, which share them, as the command runs on as many cores; in this process, `recognize` on
ready windows, and the bare model, which is `generate` of transformers on ready features of the same windows
in batches; transformers' pipeline as it comes; and faster-whisper, plain and batched, which in a process of
its own is a third faster than beside torch in this one: its bars are not to be trusted until it has one.

    python -m bench.transcribe --manifest M.jsonl --model FOLDER --ct2 FOLDER [--every 1] [--repeats 3]
        [--threads 2] [--minutes 5] [--precision float32] [--only wer speed]
"""

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
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
from hilbert_ray.asr import Recognizer, build_recognizer, document_speech, recognize, windows
from hilbert_ray.audio import stream
from hilbert_ray.config import Config, RecognitionConfig

RATE_HZ = 16_000
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OURS, OURS_CT2 = "hilbert_ray", "hilbert_ray, faster-whisper"
PIPELINE, FASTER, BATCHED = "transformers' pipeline", "faster-whisper", "faster-whisper, batched"
BARE = "bare model"
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
_LOADED: dict[str, Recognizer] = {}
"""The recognisers of a worker by their names in the settings."""


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


class Systems:
    """All that is compared, loaded once: each takes recordings and returns the utterances of each."""

    def __init__(self, model: str, ct2: str, threads: int, precision: Any) -> None:  # noqa: ANN401 - a choice
        options = RecognitionConfig(precision=precision, language="en")
        self.configs = {
            OURS: Config(asr=f"hf:{model}", recognition=options),
            OURS_CT2: Config(asr=f"faster-whisper:{ct2}", recognition=options),
        }
        self.ours, self.ours_ct2 = map(build_recognizer, self.configs.values())
        self.engine = cast(Any, self.ours)
        """The same, as it is behind the protocol."""
        dtype = self.engine.dtype
        kind = {torch.float32: "float32", torch.bfloat16: "bfloat16"}[dtype]
        self.faster = WhisperModel(ct2, device="cpu", compute_type=kind, cpu_threads=threads)
        self.batched = BatchedInferencePipeline(self.faster)
        self.pipeline = transformers.pipeline("automatic-speech-recognition", model=model, dtype=dtype)

    def actions(self) -> Mapping[str, Callable[[Sequence[Recording]], list[Utterances]]]:
        """Return the systems by name."""
        return {
            OURS: lambda audio: transcribed(self.ours, audio),
            OURS_CT2: lambda audio: transcribed(self.ours_ct2, audio),
            PIPELINE: self._piped,
            FASTER: lambda audio: self._faster(self.faster, audio),
            BATCHED: lambda audio: self._faster(self.batched, audio, batch_size=BATCH),
        }

    def _piped(self, audio: Sequence[Recording]) -> list[Utterances]:
        results = [
            self.pipeline({"raw": one.samples, "sampling_rate": RATE_HZ}, return_timestamps=True)
            for one in audio
        ]
        return [[(chunk["timestamp"][0], chunk["text"]) for chunk in one["chunks"]] for one in results]

    def _faster(self, system: Any, audio: Sequence[Recording], **options: int) -> list[Utterances]:  # noqa: ANN401
        results = [system.transcribe(one.samples, language="en", **options)[0] for one in audio]
        return [[(segment.start, segment.text) for segment in segments] for segments in results]

    def bare(self, audio: Sequence[Recording]) -> Callable[[], object]:
        """Return an action that runs transformers' `generate` on ready features of our windows."""
        engine = self.engine
        heard = [one for recording in audio for one in windows(iter([recording.samples]), engine.longest_s)]
        features = torch.cat(
            [
                engine.extractor(one.samples, sampling_rate=RATE_HZ, return_tensors="pt").input_features
                for one in heard
            ]
        ).to(engine.dtype)
        return lambda: [
            engine.model.generate(rows, return_timestamps=True) for rows in torch.split(features, BATCH)
        ]

    def windows_only(self, audio: Sequence[Recording]) -> Callable[[], object]:
        """Return an action that recognises ready windows."""
        heard = [
            one for recording in audio for one in windows(iter([recording.samples]), self.ours.longest_s)
        ]
        return lambda: self.ours.recognize(heard)


def transcribed_by_workers(pool: ProcessPoolExecutor, config: Config, shares: Shares) -> None:
    """Transcribe a share of the recordings in each process of a pool."""
    for _ in pool.map(_transcribe_here, [config] * len(shares), shares):
        pass


def shares_of(audio: Sequence[Recording], count: int) -> Shares:
    """Return the recordings in shares of about the same length."""
    shares: list[list[Recording]] = [[] for _ in range(count)]
    for recording in sorted(audio, key=lambda one: -len(one.samples)):
        min(shares, key=lambda share: sum(len(one.samples) for one in share)).append(recording)
    return shares


def _transcribe_here(config: Config, audio: Sequence[Recording]) -> None:
    if config.asr not in _LOADED:
        torch.set_num_threads(1)
        _LOADED[config.asr] = build_recognizer(config)
    transcribed(_LOADED[config.asr], audio)


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
    parser.add_argument("--precision", default="float32", choices=["auto", "float32", "bf16"])
    parser.add_argument("--only", nargs="+", default=["wer", "speed"], choices=["wer", "speed"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    audio = recordings(options.manifest, options.every)
    record = Record("transcribe")
    systems = Systems(options.model, options.ct2, options.threads, options.precision)
    if "wer" in options.only:
        _word_errors(record, systems, audio)
    if "speed" in options.only:
        _throughput(record, systems, audio, options.minutes, options.repeats)
    return 0


def _word_errors(record: Record, systems: Systems, audio: Sequence[Recording]) -> None:
    rows = {}
    for name, system in systems.actions().items():
        began = time.process_time()
        rows[name] = score([one.truth for one in audio], system(audio))
        rows[name]["CPU s"] = time.process_time() - began
        print(name, json.dumps(rows[name]), flush=True)
    formats = {"WER": ".4f", "median start error, s": ".3f", "CPU s": ".0f"}
    hours = sum(len(one.samples) for one in audio) / RATE_HZ / 3600
    record.keep(f"Word errors in {len(audio)} recordings, {hours:.2f} h", rows, formats=formats)


def _throughput(
    record: Record, systems: Systems, audio: Sequence[Recording], minutes: float, repeats: int
) -> None:
    chosen: list[Recording] = []
    while (
        audio
        and sum(len(one.samples) for one in chosen) < 60 * minutes * RATE_HZ
        and len(chosen) < len(audio)
    ):
        chosen.append(audio[len(chosen)])
    seconds = sum(len(one.samples) for one in chosen) / RATE_HZ
    actions: dict[str, Callable[[], object]] = {
        name: partial(system, chosen) for name, system in systems.actions().items()
    }
    actions |= {BARE: systems.bare(chosen), f"{OURS}, ready windows": systems.windows_only(chosen)}
    shares = shares_of(chosen, torch.get_num_threads())
    # Spawned, since threads of this process would not be there after a fork.
    with ProcessPoolExecutor(len(shares), get_context("spawn")) as pool:
        actions |= {
            name: partial(transcribed_by_workers, pool, config, shares)
            for name, config in systems.configs.items()
        }
        for action in actions.values():
            action()  # weights are loaded, kernels chosen
        rates = turns({name: partial(_rate, seconds, action) for name, action in actions.items()}, repeats)
    record.table(
        f"Throughput on {seconds / 60:.1f} minutes in {len(chosen)} recordings",
        "s of audio/s",
        rates,
        base=OURS,
        bars=[
            Bar(row=f"{OURS}, ready windows", against=BARE, least=0.9),
            Bar(row=OURS, against=PIPELINE, least=2.0),
            Bar(row=OURS, against=BATCHED, least=1.0),
            Bar(row=OURS_CT2, against=BATCHED, least=1.0),
        ],
    )


def _rate(seconds: float, action: Callable[[], object]) -> float:
    return seconds / timed(action)


if __name__ == "__main__":
    sys.exit(main())
