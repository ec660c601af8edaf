"""Where a transformers model's weights come from, what identifies them, and the precision they run in."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Literal

from hilbert_ray.config import ConfigError

Precision = Literal["bf16", "float32"]
FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
_READ = {
    "config.json", "merges.txt", "preprocessor_config.json", "special_tokens_map.json", "spiece.model",
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt",
}  # fmt: skip


def pinned(spec: str) -> str:
    """Return a spec that means the same weights on every node and at any later time.

    `hf:<id>[@revision]` becomes `hf:<id>@<commit>`, a folder's path absolute; built-in encoders stay as they
    are. To learn the commit, the model is fetched, so that its files then lie in this node's cache.

    Raises:
        ConfigError: when the model or the revision cannot be found.
    """
    if not spec.startswith("hf:"):
        return spec
    name, revision = _parse(spec)
    folder = Path(fetch(spec))
    if revision is None and Path(name).is_dir():
        return f"hf:{folder.absolute()}"
    return f"hf:{name}@{folder.name}"


def fetch(spec: str) -> str:
    """Return the folder of `hf:<id or folder>[@revision]`; what is no folder is fetched, once a node.

    The cache of Hugging Face locks each file, so processes that start together download it once. A commit
    that the cache holds is not asked about again.

    Raises:
        ConfigError: when the model or the revision cannot be found.
    """
    name, revision = _parse(spec)
    if Path(name).is_dir():
        if revision is not None:
            raise ConfigError(
                f"encoder folder {name} is local and has no revision {revision!r}; leave it out"
            )
        return name
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(name, revision=revision, allow_patterns=[*FILES])
        if not list(Path(found).glob("*.safetensors")):
            found = snapshot_download(name, revision=Path(found).name, allow_patterns=[*FILES, "*.bin"])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ConfigError(
            f"encoder {spec} is no folder here and cannot be fetched: {error}; give the path of a folder "
            "with config.json and model.safetensors, or mend the name, the revision or the network"
        ) from error
    return str(found)


def _parse(spec: str) -> tuple[str, str | None]:
    """Split `hf:<id or folder>[@revision]`; a folder whose own name holds an @ is taken whole."""
    name = spec.removeprefix("hf:")
    if Path(name).is_dir() or "@" not in name:
        return name, None
    name, _, revision = name.rpartition("@")
    return name, revision


def weights_hash(folder: str) -> str:
    """Return the SHA-256 over the files that features depend on."""
    return _hash(folder, _stamp(folder))


def has_safetensors(folder: str) -> bool:
    """Return whether the weights are read from safetensors."""
    return any(name.endswith(".safetensors") for name, _, _ in _stamp(folder))


@cache
def _hash(folder: str, stamp: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in stamp:
        digest.update(name.encode())
        with (Path(folder) / name).open("rb") as file:
            while block := file.read(2**22):
                digest.update(block)
    return digest.hexdigest()


def _stamp(folder: str) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and time of each file that features depend on: a changed one is hashed again."""
    files = sorted(Path(folder).iterdir())
    weights = [f for f in files if f.suffix == ".safetensors"] or [f for f in files if f.suffix == ".bin"]
    if not weights:
        raise ConfigError(f"encoder folder {folder} has no weights; it must hold model.safetensors")
    chosen = [*weights, *(f for f in files if f.name in _READ)]
    return tuple((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in chosen)


def precision_here(wanted: str = "auto") -> Precision:
    """Return the arithmetic for `auto`, `float32` or `bf16`: `auto` is bf16 where this device has it."""
    import torch

    if wanted != "auto":
        return "bf16" if wanted == "bf16" else "float32"
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "float32"
    return "bf16" if _cpu_has_bf16() else "float32"


@cache
def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags
