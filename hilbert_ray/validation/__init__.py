"""The check of a manifest before anything is computed: what it holds, and each row that is invalid."""

from hilbert_ray.validation.driver import LISTENED, PROBED, Probe, validate
from hilbert_ray.validation.recordings import Recording
from hilbert_ray.validation.report import TaskReport, ValidationReport

__all__ = ["LISTENED", "PROBED", "Probe", "Recording", "TaskReport", "ValidationReport", "validate"]
