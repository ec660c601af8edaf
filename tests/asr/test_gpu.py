"""Recognisers under the rules of a GPU (see `tests.devices`) hear what they hear on the CPU."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hilbert_ray.asr import Window, build_recognizer
from hilbert_ray.asr.ctc import CtcRecognizer
from hilbert_ray.config import Config
from tests.asr.test_ctc import CASES, FLOAT32, windows
from tests.devices import GPU, fake_gpu


@pytest.mark.parametrize("name", CASES)
def test_ctc_recognisers_hear_the_same_on_a_gpu(name: str, tmp_path: Path) -> None:
    path, config = CASES[name].made(tmp_path)
    some = windows(2.0, 0.3)
    expected = CtcRecognizer(f"hf:{path}", path, config, FLOAT32, "cpu").recognize(some)
    with fake_gpu() as gpu:
        found = CtcRecognizer(f"hf:{path}", path, config, FLOAT32, str(GPU)).recognize(some)
    assert gpu.waits["to cpu"] > 0  # it was there
    assert [[one.text for one in said] for said in found] == [[one.text for one in said] for said in expected]
    for said, also in zip(found, expected, strict=True):
        times = [[(word.start, word.end, word.confidence or 0.0) for word in one.words] for one in said]
        others = [[(word.start, word.end, word.confidence or 0.0) for word in one.words] for one in also]
        for one, other in zip(times, others, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4)


def test_whisper_hears_the_same_on_a_gpu(whisper_folder: Path, spoken: Sequence[Window]) -> None:
    config = Config(asr=f"hf:{whisper_folder}", recognition=FLOAT32)
    expected = build_recognizer(config).recognize(spoken[:1])
    with fake_gpu() as gpu:
        found = build_recognizer(config, str(GPU)).recognize(spoken[:1])
    assert gpu.waits["to cpu"] > 0
    assert [[one.text for one in said] for said in found] == [[one.text for one in said] for said in expected]
    assert any(said for said in expected)
