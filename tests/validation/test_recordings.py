"""What `validate` hears: the beginning of recordings, their channels and levels."""

from pathlib import Path

import numpy as np
import soundfile

from hilbert_ray.config import Config, SegmentConfig
from hilbert_ray.validation import validate
from tests import make


def manifest_of(folder: Path, gains: tuple[float, float]) -> str:
    sound = np.random.default_rng(0).normal(0, 0.1, 40 * 8000)
    soundfile.write(folder / "call.wav", sound[:, None] * gains, 8000)
    return make.manifest(folder / "m.jsonl", [{"doc_id": "call", "audio": "call.wav"}])


def test_channels_that_cancel_are_a_fault_unless_one_is_chosen(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, (1, -1))
    [fault] = validate(manifest).faults
    assert (fault.stage, fault.error) == ("audio", "CancellingChannelsError")
    assert validate(manifest, Config(segment=SegmentConfig(channels="left"))).faults == ()
    [fault] = validate(manifest, Config(segment=SegmentConfig(channels="0=a,1=b,2=c"))).faults
    assert fault.error == "ChannelError"


def test_a_silent_channel_is_a_warning_that_says_what_was_heard(tmp_path: Path) -> None:
    report = validate(manifest_of(tmp_path, (1, 0)))
    assert report.faults == ()
    assert any("in its first 30 s, 1 of 2 channels silent" in warning for warning in report.warnings)
