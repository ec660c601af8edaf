"""Voice activity: how likely each 32 ms of a recording are speech, and where its pauses are.

The detector is Silero VAD, run by onnxruntime as a stream in constant memory. The package `silero_vad` only
provides the model file and is never imported, because importing it sets the whole process to one torch
thread. `pauses` cuts at the pauses; `rules` makes `vad_identity` part of what identifies features.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from hilbert_ray.config import ConfigError
from hilbert_ray.document import Hertz, Samples, Seconds

# The model fixes these: other rates and frames need other weights.
RATE_HZ: Hertz = 16_000
FRAME: Samples = 512
"""Samples per probability."""
SPEECH = 0.5
"""Probability from which a frame counts as speech, the default of Silero's own tools."""
SHORTEST_PAUSE = 6
"""Frames (0.19 s) without speech that make a pause; closures inside words are shorter."""
_CONTEXT: Samples = 64
"""Samples of the frame before that the model sees in front of each frame."""
_FRAMES_AT_ONCE = 64
"""Frames per call of the model (2 s), to save the overhead of a call per frame."""
_STATE_SHAPE = (1, 1, 128)
"""The recurrent state that is carried from call to call."""
_LEVEL = 0.1
"""Root mean square that quiet recordings are amplified to."""
_MOST_GAIN = 100.0
_DECAY = 0.95
"""How much of the level is left a step (2 s) later, so that a quiet speaker after a loud one is heard."""


def is_vad_installed() -> bool:
    """Whether the detector is there."""
    return find_spec("onnxruntime") is not None and _model_file().is_file()


def require_vad(rate_hz: Hertz) -> None:
    """Check that the detector is installed and works at this rate.

    Raises:
        ConfigError: when it is not installed, or needs another rate.
    """
    if not is_vad_installed():
        raise ConfigError(
            "segment.audio is `pause`, which needs onnxruntime and silero-vad 6.2.3 or newer, and they are "
            "not installed: pip install 'hilbert-ray[pause]' on every node, or use `window` or `turns`"
        )
    if rate_hz != RATE_HZ:
        raise ConfigError(
            f"segment.audio is `pause` and the audio encoder takes {rate_hz} Hz; the pause detector takes "
            f"{RATE_HZ} Hz only: choose an encoder with that rate, or use `window` or `turns`"
        )


def vad_identity() -> dict[str, Any]:
    """Return what pauses depend on besides the recording, as plain values.

    Raises:
        ConfigError: when the detector is not installed.
    """
    require_vad(RATE_HZ)
    # The bytes of the model, not the version of the package: other weights give other cuts, a release need
    # not.
    digest = hashlib.sha256(_model_file().read_bytes()).hexdigest()
    return {"model": digest[:16], "speech": SPEECH, "shortest_pause": SHORTEST_PAUSE}


def speech_probabilities(
    blocks: Iterator[np.ndarray], amplify: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (samples, probabilities of speech) of a recording in steps of 2 s, the last one shorter.

    The steps, and so the probabilities, do not depend on the sizes of the blocks.

    Args:
        blocks: mono float32 samples at `RATE_HZ`.
        amplify: whether the detector hears quiet stretches amplified: it misses most words of a speaker
            at -40 dB. The samples are yielded as they are.

    Yields:
        samples float32 [n], and probabilities float32 [ceil(n / FRAME)], the last frame filled up with zeros.
    """
    session = _session()
    hidden = cell = np.zeros(_STATE_SHAPE, np.float32)
    context = np.zeros(_CONTEXT, np.float32)
    level = 0.0
    for samples in _equal_blocks(blocks, _FRAMES_AT_ONCE * FRAME):
        # [frames, FRAME], the last one filled up with zeros; in front of each goes the end of the one before.
        frames = np.zeros((-(-len(samples) // FRAME), FRAME), np.float32)
        frames.reshape(-1)[: len(samples)] = samples
        if amplify:
            level = max(float(np.sqrt(np.mean(np.square(samples)))), level * _DECAY)
            frames *= min(max(_LEVEL / max(level, _LEVEL / _MOST_GAIN), 1.0), _MOST_GAIN)
        contexts = np.concatenate([context[None], frames[:-1, -_CONTEXT:]])
        context = frames[-1, -_CONTEXT:]
        inputs = {"input": np.concatenate([contexts, frames], axis=1), "h": hidden, "c": cell}
        speech, hidden, cell = session.run(["speech_probs", "hn", "cn"], inputs)
        yield samples, speech


def speech_share(blocks: Iterator[np.ndarray]) -> float | None:
    """Return the share of a recording's frames that are speech, 0 to 1; None if it has none.

    Args:
        blocks: mono float32 samples at `RATE_HZ`; read to the end.
    """
    spoken = frames = 0
    for _, probabilities in speech_probabilities(blocks):
        spoken += int(np.count_nonzero(probabilities >= SPEECH))
        frames += len(probabilities)
    return spoken / frames if frames else None


def seconds_of_speech(speech: np.ndarray) -> Seconds:
    """Return how long somebody speaks, by the probabilities of each `FRAME`, float32 [frames]."""
    return float(np.count_nonzero(speech >= SPEECH) * (FRAME / RATE_HZ))


def find_pauses(speech: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where pauses begin and end, both int [pauses], an end being the first frame after its pause.

    Args:
        speech: probabilities float32 [frames].
    """
    # Padded with speech on both sides, every run of quiet frames has two edges.
    is_quiet = np.concatenate([[False], speech < SPEECH, [False]])
    edges = np.flatnonzero(is_quiet[1:] != is_quiet[:-1])
    begins, ends = edges[::2], edges[1::2]
    is_long = ends - begins >= SHORTEST_PAUSE
    return begins[is_long], ends[is_long]


def _equal_blocks(blocks: Iterator[np.ndarray], size: Samples) -> Iterator[np.ndarray]:
    """Yield the samples of blocks of any size in blocks of one size, the last one shorter."""
    collected: list[np.ndarray] = []
    count = 0
    for block in blocks:
        collected.append(block)
        count += len(block)
        if count >= size:
            joined = np.concatenate(collected)
            whole = count - count % size
            yield from (joined[start : start + size] for start in range(0, whole, size))
            # A copy, so that the few samples that are left do not keep all of `joined` in memory.
            collected, count = [joined[whole:].copy()], count - whole
    if count:
        yield np.concatenate(collected)


def _model_file() -> Path:
    """Return where the model lies in the package; a path that does not exist where that is not installed."""
    package = find_spec("silero_vad")
    folders = package.submodule_search_locations if package else None
    return Path(folders[0] if folders else "absent") / "data" / "silero_vad_16k_sequence.onnx"


@cache
def _session() -> Any:  # noqa: ANN401 - onnxruntime has no types
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # The model is small: more threads only take CPU from the encoder.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(_model_file()), sess_options=options, providers=["CPUExecutionProvider"]
    )
