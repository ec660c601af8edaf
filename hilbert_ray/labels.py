"""Labels to targets: the classes that a task declares, and the numbers that training reads.

`validate` checks a manifest's labels with it, `batch` makes arrays of them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from hilbert_ray.config import ConfigError, TaskConfig
from hilbert_ray.document import Document, Label


def encode_labels(name: str, task: TaskConfig, documents: Sequence[Document]) -> np.ndarray:
    """Return the targets of one task for B documents.

    binary, multiclass, ordinal: int64 [B], -1 unlabelled; multilabel: float32 [B, K] of 0 and 1, NaN
    unlabelled;
    regression: float32 [B], NaN unlabelled.

    Raises:
        ConfigError: for a label outside the task, naming document, label and classes.
    """
    shape = (len(documents), len(task.classes)) if task.kind == "multilabel" else (len(documents),)
    whole = task.kind in ("binary", "multiclass", "ordinal")
    targets = np.full(shape, -1, np.int64) if whole else np.full(shape, np.nan, np.float32)
    for i, document in enumerate(documents):
        label = document.labels.get(name)
        if label is not None:
            try:
                targets[i] = encode_label(task, label)
            except ValueError as error:
                raise ConfigError(f"document {document.doc_id!r}, task `{name}`: {error}") from None
    return targets


def encode_label(task: TaskConfig, label: Label) -> int | float | list[float]:
    """Return one label as a target.

    A multilabel task takes a list of the labels that hold, or a mapping of label to 0, 1 or null
    (unlabelled).

    Raises:
        ValueError: when the task has no such label.
    """
    if task.kind == "regression":
        if isinstance(label, bool) or not isinstance(label, int | float) or not np.isfinite(label):
            raise ValueError(f"label {label!r} is no finite number, which a regression task needs")
        return float(label)
    if task.kind == "multilabel":
        return _encode_multilabel(task, label)
    name = class_name(label)
    if name not in task.classes:
        raise ValueError(f"label {name!r} is no class of it; the classes are {', '.join(task.classes)}")
    return task.classes.index(name)


def _encode_multilabel(task: TaskConfig, label: Label) -> list[float]:
    held: Mapping[str, object]
    if isinstance(label, list):
        held = {**dict.fromkeys(task.classes, 0), **{class_name(item): 1 for item in label}}
    elif isinstance(label, Mapping):
        held = {class_name(key): value for key, value in label.items()}
    else:
        held = {class_name(label): None}
    unknown = sorted(set(held) - set(task.classes))
    if unknown or not isinstance(label, list | Mapping):
        raise ValueError(
            f"label {label!r} must be a list of labels that hold, or map labels to 0, 1 or null; the labels "
            f"are {', '.join(task.classes)}"
        )
    targets = []
    for name in task.classes:
        value = held.get(name)
        if value not in (None, 0, 1):
            raise ValueError(f"label {name!r} is {value!r}; it must be 0, 1 or null")
        targets.append(float("nan") if value is None else 1.0 if value else 0.0)
    return targets


def class_name(label: object) -> str:
    """Return the name under which a label is listed among a task's classes."""
    return str(label).lower() if isinstance(label, bool) else str(label)
