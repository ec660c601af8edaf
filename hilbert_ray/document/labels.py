"""Labels to targets: the numbers that training reads, and tasks inferred from the labels."""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from hilbert_ray.config import ConfigError, TaskConfig
from hilbert_ray.document.records import MISSING, Document, Label

# No two ways to read the same digits: text of a hundred thousand of them would take their square.
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def number_of(text: str) -> int | float | None:
    """Return the finite number that a text writes in full, whole if written so; None if it writes none."""
    if not _NUMBER.fullmatch(text):
        return None
    # Beyond 18 digits, whole numbers are rather ids, and beyond 4300 Python does not read them.
    if text.lstrip("+-").isdigit():
        return int(text) if len(text) <= 18 else None
    value = float(text)
    return value if math.isfinite(value) else None


def with_labels_of(document: Document, tasks: Collection[str]) -> Document:
    """Return the document with its attributes that are named as a declared task as labels.

    Where settings declare the task `phq`, a plain column `phq` is its label.
    """
    if not document.attributes or document.attributes.keys().isdisjoint(tasks):
        return document
    found = {name: value for name, value in document.attributes.items() if name in tasks}
    others = {name: value for name, value in document.attributes.items() if name not in tasks}
    return replace(document, labels={**found, **document.labels}, attributes=others)


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
                target = encode_label(task, label)
            except ValueError as error:
                raise ConfigError(f"document {document.doc_id!r}, task `{name}`: {error}") from None
            if target is not None:
                targets[i] = target
    return targets


def encode_label(task: TaskConfig, label: Label) -> int | float | list[float] | None:
    """Return one label as a target; None for a word like NA that stands for a missing label (`MISSING`).

    A multilabel task takes a list of the labels that apply, or a mapping of label to 0, 1 or null
    (unlabelled). A class is found by its name, and a number by its value: 1, 1.0 and "1" are the same class.

    Raises:
        ValueError: if the task has no such label.
    """
    if _is_missing(label) and label not in task.classes:
        return None
    if task.kind == "regression":
        # To Python, true is the number 1; as a regression label it is rather a mistake.
        if isinstance(label, bool) or not isinstance(label, int | float) or not np.isfinite(label):
            raise ValueError(f"label {label!r} is not a finite number, which a regression task needs")
        return float(label)
    if task.kind == "multilabel":
        return _encode_multilabel(task, label)
    name = _class_of(task, label)
    if name not in task.classes:
        raise ValueError(f"unknown class {name!r}, expected one of {', '.join(task.classes)}")
    return task.classes.index(name)


def label_classes(task: TaskConfig, label: Label) -> list[str]:
    """Return the classes of a task that a label names; none for a number, or where it is missing."""
    if _is_missing(label) and label not in task.classes:
        return []
    if isinstance(label, list):
        return [_class_of(task, item) for item in label]
    if isinstance(label, (dict, Mapping)):
        return [_class_of(task, key) for key, value in label.items() if value and value == value]
    return [_class_of(task, label)] if task.classes else []


def is_labelled(task: TaskConfig, label: Label) -> bool:
    """Whether a label says anything: not one like `NA`, or `{"art": null}`."""
    if isinstance(label, Mapping):
        return any(value is not None and value == value for value in label.values())
    return not _is_missing(label) or label in task.classes


def _is_missing(label: object) -> bool:
    return isinstance(label, str) and (label in MISSING or not label.strip())


def _class_of(task: TaskConfig, label: object) -> str:
    """Return the name of the class that a label means; its own name if the task has no such class."""
    name = class_name(label)
    return name if name in task.classes else _by_value(task.classes).get(_value_of(name), name)


@lru_cache(maxsize=256)
def _by_value(classes: tuple[str, ...]) -> Mapping[str | float, str]:
    """Return the classes by the number or truth value that their names write, where only one writes it."""
    values = [_value_of(name) for name in classes]
    return {value: name for value, name in zip(values, classes, strict=True) if values.count(value) == 1}


def _value_of(name: str) -> str | float:
    number = number_of(name)
    if number is not None:
        return float(number)
    return name.lower() if name.lower() in ("true", "false") else name


def _encode_multilabel(task: TaskConfig, label: Label) -> list[float]:
    held: Mapping[str, object]
    # A list is complete, so what it leaves out is 0; a mapping leaves out what nobody labelled.
    if isinstance(label, list):
        held = {**dict.fromkeys(task.classes, 0), **{_class_of(task, item): 1 for item in label}}
    elif isinstance(label, Mapping):
        # NaN, as tables write that nobody knows, is what differs from itself.
        held = {_class_of(task, key): value if value == value else None for key, value in label.items()}
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
    if isinstance(label, bool):
        return str(label).lower()
    # Tables make whole numbers decimal where a label is missing.
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


# Rating scales have up to about 10 levels. More distinct whole numbers are counts, ages or sums of scores,
# with too few documents for a class each.
ORDINAL_MOST = 10
"""Most distinct whole numbers that are taken for the levels of an ordinal task; more make it a regression."""


def infer_tasks(documents: Iterable[Document]) -> dict[str, TaskConfig]:
    """Return the tasks that the labels imply.

    Booleans, two distinct strings or two whole numbers make a binary task (the last in order is the positive
    class); more strings a multiclass task, 3 to 10 whole numbers an ordinal one, other numbers a regression,
    lists and mappings a multilabel one. A task whose labels are all the same is left out. 1.0 is the whole
    number 1, and beside numbers so is the string "1"; words like `NA` (`MISSING`) are no labels.

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
            if _is_missing(label):
                continue
            if isinstance(label, list | dict | Mapping):
                self._hold(name, {"list"}, label)
            else:
                value = _whole(label)
                self._hold(name, {type(value).__name__}, [value])

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
        tasks, unclear = self.infer()
        for problem in unclear.values():
            raise ConfigError(problem)
        return tasks

    def infer(self) -> tuple[dict[str, TaskConfig], dict[str, str]]:
        """Return the tasks that the labels imply, and why others imply none, both by name."""
        tasks, unclear = {}, {}
        # Sorted: neither the order of rows nor which process finishes first may change the order of heads.
        for name in sorted(self.values):
            sorts, values = _of_one_sort(self.sorts[name], self.values[name])
            # Whole numbers among decimals are decimals written in short form.
            kinds = sorts - {"float"} if {"int", "float"} <= sorts else set(sorts)
            if len(kinds) > 1:
                unclear[name] = (
                    f"task `{name}` has labels of several types ({', '.join(sorted(sorts))}), so its kind "
                    f"cannot be inferred{_odd_one(values)}; use one type, write null or an empty cell where "
                    "there is no label, or declare the task in the settings"
                )
                continue
            task = _infer_task("float" if "float" in sorts else kinds.pop(), values)
            if task is not None:
                tasks[name] = task
        return tasks, unclear


def _whole(label: Label) -> Label:
    return int(label) if isinstance(label, float) and label.is_integer() else label


def _of_one_sort(sorts: set[str], values: set[Label]) -> tuple[set[str], set[Label]]:
    """Return types and values, strings being numbers or truth values where others are and all can be."""
    if "str" not in sorts or len(sorts) < 2:
        return sorts, values
    texts = [value for value in values if isinstance(value, str)]
    others = {value for value in values if not isinstance(value, str)}
    if sorts <= {"str", "int", "float"}:
        numbers = [number_of(text) for text in texts]
        if None not in numbers:
            read = {_whole(number) for number in numbers if number is not None}
            return (sorts - {"str"}) | {type(number).__name__ for number in read}, others | read
    if sorts == {"str", "bool"} and all(text.lower() in ("true", "false") for text in texts):
        return {"bool"}, {*others, *(text.lower() == "true" for text in texts)}
    return sorts, values


def _odd_one(values: set[Label]) -> str:
    """Return the first string among numbers, as what a message names: it is likely the odd one."""
    texts = sorted(value for value in values if isinstance(value, str) and number_of(value) is None)
    return f" (one label is {texts[0][:40]!r})" if texts else ""


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
