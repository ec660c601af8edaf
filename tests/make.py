"""Small makers of fake records: tones, documents, manifests, features."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hilbert_ray.document.records import Document, Utterance
from hilbert_ray.features.arrays import Features, Ragged, mean_std
from hilbert_ray.store.features import FeatureRow
from hilbert_ray.store.snapshot import StoredDocument, bucket_of
from hilbert_ray.store.sorting import write_snapshot
from hilbert_ray.store.store import Store

SPEECH = (
    "well I went there",
    "and then nothing happened for days",
    "we talked about the garden",
    "it was fine",
)


def tone(path: Path, seconds: float = 2.0, hertz: float = 220.0, rate_hz: int = 16000, seed: int = 0) -> Path:
    """Write a tone with a little noise, one channel; the format follows the name."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    samples = 0.3 * np.sin(2 * np.pi * hertz * time) + 0.02 * rng.standard_normal(len(time))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.astype(np.float32), rate_hz)
    return path


def manifest(path: Path, records: Sequence[Mapping[str, Any]]) -> str:
    """Write a JSONL manifest and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def record(folder: Path, number: int, seconds: float = 2.0, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a manifest row with a tone and a timed transcript of two speakers; None drops a field."""
    name = f"d{number:03d}"
    tone(folder / f"{name}.wav", seconds, hertz=110.0 + 10 * number, seed=number)
    turn = seconds / 4
    fields: dict[str, Any] = {
        "doc_id": name,
        "audio": f"{name}.wav",
        "text": [
            {
                "text": f"{SPEECH[(number + i) % 4]} {number}",
                "start": i * turn,
                "end": (i + 1) * turn,
                "role": ("interviewer", "participant")[i % 2],
            }
            for i in range(4)
        ],
        "group": f"g{number % 4}",
        "labels": {"topic": ("work", "home")[number % 2]},
    }
    fields.update(changes)
    return {key: value for key, value in fields.items() if value is not None}


def corpus(folder: Path, documents: int, seconds: float = 2.0) -> str:
    """Write a manifest of good documents and return its path."""
    return manifest(
        folder / "manifest.jsonl", [record(folder, number, seconds) for number in range(documents)]
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """What the fixture `embedded` gives: the manifest of `labelled`, its rows, and their store."""

    manifest: str
    records: Sequence[Mapping[str, Any]]
    store: str


def labelled(folder: Path, documents: int = 32) -> list[dict[str, Any]]:
    """Return manifest rows of 2 s in 10 groups, with labels of all five kinds of task.

    d005 has no audio, d010 no text, and d015's audio is no audio; d003 has no label and d020 two of five;
    d027 and d030, each the only one of its group, are of the splits validation and test.
    """
    themes = ("art", "law", "sea")
    changes: dict[int, dict[str, Any]] = {
        3: {"labels": None},
        5: {"audio": None},
        10: {"text": None},
        15: {"audio": "words.wav"},
        27: {"split": "validation", "group": "g8"},
        30: {"split": "test", "group": "g9"},
    }
    records = []
    for number in range(documents):
        labels: dict[str, Any] = {
            "topic": ("work", "home")[(number + number // 8) % 2],
            "mood": (number + number // 3) % 3,
            "place": ("car", "office", "street")[(2 * number + number // 8) % 3],
            "themes": [theme for j, theme in enumerate(themes) if number >> j & 1],
            "age": 20.5 + number,
        }
        if number == 20:
            labels = {"mood": 1, "age": 40.5}
        fields = {"group": f"g{number % 8}", "labels": labels, **changes.get(number, {})}
        records.append(record(folder, number, **fields))
    (folder / "words.wav").write_text("these are words, not audio")
    return records


def stored(doc_id: str, **changes: Any) -> StoredDocument:  # noqa: ANN401 - any field of either record
    """Return a document with both modalities as a store keeps it."""
    turns = (Utterance(text="hello there", start=0.0, end=1.0, role="participant"),)
    fields: dict[str, Any] = {
        "audio": f"/{doc_id}.wav",
        "text": turns,
        "group": doc_id,
        "labels": {"topic": "work"},
    }
    versions: dict[str, Any] = {"row": 1, "audio_version": "1", "text_version": "2", "turns_version": "3"}
    for key, value in changes.items():
        (versions if key in versions else fields)[key] = value
    return StoredDocument(document=Document(doc_id=doc_id, **fields), **versions)


def feature_row(doc_id: str, source: str = "s", n: int = 3, dim: int = 4, seed: int = 0) -> FeatureRow:
    """Return features of a document of `n` seconds, one segment a second."""
    rng = np.random.default_rng(seed)
    return FeatureRow(
        doc_id=doc_id,
        source=source,
        features=rng.standard_normal((n, dim)).astype(np.float16),
        start=np.arange(n, dtype=np.float32),
        end=np.arange(1, n + 1, dtype=np.float32),
        timed=True,
        seen=float(n),
        present=float(n),
    )


def features_store(folder: Path, audio: Sequence[int], text: Sequence[int], dim: int) -> str:
    """Write a store with so many segments of each document's audio and text, 0 where it has none.

    The rows of all documents differ; their topic is `work` or `home`, and they are in four groups.
    """
    from hilbert_ray.config import Config
    from hilbert_ray.encoders.registry import build_encoder

    config, store = Config(), Store.create(str(folder), 4)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(max(*audio, *text), dim)).astype(np.float16)
    documents = (
        stored(
            f"d{i:04d}", row=i + 1, group=f"g{i % 4}", labels={"topic": ("work", "home")[i // 4 % 2]},
            **({} if audio[i] else {"audio": None}), **({} if text[i] else {"text": None}),
        )
        for i in range(len(audio))
    )  # fmt: skip
    write_snapshot(store, documents)
    for modality, spec, lengths in (("audio", config.audio, audio), ("text", config.text, text)):
        encoder = build_encoder(spec, modality, config.audio_encoder, config.segment)  # type: ignore[arg-type]
        store.add_encoder(encoder.modality, encoder.fingerprint, {**encoder.describe(), "dim": dim})
        rows: dict[int, list[FeatureRow]] = {}
        for item in store.snapshot().documents():
            doc_id, source = item.document.doc_id, item.source(encoder.modality)
            number = int(doc_id[1:])
            if source is None:
                continue
            ends = np.arange(1, lengths[number] + 1, dtype=np.float32)
            row = FeatureRow(
                doc_id=doc_id, source=source, features=noise[: len(ends)] + np.float16(number % 16 / 8),
                start=ends - 1, end=ends, timed=True, seen=float(len(ends)), present=len(ends) + 0.5,
            )  # fmt: skip
            rows.setdefault(bucket_of(doc_id, store.buckets), []).append(row)
        for bucket, held in rows.items():
            for at in range(0, len(held), 8):
                store.commit(
                    encoder.modality, encoder.fingerprint, unit=f"unit-{at:04d}", bucket=bucket,
                    rows=held[at : at + 8],
                )  # fmt: skip
    return store.uri


def ragged(lengths: np.ndarray, dim: int, signal: np.ndarray, rng: np.random.Generator) -> Ragged:
    """Return noise of width `dim` whose first three columns are shifted by each document's signal."""
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
    values = rng.normal(size=(offsets[-1], dim)).astype(np.float32)
    values[:, :3] += np.repeat(signal, lengths)[:, None]
    position = np.concatenate([np.zeros(0), *((np.arange(n) + 0.5) / n for n in lengths)]).astype(np.float32)
    spans = [slice(offsets[i], offsets[i + 1]) for i in range(len(lengths))]
    wide = np.stack([mean_std(values[span]) for span in spans])
    return Ragged(values=values, position=position, start=position, end=position, offsets=offsets, wide=wide)


def features(documents: int = 60, groups: int = 12, seed: int = 0, absent: float = 0.05) -> Features:
    """Return documents whose `state` (4 classes) needs both modalities; `level` is ordinal, `heard` binary.

    A tenth of `state` is unlabelled, and a share of documents lacks audio or text.
    """
    rng = np.random.default_rng(seed)
    heard, read = rng.integers(0, 2, documents), rng.integers(0, 2, documents)
    audio_lengths, text_lengths = rng.integers(2, 6, documents), rng.integers(3, 9, documents)
    draw = rng.random(documents)
    audio_lengths[draw < absent] = 0
    text_lengths[draw > 1 - absent] = 0
    state = 2 * heard + read
    state[rng.random(documents) < 0.1] = -1
    return Features(
        doc_ids=np.array([f"d{i:03d}" for i in range(documents)]),
        groups=np.arange(documents) % groups,
        audio=ragged(audio_lengths, 12, heard.astype(np.float32), rng),
        text=ragged(text_lengths, 20, read.astype(np.float32), rng),
        targets={"state": state, "level": heard + read, "heard": heard},
    )
