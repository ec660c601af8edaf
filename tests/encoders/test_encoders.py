"""Encoders: a segment's feature is the same alone and in any batch, and as transformers computes it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from hilbert_ray.config import ConfigError, EncoderConfig, Modality, SegmentConfig
from hilbert_ray.document.records import AudioSegment, Segment, TextSegment
from hilbert_ray.encoders.protocol import Encoder, fingerprint_of
from hilbert_ray.encoders.registry import build_encoder
from hilbert_ray.encoders.speech import SpeechEncoder
from hilbert_ray.encoders.transformer import SegmentTooLongError, pack
from hilbert_ray.segmentation.rules import segmentation
from hilbert_ray.segmentation.vad import vad_identity
from tests import models
from tests.models import MORE_TEXT, SPEECH, TEXT, TRUE_SIZE, WAVEFORM, WORDS, minilm

FLOAT32 = EncoderConfig(layer="last", precision="float32", pooling="mean")
SMALL = (*SPEECH, *TEXT, "minilm")
PADS_AUDIO = ("wav2vec2-layer", "hubert-layer", "wavlm-layer")
Models = Callable[[str], str]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Give the spec of a small model by its name; each is made once."""
    folder = tmp_path_factory.mktemp("models")
    transformers.utils.logging.disable_progress_bar()

    @cache
    def spec(name: str) -> str:
        return minilm() if name == "minilm" else models.made(name, folder / name)

    return spec


def audio(*lengths: int) -> list[Segment]:
    rng = np.random.default_rng(0)
    return [
        AudioSegment(start=0.0, end=n / 16000, samples=(0.1 * rng.standard_normal(n)).astype(np.float32))
        for n in lengths
    ]


def texts(*lengths: int) -> list[Segment]:
    rng = np.random.default_rng(0)
    return [TextSegment(start=0.0, end=1.0, text=" ".join(rng.choice(WORDS, n))) for n in lengths]


AUDIO = audio(8000, 4000, 12000, 4000, 5555, 4050, 4100, 401, 7999)
TEXTS = texts(3, 12, 1, 7, 12, 20, 4, 5, 6)


def pool_of(name: str) -> list[Segment]:
    """Return segments of many lengths, some equal, some nearly."""
    return AUDIO if modality_of(name) == "audio" else TEXTS


def modality_of(name: str) -> Modality:
    is_text = name in TEXT or name.startswith(("minilm", "bert", "roberta", "deberta", "modernbert", "t5"))
    return "text" if is_text else "audio"


def load(spec: str, modality: Modality, **changes: Any) -> Encoder:  # noqa: ANN401
    encoder = build_encoder(spec, modality, replace(FLOAT32, **changes), SegmentConfig())
    if isinstance(encoder, SpeechEncoder) and encoder.length is not None:
        encoder.budget = 8 * encoder.length  # several at once, as on a GPU; a CPU takes them one by one
    return encoder


@cache
def plain_states(spec: str, modality: Modality) -> list[tuple[Tensor, ...]]:
    """Return all hidden states [time, width] and the output of each segment, by transformers alone."""
    path = spec.removeprefix("hf:")
    is_t5 = transformers.AutoConfig.from_pretrained(path).model_type == "t5"
    kind = transformers.AutoModelForTextEncoding if is_t5 else transformers.AutoModel
    model = kind.from_pretrained(path).eval()
    is_whisper = model.config.model_type == "whisper"
    model = model.get_encoder() if is_whisper else model
    auto = transformers.AutoTokenizer if modality == "text" else transformers.AutoFeatureExtractor
    prepare = auto.from_pretrained(path)
    found = []
    for segment in AUDIO if modality == "audio" else TEXTS:
        frames = None
        if isinstance(segment, TextSegment):
            inputs = prepare(segment.text, return_tensors="pt", return_token_type_ids=False)
        else:
            inputs = prepare(segment.samples, sampling_rate=16000, return_tensors="pt")
            inputs.pop("attention_mask", None)
            if is_whisper:
                frames = -(-len(segment.samples) // 320)  # one every 20 ms
        with torch.inference_mode():
            output = model(**inputs, output_hidden_states=True)
        found.append(tuple(s[0, :frames] for s in (*output.hidden_states, output.last_hidden_state)))
    return found


def plain_mean(spec: str, modality: Modality) -> np.ndarray:
    return np.stack([states[-1].mean(0).numpy() for states in plain_states(spec, modality)])


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def features_differ(features: np.ndarray) -> bool:
    """Return whether features tell segments apart; were they all alike, no batch could change them."""
    return bool(np.ptp(features, axis=0).max() > 1e-2)


# A segment's feature


@pytest.mark.parametrize("name", SMALL)
def test_a_segment_has_the_feature_of_a_plain_forward_in_any_batch_and_order(
    name: str, small: Models
) -> None:
    encoder, pool = load(small(name), modality_of(name)), pool_of(name)
    plain = plain_mean(small(name), modality_of(name))
    assert features_differ(plain)

    @given(rows=st.lists(st.integers(0, len(pool) - 1), min_size=1, max_size=8))
    @settings(max_examples=4, deadline=None)
    def check(rows: list[int]) -> None:
        features = encoder.encode([pool[row] for row in rows])
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, plain[rows], atol=1e-4, rtol=0)

    check()
    for row, segment in enumerate(pool):
        np.testing.assert_allclose(encoder.encode([segment])[0], plain[row], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_padding_is_shared_only_where_it_changes_nothing(name: str, small: Models) -> None:
    encoder: Any = load(small(name), modality_of(name))
    encoder.encode(pool_of(name))
    has_padding = name in TEXT or name in PADS_AUDIO or name in ("minilm", "whisper")
    assert (encoder.padding.fraction > 0) == has_padding


@pytest.mark.parametrize("name", SMALL)
def test_bf16_features_stay_close_in_any_batch(name: str, small: Models) -> None:
    encoder = load(small(name), modality_of(name), precision="bf16")
    assert encoder.fingerprint != load(small(name), modality_of(name)).fingerprint
    pool = pool_of(name)
    alone = np.concatenate([encoder.encode([segment]) for segment in pool])
    order = np.random.default_rng(0).permutation(len(pool))
    assert cosines(encoder.encode(pool), alone).min() >= 0.9999
    assert cosines(encoder.encode([pool[row] for row in order]), alone[order]).min() >= 0.9999
    assert cosines(alone, plain_mean(small(name), modality_of(name))).min() >= 0.999


@pytest.mark.parametrize("layer", ["last", "1", "0:2"])
@pytest.mark.parametrize("name", SMALL)
def test_layers_and_pooling_are_what_their_names_say(name: str, layer: str, small: Models) -> None:
    first, last = {"last": (-1, -1), "1": (1, 1), "0:2": (0, 2)}[layer]
    segments, modality = pool_of(name), modality_of(name)
    chosen = []
    for states in plain_states(small(name), modality):
        chosen.append(torch.stack(states[first : last + 1 or None]).mean(0))
    expected = {
        "mean": [states.mean(0) for states in chosen],
        "mean_std": [torch.cat([states.mean(0), states.std(0, correction=0)]) for states in chosen],
        "cls": [states[0] for states in chosen],
    }
    for pooling in ("mean", "mean_std", "cls"):
        if pooling == "cls" and modality == "audio":
            continue
        encoder = load(small(name), modality, layer=layer, pooling=pooling)
        features = encoder.encode(segments)
        assert features.shape == (len(segments), encoder.dim)
        np.testing.assert_allclose(features, torch.stack(expected[pooling]).numpy(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["bart", "mbart", "mvp", "plbart", "led"])
def test_layers_are_those_of_the_decoder_where_it_reads_the_text(name: str, small: Models) -> None:
    """The encoder of these models has another number of layers."""
    path = small(name).removeprefix("hf:")
    model = transformers.AutoModel.from_pretrained(path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    expected = []
    for segment in TEXTS:
        assert isinstance(segment, TextSegment)
        inputs = tokenizer(segment.text, return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            states = model(**inputs, output_hidden_states=True).decoder_hidden_states
        expected.append(torch.cat([state[0].mean(0) for state in states]).numpy())
    features = load(small(name), "text", layer="all").encode(TEXTS)
    np.testing.assert_allclose(features, np.stack(expected), atol=1e-4, rtol=0)
    mean = load(small(name), "text", layer="0:2").encode(TEXTS)
    np.testing.assert_allclose(mean, features.reshape(len(TEXTS), 3, -1).mean(1), atol=1e-4, rtol=0)
    with pytest.raises(ConfigError, match="has hidden states 0 to 2, but layer is 3"):
        load(small(name), "text", layer="3")


@pytest.mark.parametrize("name", SMALL)
def test_all_layers_lie_side_by_side_in_a_feature(name: str, small: Models) -> None:
    segments, modality = pool_of(name), modality_of(name)
    for pooling in ("mean", "mean_std"):
        encoder = load(small(name), modality, layer="all", pooling=pooling)
        features, last = encoder.encode(segments), encoder.describe()["layers"] - 1
        by_layer = features.reshape(len(segments), last + 1, -1)
        alone = [load(small(name), modality, layer=str(layer), pooling=pooling) for layer in range(last + 1)]
        with pytest.raises(ConfigError, match=f"has hidden states 0 to {last}, but layer is {last + 1}"):
            load(small(name), modality, layer=str(last + 1))
        for layer, encoder_of_layer in enumerate(alone):
            np.testing.assert_allclose(
                by_layer[:, layer], encoder_of_layer.encode(segments), atol=1e-5, rtol=0
            )
        assert len({encoder.fingerprint, *(each.fingerprint for each in alone)}) == last + 2


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", TRUE_SIZE)
def test_models_of_true_size_give_one_feature_a_segment_too(name: str, tmp_path: Path) -> None:
    spec, modality = models.made(name, tmp_path), modality_of(name)
    plain = plain_mean(spec, modality)
    assert features_differ(plain)
    np.testing.assert_allclose(load(spec, modality).encode(pool_of(name)), plain, atol=1e-4, rtol=0)
    narrow = load(spec, modality, precision="bf16")
    alone = np.concatenate([narrow.encode([segment]) for segment in pool_of(name)])
    assert cosines(narrow.encode(pool_of(name)), alone).min() >= 0.9999


@pytest.mark.parametrize("name", WAVEFORM)
def test_a_segment_below_one_frame_is_padded(name: str, small: Models) -> None:
    encoder, segments = load(small(name), "audio"), audio(300, 16000, 1)
    features = encoder.encode(segments)
    assert np.isfinite(features).all()
    np.testing.assert_allclose(encoder.encode(segments[:1])[0], features[0], atol=1e-4, rtol=0)


def test_wavlm_does_not_copy_its_weights_for_every_frame_of_a_batch(small: Models) -> None:
    """Weights made bf16 in inference mode had torch do so: one batched product a layer became five."""
    encoder, segment = load(small("wavlm-group"), "audio", precision="bf16"), AUDIO[0]
    products = {}
    for count in (1, 2):
        with profile(activities=[ProfilerActivity.CPU]) as found:
            encoder.encode([segment] * count)
        products[count] = sum(event.count for event in found.key_averages() if event.key == "aten::bmm")
    assert products[1] == products[2] > 0


@pytest.mark.parametrize(
    ("precision", "flag", "expected"),
    [("float32", "amx_bf16", [1] * 7), ("bf16", "amx_bf16", [1, 6]), ("bf16", "avx512_bf16", [1] * 7)],
)
def test_equal_windows_share_a_batch_where_a_cpu_has_matrix_units(
    precision: str, flag: str, expected: list[int], small: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hilbert_ray.encoders.weights._cpu_words", lambda: frozenset({flag}))
    encoder: Any = load(small("hubert-group"), "audio", precision=precision)
    sizes: list[int] = []
    encoder.model.register_forward_hook(lambda _, __, output: sizes.append(len(output.last_hidden_state)))
    encoder.encode(audio(*[160_000] * 7))
    assert sorted(sizes) == expected


@pytest.mark.parametrize("name", ["hubert-group", "whisper", "bert", "minilm"])
def test_no_segments_give_no_features(name: str, small: Models) -> None:
    encoder = load(small(name), modality_of(name))
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_minilm_knows_what_sentences_mean() -> None:
    encoder = load(minilm(), "text")
    assert (encoder.dim, encoder.max_tokens) == (384, 510)
    said = ["A dog runs in the park.", "A puppy is running outside.", "The invoice was paid late."]
    features = encoder.encode([TextSegment(start=0, end=1, text=text) for text in said])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > 0.5 > 0.2 > unit[0] @ unit[2]


def test_built_in_encoders_are_deterministic_and_take_any_length() -> None:
    cases: tuple[tuple[str, Modality, list[Segment]], ...] = (
        ("mfcc", "audio", [*AUDIO, *audio(1)]),
        ("hashing", "text", TEXTS),
    )
    for spec, modality, segments in cases:
        encoder = load(spec, modality)
        features = encoder.encode(segments)
        assert np.isfinite(features).all()
        assert features_differ(features)
        np.testing.assert_array_equal(features, load(spec, modality).encode(segments))
        alone = np.concatenate([encoder.encode([segment]) for segment in segments])
        np.testing.assert_array_equal(features, alone)
        assert encoder.encode([]).shape == (0, encoder.dim)


# Whisper


def test_whisper_pools_the_frames_that_transformers_counts(small: Models) -> None:
    path = small("whisper").removeprefix("hf:")
    model = transformers.WhisperModel.from_pretrained(path)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(path)
    for length in (1, 159, 160, 161, 319, 320, 321, 16000, 16159, 479_999, 480_000):
        made = extractor(
            np.zeros(length, np.float32), sampling_rate=16000, return_attention_mask=True, return_tensors="pt"
        )
        counted = model._get_feat_extract_output_lengths(made.attention_mask.sum())
        assert int(counted) == -(-length // 320)
    # `plain_mean` pools as many; all 1500 would be something else.
    everything = model.get_encoder().eval()
    made = extractor(AUDIO[0].samples, sampling_rate=16000, return_tensors="pt")  # type: ignore[union-attr]
    with torch.inference_mode():
        states = everything(made.input_features).last_hidden_state[0]
    assert np.abs(plain_mean(small("whisper"), "audio")[0] - states.mean(0).numpy()).max() > 1e-2


def test_whisper_refuses_what_it_would_cut_off(small: Models) -> None:
    with pytest.raises(
        ConfigError, match=r"takes at most 30 s, but segments may last 40\.0 s; set segment\.window_s"
    ):
        build_encoder(small("whisper"), "audio", FLOAT32, SegmentConfig(window_s=40.0, hop_s=40.0))
    with pytest.raises(SegmentTooLongError, match="longer than the 30 s"):
        load(small("whisper"), "audio").encode(audio(31 * 16000))


# Tokens


@given(text=st.text())
@settings(max_examples=100, deadline=None)
def test_tokens_are_those_of_the_tokenizer_that_transformers_loads(text: str) -> None:
    encoder: Any = minilm_encoder()
    tokenizer = minilm_tokenizer()
    assert encoder.count_tokens([text])[0] == len(tokenizer(text, add_special_tokens=False).input_ids)
    [tokens] = encoder._inputs([TextSegment(start=0, end=1, text=text)])
    assert tokens.tolist() == tokenizer(text).input_ids


@cache
def minilm_encoder() -> Encoder:
    return load(minilm(), "text")


@cache
def minilm_tokenizer() -> Any:  # noqa: ANN401
    return transformers.AutoTokenizer.from_pretrained(minilm().removeprefix("hf:"))


RELATIVE = ("t5", "mt5", "umt5", "longt5", "xlnet")


@pytest.mark.parametrize("name", [*TEXT, *MORE_TEXT])
def test_the_longest_text_is_encoded_and_a_longer_one_refused(name: str, small: Models) -> None:
    encoder = load(small(name), "text")
    # Two tokens are special; the small model of Jina has 66 positions for use, the others 64.
    assert encoder.max_tokens == (510 if name in RELATIVE else 64 if name == "jina" else 62)
    words = [word for word in WORDS * 99 if encoder.count_tokens([f" {word}"]) == [1]]
    longest, longer = (
        TextSegment(start=0, end=1, text="".join(f" {word}" for word in words[: encoder.max_tokens + more]))
        for more in (0, 1)
    )
    assert encoder.count_tokens([longest.text]) == [encoder.max_tokens]
    assert np.isfinite(encoder.encode([longest, *TEXTS])).all()
    with pytest.raises(SegmentTooLongError, match=rf"has {encoder.max_tokens + 1} tokens, more than the "):
        encoder.encode([*TEXTS, longer])


def test_a_tokenizer_file_that_asks_to_truncate_or_pad_cuts_and_adds_nothing(tmp_path: Path) -> None:
    folder = models.made("bert", tmp_path)
    expected = load(folder, "text").encode(TEXTS)
    asking = {"enable_truncation": {"max_length": 5}, "enable_padding": {"length": 32}}
    models.tokenizer(**asking).save_pretrained(tmp_path)
    encoder = load(folder, "text")
    counts = encoder.count_tokens([segment.text for segment in TEXTS if isinstance(segment, TextSegment)])
    assert max(counts) > 5
    assert min(counts) < 5
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-6, rtol=0)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.sampled_from([*WORDS, "unbelievably", "antidisestablishmentarianism"]), min_size=1, max_size=200
    )
)
def test_long_texts_are_split_within_the_limit_and_lose_nothing(words: list[str]) -> None:
    encoder = minilm_encoder()
    text = " ".join(words)
    pieces = encoder.split(text, 16)
    assert "".join(pieces) == text
    assert all(count <= 16 for count in encoder.count_tokens(pieces))
    assert sum(encoder.count_tokens(pieces)) == encoder.count_tokens([text])[0]


def test_a_single_word_beyond_the_limit_is_split_too() -> None:
    encoder = minilm_encoder()
    text = "xqzv" * 40
    pieces = encoder.split(text, 10)
    assert "".join(pieces) == text
    assert all(0 < count <= 10 for count in encoder.count_tokens(pieces))


# Batches


@given(st.lists(st.integers(1, 500), max_size=60), st.integers(100, 2000), st.sampled_from([0, 1, 16, 1000]))
def test_batches_hold_every_segment_once_within_the_budget(
    sizes: list[int], budget: int, overhead: int
) -> None:
    held = np.array(sizes, np.int64)
    batches = list(pack(held, budget, overhead))
    assert sorted(np.concatenate([*batches, np.zeros(0, np.int64)])) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) == 1 or held[batch].max() * len(batch) <= budget
        assert overhead > 0 or len(set(held[batch])) == 1


@given(st.lists(st.integers(1, 60), min_size=1, max_size=9), st.integers(60, 200), st.integers(0, 50))
def test_no_other_way_to_cut_the_sorted_segments_costs_less(
    sizes: list[int], budget: int, overhead: int
) -> None:
    held = np.array(sizes, np.int64)

    def cost(batches: Sequence[np.ndarray]) -> int:
        return sum(int(held[batch].max()) * len(batch) + overhead for batch in batches)

    order, least = np.argsort(-held), 10**9
    for cuts in range(2 ** (len(held) - 1)):
        places = [place for place in range(1, len(held)) if cuts >> (place - 1) & 1]
        batches = np.split(order, places)
        if all(len(batch) == 1 or held[batch].max() * len(batch) <= budget for batch in batches):
            least = min(least, cost(batches))
    assert cost(list(pack(held, budget, overhead))) == least


def test_less_than_three_percent_of_many_texts_or_turns_is_padding() -> None:
    rng = np.random.default_rng(0)
    words = np.clip(rng.lognormal(np.log(22), 0.6, 1024), 1, 500).astype(np.int64) + 2
    turns = (np.clip(rng.lognormal(np.log(4), 0.8, 120), 0.3, 30) * 16000).astype(np.int64)
    for sizes, budget, overhead in ((words, 8192, 16), (turns, 60 * 16000, 8000)):
        batches = list(pack(sizes, budget, overhead))
        padded = sum(int(sizes[batch].max()) * len(batch) for batch in batches)
        assert 1 - sizes.sum() / padded < 0.03
        assert len(batches) < len(set(sizes))


# What identifies features


def test_the_fingerprint_changes_with_all_that_features_depend_on(tmp_path: Path) -> None:
    folder = models.made("hubert-group", tmp_path)

    def fingerprint(segment: SegmentConfig, **changes: Any) -> str:  # noqa: ANN401
        return build_encoder(folder, "audio", replace(FLOAT32, **changes), segment).fingerprint

    base = fingerprint(SegmentConfig())
    assert fingerprint(SegmentConfig()) == base
    # Text settings and roles are no part of an audio feature.
    assert fingerprint(SegmentConfig(target_tokens=50, roles=("a",))) == base
    changed = {
        fingerprint(SegmentConfig(window_s=5.0, hop_s=5.0)),
        fingerprint(SegmentConfig(audio="pause")),
        fingerprint(SegmentConfig(), layer="1"),
        fingerprint(SegmentConfig(), pooling="mean_std"),
        fingerprint(SegmentConfig(), precision="bf16"),
    }
    weights = tmp_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    changed.add(fingerprint(SegmentConfig()))
    assert len(changed | {base}) == 7


def test_fingerprints_of_known_weights_stay_what_they_were() -> None:
    """A new one for the same features would embed every store again."""
    facts = {
        "weights": "574ffc1a1e5b5b09c42b41b521f073cc22edb04a3b869c11d91ca0cc489f550f",
        "layer": "1:3",
        "pooling": "cls",
        "precision": "bfloat16",
        "cutting": segmentation(SegmentConfig(), "text"),
    }
    known = load(minilm(), "text", layer="1:3", pooling="cls", precision="bf16").fingerprint
    assert known == fingerprint_of(facts)


def test_text_has_the_layer_that_it_always_had() -> None:
    encoder = load(minilm(), "text", layer="auto")
    assert encoder.fingerprint == load(minilm(), "text").fingerprint
    assert encoder.describe()["options"]["layer"] == "last"


def test_segments_cut_at_pauses_depend_on_the_detector() -> None:
    pause = SegmentConfig(audio="pause")
    assert segmentation(pause, "audio")["pauses"] == vad_identity()
    assert "pauses" not in segmentation(pause, "text")
    assert "pauses" not in segmentation(SegmentConfig(), "audio")


# What is refused


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


def test_a_model_of_the_other_modality_or_a_layer_beyond_it_is_refused(small: Models) -> None:
    speech = small("wav2vec2-group")
    with pytest.raises(ConfigError, match="is a speech model"):
        load(speech, "text")
    with pytest.raises(ConfigError, match="is a model of type 'bert', expected one of wav2vec2"):
        load(minilm(), "audio")
    with pytest.raises(ConfigError, match="has hidden states 0 to 2, but layer is 7; set it to"):
        load(speech, "audio", layer="7")
    with pytest.raises(ConfigError, match="no cls token"):
        load(speech, "audio", pooling="cls")


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = models.made("bert", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="has no weights"):
        load(folder, "text")
