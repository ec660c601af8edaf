"""What evaluate, train and tune start from: a store's features, with encoders and tasks resolved.

The resolved settings are saved with the run: they record what was inferred (tasks) or chosen (a store's only
encoder), and `predict` builds the same encoders from them.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hilbert_ray.config import (
    MODALITIES,
    Config,
    ConfigError,
    EncoderChoice,
    EncoderConfig,
    Modality,
    SegmentConfig,
    TaskConfig,
    encoder_parts,
    from_dict,
)
from hilbert_ray.document import Document, Recognition, infer_tasks, is_held_out, with_labels_of
from hilbert_ray.features.arrays import Features
from hilbert_ray.features.duplicates import NearDuplicates, near_duplicates
from hilbert_ray.features.memory_map import BLOCK_ROWS
from hilbert_ray.features.reading import read_features
from hilbert_ray.features.selection import without_held_out
from hilbert_ray.features.transcripts import Transcript, read_transcripts, spoken
from hilbert_ray.segmentation import cutting
from hilbert_ray.store import PendingError, Snapshot, Store, StoredFeatures

log = logging.getLogger(__name__)
# Control groups of version 2 and 1. Total memory alone would be that of the host, not of the container.
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Features and documents in the same order, the resolved settings, and each encoder's description.

    `store` and `snapshot` are where they were read: later reads use the same manifest, even if another run
    replaces it meanwhile. Inline transcripts of `documents` are left out (an empty string).
    `quarantined` counts documents by the modality that could not be embedded, `pending` those whose modality
    is not embedded yet: both count as lacking it. `absent` counts documents of `features` whose manifest row
    has no such modality. `left_out` documents have no stored features at all, and are not in `features`.
    `held_out` counts the documents that do not take part because of their split, by split. `joined` are the
    near duplicates whose groups are one here (`folds.join_duplicates`); None where groups are the manifest's.
    `recognized` has those of `features` whose transcript is automatic, by id.
    """

    store: Store
    snapshot: Snapshot
    features: Features
    documents: Sequence[Document]
    config: Config
    encoders: Mapping[Modality, Mapping[str, Any]]
    quarantined: Mapping[Modality, int]
    pending: Mapping[Modality, int] = field(default_factory=dict)
    absent: Mapping[Modality, int] = field(default_factory=dict)
    left_out: int = 0
    joined: NearDuplicates | None = None
    held_out: Mapping[str, int] = field(default_factory=dict)
    recognized: Mapping[str, Recognition] = field(default_factory=dict)

    @property
    def recognizers(self) -> list[dict[str, Any]]:
        """What recognised the automatic transcripts: name, fingerprint, number of documents, mean confidence.

        The most frequent recogniser comes first; a confidence is None where a document has none.
        """
        by_recognizer: dict[tuple[str, str], list[float | None]] = {}
        for one in self.recognized.values():
            by_recognizer.setdefault((one.name, one.fingerprint), []).append(one.confidence)
        described = [
            {
                "name": name,
                "fingerprint": fingerprint,
                "documents": len(confidences),
                "confidence": None if None in confidences else float(np.mean(confidences)),  # type: ignore[arg-type]
            }
            for (name, fingerprint), confidences in by_recognizer.items()
        ]
        return sorted(described, key=lambda one: (-one["documents"], one["name"], one["fingerprint"]))

    @cached_property
    def transcripts(self) -> list[Transcript]:
        """What is said in each document, read from the store's manifest and the files that it names."""
        return read_transcripts(self.snapshot, self.features.doc_ids.tolist())

    def near_duplicates(self) -> NearDuplicates:
        """Return the near duplicates across the groups that the manifest gives; reads all segments."""
        if self.joined is not None:
            return self.joined
        texts = [spoken(transcript, self.config.segment.roles) for transcript in self.transcripts]
        return near_duplicates(self.features.audio, texts, self.features.groups)

    def held_out_duplicates(self) -> tuple[Sequence[str], NearDuplicates]:
        """Return ids, and near duplicates of which one document takes part and the other is held out.

        A copy of what was learned from makes a test set of other recordings in name only. Reads all segments
        of both, on top of those in memory.
        """
        rows = sorted(self.snapshot.documents(with_text=False), key=lambda row: row.document.doc_id)
        stored = {
            m: self.store.locate(m, each["fingerprint"], self.snapshot) for m, each in self.encoders.items()
        }
        documents = [row.document for row in rows]
        features = read_features(self.store, stored, {}, documents, _machine_memory() / 8)
        doc_ids = features.doc_ids.tolist()
        held_out = {document.doc_id for document in documents if is_held_out(document)}
        transcripts = read_transcripts(self.snapshot, doc_ids)
        texts = [spoken(transcript, self.config.segment.roles) for transcript in transcripts]
        # Two groups, since pairs of one group are not sought.
        sides = np.array([doc_id in held_out for doc_id in doc_ids], np.int64)
        return doc_ids, near_duplicates(features.audio, texts, sides)

    def with_joined_duplicates(self) -> "Dataset":
        """Return the same documents, groups that near duplicates connect being one; log how many."""
        found = self.near_duplicates()
        before = [document.group for document in self.documents]
        after = found.joined(before)
        log.info(
            "folds.join_duplicates: %d pairs of near duplicates; %d groups are now %d",
            len(found), len(set(before)), len(set(after)),
        )  # fmt: skip
        documents = [replace(d, group=group) for d, group in zip(self.documents, after, strict=True)]
        _, groups = np.unique(after, return_inverse=True)
        features = replace(self.features, groups=groups.reshape(-1).astype(np.int64))
        return replace(self, documents=documents, features=features, joined=found)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of encoders, documents, labels and features: runs with equal hashes read the same data."""
        # Tasks and settings are not in it: what resumes a run compares those as well.
        facts = [
            {m: d["fingerprint"] for m, d in self.encoders.items()},
            [[d.doc_id, d.group, d.labels, d.split] for d in self.documents],
        ]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for ragged in (self.features.audio, self.features.text):
            if ragged is not None:
                for array in (ragged.offsets, ragged.position, ragged.values):
                    # By blocks: mapped values may be larger than memory.
                    for first in range(0, len(array), BLOCK_ROWS):
                        digest.update(np.ascontiguousarray(array[first : first + BLOCK_ROWS]).data)
        return digest.hexdigest()[:16]


def open_dataset(
    store: str,
    config: Config,
    audio: str | None = None,
    text: str | None = None,
    *,
    held_out: bool = True,
    allow_pending: bool = False,
) -> Dataset:
    """Read what a run needs from a store.

    Features that take more than `fit.memory_gib` are mapped from a file, which is deleted when unused.
    Whatever learns or is scored by cross-validation leaves out what is held out: the documents of splits
    validation and test. This is the only place that decides it.

    Args:
        store: path or URI.
        config: settings; empty `tasks` are inferred from the labels.
        audio: name or fingerprint of the audio encoder to use, `none` for no audio; None for the only one of
            the store, if it has any.
        text: likewise.
        held_out: whether documents of splits validation and test are read.
        allow_pending: take documents that are not embedded yet as lacking what is missing, instead of
            refusing the store. They are counted in `Dataset.pending`.

    Raises:
        PendingError: when documents are not embedded yet, without `allow_pending`.
        ConfigError: when an encoder is not in the store or must be chosen, when no document has a label (of
            a task), for a label outside its task, or when all documents are held out.
        SplitError: when documents are held out from a group that others are not, without `held_out`.
        StoreError: when there is no store, or it changes meanwhile.
    """
    opened = Store.open(store)
    snapshot = opened.snapshot()
    encoders = _choose_encoders(opened, snapshot, audio, text)
    for modality, encoder in encoders.items():
        # Before anything is read, and not in a worker that makes a network.
        config.model.layers_of(modality, int(encoder.get("layers", 1)))
    # By id, not by bucket: results must not depend on how many buckets the store has.
    rows = sorted(snapshot.documents(with_text=False), key=lambda row: row.document.doc_id)
    documents = [with_labels_of(row.document, config.tasks) for row in rows]
    # From all of them: what the classes are must not depend on which documents are held out.
    tasks = config.tasks or _inferred_tasks(store, documents)
    documents, left_out_by_split = (documents, {}) if held_out else without_held_out(store, documents)
    taking_part = len(documents)
    stored = {m: opened.locate(m, encoder["fingerprint"], snapshot) for m, encoder in encoders.items()}
    memory_bytes = config.fit.memory_gib * 2**30 or _machine_memory() / 8
    # Before features are read: a store that `embed` left unfinished would pass as a whole one of less data.
    having = {modality: {row.document.doc_id for row in rows if row.has(modality)} for modality in stored}
    quarantined, pending = _count_missing(stored, having)
    if any(pending.values()) and not allow_pending:
        raise PendingError(store, {str(modality): count for modality, count in pending.items()}, len(rows))
    _warn_of_missing(pending, "is not embedded yet (rerun `hilbert-ray embed` to finish)")
    features = read_features(opened, stored, tasks, documents, memory_bytes)
    if not len(features):
        raise ConfigError(
            f"store {store} has no features of the chosen encoders; run `hilbert-ray embed` first"
        )
    with_features = set(features.doc_ids.tolist())
    documents = [document for document in documents if document.doc_id in with_features]
    _check_labels(tasks, documents)
    dataset = Dataset(
        store=opened,
        snapshot=snapshot,
        features=features,
        documents=documents,
        config=_resolved(config, tasks, encoders),
        encoders=encoders,
        quarantined=quarantined,
        pending=pending,
        absent={modality: len(with_features - ids) for modality, ids in having.items()},
        left_out=taking_part - len(documents),
        held_out=left_out_by_split,
        recognized={
            doc_id: recognition
            for each in stored.values()
            for doc_id, recognition in each.recognized.items()
            if doc_id in with_features
        },
    )
    return dataset.with_joined_duplicates() if config.folds.join_duplicates else dataset


def _choose_encoders(
    store: Store, snapshot: Snapshot, audio: str | None, text: str | None
) -> dict[Modality, Mapping[str, Any]]:
    """Return the descriptions of the encoders to use, by modality."""
    encoders: dict[Modality, Mapping[str, Any]] = {}
    for modality, choice in zip(MODALITIES, (audio, text), strict=True):
        description = _choose_encoder(store, snapshot, modality, choice)
        if description is not None:
            encoders[modality] = description
    return encoders


def _count_missing(
    stored: Mapping[Modality, StoredFeatures], having: Mapping[Modality, Collection[str]]
) -> tuple[dict[Modality, int], dict[Modality, int]]:
    """Return how many documents each modality lacks because they were refused, or are still to be embedded.

    Args:
        stored: where features are, by modality.
        having: documents of the manifest that have the modality.
    """
    quarantined = {modality: features_of.quarantined for modality, features_of in stored.items()}
    # What the manifest has and the store neither holds nor refused: a run of `embed` that is not finished.
    pending = {
        modality: len(having[modality]) - len(features_of.locations) - quarantined[modality]
        for modality, features_of in stored.items()
    }
    _warn_of_missing(quarantined, "is quarantined (`hilbert-ray embed` lists why)")
    return quarantined, pending


def _warn_of_missing(counts: Mapping[Modality, int], why: str) -> None:
    for modality, count in counts.items():
        if count:
            log.warning("%d documents count as having no %s, which %s", count, modality, why)


def _inferred_tasks(store: str, documents: Sequence[Document]) -> Mapping[str, TaskConfig]:
    """Return the tasks that the labels of a store's documents suggest, and log them."""
    tasks = infer_tasks(iter(documents))
    if not tasks:
        raise ConfigError(
            f"the documents of store {store} have no label, or the same one wherever a task has any, from "
            "which nothing can be learned; add labels to the manifest and embed it again"
        )
    # As in a settings file, to be pasted there.
    lines = [
        f"{name}: {json.dumps({'kind': task.kind, **({'classes': task.classes} if task.classes else {})})}"
        for name, task in tasks.items()
    ]
    log.info("tasks inferred from the labels: %s", "; ".join(lines))
    return tasks


def _resolved(
    config: Config, tasks: Mapping[str, TaskConfig], encoders: Mapping[Modality, Mapping[str, Any]]
) -> Config:
    """Return the settings to save with a run: with its tasks, and the store's encoders and segmentation.

    What no result depends on is left out: where files may be, what fits into memory, who tracks the run. The
    address of a tracker may hold a password, too.
    """
    resolved = replace(
        config,
        tasks=tasks,
        roots=(),
        fit=replace(config.fit, memory_gib=0.0),
        train=replace(config.train, mlflow=""),
    )
    for modality in MODALITIES:
        description = encoders.get(modality)
        if description is None:
            choice = replace(resolved.encoder(modality), spec="none")
            resolved = resolved.with_encoder(modality, choice)
            continue
        options = from_dict(EncoderConfig, description["options"])
        resolved = resolved.with_encoder(modality, EncoderChoice(spec=description["spec"], options=options))
        # Only this modality's settings: the other's in this description may be from an earlier run.
        segment = from_dict(SegmentConfig, description["segment"])
        segment_changes = {**cutting(segment, modality), "roles": segment.roles}
        if modality == "audio":  # a store that says nothing of channels holds their mean
            segment_changes["channels"] = segment.channels
        resolved = replace(resolved, segment=replace(resolved.segment, **segment_changes))
    return resolved


def _machine_memory() -> int:
    """Return the bytes of memory that this machine, or the container around this process, has."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            limits.append(int(Path(path).read_text()))
    return min(limits)


def _check_labels(tasks: Mapping[str, TaskConfig], documents: Sequence[Document]) -> None:
    """Refuse a task that no document has a label of: it could be neither learned nor scored."""
    labelled = {name for document in documents for name in document.labels}
    for name in tasks:
        if name not in labelled:
            raise ConfigError(
                f"no document with features has a label of task `{name}`; there are labels of tasks "
                f"{', '.join(sorted(labelled)) or 'none'}: correct the task's name, or leave it out"
            )


def _choose_encoder(
    store: Store, snapshot: Snapshot, modality: Modality, choice: str | None
) -> Mapping[str, Any] | None:
    """Return the description of the encoder to use, with its fingerprint; None for no encoder."""
    known = {key: {**value, "fingerprint": key} for key, value in store.encoders(modality, snapshot).items()}
    if choice == "none" or (choice is None and not known):
        return None
    matching = [
        description for description in known.values() if choice is None or _is_chosen(choice, description)
    ]
    if len(matching) == 1:
        return matching[0]
    listed = ", ".join(map(_listed, known.values())) or "none"
    requested = f"--{modality} {choice}" if choice else f"no --{modality}"
    raise ConfigError(
        f"{requested} was given, and store {store.uri} has these {modality} encoders: {listed}; name one of "
        f"them by its fingerprint, or use `--{modality} none`"
    )


def _is_chosen(choice: str, description: Mapping[str, Any]) -> bool:
    if choice in (description["fingerprint"], description["name"]):
        return True
    chosen, parts = encoder_parts(choice), encoder_parts(description["spec"])
    return len(chosen) == len(parts) and all(map(_names, chosen, parts))


def _names(choice: str, spec: str) -> bool:
    """Return whether what a user wrote names this encoder, which is not a joined one."""
    # `embed` records the weights in a folder by the folder's absolute path.
    folder = f"hf:{Path(choice.removeprefix('hf:')).absolute()}"
    return spec in (choice, folder) or spec.startswith(f"{choice}@")  # without its revision


def _listed(description: Mapping[str, Any]) -> str:
    """Return what a message says of an encoder: a store may hold several layers of the same model."""
    layer = f", layer {description['layer']}" if "layer" in description else ""
    return f"{description['spec']} (fingerprint {description['fingerprint']}{layer})"
