"""What many hours of recordings will take: a dry run's rates, scaled to hours, workers and prices."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hilbert_ray.document import Seconds
from hilbert_ray.terminal import duration
from hilbert_ray.units.errors import UnitsError
from hilbert_ray.units.estimate import Estimate

WORKERS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of workers in the table, with the number that the dry run was for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """What `hours` of recordings take: work, space and their prices, and the time by number of workers.

    `gpu_hours` is 0 if the workers were measured without GPUs. `storage_price` is per month.
    """

    hours: float
    worker_hours: float
    gpu_hours: float
    price: float
    size_bytes: float
    storage_price: float
    times: Mapping[int, Seconds]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    def text(self) -> str:
        """Return a table to read."""
        lines = [
            f"{self.hours:g} h of recordings like these, without start-up, on workers like those measured:",
            f"  {self.worker_hours:.1f} worker-hours, {self.gpu_hours:.1f} GPU-hours: {self.price:.2f}",
            f"  {self.size_bytes / 1e9:.1f} GB: {self.storage_price:.2f} a month",
            "  workers        time",
        ]
        lines += [f"  {workers:7}  {duration(time_s):>10}" for workers, time_s in self.times.items()]
        return "\n".join(lines)


def plan_capacity(
    estimate: Estimate, hours: float, price: float = 0.0, storage_price: float = 0.0
) -> Capacity:
    """Return what it takes to do `hours` of documents like those of a dry run.

    The dry run must have been for a new store: only then does it measure how much of each modality comes with
    an hour of recordings.

    Args:
        estimate: the dry run.
        hours: hours of audio (of speech, if only text is embedded).
        price: price per hour of one worker.
        storage_price: price per gigabyte and month of storage.

    Raises:
        UnitsError: when the store holds some of the documents, or no speed could be measured.
    """
    verb, flag = ("transcribe", "an --out") if "transcript" in estimate.modalities else ("embed", "a --store")
    modalities = [m for m in estimate.modalities.values() if m.planned or m.already_stored]
    for modality in modalities:
        if modality.already_stored or not modality.time_s:
            raise UnitsError(
                f"cannot plan capacity for {modality.encoder}: {modality.already_stored} documents are "
                f"already stored and {modality.planned} are left to measure; use recordings that can be "
                f"read, and {flag} that does not exist yet"
            )
    if not modalities:
        raise UnitsError(f"cannot plan capacity: the manifest has nothing to {verb}")
    # Audio comes first, if there is any: text is then embedded in proportion.
    scale = 3600 * hours / modalities[0].seconds
    # Per worker, times workers: measured with all of them at work, so what they take from each other counts.
    worker_hours = [scale * (m.time_s or 0.0) * m.workers / 3600 for m in modalities]
    gpu_hours = [m.gpus_per_worker * own for m, own in zip(modalities, worker_hours, strict=True)]
    # Both modalities follow from one length, at the ratio of text to audio that the manifest has.
    size_bytes = scale * sum(m.size_bytes or 0.0 for m in modalities)
    all_worker_hours = sum(worker_hours)
    return Capacity(
        hours=hours,
        worker_hours=all_worker_hours,
        gpu_hours=sum(gpu_hours),
        price=all_worker_hours * price,
        size_bytes=size_bytes,
        storage_price=size_bytes / 1e9 * storage_price,
        # Ideal scaling: units do not depend on each other, and start-up is left out.
        times={
            workers: 3600 * all_worker_hours / workers
            for workers in sorted({*WORKERS, *(m.workers for m in modalities)})
        },
    )
