"""What many hours of recordings will take: a dry run's rates, scaled to an amount, workers and prices."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hilbert_ray.document import Seconds
from hilbert_ray.embedding.dry_run import Estimate
from hilbert_ray.embedding.pool import duration
from hilbert_ray.embedding.resolve import EmbedError

WORKERS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of workers in the table, beside the number that the dry run was for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """What `hours` of recordings take: work, space and their prices, and the time by number of workers.

    `gpu_hours` is 0 where the workers were measured without GPUs. `storage_price` is for a month.
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


def plan_capacity(found: Estimate, hours: float, price: float = 0.0, storage_price: float = 0.0) -> Capacity:
    """Return what it takes to embed documents like those of a dry run, so many hours of them.

    The dry run must have been for a new store: only then does it have the whole manifest's share of each
    modality.

    Args:
        found: the dry run.
        hours: hours of audio (of speech, where only text is embedded).
        price: price of one worker for an hour.
        storage_price: price of a gigabyte for a month.

    Raises:
        EmbedError: when the store holds some of the documents, or no speed could be measured.
    """
    modalities = [one for one in found.modalities.values() if one.planned or one.already_stored]
    for one in modalities:
        if one.already_stored or not one.time_s:
            raise EmbedError(
                f"no capacity can be told for {one.encoder}: {one.already_stored} documents are stored, "
                f"{one.planned} are left to be measured; plan with recordings that can be read, and with a "
                "--store that does not exist yet"
            )
    if not modalities:
        raise EmbedError("no capacity can be told: the manifest has nothing to embed")
    scale = 3600 * hours / modalities[0].seconds  # audio, where there is any
    worker_hours = [scale * (one.time_s or 0.0) * one.workers / 3600 for one in modalities]
    size_bytes = scale * sum(one.size_bytes or 0.0 for one in modalities)
    total = sum(worker_hours)
    return Capacity(
        hours=hours,
        worker_hours=total,
        gpu_hours=sum(one.gpus_per_worker * own for one, own in zip(modalities, worker_hours, strict=True)),
        price=total * price,
        size_bytes=size_bytes,
        storage_price=size_bytes / 1e9 * storage_price,
        times={
            workers: 3600 * total / workers
            for workers in sorted({*WORKERS, *(one.workers for one in modalities)})
        },
    )
