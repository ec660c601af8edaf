"""A recogniser without weights, whose words are a hash of what it hears, and spoken documents for it."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile

from hilbert_ray.asr import Recognizer, Spoken, Window, Word
from hilbert_ray.config import Config, EmbedConfig
from hilbert_ray.document import Seconds
from hilbert_ray.transcription.driver import TranscribeSummary, transcribe_with
from hilbert_ray.transcription.worker import TranscribeUnits
from tests import make
from tests.segmentation.cutting import interview

CONFIG = Config(embed=EmbedConfig(buckets=4, unit_s=6.0, workers=2))


class HashingRecognizer:
    """Two words for each window, one for what each half of it holds, and a language by its samples.

    `deaf` makes it refuse windows that begin later than this many seconds, as a broken kernel would.
    """

    name = "hashing"
    fingerprint = "hashing-1"
    rate_hz = 16000
    longest_s: Seconds = 3.0

    def __init__(self, deaf: Seconds = float("inf")) -> None:
        self.deaf = deaf
        self.batches: list[int] = []

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "revision": 1}

    def rehearse(self) -> None:
        """Load without fault."""

    def detect_languages(self, windows: Sequence[Window]) -> list[dict[str, float]]:
        shares = [int(_hash(window.samples.tobytes())[:2], 16) / 255 for window in windows]
        return [{"en": share, "ur": 1 - share} for share in shares]

    def recognize(self, windows: Sequence[Window]) -> list[list[Spoken]]:
        self.batches.append(len(windows))
        return [self._recognized(window) for window in windows]

    def _recognized(self, window: Window) -> list[Spoken]:
        if window.start > self.deaf:
            raise RuntimeError("deaf by now")
        middle = len(window.samples) // 2
        halves = ((0, middle), (middle, len(window.samples)))
        words = tuple(
            Word(
                f"{window.language}{_hash(window.samples[begin:end].tobytes())[:8]}",
                window.start + begin / self.rate_hz,
                window.start + end / self.rate_hz,
                0.5,
            )
            for begin, end in halves
        )
        doubts = ("repetition",) if words[0].text[-1] in "01" else ()
        text = " ".join(word.text for word in words)
        return [Spoken(text, words[0].start, words[1].end, words, 0.75, doubts, window.role)]


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data).hexdigest()


class HashingUnits(TranscribeUnits):
    """The actor with that recogniser."""

    def build(self) -> None:
        self.recognizer: Recognizer = HashingRecognizer()


def transcribe(manifest: str, out: str, config: Config = CONFIG) -> TranscribeSummary:
    """Transcribe with the hashing recogniser."""
    return transcribe_with(HashingRecognizer(), manifest, out, config, HashingUnits)


def spoken(
    folder: Path, documents: int, seconds: Seconds = 4.0, silent: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """Write recordings of speech without text, and of a tone for `silent` ones; return their rows."""
    folder.mkdir(parents=True, exist_ok=True)
    size = round(seconds * 16000)
    rows: list[dict[str, Any]] = []
    for number in range(documents):
        name = f"d{number:03d}"
        if number in silent:
            make.tone(folder / f"{name}.wav", seconds)
        else:
            speech = interview(number % 3 + 1)
            at = number * 7919 % (len(speech) - size)
            soundfile.write(folder / f"{name}.wav", speech[at : at + size], 16000)
        rows.append(
            {
                "doc_id": name,
                "audio": f"{name}.wav",
                "group": f"g{number % 4}",
                "labels": {"topic": "ab"[number % 2]},
            }
        )
    return rows


def rows_of(manifest: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(manifest).read_text().splitlines()]


def transcripts_of(out: Path) -> dict[str, bytes]:
    """Return all transcripts and the manifest of a local folder, by name."""
    files = [out / "manifest.jsonl", *out.glob("transcripts/*")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}
