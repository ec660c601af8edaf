"""The columns of the file that `predict` writes, which the names of tasks and classes are part of.

Here, below all that uses them, because the settings refuse names that would give two columns one name.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from hilbert_ray.config.constraints import ConfigError

DOCUMENT_COLUMNS = (
    "doc_id", "audio", "text", "joint",
    "audio_start", "audio_end", "audio_weight", "text_start", "text_end", "text_weight", "fault",
)  # fmt: skip
"""What every file has, whatever the tasks."""


class Task(Protocol):
    """What names columns of a task."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; none for regression."""


def class_column(task: str, label: str) -> str:
    """Return the column of a class's probability."""
    return f"{task}.{label}"


def heads_column(task: str) -> str:
    """Return the column that says how much each head counted."""
    return f"{task}_heads"


def check_columns(tasks: Mapping[str, Task]) -> None:
    """Check that no two columns of the predictions would have one name.

    Raises:
        ConfigError: naming the task and what has the column already.
    """
    owners = dict.fromkeys(DOCUMENT_COLUMNS, "every document")
    for name, task in tasks.items():
        for column in _columns(name, task.classes):
            if column in owners:
                raise ConfigError(
                    f"task `{name}` would have the column {column!r} in the file of predictions, as "
                    f"{owners[column]} has; rename it, in the labels of the manifest too"
                )
            owners[column] = f"task `{name}`"


def _columns(task: str, classes: Iterable[str]) -> Iterator[str]:
    yield task
    yield from (class_column(task, label) for label in classes)
    yield heads_column(task)
