"""A text model is used as its folder declares: features are those of sentence-transformers, or one error."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hilbert_ray.config import Config, ConfigError, EncoderConfig, SegmentConfig
from hilbert_ray.document import Segment, TextSegment
from hilbert_ray.embedding import chosen_encoders
from hilbert_ray.encoders import build_encoder
from hilbert_ray.encoders.text import TextEncoder
from hilbert_ray.encoders.transformer import SegmentTooLongError
from tests import models
from tests.models import CAUSAL, MORE_TEXT, TEXT, WORDS, minilm

# Sentence-transformers asks the hub about a model's card, which is not there, and waits for an answer.
os.environ["HF_HUB_OFFLINE"] = "1"
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules

Change: TypeAlias = Callable[[Path], None]
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
DECLARED = EncoderConfig(precision="float32")
PROMPT = "talked about work: "
rng = np.random.default_rng(0)
SAID = [" ".join(rng.choice(WORDS, count)) for count in (3, 12, 1, 7, 12, 11, 4)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the folder of a small model that declares nothing, made once; tests change copies of it."""
    transformers.utils.logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("plain")

    @cache
    def made(name: str) -> Path:
        models.made(name, folder / name)
        return folder / name

    return made


def saved(
    base: Path,
    folder: Path,
    pooling: str | tuple[str, ...] | modules.Pooling = "mean",
    *following: torch.nn.Module,
    **options: Any,  # noqa: ANN401
) -> Path:
    """Let sentence-transformers save a model of a transformer, a pooling and what follows."""
    torch.manual_seed(1)
    pooled = pooling if isinstance(pooling, modules.Pooling) else modules.Pooling(32, pooling)
    model = SentenceTransformer(modules=[transformer(base), pooled, *following], device="cpu", **options)
    model.save(str(folder), create_model_card=False)
    SAVED[folder] = model
    return folder


SAVED: dict[Path, SentenceTransformer] = {}
"""The models in the folders that `saved` made, so that none has to be loaded again."""


@cache
def transformer(base: Path) -> Any:  # noqa: ANN401
    return modules.Transformer(str(base))


def dense(width: int, dim: int = 24, **options: Any) -> Any:  # noqa: ANN401
    torch.manual_seed(2)
    return modules.Dense(width, dim, **options)


def load(folder: Path, **changes: Any) -> TextEncoder:  # noqa: ANN401
    encoder = build_encoder(f"hf:{folder}", "text", replace(DECLARED, **changes), SegmentConfig())
    assert isinstance(encoder, TextEncoder)
    return encoder


def segments(texts: list[str]) -> list[Segment]:
    return [TextSegment(start=0, end=1, text=text) for text in texts]


def expected(folder: Path, **options: Any) -> np.ndarray:  # noqa: ANN401
    """Return what sentence-transformers makes of the texts, one by one: no batch can have a part in it."""
    model = SAVED.get(folder) or SentenceTransformer(str(folder), device="cpu")
    return np.concatenate([model.encode([text], **options) for text in SAID])


def check_equal(folder: Path, options: dict[str, Any] | None = None, **changes: Any) -> TextEncoder:  # noqa: ANN401
    encoder = load(folder, **changes)
    encoder.rehearse()
    features = encoder.encode(segments(SAID))
    assert features.shape == (len(SAID), encoder.dim)
    np.testing.assert_allclose(features, expected(folder, **(options or {})), atol=1e-5, rtol=0)
    return encoder


DENSE = "2_Dense/config.json"
WEIGHTS = "2_Dense/model.safetensors"
POOLING = "1_Pooling/config.json"
PROMPTS = "config_sentence_transformers.json"
TRANSFORMER = "sentence_bert_config.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 438013677\n"


def edited(file: str, **values: object) -> Change:
    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def written(file: str, data: bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / file).write_bytes(data)

    return change


def removed(file: str) -> Change:
    return lambda folder: (folder / file).unlink()


def relisted(rule: Callable[[list[Any]], list[Any]]) -> Change:
    """Change the list of modules."""

    def change(folder: Path) -> None:
        path = folder / "modules.json"
        path.write_text(json.dumps(rule(json.loads(path.read_text()))))

    return change


def retyped(place: int, kind: str) -> Change:
    return relisted(lambda all_: [{**one, "type": kind} if one["idx"] == place else one for one in all_])


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


@pytest.fixture(scope="module")
def whole(plain: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(plain("bert"), tmp_path_factory.mktemp("whole"), "mean", dense(32), modules.Normalize())


# Equal to sentence-transformers


@pytest.mark.parametrize("name", [*TEXT, *MORE_TEXT, *CAUSAL])
def test_each_architecture_gives_the_features_of_sentence_transformers(
    name: str, plain: Callable[[str], Path], tmp_path: Path
) -> None:
    assert load(plain(name)).modes == (("last",) if name in CAUSAL else ("mean",))
    folder = saved(
        plain(name), tmp_path, MODES, dense(6 * 32), modules.Normalize(),
        prompts={"query": "what ", "clustering": PROMPT}, default_prompt_name="clustering",
    )  # fmt: skip
    encoder = check_equal(folder)
    assert (encoder.dim, encoder.prefix, len(encoder.modes)) == (24, PROMPT, 6)


@pytest.mark.parametrize("name", ["bert", "qwen3"])
def test_a_folder_that_declares_nothing_is_pooled_as_sentence_transformers_does(
    name: str, plain: Callable[[str], Path]
) -> None:
    check_equal(plain(name))


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("mode", [*MODES, ("mean", "cls")])
def test_each_mode_of_pooling_with_and_without_the_tokens_of_the_prompt(
    mode: str | tuple[str, ...], include_prompt: bool, plain: Callable[[str], Path], tmp_path: Path
) -> None:
    pooling = modules.Pooling(32, mode, include_prompt=include_prompt)
    prompts = {"document": PROMPT}
    folder = saved(plain("bert"), tmp_path, pooling, prompts=prompts, default_prompt_name="document")
    check_equal(folder)


@pytest.mark.parametrize(
    "options",
    [
        {"activation_function": torch.nn.Identity()},
        {"activation_function": torch.nn.GELU(), "bias": False},
        {"use_residual": True},
        {"use_residual": True, "dim": 32},
    ],
)
def test_what_follows_the_pooling(
    options: dict[str, Any], plain: Callable[[str], Path], tmp_path: Path
) -> None:
    layer = dense(32, **options)
    width = layer.out_features
    folder = saved(
        plain("bert"), tmp_path, "mean", layer, modules.Dropout(0.5), modules.LayerNorm(width),
        dense(width, 16), modules.Normalize(), truncate_dim=9,
    )  # fmt: skip
    assert check_equal(folder).dim == 9


def test_a_folder_of_the_first_releases(plain: Callable[[str], Path], tmp_path: Path) -> None:
    """The transformer in a folder of its own, pooling as flags, pickled weights, another config.json."""
    new = saved(plain("roberta"), tmp_path / "new", ("cls", "mean"), dense(64))
    old = tmp_path / "old"
    old.mkdir()
    shutil.copytree(plain("roberta"), old / "0_RoBERTa")
    (old / "0_RoBERTa" / "sentence_roberta_config.json").write_text('{"max_seq_length": 30}')
    (old / "config.json").write_text('{"__version__": "0.2.5"}')
    (old / "1_Pooling").mkdir()
    flags = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True,
             "pooling_mode_max_tokens": False}  # fmt: skip
    (old / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    shutil.copytree(new / "2_Dense", old / "2_Dense")
    weights = torch.nn.Module()
    weights.linear = torch.nn.Linear(64, 24)
    (old / "2_Dense" / "model.safetensors").unlink()
    torch.save(weights.state_dict(), old / "2_Dense" / "pytorch_model.bin")
    entries = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(
            [("0_RoBERTa", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense")]
        )
    ]
    (old / "modules.json").write_text(json.dumps(entries))
    encoder = check_equal(old)
    assert encoder.modes == ("cls", "mean")
    assert encoder.max_tokens == 28
    assert load(old, pooling="mean").dim == 32


def test_minilm_is_what_sentence_transformers_makes_of_it() -> None:
    folder = Path(minilm().removeprefix("hf:"))
    said = [*SAID, "A dog runs in the park.", "Ärger überall: 3 % weniger!", "the garden " * 100]
    encoder = load(folder)
    features = encoder.encode(segments(said))
    assert (encoder.dim, encoder.max_tokens) == (384, 254)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    model = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(features, model.encode(said), atol=1e-5, rtol=0)


def test_lower_case_and_the_longest_input_are_as_declared(
    plain: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = saved(plain("bert"), tmp_path)
    edited(TRANSFORMER, do_lower_case=True, max_seq_length=17)(folder)
    texts = ["THE GARDEN was Cold", "the garden was cold"]
    encoder = load(folder)
    features = encoder.encode(segments(texts))
    np.testing.assert_array_equal(features[0], features[1])
    model = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(features, model.encode(texts), atol=1e-5, rtol=0)
    assert model.max_seq_length == 17
    assert encoder.max_tokens == 15  # two tokens are special
    longest = encoder.split("the garden was cold " * 20, 15)[0]
    assert encoder.count_tokens([longest]) == [15]
    np.testing.assert_allclose(
        encoder.encode(segments([longest])), model.encode([longest]), atol=1e-5, rtol=0
    )
    with pytest.raises(SegmentTooLongError, match="has 16 tokens, more than the 15"):
        encoder.encode(segments([longest + " the"]))
    assert load(folder, pooling="mean").max_tokens == 62


# The prefix


def test_a_prefix_replaces_the_declared_prompt(
    plain: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved(
        plain("bert"), tmp_path, "cls", prompts={"query": "the work ", "passage": PROMPT},
        default_prompt_name="passage",
    )  # fmt: skip
    check_equal(folder, {"prompt": "what happened "}, prefix="what happened ")
    check_equal(folder, {"prompt": ""}, prefix="")
    assert "declares" not in caplog.text
    check_equal(folder)
    assert "declares the prompts query, of which only the default, 'talked about work: '" in caplog.text
    explicit = load(folder, pooling="cls", prefix="what happened ").encode(segments(SAID))
    np.testing.assert_allclose(explicit, expected(folder, prompt="what happened "), atol=1e-5, rtol=0)
    assert load(folder, pooling="cls").prefix == ""


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(st.sampled_from([*WORDS, "unbelievably", "x", "é", "."]), min_size=1, max_size=80),
    prefix=st.sampled_from(["", "passage: ", "the", "un", "e", "  a long instruction:\n"]),
)
def test_texts_are_split_so_that_each_piece_fits_with_its_prefix(words: list[str], prefix: str) -> None:
    encoder = prefixed(prefix)
    text = " ".join(words)
    pieces = encoder.split(text, 9)
    assert "".join(pieces) == text
    assert max(encoder.count_tokens(pieces)) <= 9
    inputs = encoder._inputs(segments(pieces))
    assert max(map(len, inputs)) <= 9 + encoder.prefix_tokens + encoder.special
    assert [ids.tolist() for ids in inputs] == minilm_tokens([prefix + piece for piece in pieces])


@cache
def prefixed(prefix: str) -> TextEncoder:
    return load(Path(minilm().removeprefix("hf:")), prefix=prefix)


def minilm_tokens(texts: list[str]) -> list[list[int]]:
    found: list[list[int]] = minilm_tokenizer()(texts)["input_ids"]
    return found


@cache
def minilm_tokenizer() -> Any:  # noqa: ANN401
    return transformers.AutoTokenizer.from_pretrained(minilm().removeprefix("hf:"))


def test_a_prefix_counts_in_the_limit_and_must_leave_room(plain: Callable[[str], Path]) -> None:
    folder = plain("bert")
    encoder = load(folder, prefix=PROMPT)
    assert encoder.prefix_tokens > 0
    assert encoder.max_tokens == 62 - encoder.prefix_tokens
    with pytest.raises(ConfigError, match=r"takes 64 tokens, but 2 special ones and the .* of the prefix"):
        load(folder, prefix="the garden " * 40)


# What identifies features


def test_a_folder_that_declares_nothing_has_the_fingerprint_of_the_explicit_settings(
    plain: Callable[[str], Path],
) -> None:
    """So stores of the default before `auto`, the mean, stay valid."""
    assert load(plain("bert")).fingerprint == load(plain("bert"), pooling="mean").fingerprint
    assert load(plain("qwen3")).fingerprint == load(plain("qwen3"), pooling="last").fingerprint
    spec = f"hf:{plain('wav2vec2-layer')}"
    for_audio = (DECLARED, replace(DECLARED, pooling="mean"))
    audio = {build_encoder(spec, "audio", options, SegmentConfig()).fingerprint for options in for_audio}
    assert len(audio) == 1


def test_the_fingerprint_changes_with_all_that_is_declared(whole: Path, tmp_path: Path) -> None:
    state = load_file(whole / WEIGHTS)
    prompt = edited(PROMPTS, prompts={"a": "the "}, default_prompt_name="a")
    changes = [
        edited(POOLING, pooling_mode="cls"),
        prompt,
        both(prompt, edited(POOLING, include_prompt=False)),
        edited(PROMPTS, truncate_dim=8),
        edited(TRANSFORMER, max_seq_length=20),
        edited(TRANSFORMER, do_lower_case=True),
        edited(DENSE, activation_function="torch.nn.modules.activation.ReLU"),
        lambda folder: save_file({**state, "linear.bias": state["linear.bias"] + 1}, folder / WEIGHTS),
        relisted(lambda all_: all_[:-1]),
    ]
    prints = {
        load(whole).fingerprint,
        load(whole, prefix="a ").fingerprint,
        load(whole, pooling="mean").fingerprint,
    }
    for place, change in enumerate(changes):
        folder = shutil.copytree(whole, tmp_path / str(place))
        change(folder)
        prints.add(load(folder).fingerprint)
    assert len(prints) == 3 + len(changes)
    described = json.loads(json.dumps(load(whole, prefix="what ").describe()))
    assert (described["pooling"], described["prefix"], described["dim"]) == ("mean", "what ", 24)
    assert [module["kind"] for module in described["declared"]["modules"]] == ["Dense", "Normalize"]


# One clear error

FAULTS: dict[str, tuple[Change, str]] = {
    "own module": (retyped(2, "custom_st.Adapter"), "names a module custom_st.Adapter; expected one of .*"),
    "unknown module": (
        retyped(2, "sentence_transformers.models.WordWeights"),
        "WordWeights; expected one of .* set text_encoder.pooling to mean, cls or last",
    ),
    "no pooling": (relisted(lambda all_: [all_[0], all_[2]]), "expected one Transformer, then one Pooling"),
    "outside": (
        relisted(lambda all_: [*all_[:2], {**all_[2], "path": "../other"}]),
        "each must have a type and a path inside the folder",
    ),
    "modules an object": (written("modules.json", b"{}"), "modules.json holds a JSON dict, not a list"),
    "modules cut off": (written("modules.json", b'[{"idx'), "the modules.json of .* cannot be read: "),
    "no pooling config": (removed(POOLING), "1_Pooling/config.json has nothing that says how to pool"),
    "pooling mode": (edited(POOLING, pooling_mode="median"), "pooling_mode = 'median'; expected some of cls"),
    "pooling width": (edited(POOLING, embedding_dimension=64), "the pooling takes vectors of width 64, but"),
    "unknown key": (edited(POOLING, sharpness=3), "has sharpness = 3, which is not known here"),
    "dense width": (edited(DENSE, in_features=48), "2_Dense takes vectors of width 48, but .* gives 32"),
    "dense shape": (edited(DENSE, out_features=9), "the weights of 2_Dense have the shapes .* describes"),
    "dense pointer": (written(WEIGHTS, POINTER), "model.safetensors is a pointer of git-lfs"),
    "dense cut off": (written(WEIGHTS, b"---------"), "the weights in 2_Dense of .* cannot be read: "),
    "no dense weights": (removed(WEIGHTS), "has no weights"),
    "activation": (edited(DENSE, activation_function="os.system"), "activation_function = 'os.system'; exp"),
    "dense of tokens": (edited(DENSE, module_input_name="token_embeddings"), "expected sentence_embedding"),
    "length": (edited(TRANSFORMER, max_seq_length=-5), "max_seq_length = -5, which must be a whole number"),
    "chat": (edited(TRANSFORMER, modality_config={"message": {}}), "by which texts are not read as text"),
    "arguments": (edited(TRANSFORMER, config_args={"is_decoder": True}), "config_args with is_decoder"),
    "another task": (edited(TRANSFORMER, transformer_task="fill-mask"), "transformer_task = 'fill-mask'"),
    "cross encoder": (edited(PROMPTS, model_type="CrossEncoder"), "expected SentenceTransformer"),
    "no such prompt": (edited(PROMPTS, default_prompt_name="poem"), "but prompts are query, document; set"),
    "prompts a list": (edited(PROMPTS, prompts=["a"]), "prompts = .*which must be a dict"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_what_cannot_be_honoured_gives_one_message(case: str, whole: Path, tmp_path: Path) -> None:
    change, message = FAULTS[case]
    folder = shutil.copytree(whole, tmp_path / "model")
    change(folder)
    chosen = Config(audio="none", text=f"hf:{folder}", text_encoder=DECLARED)
    with pytest.raises(ConfigError, match=message) as error:
        chosen_encoders(chosen)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_declared_does_not_matter_to_explicit_settings(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "model")
    retyped(2, "custom_st.Adapter")(folder)
    before, after = (load(path, pooling="mean").encode(segments(SAID)) for path in (whole, folder))
    np.testing.assert_array_equal(before, after)


def test_projections_of_the_last_layer_are_not_put_on_another(whole: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"declares 2_Dense, trained on the last layer, but .*layer is 1; set"
    ):
        load(whole, layer="1")
    assert load(whole, layer="1", pooling="mean").dim == 32


def test_a_model_that_encodes_no_text_alone_is_refused_where_it_is_loaded(
    plain: Callable[[str], Path],
) -> None:
    with pytest.raises(ConfigError, match=r"the network of encoder .*clip.*; name a model that encodes text"):
        load(plain("clip")).encode([])


@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_a_recording_has_no_first_or_last_token_and_no_prefix(
    pooling: Literal["cls", "last"], plain: Callable[[str], Path]
) -> None:
    spec = f"hf:{plain('wav2vec2-layer')}"
    with pytest.raises(ConfigError, match=r"has no cls token|whose last frame stands for nothing but"):
        build_encoder(spec, "audio", replace(DECLARED, pooling=pooling), SegmentConfig())
    with pytest.raises(ConfigError, match=r"takes no words, but audio_encoder.prefix is 'a'"):
        build_encoder(spec, "audio", replace(DECLARED, prefix="a"), SegmentConfig())


# Where the reference does something else


@pytest.mark.parametrize("name", ["gpt2", "qwen3-base"])
def test_causal_models_without_their_head_are_read_at_the_last_token_too(
    name: str, plain: Callable[[str], Path], tmp_path: Path
) -> None:
    """Sentence-transformers looks for `ForCausalLM` in the network's name, and takes the mean of these."""
    encoder = load(plain(name))
    assert encoder.modes == ("last",)
    folder = saved(plain(name), tmp_path, "lasttoken")
    np.testing.assert_allclose(encoder.encode(segments(SAID)), expected(folder), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["m2m", "marian", "embedding-gemma2", "embedding-gemma2-text"])
def test_features_are_those_of_transformers(name: str, plain: Callable[[str], Path]) -> None:
    """Sentence-transformers draws the embeddings of translators at random, and lacks the other."""
    model = transformers.AutoModel.from_pretrained(plain(name)).eval()
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    tokenizer = transformers.AutoTokenizer.from_pretrained(plain(name))
    rows = []
    for text in SAID:
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            rows.append(model(**inputs).last_hidden_state[0].mean(0))
    encoder = load(plain(name))
    encoder.rehearse()
    features = encoder.encode(segments(SAID))
    np.testing.assert_allclose(features, torch.stack(rows).numpy(), atol=1e-5, rtol=0)
    assert load(plain(name), layer="1").encode(segments(SAID)).shape == (len(SAID), 32)
