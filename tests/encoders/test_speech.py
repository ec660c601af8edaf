"""Each row of the table of speech types against transformers, and folders that are refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from hilbert_ray.config import ConfigError, EncoderConfig, SegmentConfig
from hilbert_ray.document.records import AudioSegment, Document
from hilbert_ray.encoders.registry import build_encoder
from hilbert_ray.encoders.speech_types import SPEECH_TYPES
from hilbert_ray.encoders.transformer import SegmentTooLongError
from hilbert_ray.segmentation import audio_segments, heard_together
from tests.models import minilm
from tests.speech_models import CASES

FLOAT32 = EncoderConfig(layer="last", precision="float32")
SECONDS = SegmentConfig(window_s=2.0, hop_s=2.0)
LENGTHS_S = (0.5, 0.25, 0.75, 0.25, 0.3472, 0.253, 0.255, 0.6)
Models = Callable[[str], str]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Give the spec of a small model by its name; each is made once."""
    folder = tmp_path_factory.mktemp("speech")
    transformers.utils.logging.disable_progress_bar()
    return cache(lambda name: CASES[name].made(folder / name))


def load(spec: str, segment: SegmentConfig = SECONDS, **changes: Any) -> Any:  # noqa: ANN401
    encoder: Any = build_encoder(spec, "audio", replace(FLOAT32, **changes), segment)
    encoder.budget = max(encoder.budget, 4 * (encoder.length or 0))  # several, as on a GPU
    return encoder


def audio(rate_hz: int, *lengths_s: float) -> list[AudioSegment]:
    """Return voice-like segments: a tone that rises, in noise."""
    rng = np.random.default_rng(0)
    segments = []
    for length_s in lengths_s:
        time = np.arange(round(length_s * rate_hz)) / rate_hz
        tone = np.sin(2 * np.pi * (150 + rng.uniform(0, 300) * time) * time)
        samples = (0.2 * tone + 0.02 * rng.standard_normal(len(time))).astype(np.float32)
        segments.append(AudioSegment(start=0.0, end=length_s, samples=samples))
    return segments


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def test_every_row_of_the_table_has_a_model_here() -> None:
    assert {name.split()[0] for name in CASES} == set(SPEECH_TYPES)


@pytest.mark.parametrize("name", CASES)
def test_a_segment_has_the_feature_that_transformers_computes_of_it_in_any_batch(
    name: str, small: Models
) -> None:
    case, spec = CASES[name], small(name)
    for layer in (None, 1) if case.has_layers else (None,):
        encoder = load(spec, layer="last" if layer is None else str(layer))
        segments = audio(encoder.rate_hz, *LENGTHS_S)
        plain = case.plain(spec.removeprefix("hf:"), [s.samples for s in segments], layer)
        expected = torch.stack([states.mean(0) for states in plain]).numpy()
        assert np.ptp(expected, axis=0).max() > 1e-2  # were they all alike, no batch could change them
        features = encoder.encode(segments)
        np.testing.assert_allclose(features, expected, atol=1e-4, rtol=0)
        assert (encoder.padding.fraction > 0) == (case.is_padded or (layer == 1 and encoder.is_masked))
        for row, segment in enumerate(segments):
            np.testing.assert_allclose(encoder.encode([segment])[0], expected[row], atol=1e-4, rtol=0)
        order = np.random.default_rng(0).permutation(len(segments))[:5]
        shuffled = encoder.encode([segments[row] for row in order])
        np.testing.assert_allclose(shuffled, expected[order], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_without_a_choice_all_layers_of_one_width_are_kept(name: str, small: Models) -> None:
    case, encoder = CASES[name], load(small(name), layer="auto")
    described, layer = encoder.describe(), "all" if case.has_layers else "last"
    assert (described["layer"], described["options"]["layer"]) == (layer, layer)
    assert encoder.fingerprint == load(small(name), layer=layer).fingerprint
    segments = audio(encoder.rate_hz, 0.5)
    features = encoder.encode(segments)
    if case.has_layers:
        second = np.split(features, described["layers"], axis=1)[1]
        np.testing.assert_array_equal(second, load(small(name), layer="1").encode(segments))
    else:
        np.testing.assert_array_equal(features, load(small(name)).encode(segments))


@pytest.mark.parametrize("name", CASES)
def test_narrow_short_and_silent_segments_keep_their_features_in_any_batch(name: str, small: Models) -> None:
    encoder = load(small(name), pooling="mean_std")
    segments = audio(encoder.rate_hz, 0.5, 0.0001, 0.02, 0.51)
    silence = AudioSegment(start=0.0, end=1.0, samples=np.zeros(encoder.rate_hz, np.float32))
    segments += [silence, replace(silence, samples=silence.samples[:300])]
    features = encoder.encode(segments)
    assert np.isfinite(features).all()
    for row, segment in enumerate(segments):
        np.testing.assert_allclose(encoder.encode([segment])[0], features[row], atol=1e-4, rtol=0)
    narrow = load(small(name), precision="bf16")
    alone = np.concatenate([narrow.encode([segment]) for segment in segments[::3]])
    assert cosines(narrow.encode(segments)[::3], alone).min() >= 0.9999
    assert cosines(alone, features[::3, : alone.shape[1]]).min() >= 0.99
    encoder.rehearse()


# Fills


def in_fills(encoder: Any, seconds: float, window_s: float, hop_s: float) -> list[AudioSegment]:  # noqa: ANN401
    """Return the windows of one recording, as they are heard."""
    [whole] = audio(encoder.rate_hz, seconds)
    config = SegmentConfig(window_s=window_s, hop_s=hop_s)
    cut = audio_segments(Document(doc_id="d", audio="d"), iter([whole.samples]), encoder.rate_hz, config)
    return [one for group in heard_together(cut, encoder.fill, encoder.rate_hz) for one in group]


@pytest.mark.parametrize(
    ("name", "seconds", "window_s", "hop_s"),
    [
        ("whisper", 65.0, 10.0, 10.0), ("whisper", 40.0, 7.013, 3.5), ("voxtral", 40.0, 10.0, 10.0),
        ("qwen2_audio", 40.0, 7.013, 7.013), ("audio-spectrogram-transformer", 4.0, 0.7, 0.7),
    ],
)  # fmt: skip
def test_segments_of_a_fill_are_pooled_over_their_own_time_as_transformers_computes_it(
    name: str, seconds: float, window_s: float, hop_s: float, small: Models
) -> None:
    case, spec = CASES[name], small(name)
    for layer in (None, 1):
        encoder = load(spec, context="fill", layer="last" if layer is None else str(layer))
        segments = in_fills(encoder, seconds, window_s, hop_s)
        fills = {id(one.fill): one.fill for one in segments}
        assert 1 < len(fills) < len(segments)
        expected = []
        for fill in fills.values():
            assert fill is not None
            [states] = case.plain(spec.removeprefix("hf:"), [fill], layer)
            for one in segments:
                if one.fill is fill:
                    places = one.offset, one.offset + len(one.samples)
                    before, until = (counted(encoder, at) for at in places)
                    by_time = states.reshape(-1, counted(encoder, len(fill)), states.shape[1])
                    expected.append(by_time[:, before:until].flatten(0, 1).mean(0))
        wanted = torch.stack(expected).numpy()
        assert np.ptp(wanted, axis=0).max() > 1e-2
        np.testing.assert_allclose(encoder.encode(segments), wanted, atol=1e-5, rtol=0)


def counted(encoder: Any, samples: int) -> int:  # noqa: ANN401
    """Return at how many times so much audio has states."""
    match encoder.config.model_type:
        case "audio-spectrogram-transformer":  # patches of 16 frames every 10, frames of 25 ms every 10 ms
            frames = max(samples - 400, -160) // 160 + 1
            return max((frames - 16) // 10 + 1, 0)
        case "qwen2_audio_encoder" if encoder.layers is None:  # every two states of 20 ms averaged
            return -(-samples // 320) // 2
    return -(-samples // 320)  # every 20 ms


def test_a_fill_is_computed_once_in_any_batch_and_gives_the_same_bits(small: Models) -> None:
    encoder = load(small("whisper"), layer="all", context="fill")
    assert encoder.fill == 480_000
    encoder.budget = encoder.length  # one input at a time, as on a CPU
    segments = in_fills(encoder, 95.0, 10.0, 10.0)
    rows: list[int] = []
    encoder.model.register_forward_pre_hook(
        lambda _, __, inputs: rows.append(len(inputs["input_features"])), with_kwargs=True
    )
    features = encoder.encode(segments)
    assert (len(segments), sum(rows)) == (10, 4)
    assert encoder.padding.fraction == pytest.approx(1 - 95 / 120)
    order = np.random.default_rng(0).permutation(len(segments))
    np.testing.assert_array_equal(encoder.encode([segments[row] for row in order]), features[order])
    for row, one in enumerate(segments):
        np.testing.assert_array_equal(encoder.encode([one])[0], features[row])
    alone = load(small("whisper"), layer="all").encode(segments)
    np.testing.assert_allclose(features[-1], alone[-1], atol=1e-5)  # alone in its fill too
    assert np.abs(features[:-1] - alone[:-1]).max(axis=1).min() > 1e-3


def test_segments_below_a_state_get_the_one_they_lie_in(small: Models) -> None:
    encoder = load(small("whisper"), context="fill")
    [whole] = audio(16000, 0.1)
    cuts = [(0, 1), (0, 320), (320, 330), (325, 326), (330, 640), (639, 641), (1500, 1600)]
    segments = [
        AudioSegment(start=a / 16000, end=b / 16000, samples=whole.samples[a:b], fill=whole.samples, offset=a)
        for a, b in cuts
    ]
    [states] = CASES["whisper"].plain(small("whisper").removeprefix("hf:"), [whole.samples], None)
    expected = torch.stack([states[i] for i in (0, 0, 1, 1, 1, 2, 4)]).numpy()
    np.testing.assert_allclose(encoder.encode(segments), expected, atol=1e-5)


def test_context_is_part_of_the_fingerprint_only_where_segments_are_heard_together(small: Models) -> None:
    whisper, thirty = small("whisper"), SegmentConfig(window_s=30.0, hop_s=30.0)
    apart, together = load(whisper), load(whisper, context="fill")
    assert set(apart._facts()) == {"weights", "layer", "pooling", "precision", "cutting"}
    assert together._facts() == {**apart._facts(), "context": "fill"}
    assert together.fingerprint != apart.fingerprint
    full = load(whisper, thirty, context="fill")
    assert (full.fill, full.fingerprint) == (0, load(whisper, thirty).fingerprint)
    assert load(whisper, SegmentConfig(audio="turns"), context="fill").fill == 480_000
    text = build_encoder(minilm(), "text", EncoderConfig(), SegmentConfig())
    assert (apart.fill, text.fill) == (0, 0)
    with pytest.raises(ConfigError, match=r"text_encoder\.context is `fill`; leave it out: it is for audio"):
        build_encoder(minilm(), "text", EncoderConfig(context="fill"), SegmentConfig())


@pytest.mark.parametrize(
    ("name", "pooling", "reason"),
    [
        ("wav2vec2", "mean", "takes input of any length"),
        ("clap", "mean", "gives states that have no times"),
        ("audio-spectrogram-transformer", "cls", r"is pooled as a whole \(pooling `cls`\)"),
    ],
)
def test_segments_that_cannot_share_an_input_are_refused(
    name: str, pooling: str, reason: str, small: Models
) -> None:
    message = f"{reason}, so segments cannot share an input; set audio_encoder.context to `segment`"
    with pytest.raises(ConfigError, match=message):
        load(small(name), context="fill", pooling=pooling)


# Folders


def copied(spec: str, target: Path) -> Path:
    shutil.copytree(spec.removeprefix("hf:"), target)
    return target


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_only_the_encoder_of_a_larger_model_is_loaded(small: Models, tmp_path: Path) -> None:
    encoder = load(small("qwen2_audio"))
    assert type(encoder.model).__name__ == "Qwen2AudioEncoder"
    folder = copied(small("qwen2_audio"), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "audio_tower" in name}
    assert 0 < len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    segments = audio(16000, 0.5)
    np.testing.assert_array_equal(load(f"hf:{folder}").encode(segments), encoder.encode(segments))
    kept.popitem()
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="lack 1 of the tensors that a network of type qwen2_audio_encoder"):
        load(f"hf:{folder}").rehearse()


@pytest.mark.parametrize(
    ("name", "file", "values", "message"),
    [
        ("wav2vec2-bert", "preprocessor", {"feature_extractor_type": "Wav2Vec2FeatureExtractor"},
         "describes a Wav2Vec2FeatureExtractor, but a model of type 'wav2vec2-bert' takes what a Seamless"),
        ("wav2vec2-bert", "preprocessor", {"num_mel_bins": 80},
         "makes 160 values per frame, but the network takes 32; use the file that belongs to these weights"),
        ("parakeet_ctc", "preprocessor", {"feature_size": 80}, "makes 80 mel bins, but the network takes 16"),
        ("clap", "preprocessor", {"feature_size": 80}, "makes 80 mel bins, but the network takes 64"),
        ("speech_to_text", "preprocessor", {"num_mel_bins": 80}, "makes 80 mel bins, but .* takes 16"),
        ("whisper", "preprocessor", {"chunk_length": 20}, "makes 2000 frames, but the network takes 3000"),
        ("audio-spectrogram-transformer", "preprocessor", {"max_length": 100}, "makes 100 frames, .* 256"),
        ("qwen2_audio", "",
         {"audio_config": {"model_type": "qwen2_audio_encoder", "encoder_layers": 10**9}},
         r"config\.json has audio_config\.encoder_layers = 1000000000; a network has at most 10000"),
        ("speecht5", "", {"encoder_layers": 3}, "lack 1[0-9] of the tensors that a network of type speecht5"),
    ],
)  # fmt: skip
def test_files_of_another_model_give_one_message(
    name: str, file: str, values: dict[str, object], message: str, small: Models, tmp_path: Path
) -> None:
    folder = copied(small(name), tmp_path / "model")
    change_json(folder / (f"{file}_config.json" if file else "config.json"), **values)
    with pytest.raises(ConfigError, match=message) as error:
        load(f"hf:{folder}").rehearse()
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_extractor_in_the_file_of_a_processor_is_part_of_the_fingerprint(
    small: Models, tmp_path: Path
) -> None:
    """Transformers reads it there first, so that features changed and the fingerprint did not."""
    folder = copied(small("whisper"), tmp_path / "model")
    known = load(small("whisper")).fingerprint
    extractor = json.loads((folder / "preprocessor_config.json").read_text())

    def loaded(**processor: object) -> Any:  # noqa: ANN401
        (folder / "processor_config.json").write_text(json.dumps(processor))
        return load(f"hf:{folder}")

    assert loaded(processor_class="WhisperProcessor").fingerprint == known, "older releases say no more"
    nested = loaded(feature_extractor=extractor)
    dithered = loaded(feature_extractor={**extractor, "dither": 0.5})
    assert len({known, nested.fingerprint, dithered.fingerprint}) == 3
    assert (nested.extractor.dither, dithered.extractor.dither) == (0.0, 0.5)
    with pytest.raises(
        ConfigError, match=r"processor_config\.json makes 128 mel bins, but the network takes"
    ):
        loaded(feature_extractor={**extractor, "feature_size": 128})
    (folder / "preprocessor_config.json").unlink()
    assert loaded(feature_extractor=extractor).extractor.to_dict() == nested.extractor.to_dict()
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json of encoder .* cannot be read: "):
        loaded(processor_class="WhisperProcessor")


@pytest.mark.parametrize("kind", ["encodec", "mimi", "pe_audio"])
def test_a_type_that_is_not_in_the_table_is_refused_with_those_that_are(kind: str, tmp_path: Path) -> None:
    transformers.AutoConfig.for_model(kind).save_pretrained(tmp_path)
    transformers.EncodecFeatureExtractor().save_pretrained(tmp_path)
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    expected = f"audio encoder hf:{tmp_path} is a model of type '{kind}', expected one of wav2vec2, hubert, "
    with pytest.raises(ConfigError, match=expected):
        load(f"hf:{tmp_path}")


def test_speech_models_that_synthesise_have_no_encoder_of_speech(tmp_path: Path) -> None:
    spec = replace(CASES["speecht5"], model="SpeechT5ForTextToSpeech").made(tmp_path)
    with pytest.raises(ConfigError, match=r"lack .* tensors that a network of type speecht5 computes with"):
        load(spec).rehearse()


def test_what_a_type_cannot_give_is_refused(small: Models) -> None:
    clap, qwen, ast = small("clap"), small("qwen2_audio"), small("audio-spectrogram-transformer")
    with pytest.raises(ConfigError, match=r"hidden states differ in width, but layer is 1; set it to `last`"):
        load(clap, layer="1")
    with pytest.raises(ConfigError, match="has hidden states 0 to 2, but layer is 1:3; set it to `all`"):
        load(qwen, layer="1:3")
    with pytest.raises(
        ConfigError, match=r"takes at most 10 s, but segments may last 30\.0 s; set segment\.max"
    ):
        load(clap, SegmentConfig(audio="turns", max_s=30.0))
    with pytest.raises(
        ConfigError, match=r"takes at most 2\.575 s, .* set segment\.window_s to at most 2\.575"
    ):
        load(ast, SegmentConfig())
    with pytest.raises(SegmentTooLongError, match=r"from 0\.00 to 2\.60 s is longer than the 2\.575 s"):
        load(ast).encode(audio(16000, 2.6))
    with pytest.raises(ConfigError, match="no cls token"):
        load(qwen, pooling="cls")
    with pytest.raises(ConfigError, match="is a speech model"):
        build_encoder(clap, "text", FLOAT32, SegmentConfig())


def test_the_longest_segment_is_encoded_whole(small: Models) -> None:
    encoder = load(small("audio-spectrogram-transformer"))
    [segment] = audio(16000, encoder.length / 16000)
    longest = encoder.encode([segment])
    samples = segment.samples.copy()
    samples[-100:] = 0.9
    assert np.abs(encoder.encode([replace(segment, samples=samples)]) - longest).max() > 1e-3


def test_the_token_of_a_whole_segment_is_the_one_that_ast_classifies_by(small: Models) -> None:
    spec = small("audio-spectrogram-transformer")
    segments = audio(16000, 0.5, 1.0)
    folder = spec.removeprefix("hf:")
    extractor = transformers.ASTFeatureExtractor.from_pretrained(folder)
    model = transformers.ASTModel.from_pretrained(folder).eval()
    inputs = extractor([s.samples for s in segments], sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**inputs).pooler_output
    np.testing.assert_allclose(load(spec, pooling="cls").encode(segments), expected, atol=1e-5)


def test_an_adapter_in_layer_norm_models_has_a_fingerprint_of_its_own(small: Models, tmp_path: Path) -> None:
    """Its features were once pooled with the mask of its output, or depended on the batch."""
    facts = load(small("wav2vec2 adapter"))._facts()
    assert facts["frames"] == 2
    for name in ("wav2vec2", "wav2vec2 group adapter", "whisper"):
        assert set(load(small(name))._facts()) == {"weights", "layer", "pooling", "precision", "cutting"}


# Code that comes with the weights

CONFIGURATION = """
from transformers import PretrainedConfig

class OwnConfig(PretrainedConfig):
    model_type = "own_audio"

    def __init__(self, embed_dim=8, output="last_hidden_state", **kwargs):
        self.embed_dim, self.output = embed_dim, output
        super().__init__(**kwargs)
"""
MODELING = """
import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput
from .configuration_own import OwnConfig

class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.conv = torch.nn.Conv1d(1, config.embed_dim, 400, 160)
        self.post_init()

    def forward(self, input_values, output_hidden_states=False):
        states = self.conv(input_values[:, None]).tanh().transpose(1, 2)
        return ModelOutput(**{self.config.output: states})
"""


def remote(folder: Path, **values: object) -> str:
    """Save a model that is defined by code beside its weights; return its spec."""
    folder.mkdir()
    (folder / "configuration_own.py").write_text(CONFIGURATION)
    (folder / "modeling_own.py").write_text(MODELING)
    auto_map = {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    own = {"model_type": "own_audio", "auto_map": auto_map, **values}
    (folder / "config.json").write_text(json.dumps(own))
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "conv.weight": 0.1 * torch.randn((8, 1, 400), generator=generator), "conv.bias": torch.arange(8) / 8,
    }  # fmt: skip
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=24000).save_pretrained(folder)
    return f"hf:{folder}"


@pytest.mark.parametrize("output", ["last_hidden_state", "hidden_states"])
def test_a_model_of_code_is_encoded_only_where_that_is_allowed(output: str, tmp_path: Path) -> None:
    spec = remote(tmp_path / "model", output=output)
    with pytest.raises(ConfigError, match=r"allow it with --audio-encoder\.trust-remote-code"):
        load(spec)
    encoder = load(spec, trust_remote_code=True)
    assert (encoder.rate_hz, encoder.dim) == (24000, 8)
    # The code may have no hidden states to give.
    assert load(spec, layer="auto", trust_remote_code=True).fingerprint == encoder.fingerprint
    segments = audio(24000, 0.5, 0.01, 0.3, 0.5)
    features = encoder.encode(segments)
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    samples = torch.from_numpy(segments[2].samples)
    wave = (samples - samples.mean()) / (samples.var(correction=0) + 1e-7).sqrt()
    states = torch.nn.functional.conv1d(wave[None, None], tensors["conv.weight"], tensors["conv.bias"], 160)
    np.testing.assert_allclose(features[2], states[0].tanh().mean(1), atol=1e-5)
    for row, segment in enumerate(segments):
        np.testing.assert_allclose(encoder.encode([segment])[0], features[row], atol=1e-6)


def test_features_of_a_model_of_code_depend_on_the_code(tmp_path: Path) -> None:
    spec = remote(tmp_path / "model")
    before = load(spec, trust_remote_code=True).fingerprint
    with (tmp_path / "model" / "modeling_own.py").open("a") as file:
        file.write("# another version")
    assert load(spec, trust_remote_code=True).fingerprint != before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"output": "logits"}, r"what its code returns, a ModelOutput, has no last_hidden_state of the shape "
         r"\[batch, time, 8\]; name another model"),
        ({"embed_dim": 9}, "the weights of encoder .* cannot be read: "),
        ({"auto_map": {"AutoConfig": "missing.OwnConfig"}}, r"config\.json of encoder .* cannot be read: "),
        ({"auto_map": {"AutoConfig": "configuration_own.OwnConfig"}},
         "is a model of type 'own_audio', expected one of wav2vec2, hubert"),
    ],
)  # fmt: skip
def test_code_that_does_not_fit_gives_one_message(
    values: dict[str, object], message: str, tmp_path: Path
) -> None:
    spec = remote(tmp_path / "model", **values)
    with pytest.raises(ConfigError, match=message):
        load(spec, trust_remote_code=True).encode(audio(24000, 0.5))
