"""What decides how a document is cut, as plain values: part of every encoder's fingerprint."""

from typing import Any

from hilbert_ray.config import Modality, SegmentConfig, to_dict
from hilbert_ray.segmentation.vad import vad_identity

CUTTING_RULES = 2
"""Version of the code that cuts. Raise it when the same settings give other segments: stores are then
embedded again instead of mixing features of both."""


def cutting(segment: SegmentConfig, modality: Modality) -> dict[str, Any]:
    """Return the segmentation settings that a modality's features depend on.

    Roles are left out: they decide which part of a document is read, and so are part of the hash of its
    source.
    """
    values = to_dict(segment)
    names = ["audio", "window_s", "hop_s", "max_s"] if modality == "audio" else ["target_tokens"]
    # Only where it is set: stores from before there was a choice hold the mean of all channels.
    if modality == "audio" and segment.channels != SegmentConfig().channels:
        names.append("channels")
    return {name: values[name] for name in names}


def segmentation(segment: SegmentConfig, modality: Modality) -> dict[str, Any]:
    """Return everything that decides how a modality is cut: settings, rules, and the detector of pauses.

    Raises:
        ConfigError: when the settings cut at pauses and the detector is not installed.
    """
    facts = {**cutting(segment, modality), "rules": CUTTING_RULES}
    if facts.get("audio") == "pause":
        facts["pauses"] = vad_identity()
    return facts
