"""What `validate` hears: the beginning of recordings, their channels and levels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from hilbert_ray.config import Config, SegmentConfig
from hilbert_ray.segmentation import speech_share
from hilbert_ray.validation import Recording, validate
from hilbert_ray.validation.recordings import MEASURES, odd_ones, to_values, warnings_of
from tests import make
from tests.segmentation.cutting import interview


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


def test_recordings_are_shown_as_distributions_and_what_was_heard_of_them_is_said(tmp_path: Path) -> None:
    rows = []
    for number in range(8):
        rate = 8000 if number == 7 else 16000
        gain = 0.001 * 2**number
        sound = np.random.default_rng(number).normal(0, gain, (40 * rate, 1 + (number == 6)))
        soundfile.write(tmp_path / f"{number}.wav", sound, rate, subtype="FLOAT")
        rows.append({"doc_id": str(number), "audio": f"{number}.wav", "group": str(number)})
    manifest = make.manifest(tmp_path / "m.jsonl", rows)
    report = validate(manifest)
    lines = report.text().splitlines()
    assert "  rates        16000 Hz in 7, 8000 Hz in 1" in lines
    assert "  channels     1 in 7, 2 in 1" in lines
    [loudness] = [line for line in lines if line.startswith("  loudness")]
    assert "-60.0 to -17.9 (quartiles -49.5, -38.9, -28.4) dBFS; RMS of the loudest channel" in loudness
    assert "the first 30 s of 8 recordings" in loudness
    [speech] = [line for line in lines if line.startswith("  speech")]
    assert speech.startswith("  speech       0% to ")
    assert speech.endswith("of the time; Silero VAD, of as much")
    assert "all of 8 recordings" in validate(manifest, listen="all").text()
    assert "the first 30 s of 3 recordings" in validate(manifest, listen=3).text()
    assert "loudness" not in validate(manifest, listen=0).text()
    values = report.to_dict()["recordings"]["6"]
    assert (values["rate_hz"], values["channels"], values["duration_s"]) == (16000, 2, 40.0)
    assert values["heard_s"] == 30.0
    assert values["level_db"] == pytest.approx(20 * np.log10(0.064), abs=0.1)
    assert values["odd"] == []  # of fewer than ten, none is


def test_damage_beyond_the_beginning_is_found_when_all_is_heard(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 60 * 8000).astype(np.float32)
    sound[55 * 8000] = np.nan
    soundfile.write(tmp_path / "a.wav", sound, 8000, subtype="FLOAT")
    manifest = make.manifest(tmp_path / "m.jsonl", [{"doc_id": "a", "audio": "a.wav"}])
    assert validate(manifest).ok
    [fault] = validate(manifest, listen="all").faults
    assert fault.error == "NonFiniteAudioError"


def test_the_share_of_speech_is_that_of_the_detector(tmp_path: Path) -> None:
    spoken, rate = interview(1), 16000
    silence = np.zeros_like(spoken)
    for name, parts in {"half": [spoken, silence], "none": [silence + 1e-3]}.items():
        soundfile.write(tmp_path / f"{name}.wav", np.concatenate(parts), rate)
    rows = [{"doc_id": name, "audio": f"{name}.wav"} for name in ("half", "none")]
    recordings = validate(make.manifest(tmp_path / "m.jsonl", rows), listen="all").recordings
    whole = speech_share(iter([spoken]))
    assert whole is not None
    assert whole > 0.5
    assert recordings["half"].speech == pytest.approx(whole / 2, abs=0.05)
    assert (recordings["none"].speech, recordings["none"].level_db) == (0.0, None)


def recordings(**changed: dict[str, Any]) -> dict[str, Recording]:
    usual = Recording(duration_s=60, rate_hz=16000, channels=1, heard_s=30, level_db=-25.0, speech=0.8)
    return {f"d{number}": usual for number in range(20)} | {
        doc_id: replace(usual, **fields) for doc_id, fields in changed.items()
    }


def test_recordings_that_differ_from_the_rest_are_named_with_the_rule() -> None:
    odd = recordings(
        phone={"rate_hz": 8000}, far={"level_db": -40.0}, music={"speech": 0.1}, duo={"channels": 2}
    )
    assert list(warnings_of(odd)) == [
        "1 recording has a sampling rate other than 16000 Hz, which 23 of 24 have: 'phone' (8000 Hz)",
        "1 recording has a number of channels other than 1, which 23 of 24 have: 'duo' (2)",
        "1 recording has a loudness more than 10.0 dB from -25.0 dBFS, the median: 'far' (-40.0 dBFS)",
        "1 recording has a share of speech more than 25% from 80%, the median: 'music' (10%)",
    ]
    values = to_values(odd)
    assert values["far"]["odd"] == ["loudness"]
    assert values["d0"]["odd"] == []


def test_spread_is_no_oddness_and_few_recordings_have_no_rest() -> None:
    spread = recordings(**{f"d{number}": {"level_db": -60.0 + number} for number in range(20)})
    assert not list(warnings_of(spread))
    mixed = {f"e{number}": {"rate_hz": 8000} for number in range(10)}
    assert not list(warnings_of(recordings(**mixed)))
    few = dict(list(recordings(phone={"rate_hz": 8000}).items())[-9:])
    assert not list(warnings_of(few))


@given(st.lists(st.floats(-80, 0), min_size=10, max_size=40))
def test_at_most_half_of_the_values_are_odd(levels: list[float]) -> None:
    odd, _ = odd_ones(MEASURES[2], {str(number): level for number, level in enumerate(levels)})
    assert len(odd) <= len(levels) / 2
