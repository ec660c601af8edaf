"""What evaluate, train and tune start from: a store's features, with encoders and tasks resolved.

The resolved settings are saved with the run, so that what was inferred (tasks) or chosen (the only encoder
of a store) is on record and `predict` can build the same encoders again.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hilbert_ray.config import (
    MODALITIES,
    Config,
    ConfigError,
    EncoderConfig,
    Modality,
    SegmentConfig,
    TaskConfig,
    from_dict,
    to_dict,
)
from hilbert_ray.document import Document, infer_tasks
from hilbert_ray.features.arrays import Features
from hilbert_ray.features.memory_map import BLOCK_ROWS
from hilbert_ray.features.reading import read_features
from hilbert_ray.segmentation import cutting
from hilbert_ray.store import Store

log = logging.getLogger(__name__)
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Features and documents in the same order, the resolved settings, and each encoder's description.

    `quarantined` counts documents by the modality that could not be embedded: they count as lacking it.
    """

    features: Features
    documents: Sequence[Document]
    config: Config
    encoders: Mapping[Modality, Mapping[str, Any]]
    quarantined: Mapping[Modality, int]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of encoders, documents, labels and features: runs with the same one read the same data."""
        facts = [
            {m: d["fingerprint"] for m, d in self.encoders.items()},
            [[d.doc_id, d.group, d.labels, d.split] for d in self.documents],
        ]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for part in (self.features.audio, self.features.text):
            if part is not None:
                for array in (part.offsets, part.position, part.values):
                    for at in range(0, len(array), BLOCK_ROWS):
                        digest.update(np.ascontiguousarray(array[at : at + BLOCK_ROWS]).data)
        return digest.hexdigest()[:16]


def open_dataset(store: str, config: Config, audio: str | None = None, text: str | None = None) -> Dataset:
    """Read what a run needs from a store.

    Features that take more than `fit.memory_gib` are mapped from a file, which goes when nothing uses them.

    Args:
        store: path or URI.
        config: settings; empty `tasks` are inferred from the labels.
        audio: name or fingerprint of the audio encoder to use, `none` for no audio, None where the store has
            one.
        text: likewise.

    Raises:
        ConfigError: when an encoder is not in the store or must be chosen, when no document has a label (of
        a task), or for a label outside its task.
    """
    opened = Store.open(store)
    encoders: dict[Modality, Mapping[str, Any]] = {}
    for modality, wanted in zip(MODALITIES, (audio, text), strict=True):
        found = _choose(opened, modality, wanted)
        if found is not None:
            encoders[modality] = found
    documents = sorted(opened.documents(), key=lambda document: document.doc_id)
    tasks = config.tasks or infer_tasks(iter(documents))
    if not tasks:
        raise ConfigError(
            f"no document of store {store} has a label; add labels to the manifest and embed it again"
        )
    if not config.tasks:
        log.info("tasks inferred from the labels: %s", json.dumps({k: to_dict(v) for k, v in tasks.items()}))
    placed = {m: opened.placed(m, described["fingerprint"]) for m, described in encoders.items()}
    memory_bytes = config.fit.memory_gib * 2**30 or _machine_memory() / 8
    features = read_features(opened, placed, tasks, documents, memory_bytes)
    if not len(features):
        raise ConfigError(
            f"store {store} holds no features of the chosen encoders; run `hilbert-ray embed` first"
        )
    kept = set(features.doc_ids.tolist())
    documents = [document for document in documents if document.doc_id in kept]
    _check_labels(tasks, documents)
    quarantined = {m: found.quarantined for m, found in placed.items()}
    for modality, count in quarantined.items():
        if count:
            log.warning(
                "%d documents count as being without %s, because it is in quarantine (`hilbert-ray embed` "
                "lists the reasons)", count, modality,
            )  # fmt: skip
    # No result depends on what is left out here: where files may lie, what fits into memory, who is told. An
    # address may hold a password besides, and settings are saved.
    resolved = replace(
        config,
        tasks=tasks,
        roots=(),
        fit=replace(config.fit, memory_gib=0.0),
        train=replace(config.train, mlflow=""),
    )
    for modality in MODALITIES:
        described = encoders.get(modality)
        changes: dict[str, Any] = {modality: described["spec"] if described else "none"}
        if described:
            changes[f"{modality}_encoder"] = from_dict(EncoderConfig, described["options"])
            # Of the other modality's segmentation the description may hold what an earlier run had.
            cut = from_dict(SegmentConfig, described["segment"])
            changes["segment"] = replace(resolved.segment, **cutting(cut, modality), roles=cut.roles)
        resolved = replace(resolved, **changes)
    return Dataset(
        features=features,
        documents=documents,
        config=resolved,
        encoders=encoders,
        quarantined=quarantined,
    )


def _machine_memory() -> int:
    """Return the bytes of memory that this machine, or the container around this process, has."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            limits.append(int(Path(path).read_text()))
    return min(limits)


def _check_labels(tasks: Mapping[str, TaskConfig], documents: Sequence[Document]) -> None:
    """Refuse a task that no document has a label of: it could be neither learnt nor scored."""
    labelled = {name for document in documents for name in document.labels}
    for name in tasks:
        if name not in labelled:
            raise ConfigError(
                f"no document with features has a label of task `{name}`; the labels are of "
                f"{', '.join(sorted(labelled)) or 'no task'}: mend the task's name, or leave it out"
            )


def _choose(store: Store, modality: Modality, wanted: str | None) -> Mapping[str, Any] | None:
    """Return the description of the encoder to use, with its fingerprint; None for no encoder."""
    known = {key: {**value, "fingerprint": key} for key, value in store.encoders(modality).items()}
    if wanted == "none" or (wanted is None and not known):
        return None
    folder = f"hf:{Path((wanted or '').removeprefix('hf:')).absolute()}"  # as `embed` notes a folder
    matching = [
        d
        for d in known.values()
        if wanted is None
        or wanted in (d["fingerprint"], d["name"], d["spec"])
        or d["spec"] == folder
        or d["spec"].startswith(f"{wanted}@")
    ]
    if len(matching) == 1:
        return matching[0]
    listed = ", ".join(f"{d['spec']} (fingerprint {d['fingerprint']})" for d in known.values()) or "none"
    asked = f"--{modality} {wanted}" if wanted else f"no --{modality}"
    raise ConfigError(
        f"{asked} was given, and store {store.uri} holds these {modality} encoders: {listed}; name one of "
        f"them by its fingerprint, or `--{modality} none`"
    )
