"""What decides how a document is cut, as plain values: part of every encoder's fingerprint."""

from typing import Any

from hilbert_ray.config import Modality, SegmentConfig, to_dict
from hilbert_ray.segmentation.vad import vad_identity

CUTTING_RULES = 2
"""Version of how `segment` cuts: to be raised when the same settings give other segments."""


def cutting(segment: SegmentConfig, modality: Modality) -> dict[str, Any]:
    """Return the segmentation settings that a modality's features depend on.

    Roles are left out: they decide which part of a document is read, and so belong to the document's key.
    """
    values = to_dict(segment)
    names = ("audio", "window_s", "hop_s", "max_s") if modality == "audio" else ("target_tokens",)
    return {name: values[name] for name in names}


def segmentation(segment: SegmentConfig, modality: Modality) -> dict[str, Any]:
    """Return all that decides how a modality is cut: the settings, and the detector where it cuts at pauses.

    Raises:
        ConfigError: when pauses are asked for and the detector is not installed.
    """
    facts = {**cutting(segment, modality), "rules": CUTTING_RULES}
    if facts.get("audio") == "pause":
        facts["pauses"] = vad_identity()
    return facts
