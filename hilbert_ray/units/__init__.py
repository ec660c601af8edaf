"""Documents done in units on any number of workers: planned, read ahead, committed once, lost by no death."""

from typing import TYPE_CHECKING

from hilbert_ray.lazy import lazy_names

if TYPE_CHECKING:
    from hilbert_ray.units.capacity import Capacity, plan_capacity
    from hilbert_ray.units.driver import plan_all, take_snapshot
    from hilbert_ray.units.errors import TooManyQuarantinedError, UnitsError, check_quarantined
    from hilbert_ray.units.estimate import Estimate, JobEstimate, estimate_jobs
    from hilbert_ray.units.plan import (
        CHARACTERS_PER_S,
        SPEECH_PER_UNIT,
        Job,
        Plan,
        Unit,
        plan_jobs,
        transcript_versions,
        version_or_absent,
        versioned_rows,
    )
    from hilbert_ray.units.pool import run_units
    from hilbert_ray.units.probe import Measurement, Probe
    from hilbert_ray.units.reading import (
        DocumentEnd,
        DocumentPart,
        DocumentProgress,
        DocumentReader,
        DocumentWithPart,
        Recording,
        check_same,
        read_ahead,
        run_or_quarantine,
    )
    from hilbert_ray.units.resources import precision_of_workers, takes_gpus
    from hilbert_ray.units.worker import UnitResult, UnitWorker, model_error

__all__ = [
    "CHARACTERS_PER_S",
    "SPEECH_PER_UNIT",
    "Capacity",
    "DocumentEnd",
    "DocumentPart",
    "DocumentProgress",
    "DocumentReader",
    "DocumentWithPart",
    "Estimate",
    "Job",
    "JobEstimate",
    "Measurement",
    "Plan",
    "Probe",
    "Recording",
    "TooManyQuarantinedError",
    "Unit",
    "UnitResult",
    "UnitWorker",
    "UnitsError",
    "check_quarantined",
    "check_same",
    "estimate_jobs",
    "model_error",
    "plan_all",
    "plan_capacity",
    "plan_jobs",
    "precision_of_workers",
    "read_ahead",
    "run_or_quarantine",
    "run_units",
    "take_snapshot",
    "takes_gpus",
    "transcript_versions",
    "version_or_absent",
    "versioned_rows",
]

__getattr__ = lazy_names(
    __name__,
    {
        "capacity": (
            "Capacity",
            "plan_capacity",
        ),
        "driver": (
            "plan_all",
            "take_snapshot",
        ),
        "errors": (
            "TooManyQuarantinedError",
            "UnitsError",
            "check_quarantined",
        ),
        "estimate": (
            "Estimate",
            "JobEstimate",
            "estimate_jobs",
        ),
        "plan": (
            "CHARACTERS_PER_S",
            "SPEECH_PER_UNIT",
            "Job",
            "Plan",
            "Unit",
            "plan_jobs",
            "transcript_versions",
            "version_or_absent",
            "versioned_rows",
        ),
        "pool": ("run_units",),
        "probe": (
            "Measurement",
            "Probe",
        ),
        "reading": (
            "DocumentEnd",
            "DocumentPart",
            "DocumentProgress",
            "DocumentReader",
            "DocumentWithPart",
            "Recording",
            "check_same",
            "read_ahead",
            "run_or_quarantine",
        ),
        "resources": (
            "precision_of_workers",
            "takes_gpus",
        ),
        "worker": (
            "UnitResult",
            "UnitWorker",
            "model_error",
        ),
    },
)
