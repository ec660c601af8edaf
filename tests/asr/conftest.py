"""Real weights and real windows for the tests of recognisers, made once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hilbert_ray.asr import Recognizer, Window, build_recognizer, windows
from hilbert_ray.audio import stream
from hilbert_ray.config import Config, RecognitionConfig
from tests.whisper_weights import package_folder, write_folder

CORPUS = Path(__file__).parent.parent.parent / "examples" / "corpus"
FLOAT32 = RecognitionConfig(precision="float32")


@pytest.fixture(scope="session")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whisper tiny.en as a folder of transformers."""
    return write_folder(tmp_path_factory.mktemp("weights") / "whisper-tiny.en")


@pytest.fixture(scope="session")
def whisper(whisper_folder: Path) -> Recognizer:
    """Whisper tiny.en by transformers, in float32."""
    return build_recognizer(Config(asr=f"hf:{whisper_folder}", recognition=FLOAT32))


@pytest.fixture(scope="session")
def faster_whisper() -> Recognizer:
    """Whisper tiny.en by CTranslate2, in float32."""
    return build_recognizer(Config(asr=f"faster-whisper:{package_folder()}", recognition=FLOAT32))


@pytest.fixture(scope="session")
def faster_whisper_int8() -> Recognizer:
    """The same in int8, as `auto` chooses on a CPU."""
    return build_recognizer(Config(asr=f"faster-whisper:{package_folder()}"))


def audio(name: str) -> np.ndarray:
    """Return a recording of the sample corpus, float32 [samples] at 16 kHz."""
    return np.concatenate([*stream(str(CORPUS / "audio" / f"{name}.opus"))])


@pytest.fixture(scope="session")
def spoken() -> Sequence[Window]:
    """Short windows of two speakers of the sample corpus."""
    samples = [audio(name)[: 24 * 16_000] for name in ("interview-001", "interview-002")]
    return [window for one in samples for window in windows(iter([one]), 8.0)]
