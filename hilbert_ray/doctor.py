"""`hilbert-ray doctor`: what is installed here, what is wrong with it, and the command that fixes it.

The one fault that it can fix itself: with a CPU-only torch, torchaudio's native libraries (built for CUDA)
fail to load and break transformers too. Without these libraries torchaudio runs in pure Python.
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

from joblib import cpu_count  # type: ignore[import-untyped]

from hilbert_ray.errors import HilbertError

PACKAGES = (
    "hilbert-ray", "torch", "torchaudio", "transformers", "ray", "pyarrow", "numpy", "soundfile", "soxr",
    "fsspec", "s3fs", "scikit-learn", "optuna", "av", "onnxruntime", "silero-vad",
    "faster-whisper", "ctranslate2",
)  # fmt: skip
OPTIONAL = {
    "av": "needed only for M4A, MP4 and other containers: pip install 'hilbert-ray[video]'",
    "onnxruntime": "needed only to cut audio at pauses and to transcribe: pip install 'hilbert-ray[pause]'",
    "silero-vad": "needed only to cut audio at pauses and to transcribe: pip install 'hilbert-ray[pause]'",
    "faster-whisper": "needed only for --asr faster-whisper:...: pip install 'hilbert-ray[asr]'",
    "ctranslate2": "needed only for --asr faster-whisper:...: pip install 'hilbert-ray[asr]'",
}
"""What each optional package is for, and how to install it."""
# How the dynamic loader's failure begins in torchaudio's message; any other failure has another cause, which
# removing its libraries would not fix.
UNLOADABLE = "Could not load this library"


class DoctorError(HilbertError):
    """A fault that `fix` tried to repair and could not."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """Facts in printing order, and faults, each with the command that fixes it."""

    facts: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the diagnosis as lines for a terminal."""
        width = max(map(len, self.facts))
        lines = [f"{name:<{width}}  {value}" for name, value in self.facts.items()]
        lines += [""] + ([f"FAULT  {fault}" for fault in self.faults] or ["No faults."])
        return "\n".join(lines)


def diagnose() -> Diagnosis:
    """Collect the versions, devices and codecs of this environment, and what is wrong with them."""
    facts = {"python": f"{platform.python_version()} on {platform.machine()}, {_cpus()}"}
    faults = []
    # By metadata and not by importing: a broken package must not end the diagnosis of all others.
    for name in PACKAGES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = f"absent ({OPTIONAL[name]})" if name in OPTIONAL else "absent"
            if name not in OPTIONAL:
                faults.append(f"{name} is not installed; run `pip install hilbert-ray`")
    error = torchaudio_error()
    if error:
        remedy = "run `hilbert-ray doctor --fix`" if UNLOADABLE in error else "reinstall torch and torchaudio"
        faults.append(f"torchaudio fails to import with this torch ({error}); {remedy}")
    facts["devices"] = _devices()
    if memory := shared_memory():
        facts["shared memory"] = memory
    facts["audio formats"] = _formats()
    return Diagnosis(facts=facts, faults=faults)


def torchaudio_error() -> str:
    """Return why importing torchaudio fails, or an empty string if it does not.

    A new process imports it, because this one keeps a failed or half-loaded library until it ends.
    """
    imported = subprocess.run(
        [sys.executable, "-c", "import torchaudio"], capture_output=True, text=True, check=False
    )
    return imported.stderr.strip().splitlines()[-1] if imported.returncode else ""


def fix() -> list[Path]:
    """Remove torchaudio's native libraries if they fail to load; return what was removed.

    Raises:
        DoctorError: if torchaudio still fails to import afterwards.
    """
    error = torchaudio_error()
    # Deleting files is the last resort: only for the one failure that it is known to repair.
    if UNLOADABLE not in error:
        return []
    spec = find_spec("torchaudio")
    # It is installed, or its import would have failed in another way.
    assert spec is not None
    assert spec.origin is not None
    removed = sorted((Path(spec.origin).parent / "lib").glob("*.so"))
    for library in removed:
        library.unlink()
    if remaining := torchaudio_error():
        raise DoctorError(
            f"torchaudio fails to import even without its native libraries ({remaining}); reinstall torch "
            "and torchaudio"
        )
    return removed


def _cpus() -> str:
    """Return how many CPUs this process may use, by affinity and cgroup, and how many the machine has."""
    usable, present = cpu_count(), os.cpu_count()
    return f"{usable} CPUs" if usable == present else f"{usable} of {present} CPUs usable here"


def shared_memory() -> str:
    """Return how much shared memory is free; empty on systems without such a file system."""
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return ""
    return f"{free // 2**20} MiB free in /dev/shm"


def _devices() -> str:
    # Imported here: the diagnosis must come out however broken torch is (OSError: a native library is
    # missing).
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"torch fails to import: {error}"
    if not torch.cuda.is_available():
        return f"CPU only, {torch.get_num_threads()} torch threads"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{len(names)} GPU: {', '.join(sorted(set(names)))}"


def _formats() -> str:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        return f"soundfile fails to import: {error}"
    available = soundfile.available_formats()
    formats = [name for name in ("WAV", "FLAC", "MP3", "OGG") if name in available]
    if find_spec("av"):
        formats += ["M4A", "MP4 (PyAV)"]
    ffmpeg = "present" if shutil.which("ffmpeg") else "absent (not needed)"
    return f"{', '.join(formats)}; libsndfile {soundfile.__libsndfile_version__}; ffmpeg program {ffmpeg}"
