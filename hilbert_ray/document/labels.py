"""Labels to targets: the numbers that training reads, and tasks inferred from the labels."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hilbert_ray.config import ConfigError, TaskConfig
from hilbert_ray.document.records import Document, Label


def encode_labels(name: str, task: TaskConfig, documents: Sequence[Document]) -> np.ndarray:
    """Return the targets of one task for B documents.

    Binary, multiclass and ordinal: int64 [B], -1 where unlabelled. Multilabel with K classes: float32 [B, K]
    of 0 and 1, NaN where unlabelled. Regression: float32 [B], NaN where unlabelled.

    Raises:
        ConfigError: for a label that the task does not have, naming document, label and classes.
    """
    shape = (len(documents), len(task.classes)) if task.kind == "multilabel" else (len(documents),)
    # Unlabelled entries are marked in the targets themselves (-1, NaN): losses and metrics need no
    # separate mask, and a forgotten check fails loudly.
    is_class = task.kind in ("binary", "multiclass", "ordinal")
    targets = np.full(shape, -1, np.int64) if is_class else np.full(shape, np.nan, np.float32)
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

    A multilabel task takes a list of the labels that apply, or a mapping of label to 0, 1 or null
    (unlabelled).

    Raises:
        ValueError: if the task has no such label.
    """
    if task.kind == "regression":
        # To Python, true is the number 1; as a regression label it is rather a mistake.
        if isinstance(label, bool) or not isinstance(label, int | float) or not np.isfinite(label):
            raise ValueError(f"label {label!r} is not a finite number, which a regression task needs")
        return float(label)
    if task.kind == "multilabel":
        return _encode_multilabel(task, label)
    name = class_name(label)
    if name not in task.classes:
        raise ValueError(f"unknown class {name!r}, expected one of {', '.join(task.classes)}")
    return task.classes.index(name)


def _encode_multilabel(task: TaskConfig, label: Label) -> list[float]:
    held: Mapping[str, object]
    # A list is complete, so what it leaves out is 0; a mapping leaves out what nobody labelled.
    if isinstance(label, list):
        held = {**dict.fromkeys(task.classes, 0), **{class_name(item): 1 for item in label}}
    elif isinstance(label, Mapping):
        held = {class_name(key): value for key, value in label.items()}
    else:
        held = {class_name(label): None}
    unknown = sorted(set(held) - set(task.classes))
    if unknown or not isinstance(label, list | Mapping):
        raise ValueError(
            f"label {label!r} must be a list of the labels that apply, or map labels to 0, 1 or null; the "
            f"labels are {', '.join(task.classes)}"
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
    # As JSON writes it: classes are named in the settings, where `true` is what people type.
    return str(label).lower() if isinstance(label, bool) else str(label)


# Rating scales have up to about 10 levels. More distinct whole numbers are counts, ages or sums of scores,
# with too few documents for a class each.
ORDINAL_MOST = 10
"""Most distinct whole numbers that are taken for the levels of an ordinal task; more make it a regression."""


def infer_tasks(documents: Iterable[Document]) -> dict[str, TaskConfig]:
    """Return the tasks that the labels imply.

    Booleans, two distinct strings or two whole numbers make a binary task (the last in order is the positive
    class); more strings a multiclass task, 3 to 10 whole numbers an ordinal one, other numbers a regression,
    lists and mappings a multilabel one. A task whose labels are all the same is left out.

    Raises:
        ConfigError: if the labels of one task are of several types.
    """
    labels = LabelSurvey()
    for document in documents:
        labels.add(document)
    return labels.tasks()


@dataclass(kw_only=True, slots=True)
class LabelSurvey:
    """The types and values of each task's labels (of numbers, only as many values as decide the kind)."""

    sorts: dict[str, set[str]] = field(default_factory=dict)
    values: dict[str, set[Label]] = field(default_factory=dict)

    def add(self, document: Document) -> None:
        """Add the labels of a document."""
        for name, label in document.labels.items():
            sort = _sort_of(label)
            self._hold(name, {sort}, label if sort == "list" else [label])  # type: ignore[arg-type]

    def merge(self, other: "LabelSurvey") -> None:
        """Add what another survey collected."""
        for name, sorts in other.sorts.items():
            self._hold(name, sorts, other.values[name])

    def _hold(self, name: str, sorts: set[str], values: Iterable[Label]) -> None:
        self.sorts.setdefault(name, set()).update(sorts)
        held = self.values.setdefault(name, set())
        # Beyond ORDINAL_MOST, numbers are a regression whatever follows: a million of them need not be held.
        if len(held) <= ORDINAL_MOST or not sorts <= {"int", "float"}:
            held.update(values)

    def tasks(self) -> dict[str, TaskConfig]:
        """Return the tasks that the labels imply; see `infer_tasks`."""
        tasks = {}
        # Sorted: neither the order of rows nor which process finishes first may change the order of heads.
        for name in sorted(self.values):
            sorts = self.sorts[name]
            # Whole numbers among decimals are decimals written in short form.
            kinds = sorts - {"float"} if {"int", "float"} <= sorts else set(sorts)
            if len(kinds) > 1:
                raise ConfigError(
                    f"task `{name}` has labels of several types ({', '.join(sorted(sorts))}), so its kind "
                    "cannot be inferred; use one type, or declare the task in the settings"
                )
            task = _infer_task("float" if "float" in sorts else kinds.pop(), self.values[name])
            if task is not None:
                tasks[name] = task
        return tasks


def _sort_of(label: Label) -> str:
    if isinstance(label, (list, dict, Mapping)):
        return "list"
    return type(label).__name__


def _infer_task(sort: str, values: set[Label]) -> TaskConfig | None:
    if sort == "list":
        # One label is enough: each is a question of its own. Without any, all lists are empty.
        return (
            TaskConfig(kind="multilabel", classes=tuple(sorted(map(class_name, values)))) if values else None
        )
    # With one value there is nothing to predict.
    if len(values) < 2:
        return None
    if sort == "float" or (sort == "int" and len(values) > ORDINAL_MOST):
        return TaskConfig(kind="regression")
    # Sorted as values and not as text: 10 comes after 9, and ordinal levels must rise.
    classes = tuple(class_name(value) for value in sorted(values))  # type: ignore[type-var]
    # Two whole numbers are nearly always 0 and 1, that is no and yes, rather than two levels of more.
    if len(values) == 2:
        return TaskConfig(kind="binary", classes=classes)
    return TaskConfig(kind="ordinal" if sort == "int" else "multiclass", classes=classes)
