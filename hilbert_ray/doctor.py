"""`hilbert-ray doctor`: what this environment is, what is wrong with it, and the step that mends it.

The one fault it can mend itself: a torchaudio whose native libraries were built for CUDA cannot load beside a
CPU-only torch, and transformers then fails to import too. Without those libraries torchaudio runs in pure
Python.
"""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

PACKAGES = (
    "hilbert-ray", "torch", "torchaudio", "transformers", "ray", "pyarrow", "numpy", "soundfile", "soxr",
    "fsspec", "s3fs", "scikit-learn", "optuna", "av", "onnxruntime", "silero-vad",
)  # fmt: skip
OPTIONAL = {
    "av": "only M4A, MP4 and other containers need it: pip install 'hilbert-ray[video]'",
    "onnxruntime": "only cutting at pauses needs it: pip install 'hilbert-ray[pause]'",
    "silero-vad": "only cutting at pauses needs it: pip install 'hilbert-ray[pause]'",
}
"""What each package that may be absent is for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """Facts in printing order, and faults, each with the step that mends it."""

    facts: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the diagnosis as lines for a terminal."""
        width = max(map(len, self.facts))
        lines = [f"{name:<{width}}  {value}" for name, value in self.facts.items()]
        lines += [""] + ([f"FAULT  {fault}" for fault in self.faults] or ["No fault found."])
        return "\n".join(lines)


def diagnose() -> Diagnosis:
    """Look at versions, devices and codecs of this environment."""
    facts = {"python": f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} CPUs"}
    faults = []
    for name in PACKAGES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = f"absent ({OPTIONAL[name]})" if name in OPTIONAL else "absent"
            if name not in OPTIONAL:
                faults.append(f"{name} is not installed; run `pip install hilbert-ray` again")
    error = torchaudio_error()
    if error:
        faults.append(f"torchaudio cannot load beside this torch ({error}); run `hilbert-ray doctor --mend`")
    facts["devices"] = _devices()
    facts["audio formats"] = _formats()
    return Diagnosis(facts=facts, faults=faults)


def torchaudio_error() -> str:
    """Return why importing torchaudio fails in a fresh process, or an empty string when it does not."""
    shown = subprocess.run(
        [sys.executable, "-c", "import torchaudio"], capture_output=True, text=True, check=False
    )
    return shown.stderr.strip().splitlines()[-1] if shown.returncode else ""


def repair() -> list[Path]:
    """Remove torchaudio's native libraries where they cannot load; return what was removed.

    Raises:
        RuntimeError: when torchaudio still fails afterwards.
    """
    error = torchaudio_error()
    if not error or "Could not load this library" not in error:
        return []
    spec = find_spec("torchaudio")
    assert spec is not None
    assert spec.origin is not None
    removed = sorted((Path(spec.origin).parent / "lib").glob("*.so"))
    for library in removed:
        library.unlink()
    if still := torchaudio_error():
        raise RuntimeError(
            f"torchaudio still fails without its native libraries: {still}; reinstall torch and it"
        )
    return removed


def _devices() -> str:
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"torch does not import: {error}"
    if not torch.cuda.is_available():
        return f"CPU only, {torch.get_num_threads()} torch threads"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{len(names)} GPU: {', '.join(sorted(set(names)))}"


def _formats() -> str:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        return f"soundfile does not import: {error}"
    known = soundfile.available_formats()
    listed = [name for name in ("WAV", "FLAC", "MP3", "OGG") if name in known]
    if find_spec("av"):
        listed += ["M4A", "MP4 (PyAV)"]
    found = "found" if shutil.which("ffmpeg") else "absent (not needed)"
    return f"{', '.join(listed)}; libsndfile {soundfile.__libsndfile_version__}; ffmpeg program {found}"
