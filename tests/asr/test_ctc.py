"""CTC recognisers: words, times and confidence against transformers' own decoding, in any batch the same."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from hilbert_ray.asr.ctc import LOW_CONFIDENCE, PAUSE_S, CtcRecognizer, is_ctc, merged
from hilbert_ray.asr.protocol import Spoken, Window
from hilbert_ray.config import ConfigError, RecognitionConfig
from hilbert_ray.encoders import SPEECH_TYPES
from tests.models import CONVOLUTIONS, GROUP, LAYER, SMALL
from tests.speech_models import BERT, LASR, PARAKEET, SEW, STACKED

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJK'"]
PIECES = ["<unk>", "▁the", "▁gar", "den", "▁was", "▁c", "old", "e", "s", ".", "<pad>"]
FLOAT32 = RecognitionConfig(precision="float32")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model: its class, its configuration, what prepares its input; does it spell, how often it spaces."""

    model: str
    config: Mapping[str, Any]
    extractor: str = "Wav2Vec2FeatureExtractor"
    prepares: Mapping[str, Any] | None = None
    has_letters: bool = True
    spaces: float = 1.0

    def made(self, folder: Path) -> tuple[str, Any]:
        """Save the model with random weights; return its folder and configuration."""
        torch.manual_seed(1)
        network = getattr(transformers, self.model)
        tokens = LETTERS if self.has_letters else PIECES
        sizes = {"vocab_size": len(tokens), "pad_token_id": tokens.index("<pad>")}
        config = network.config_class(**{**self.config, **sizes})
        model = network(config).eval()
        extractor = getattr(transformers, self.extractor)(**(self.prepares or {}))
        [window] = windows(4.0)
        made = extractor(window.samples, sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            # On average all tokens are as likely, so that frames differ; the special ones never are.
            logits = model(**made).logits[0]
            head = model.ctc_head if hasattr(model, "ctc_head") else model.lm_head
            head.bias -= logits.mean(0)
            head.bias[[tokens.index(token) for token in ("<s>", "</s>", "<unk>") if token in tokens]] = -1e4
            head.bias[tokens.index("|" if self.has_letters else "▁the")] += self.spaces * logits.std(0).mean()
        model.save_pretrained(folder)
        extractor.save_pretrained(folder)
        (letters if self.has_letters else pieces)(folder)
        return str(folder), transformers.AutoConfig.from_pretrained(folder)


def letters(folder: Path) -> None:
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(LETTERS)}))
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)


def pieces(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(PIECES)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    transformers.ParakeetTokenizer(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)


ADAPTER = {"add_adapter": True, "output_hidden_size": 32, "num_adapter_layers": 1}
CASES = {
    "wav2vec2 group": Case(model="Wav2Vec2ForCTC", config=GROUP),
    "hubert layer": Case(model="HubertForCTC", config=LAYER),
    "wavlm": Case(model="WavLMForCTC", config=LAYER),
    "data2vec-audio": Case(model="Data2VecAudioForCTC", config={**SMALL, **CONVOLUTIONS}),
    "wav2vec2-conformer": Case(model="Wav2Vec2ConformerForCTC", config=GROUP),
    "unispeech": Case(model="UniSpeechForCTC", config=GROUP),
    "unispeech-sat": Case(model="UniSpeechSatForCTC", config=LAYER),
    "sew": Case(model="SEWForCTC", config=SEW),
    "sew-d": Case(model="SEWDForCTC", config=SEW, spaces=2.0),
    "wav2vec2-bert": Case(model="Wav2Vec2BertForCTC", config=BERT, **STACKED),
    "wav2vec2-bert adapter": Case(model="Wav2Vec2BertForCTC", config={**BERT, **ADAPTER}, **STACKED),
    "parakeet": Case(
        model="ParakeetForCTC",
        config={"encoder_config": PARAKEET},
        extractor="ParakeetFeatureExtractor",
        prepares={"feature_size": 16},
        has_letters=False,
    ),
    "lasr": Case(
        model="LasrForCTC",
        config={"encoder_config": LASR},
        extractor="LasrFeatureExtractor",
        prepares={"feature_size": 16},
        has_letters=False,
    ),
}


def windows(*seconds: float) -> list[Window]:
    rng = np.random.default_rng(0)
    return [
        Window(rng.normal(0, 0.1, round(length * 16000)).astype(np.float32), 100.0 * i, role=f"r{i}")
        for i, length in enumerate(seconds)
    ]


def recognizer(case: str, folder: Path) -> CtcRecognizer:
    path, config = CASES[case].made(folder)
    assert is_ctc(config)
    return CtcRecognizer(f"hf:{path}", path, config, FLOAT32, "cpu")


def test_every_type_of_ctc_models_that_is_read_is_tried() -> None:
    read = {
        config.model_type
        for config in transformers.MODEL_FOR_CTC_MAPPING
        if config.model_type in SPEECH_TYPES
    }
    assert {getattr(transformers, case.model).config_class.model_type for case in CASES.values()} == read


@pytest.mark.parametrize("case", CASES)
def test_words_are_those_that_transformers_decodes(tmp_path: Path, case: str) -> None:
    ctc = recognizer(case, tmp_path)
    ctc.rehearse()
    [window] = windows(4.0)
    utterances = ctc.recognize([window])[0]
    network = getattr(transformers, CASES[case].model).from_pretrained(tmp_path).eval()
    made = ctc.extractor(window.samples, sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        ids = network(**made).logits.argmax(-1)
    plain = ctc.tokenizer.batch_decode(ids)[0]
    assert len(plain.split()) > 2
    assert [word.text for one in utterances for word in one.words] == plain.split()
    assert " ".join(one.text for one in utterances) == " ".join(plain.split())
    assert {one.role for one in utterances} == {"r0"}
    assert ctc.detect_languages([window]) == [{}]
    # The frames of the network fill the window, so what is between the first and last word lies in it.
    frames = ids.shape[1]
    assert 3.8 < frames * ctc.frame_s <= 4.0 + ctc.frame_s
    assert all(0 <= one.start < one.end <= frames * ctc.frame_s for one in utterances)


@pytest.mark.parametrize("case", ["wav2vec2 group", "hubert layer", "sew", "sew-d"])
def test_times_of_words_are_the_offsets_of_transformers(tmp_path: Path, case: str) -> None:
    ctc = recognizer(case, tmp_path)
    _, window = windows(1.0, 3.0)
    ids = ctc.log_probabilities(window.samples).argmax(-1)
    decoded = ctc.tokenizer.decode(ids, output_word_offsets=True)
    expected = [
        (one["word"], 100.0 + 0.02 * one["start_offset"], 100.0 + 0.02 * one["end_offset"])
        for one in decoded.word_offsets
    ]
    found = [(w.text, w.start, w.end) for one in ctc.recognize([window])[0] for w in one.words]
    assert len(expected) > 2
    assert [text for text, _, _ in found] == [text for text, _, _ in expected]
    np.testing.assert_allclose([times for _, *times in found], [times for _, *times in expected])


@pytest.mark.parametrize("case", CASES)
def test_a_window_has_the_same_utterances_in_any_batch(tmp_path: Path, case: str) -> None:
    ctc = recognizer(case, tmp_path)
    some = windows(2.0, 0.3, 5.0, 0.001)
    together = ctc.recognize(some)
    assert [ctc.recognize([one])[0] for one in some] == together
    assert ctc.recognize(some[::-1]) == together[::-1]
    assert ctc.recognize([]) == []


def test_repeats_are_merged_and_keep_their_highest_probability() -> None:
    probabilities = torch.tensor(
        [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.05, 0.9, 0.05], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]]
    )
    tokens = [(t.id, t.first, t.end, math.exp(t.log_probability)) for t in merged(probabilities.log())]
    np.testing.assert_allclose(tokens, [(0, 0, 1, 0.5), (1, 1, 3, 0.9), (0, 3, 4, 0.6), (1, 4, 5, 0.7)])


def spelled(ctc: CtcRecognizer, text: str, probability: float = 0.9) -> list[Spoken]:
    """Recognise frames of 0.02 s, one for each character of a text; `_` is the blank."""
    rows = torch.full((len(text), len(LETTERS)), (1 - probability) / (len(LETTERS) - 1))
    for frame, character in enumerate(text):
        rows[frame, LETTERS.index("<pad>" if character == "_" else character)] = probability
    ctc.log_probabilities = lambda samples: rows.log()  # type: ignore[method-assign]
    return ctc.recognize(windows(1.0))[0]


def test_utterances_end_at_pauses_and_low_confidence_is_a_doubt(tmp_path: Path) -> None:
    ctc = recognizer("wav2vec2 group", tmp_path)
    gap = round(PAUSE_S / 0.02)
    text = "BA_AD|" + "_" * (gap - 1) + "CAB|" + "_" * (gap + 1) + "|DAB"
    first, second = spelled(ctc, text)
    assert [word.text for word in first.words] == ["BAAD", "CAB"]
    assert [word.confidence for word in (*first.words, *second.words)] == pytest.approx([0.9] * 3)
    assert (first.text, second.text, first.doubts, second.doubts) == ("BAAD CAB", "DAB", (), ())
    assert first.start == 0.0
    assert first.words[0].end == pytest.approx(0.1)
    assert second.start == pytest.approx(0.02 * text.rindex("D"))
    assert second.words[0].end == pytest.approx(0.02 * len(text))
    [doubtful] = spelled(ctc, "ABBA", LOW_CONFIDENCE - 0.01)
    assert (doubtful.text, doubtful.doubts) == ("ABA", ("low confidence",))
    assert spelled(ctc, "____|__") == []
    starts = [word.start for one in (first, second) for word in one.words]
    assert all(a < b for a, b in pairwise(starts))


def test_the_fingerprint_follows_weights_and_precision(tmp_path: Path) -> None:
    ctc = recognizer("hubert layer", tmp_path)
    path, config = str(tmp_path), ctc.config
    again = CtcRecognizer("other name", path, config, FLOAT32, "cpu")
    bf16 = CtcRecognizer(ctc.name, path, config, RecognitionConfig(precision="bf16"), "cpu")
    assert again.fingerprint == ctc.fingerprint == ctc.describe()["fingerprint"] != bf16.fingerprint
    file = tmp_path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert CtcRecognizer(ctc.name, path, config, FLOAT32, "cpu").fingerprint != ctc.fingerprint


def test_a_folder_that_lacks_something_is_refused_by_name(tmp_path: Path) -> None:
    ctc = recognizer("wav2vec2 group", tmp_path)
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**GROUP)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"lack .* tensors .* the first lm_head|lm_head"):
        CtcRecognizer(ctc.name, ctc.folder, ctc.config, FLOAT32, "cpu").rehearse()
    for name in ("vocab.json", "tokenizer.json"):
        (tmp_path / name).unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="tokenizer"):
        CtcRecognizer(ctc.name, ctc.folder, ctc.config, FLOAT32, "cpu")
