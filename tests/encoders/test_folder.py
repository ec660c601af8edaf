"""Folders that are not whole: each gives one message that names what is wrong, before a run begins."""

import json
import os
import pickle
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from safetensors.torch import load_file, save_file

from hilbert_ray.config import Config, ConfigError, EncoderConfig, Modality
from hilbert_ray.embedding import chosen_encoders
from tests import models

WEIGHTS = "model.safetensors"
Change: TypeAlias = Callable[[Path], None]
"""What is done to a model's folder."""
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 438013677\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the folder of a small model, made once; tests change copies of it."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            models.made(name, made[name])
        return made[name]

    return folder


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, dirs_exist_ok=True)
    return target


def rehearsed(folder: Path, modality: Modality, **options: Any) -> None:  # noqa: ANN401
    """Do what `embed` does before Ray starts."""
    spec = f"hf:{folder}"
    chosen = EncoderConfig(precision="float32", **options)
    config = (
        Config(audio="none", text=spec, text_encoder=chosen)
        if modality == "text"
        else Config(text="none", audio=spec, audio_encoder=chosen)
    )
    chosen_encoders(config)


def changed_json(file: str, **values: object) -> Change:
    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def written(file: str, data: bytes) -> Change:
    return lambda folder: void((folder / file).write_bytes(data))


def void(_: object) -> None:
    """Take what a call returns, so that a lambda returns nothing."""


def removed(*files: str) -> Change:
    def change(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()

    return change


def piped(file: str) -> Change:
    def change(folder: Path) -> None:
        (folder / file).unlink()
        os.mkfifo(folder / file)

    return change


def as_bin(data: bytes) -> Change:
    """Replace the weights by pickled ones."""

    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / "pytorch_model.bin").write_bytes(data)

    return change


def cut(file: str) -> Change:
    def change(folder: Path) -> None:
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[: len(data) // 2])

    return change


def tokenizer_of(**vocabulary: object) -> Change:
    """Change the tokenizer's model, and nothing else of it."""

    def change(folder: Path) -> None:
        values = json.loads((folder / "tokenizer.json").read_text())
        values["model"].update(vocabulary)
        (folder / "tokenizer.json").write_text(json.dumps(values))

    return change


def without_roles(folder: Path) -> None:
    """Let the tokenizer have no token with a role."""
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in values.items() if not k.endswith("_token")}))


class Trap:
    """Pickled, it calls a function where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch trapped",)


SPECIALS = {"<unk>": 0, "<pad>": 1, "<s>": 2, "</s>": 3}
TEXT_FAULTS: dict[str, tuple[Change, str]] = {
    "no tokenizer": (removed("tokenizer.json", "tokenizer_config.json"), "has no tokenizer; without its"),
    "vocabulary only as a pointer": (written("tokenizer.json", POINTER), "tokenizer.json is a pointer"),
    "vocab.txt as a pointer": (written("vocab.txt", POINTER), r"vocab\.txt is a pointer of git-lfs"),
    "empty tokenizer": (written("tokenizer.json", b""), r"tokenizer\.json is empty"),
    "a tokenizer that is no JSON": (cut("tokenizer.json"), "the tokenizer of encoder .* cannot be read: "),
    "a vocabulary of special tokens": (
        tokenizer_of(vocab=SPECIALS, merges=[]),
        "all letters and digits are unknown, so all texts would look alike",
    ),
    "a vocabulary of another model": (
        changed_json("config.json", vocab_size=50),
        "has tokens up to number .*, but the network has vectors for 50",
    ),
    "no token that pads": (without_roles, "names none of pad_token, eos_token and unk_token"),
    "config without weights": (removed(WEIGHTS), "has no weights"),
    "weights as a pointer": (written(WEIGHTS, POINTER), r"model\.safetensors is a pointer of git-lfs"),
    "bin as a pointer": (as_bin(POINTER), r"pytorch_model\.bin is a pointer of git-lfs"),
    "weights cut off": (cut(WEIGHTS), "the weights of encoder .* cannot be read: .*they may be truncated"),
    "weights that are words": (written(WEIGHTS, b"these are no weights"), "weights of .* cannot be read: "),
    "bin that is words": (as_bin(b"these are no weights at all"), "weights of .* cannot be read: "),
    "bin that would run code": (as_bin(pickle.dumps(Trap())), "weights of .* cannot be read: "),
    "bin that is a list": (as_bin(pickle.dumps([1, 2])), "weights of .* cannot be read: "),
    "an empty bin": (as_bin(b""), r"pytorch_model\.bin is empty"),
    "no tensors": (lambda folder: save_file({}, folder / WEIGHTS), "hold no tensors|cannot be read"),
    "weights in a pipe": (piped(WEIGHTS), r"model\.safetensors is a named pipe; it must be a file"),
    "config in a pipe": (piped("config.json"), r"config\.json is a named pipe; it must be a file"),
    "no config": (removed("config.json"), "has no config.json, .* its folder holds model.safetensors"),
    "config cut off": (cut("config.json"), "the config.json of encoder .* cannot be read: .*JSONDecodeError"),
    "config nested": (written("config.json", b"[" * 10**5), "config.json of .* cannot be read: .*Recursion"),
    "config a list": (written("config.json", b"[1]"), r"config\.json holds a JSON list, not an object"),
    "config of Latin-1": (written("config.json", '{"ä": 1}'.encode("latin-1")), "cannot be read: "),
    "no type": (written("config.json", b"{}"), "the config.json of encoder .* cannot be read: "),
    "an unknown type": (changed_json("config.json", model_type="berd"), "cannot be read: .*berd"),
    "a type that is a number": (changed_json("config.json", model_type=7), "cannot be read: "),
    "a width that is a word": (changed_json("config.json", hidden_size="many"), "cannot be read: "),
    "a width of zero": (changed_json("config.json", hidden_size=0), "cannot be read: "),
    "a negative width": (changed_json("config.json", hidden_size=-32), "cannot be read: "),
    "a width of a billion": (changed_json("config.json", hidden_size=10**9), "hidden_size = 1000000000, but"),
    "a width of a million": (changed_json("config.json", hidden_size=10**6), "hidden_size = 1000000, but"),
    "another width": (
        changed_json("config.json", hidden_size=64),
        r"embeddings.LayerNorm.bias with the shape \[32\], but the network",
    ),
    "a billion layers": (changed_json("config.json", num_hidden_layers=10**9), "has at most 10000: use"),
    "a thousand layers": (changed_json("config.json", num_hidden_layers=1000), "hold only .* tensors; use"),
    "a layer more": (changed_json("config.json", num_hidden_layers=3), "lack 16 of the tensors"),
    "a billion words": (changed_json("config.json", vocab_size=10**9), "vocab_size = 1000000000, but its"),
    "positions": (changed_json("config.json", max_position_embeddings=10**9), "max_position_embeddings = 1"),
    "an MLP of a billion": (changed_json("config.json", intermediate_size=10**9), "intermediate_size = 1000"),
    "code of its own": (
        changed_json("config.json", model_type="own", auto_map={"AutoConfig": "own.Own"}),
        "text encoder .* if you trust that code, allow it with --text-encoder.trust-remote-code",
    ),
}  # fmt: skip
AUDIO_FAULTS: dict[str, tuple[Change, str]] = {
    "no feature extractor": (removed("preprocessor_config.json"), "has no preprocessor_config"),
    "an extractor as a pointer": (written("preprocessor_config.json", POINTER), "is a pointer of git-lfs"),
    "an extractor cut off": (cut("preprocessor_config.json"), "cannot be read: "),
    "a rate that is a word": (
        changed_json("preprocessor_config.json", sampling_rate="high"),
        "the preprocessor_config.json of encoder .* cannot be read: ",
    ),
    "a rate of zero": (
        changed_json("preprocessor_config.json", sampling_rate=0),
        "has sampling_rate 0; it must be 1000 to 192000 Hz",
    ),
    "a rate of a billion": (
        changed_json("preprocessor_config.json", sampling_rate=10**9),
        "has sampling_rate 1000000000; it must be 1000 to 192000 Hz",
    ),
    "bin as a pointer": (as_bin(POINTER), r"pytorch_model\.bin is a pointer of git-lfs"),
    "a billion layers": (changed_json("config.json", num_hidden_layers=10**9), "has at most 10000: use"),
    "a width of a billion": (changed_json("config.json", hidden_size=10**9), "hidden_size = 1000000000, but"),
    "kernels without strides": (changed_json("config.json", conv_stride=[5]), "cannot be read: "),
}  # fmt: skip


@pytest.mark.parametrize("case", TEXT_FAULTS)
def test_a_text_encoder_that_is_not_whole_gives_one_message(
    case: str, whole: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change, message = TEXT_FAULTS[case]
    folder = copied(whole("bert"), tmp_path / "bert")
    change(folder)
    with pytest.raises(ConfigError, match=message) as error:
        rehearsed(folder, "text")
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("case", AUDIO_FAULTS)
def test_a_speech_encoder_that_is_not_whole_gives_one_message(
    case: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    change, message = AUDIO_FAULTS[case]
    folder = copied(whole("wav2vec2-group"), tmp_path / "wav2vec2")
    change(folder)
    with pytest.raises(ConfigError, match=message) as error:
        rehearsed(folder, "audio")
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_extractor_of_another_whisper_is_refused(whole: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copied(whole("whisper"), tmp_path / "whisper")
    changed_json("preprocessor_config.json", feature_size=128)(folder)
    with pytest.raises(ConfigError, match="makes 128 mel bins, but the network takes 80; use the file that"):
        rehearsed(folder, "audio")


@pytest.mark.parametrize("name", [*models.WAVEFORM, *models.WHISPERS, *models.TEXT])
def test_what_loads_is_rehearsed_without_a_fault(name: str, whole: Callable[[str], Path]) -> None:
    rehearsed(whole(name), "text" if name in models.TEXT else "audio")


def test_a_model_with_true_weights_is_rehearsed_without_a_fault() -> None:
    chosen_encoders(Config(audio="none", text=models.minilm()))


@pytest.mark.parametrize("is_zip", [True, False])
def test_pickled_weights_are_rehearsed_in_both_of_their_forms(
    is_zip: bool, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied(whole("bert"), tmp_path / "bert")
    tensors = OrderedDict(load_file(folder / WEIGHTS))
    (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    rehearsed(folder, "text")
    del tensors["encoder.layer.1.output.dense.weight"]
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ConfigError, match="lack 1 of the tensors"):
        rehearsed(folder, "text")
    cut("pytorch_model.bin")(folder)
    with pytest.raises(ConfigError, match=r"the weights of encoder .* cannot be read: "):
        rehearsed(folder, "text")


def test_weights_in_several_files_are_all_needed(whole: Callable[[str], Path], tmp_path: Path) -> None:
    import transformers

    folder = copied(whole("bert"), tmp_path / "bert")
    network = transformers.BertModel.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    network.save_pretrained(folder, max_shard_size="40KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert not (folder / WEIGHTS).exists()
    rehearsed(folder, "text")
    shards[1].unlink()
    with pytest.raises(ConfigError, match=r"the weights of encoder .*"):
        rehearsed(folder, "text")


def test_without_a_tokenizer_nothing_is_encoded_even_if_code_may_run(
    whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """Where code may bring files of its own, an empty vocabulary is seen by what it makes of letters."""
    folder = copied(whole("bert"), tmp_path / "bert")
    removed("tokenizer.json", "tokenizer_config.json")(folder)
    with pytest.raises(ConfigError, match="all letters and digits are unknown"):
        rehearsed(folder, "text", trust_remote_code=True)
