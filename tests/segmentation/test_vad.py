"""Voice activity: the same probabilities as the package computes, from blocks of any size, in flat memory."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.config import ConfigError
from hilbert_ray.segmentation.vad import (
    RATE_HZ,
    _model_file,
    find_pauses,
    require_vad,
    speech_probabilities,
    vad_identity,
)
from tests.segmentation.cutting import interview

PLAIN = """
import sys
import numpy, torch
from silero_vad.utils_vad import OnnxWrapper
model = OnnxWrapper(sys.argv[1], force_onnx_cpu=True)
samples = torch.from_numpy(numpy.load(sys.argv[2]))
numpy.save(sys.argv[3], numpy.array([model(frame, 16000).item() for frame in samples.split(512)]))
print(torch.get_num_threads())
"""

MEASURE = """
import re, sys
import numpy
from hilbert_ray.segmentation.vad import speech_probabilities
second = numpy.random.default_rng(0).normal(0, 0.1, 16000).astype(numpy.float32)
frames = sum(len(speech) for _, speech in speech_probabilities(second for _ in range(int(sys.argv[1]))))
print(frames, re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def heard(samples: np.ndarray, sizes: Iterator[int] | None = None) -> np.ndarray:
    """Return the probabilities of a whole recording, listened to in blocks of these sizes, then the rest."""
    at, blocks = 0, []
    for size in sizes or ():
        blocks.append(samples[at : at + size])
        at += size
    return np.concatenate(
        [
            np.zeros(0, np.float32),
            *(speech for _, speech in speech_probabilities(iter([*blocks, samples[at:]]))),
        ]
    )


def test_probabilities_are_those_of_the_package_itself(tmp_path: Path) -> None:
    samples = interview(1)[: 512 * 900]
    np.save(tmp_path / "samples.npy", samples)
    package = find_spec("silero_vad")
    assert package is not None
    assert package.origin is not None
    model = Path(package.origin).parent / "data" / "silero_vad.onnx"
    files = [str(model), str(tmp_path / "samples.npy"), str(tmp_path / "speech.npy")]
    # In a process of its own, since importing the package takes all threads but one from torch.
    shown = subprocess.run(
        [sys.executable, "-c", PLAIN, *files], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == "1"
    plain = np.load(tmp_path / "speech.npy")
    assert plain.min() < 0.1
    assert plain.max() > 0.9
    np.testing.assert_allclose(heard(samples), plain, atol=1e-6, rtol=0)


def test_listening_leaves_torch_its_threads() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert len(heard(np.zeros(5000, np.float32))) == 10
        vad_identity()
        assert torch.get_num_threads() == 3
        assert "silero_vad" not in sys.modules
    finally:
        torch.set_num_threads(before)


@given(st.lists(st.integers(0, 60_000), max_size=12))
@settings(max_examples=15, deadline=None)
def test_the_sizes_of_the_blocks_do_not_matter(sizes: list[int]) -> None:
    samples = interview(1)[:200_001]
    np.testing.assert_array_equal(heard(samples, iter(sizes)), heard(samples))


@pytest.mark.parametrize(
    ("count", "frames"), [(0, 0), (1, 1), (511, 1), (512, 1), (513, 2), (64 * 512, 64), (64 * 512 + 1, 65)]
)
def test_every_sample_is_given_back_with_its_frame(count: int, frames: int) -> None:
    samples = interview(1)[:count]
    parts = list(speech_probabilities(iter([samples])))
    assert sum(len(speech) for _, speech in parts) == frames
    np.testing.assert_array_equal(np.concatenate([np.zeros(0, np.float32), *(a for a, _ in parts)]), samples)


def test_two_recordings_at_a_time_do_not_mix() -> None:
    first, second = interview(1)[:100_000], interview(2)[:100_000]
    pairs = list(zip(speech_probabilities(iter([first])), speech_probabilities(iter([second])), strict=True))
    np.testing.assert_array_equal(np.concatenate([one[1] for one, _ in pairs]), heard(first))
    np.testing.assert_array_equal(np.concatenate([other[1] for _, other in pairs]), heard(second))


def test_pauses_are_runs_of_at_least_six_frames_without_speech() -> None:
    speech = np.full(40, 0.9, np.float32)
    speech[[*range(6), *range(10, 15), *range(20, 26), *range(33, 40)]] = 0.49
    begins, ends = find_pauses(speech)
    assert list(zip(begins, ends, strict=True)) == [(0, 6), (20, 26), (33, 40)]
    speech[22] = 0.5
    assert find_pauses(speech)[0].tolist() == [0, 33]


def test_silence_noise_and_a_chord_hold_no_speech() -> None:
    rng, time = np.random.default_rng(0), np.arange(5 * 16000) / 16000
    chord = 0.1 * np.sin(2 * np.pi * np.array([[261.6], [329.6], [392.0]]) * time).sum(0)
    for samples in (np.zeros(len(time)), rng.normal(0, 0.1, len(time)), chord):
        assert heard(samples.astype(np.float32)).mean() < 0.2


def test_the_identity_names_the_bytes_of_the_model() -> None:
    facts = vad_identity()
    assert facts == {
        "model": hashlib.sha256(_model_file().read_bytes()).hexdigest()[:16],
        "speech": 0.5,
        "shortest_pause": 6,
    }


@pytest.mark.parametrize("name", ["onnxruntime", "silero_vad"])
def test_where_the_extra_is_missing_the_error_names_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    for ask in (vad_identity, lambda: require_vad(RATE_HZ)):
        with pytest.raises(ConfigError, match=r"`pause`, which needs .*pip install 'hilbert-ray\[pause\]'"):
            ask()


def test_another_rate_is_refused() -> None:
    require_vad(16000)
    with pytest.raises(ConfigError, match=r"takes 8000 Hz; the pause detector takes 16000 Hz only"):
        require_vad(8000)


def peak_kib(seconds: int) -> int:
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(seconds)], capture_output=True, text=True, check=True
    )
    frames, peak = map(int, result.stdout.split())
    assert frames == -(-seconds * 16000 // 512)
    return peak


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("seconds", [480, pytest.param(7200, marks=pytest.mark.soak)])
def test_memory_does_not_grow_with_duration(seconds: int) -> None:
    """As float32, eight minutes alone would be 30 MB and two hours 460 MB."""
    assert peak_kib(seconds) - peak_kib(30) < 8 * 1024
