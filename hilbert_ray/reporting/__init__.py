"""The report of a run as one self-contained HTML file: no network, no scripts."""

from hilbert_ray.reporting.page import report

__all__ = [
    "report",
]
