"""Channels and levels: which channels are used, and recordings that cannot or may not be meant."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hilbert_ray import audio
from hilbert_ray.audio.errors import (
    CancellingChannelsError,
    ChannelError,
    NonFiniteAudioError,
    ScaleError,
)
from hilbert_ray.audio.levels import Levels
from hilbert_ray.config import parse_channels
from tests.audio.recordings import encode, outcome, sample, signal, streamed, written


def wav(folder: Path, samples: np.ndarray, rate_hz: int = 16000, name: str = "a.wav") -> str:
    return written(folder, encode("wav", samples.astype(np.float32), rate_hz, subtype="FLOAT"), name)


def drawn(uri: str, channels: Any = "mix", rate_hz: int = 16000) -> tuple[np.ndarray, tuple[str, ...]]:  # noqa: ANN401
    stream = audio.stream(uri, rate_hz, channels=parse_channels(channels))
    return np.concatenate(list(stream)), stream.findings


CALL = signal(12.0, 16000, 2)


@pytest.mark.parametrize(("choice", "column"), [("left", 0), ("right", 1), ("loudest", 1)])
@pytest.mark.parametrize("rate_hz", [16000, 44100])
def test_one_channel_is_that_channel_alone(choice: str, column: int, rate_hz: int, tmp_path: Path) -> None:
    call = signal(3.0, rate_hz, 2) * [0.3, 0.9]
    found, _ = drawn(wav(tmp_path, call, rate_hz), choice)
    alone = streamed(wav(tmp_path, call[:, column], rate_hz, "alone.wav"))
    np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize("rate_hz", [16000, 44100])
@pytest.mark.parametrize("order", [{"0": "a", "1": "b"}, {"left": "a", "right": "b"}, "0=a,1=b"])
def test_channels_of_speakers_come_beside_each_other(order: Any, rate_hz: int, tmp_path: Path) -> None:  # noqa: ANN401
    call = signal(3.0, rate_hz, 2)
    found, _ = drawn(wav(tmp_path, call, rate_hz), order)
    for column in (0, 1):
        alone = streamed(wav(tmp_path, call[:, column], rate_hz, "alone.wav"))
        np.testing.assert_allclose(found[:, column], alone, atol=1e-6)
    [only], _ = drawn(wav(tmp_path, call, rate_hz), {"1": "b"})[0].T, None
    np.testing.assert_allclose(only, found[:, 1], atol=1e-6)


def test_a_channel_that_is_not_there_is_refused(tmp_path: Path) -> None:
    mono = wav(tmp_path, signal(1.0))
    np.testing.assert_array_equal(drawn(mono, "left")[0], drawn(mono)[0])
    np.testing.assert_array_equal(drawn(mono, "loudest")[0], drawn(mono)[0])
    for choice, shown in (("right", "'right'"), ({"0": "a", "1": "b"}, "'0=a,1=b'")):
        with pytest.raises(ChannelError, match=f"has 1 channel, but `channels` is {shown}; channels are"):
            drawn(mono, choice)


@pytest.mark.parametrize("gain", [-1.0, -0.9, -0.6])
@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_channels_that_cancel_are_refused_unless_one_is_chosen(
    gain: float, rate_hz: int, tmp_path: Path
) -> None:
    mono = signal(12.0, rate_hz)[:, 0]
    uri = wav(tmp_path, np.stack([mono, gain * mono], axis=1), rate_hz)
    with pytest.raises(CancellingChannelsError, match=r"2 channels that cancel .* in 12 of 12 s.*left"):
        streamed(uri)
    found, findings = drawn(uri, "left", rate_hz)
    np.testing.assert_array_equal(found, mono)
    assert findings == ()


def test_channels_that_cancel_in_a_part_are_refused_however_blocks_fall(tmp_path: Path) -> None:
    mono = signal(60.0, 8000)[:, 0]
    call = np.stack([mono, mono], axis=1)
    call[30 * 8000 :, 1] *= -1
    uri = wav(tmp_path, call, 8000)
    for block_s in (0.3, 7.0, 30.0, 100.0):
        if block_s < 60:
            with pytest.raises(CancellingChannelsError, match=r"cancel each other in \d\d of 60 s"):
                streamed(uri, 8000, block_s)


@pytest.mark.parametrize(
    "make",
    [
        lambda: signal(12.0, 16000, 2),
        lambda: signal(12.0, 16000, 8),
        lambda: signal(12.0) * [1, 1],
        lambda: signal(12.0) * [1, -0.1],
        lambda: signal(12.0) * [1, 0],
        lambda: signal(12.0, 16000, 2) + np.array([0.4, -0.4]),
        lambda: np.random.default_rng(0).normal(0, 1e-6, (16000 * 12, 1)) * [1, -1],
    ],
    ids=["call", "room", "same", "crosstalk", "one silent", "offsets", "dither"],
)
def test_other_channels_are_mixed(make: Any, tmp_path: Path) -> None:  # noqa: ANN401
    samples = make().astype(np.float32)
    np.testing.assert_allclose(streamed(wav(tmp_path, samples)), samples.mean(1), atol=1e-6)


@pytest.mark.parametrize("scale", [32768, 128, 2**31])
def test_whole_numbers_written_as_floats_are_refused(scale: int, tmp_path: Path) -> None:
    with pytest.raises(ScaleError, match="full scale is 1: whole numbers were written as floats"):
        streamed(wav(tmp_path, signal(2.0) * scale))


def test_what_is_not_finite_is_found_at_its_place_beside_any_level(tmp_path: Path) -> None:
    samples = np.full((16000, 2), 1e30)
    samples[8000, 1] = np.nan
    with pytest.raises(NonFiniteAudioError, match=r"the first at 0.500 s"):
        streamed(wav(tmp_path, samples))


FINDINGS: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "speech": (lambda: CALL, "mix", ()),
    "peaks at full scale": (lambda: CALL / np.abs(CALL).max(), "mix", ()),
    "silence": (lambda: np.zeros((16000, 2)), "mix", ("the recording is silent (below -80 dB)",)),
    "a constant": (lambda: np.full((16000, 1), 0.3), "mix", ("the recording is silent (below -80 dB)",)),
    "one silent channel": (
        lambda: CALL * [1, 1e-4],
        "mix",
        ("1 of 2 channels silent, so that their mean is quieter by 6 dB",),
    ),
    "the other channel": (lambda: CALL * [1, 1e-4], "left", ()),
    "clipped": (lambda: np.clip(CALL * 6, -1, 1), "mix", ("the recording is clipped",)),
    "a channel without a name": (
        lambda: CALL,
        "0=agent",
        ("channels with sound are not named in `channels` and not used",),
    ),
    "a silent channel without a name": (lambda: CALL * [1, 0], "0=agent", ()),
    "a silent channel is used": (
        lambda: CALL * [0, 1],
        "left",
        ("a channel that `channels` names is silent",),
    ),
    "a speaker's channel is silent": (
        lambda: CALL * [1, 0],
        "0=agent,1=customer",
        ("a channel that `channels` names is silent",),
    ),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_what_a_user_should_know_is_said(name: str, tmp_path: Path) -> None:
    make, channels, expected = FINDINGS[name]
    found = drawn(wav(tmp_path, make()), channels)[1]
    assert len(found) == len(expected)
    assert all(text.startswith(start) for text, start in zip(found, expected, strict=True))


def test_levels_are_those_of_the_samples() -> None:
    """Against sums in double precision, for channels with offsets."""
    samples = (signal(30.0, 8000, 3) * [1, 0.1, 0.01] + [0.2, 0, -0.1]).astype(np.float32)
    levels = Levels(channels=3, rate_hz=8000, is_mixed=False)
    for block in np.array_split(samples, 17):
        assert levels.add(block)
    levels.finish()
    # A part of the samples is counted, evenly.
    np.testing.assert_allclose(levels.powers, samples.astype(float).var(axis=0), rtol=0.06)
    assert levels.decibels == pytest.approx(10 * np.log10(samples.astype(float).var(axis=0).max()), abs=0.25)
    whole = Levels(channels=3, rate_hz=8000, is_mixed=False)
    assert whole.add(samples[:8000])
    whole.finish()
    np.testing.assert_allclose(whole.powers, samples[:8000].astype(float).var(axis=0), rtol=1e-4)
    assert whole.peak == np.abs(samples[:8000]).max()


def test_of_several_sound_tracks_it_is_said_that_the_first_is_used(tmp_path: Path) -> None:
    import av

    uri = str(tmp_path / "two.mkv")
    first = written(tmp_path, sample("wav"))
    with av.open(first) as source, av.open(uri, "w") as target:
        tracks = [target.add_stream_from_template(source.streams.audio[0]) for _ in range(2)]
        for packet in source.demux(audio=0):
            for track in tracks if packet.size else ():
                packet.stream = track
                target.mux(packet)
    assert audio.probe(uri).tracks == 2
    found, findings = drawn(uri)
    np.testing.assert_array_equal(found, streamed(first))
    assert len(findings) == 1
    assert findings[0].startswith("the file has 2 sound tracks, of which the first is used")
    assert isinstance(outcome(uri), int)
