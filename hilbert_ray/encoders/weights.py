"""Where a transformers model's weights come from, what identifies them, and the precision they run in."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

from hilbert_ray.config import ConfigError

Precision: TypeAlias = Literal["bf16", "float32"]
FileStamps: TypeAlias = tuple[tuple[str, int, int], ...]
"""Name, size in bytes and time of change in nanoseconds of some files."""

# Only what an encoder needs: hubs also hold the same weights for other frameworks, many gigabytes.
_DOWNLOADED = ("*.json", "*.txt", "*.model", "*.safetensors")
_READ = {
    "config.json", "merges.txt", "preprocessor_config.json", "special_tokens_map.json", "spiece.model",
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt",
}  # fmt: skip
"""What features depend on besides the weights. Other files of a folder, such as a README, may change."""
_DECLARING = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json")
_HASHED_AT_ONCE = 4 * 2**20
FETCH_AGAIN = "the file may be cut off: fetch it again"
"""Advice for a file of a model that is there but cannot be what it should be."""


def pin_revision(spec: str) -> str:
    """Return a spec that means the same weights on every node and at any later time.

    `hf:<id>[@revision]` becomes `hf:<id>@<commit>`, a folder's path absolute; built-in encoders stay as they
    are. To learn the commit, the model is fetched, so its files are in this node's cache afterwards.

    Raises:
        ConfigError: when the model or the revision cannot be found.
    """
    if not spec.startswith("hf:"):
        return spec
    name, revision = _parse(spec)
    folder = Path(fetch(spec))
    if revision is None and Path(name).is_dir():
        return f"hf:{folder.absolute()}"
    return f"hf:{name}@{folder.name}"  # the cache names its folders by commit


def fetch(spec: str, with_code: bool = False) -> str:
    """Return the folder of `hf:<id or folder>[@revision]`; an id is downloaded, once per node.

    The cache of Hugging Face locks each file, so processes that start together download it once. A commit
    that is already in the cache needs no network.

    Args:
        spec: as in the settings.
        with_code: whether to download the Python code that comes with the weights too.

    Raises:
        ConfigError: when the model or the revision cannot be found.
    """
    name, revision = _parse(spec)
    if Path(name).is_dir():
        if revision is not None:
            raise ConfigError(
                f"encoder folder {name} is local, but revision {revision!r} is set; folders have no "
                "revisions: leave it out"
            )
        return name
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    files = [*_DOWNLOADED, *(["*.py"] if with_code else [])]
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=files)
        if pickled := _pickled(Path(folder)):
            # The commit is repeated: the branch may have moved.
            commit = Path(folder).name
            folder = snapshot_download(name, revision=commit, allow_patterns=[*files, *pickled])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ConfigError(
            f"encoder {spec} is not a local folder and cannot be fetched: {error}; give the path of a folder "
            "with config.json and model.safetensors, or correct the name, the revision or the network"
        ) from error
    return str(folder)


def _pickled(folder: Path) -> list[str]:
    """Return patterns of the weights that a model does not have as safetensors: older ones are pickled."""
    if not list(folder.glob("*.safetensors")):
        return ["*.bin"]
    # What a model of sentence-transformers has after its transformer is in folders of its own, 2_Dense.
    parts = [path.parent for path in folder.glob("[0-9]*_*/config.json") if "Pooling" not in path.parent.name]
    return [f"{part.name}/*.bin" for part in parts if not list(part.glob("*.safetensors"))]


def _parse(spec: str) -> tuple[str, str | None]:
    """Split `hf:<id or folder>[@revision]`; a folder whose own name contains an @ is taken whole."""
    name = spec.removeprefix("hf:")
    if Path(name).is_dir() or "@" not in name:
        return name, None
    name, _, revision = name.rpartition("@")
    return name, revision


def weights_hash(folder: str) -> str:
    """Return the SHA-256 over the files that features depend on."""
    return _hash(folder, _stamps(folder))


def code_hash(folder: str) -> str:
    """Return the SHA-256 over the Python files of a folder, which features depend on where they are run."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def declares_code(folder: str) -> bool:
    """Return whether the model, its tokenizer or its extractor is defined by Python code of the folder."""
    texts = [
        path.read_text("utf-8", "replace")
        for path in map(Path(folder).joinpath, _DECLARING)
        if path.is_file()
    ]
    return any('"auto_map"' in text for text in texts)


def features_depend_on(folder: str) -> list[str]:
    """Return the names of the files in a folder that features depend on, weights first.

    Raises:
        ConfigError: when there are no weights.
    """
    return [name for name, _, _ in _stamps(folder)]


def has_safetensors(folder: str) -> bool:
    """Return whether the weights are read from safetensors."""
    return any(name.endswith(".safetensors") for name, _, _ in _stamps(folder))


@cache  # gigabytes are hashed once per process; stamps are part of the key so that changed files are seen
def _hash(folder: str, stamps: FileStamps) -> str:
    digest = hashlib.sha256()
    for name, _, _ in stamps:
        digest.update(name.encode())
        with (Path(folder) / name).open("rb") as file:
            while block := file.read(_HASHED_AT_ONCE):
                digest.update(block)
    return digest.hexdigest()


def _stamps(folder: str) -> FileStamps:
    """Return the stamps of the files that features depend on, weights first."""
    files = sorted(Path(folder).iterdir())
    weights = [f for f in files if f.suffix == ".safetensors"] or [f for f in files if f.suffix == ".bin"]
    if not weights:
        raise ConfigError(f"encoder folder {folder} has no weights; it must contain model.safetensors")
    others = [f for f in files if f.name in _READ]
    return tuple((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in [*weights, *others])


def resolve_precision(setting: str = "auto", device: str = "cpu") -> Precision:
    """Return the arithmetic for `auto`, `float32` or `bf16`: `auto` is bf16 where that is faster."""
    import torch

    if setting != "auto":
        return "bf16" if setting == "bf16" else "float32"
    if torch.device(device).type == "cuda":
        # From Ampere (compute capability 8.0) on; older cards emulate bf16, slower than float32.
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    # Of avx512_bf16, Intel's takes twice as long for a product as float32, AMD's a quarter of the time.
    return "bf16" if has_matrix_units() or {"AuthenticAMD", "avx512_bf16"} <= _cpu_words() else "float32"


def has_matrix_units() -> bool:
    """Return whether the CPU multiplies matrices in bf16 as such (AMX), and not row by row."""
    return "amx_bf16" in _cpu_words()


@cache
def _cpu_words() -> frozenset[str]:
    """Return the words in which Linux describes the CPU, vendor and flags among them; none elsewhere."""
    try:
        return frozenset(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return frozenset()
