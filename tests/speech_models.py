"""A small model for each row of the table of speech types, and how transformers itself computes with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import transformers
from torch import Tensor

from tests.models import CONVOLUTIONS, GROUP, LAYER, SMALL, WHISPER

Mask: TypeAlias = Callable[[Any, Any, Any, int], Tensor]
"""From the network, its input, its output and the number of samples to bool [time]: what to pool."""
BINS = 16


def alone(model: Any) -> Any:  # noqa: ANN401 - transformers has no common type
    """Return a model that is nothing but the encoder."""
    return model


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model: its class, its configuration, what prepares its input, what transformers says of its frames.

    encoder: which part of the model encodes. states: which hidden states are of audio; None: all of them.
    output: which states of the output, if they are others. arguments: what else the network takes. noise:
    what is added to its weights.
    """

    model: str
    config: Mapping[str, Any]
    extractor: str
    prepares: Mapping[str, Any] = field(default_factory=dict)
    encoder: Callable[[Any], Any] = alone
    states: Mask | None = None
    output: Mask | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    has_layers: bool = True
    is_padded: bool = False
    noise: float = 0.05

    def network(self) -> Any:  # noqa: ANN401 - transformers has no common type
        """Return the class of the model; those that it does not show are found in their modules."""
        if hasattr(transformers, self.model):
            return getattr(transformers, self.model)
        module, name = self.model.split(":")
        return getattr(import_module(f"transformers.models.{module}"), name)

    def made(self, folder: Path) -> str:
        """Save the model with random weights and what prepares its input; return its spec."""
        torch.manual_seed(0)
        network = self.network()
        model = network(network.config_class(**self.config))
        with torch.no_grad():  # so that no state is one of its neighbours', as after tiny initial weights
            for parameter in model.parameters():
                parameter.add_(self.noise * torch.randn_like(parameter))
        model.save_pretrained(folder)
        getattr(transformers, self.extractor)(**self.prepares).save_pretrained(folder)
        return f"hf:{folder}"

    def plain(self, folder: str, segments: Sequence[np.ndarray], layer: int | None) -> list[Tensor]:
        """Return what transformers computes of each segment: float32 [frames, width] of its audio."""
        extractor = getattr(transformers, self.extractor).from_pretrained(folder)
        whole = self.network().from_pretrained(folder, dtype=torch.float32).eval()
        network = self.encoder(whole)
        return [self._frames(network, extractor, samples, layer) for samples in segments]

    def _frames(self, network: Any, extractor: Any, samples: np.ndarray, layer: int | None) -> Tensor:  # noqa: ANN401
        inputs = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        inputs = {**inputs, **self.arguments}
        with torch.inference_mode():
            output = network(**inputs, output_hidden_states=layer is not None)
        states: Tensor = output.last_hidden_state if layer is None else output.hidden_states[layer]
        if states.ndim == 4:  # [batch, width, bins, time]
            return states[0].flatten(1).T
        find = self.output if layer is None and self.output else self.states
        if find is None:
            return states[0]
        mask = find(network, inputs, output, len(samples))
        return states[0, : len(mask)][mask]


def masked(network: Any, inputs: Any, output: Any, samples: int) -> Tensor:  # noqa: ANN401
    return inputs["attention_mask"][0].bool()  # type: ignore[no-any-return]


def first(count: Callable[[Any, Any, Any, int], Any]) -> Mask:
    """Return the mask of the first frames, given their count."""

    def mask(network: Any, inputs: Any, output: Any, samples: int) -> Tensor:  # noqa: ANN401
        return torch.ones(max(int(count(network, inputs, output, samples)), 1), dtype=torch.bool)

    return mask


def mel_frames(samples: int) -> Tensor:
    """Return how many mel frames Whisper's feature extractor counts."""
    made = transformers.WhisperFeatureExtractor(feature_size=BINS)(
        np.zeros(samples, np.float32), sampling_rate=16000, return_attention_mask=True, return_tensors="pt"
    )
    return made["attention_mask"].sum()  # type: ignore[no-any-return]


def patches(network: Any, inputs: Any, output: Any, samples: int) -> Tensor:  # noqa: ANN401
    """Return which of AST's states are of patches that lie within the audio, by trying each."""
    config, frames = network.config, (samples - 400) // 160 + 1
    within = [False, False]
    for _ in range(0, config.num_mel_bins - config.patch_size + 1, config.frequency_stride):
        for start in range(0, config.max_length - config.patch_size + 1, config.time_stride):
            within.append(start + config.patch_size <= frames)
    return torch.tensor(within)


SEW = {**SMALL, **CONVOLUTIONS, "conv_dim": (16,) * 13}
TEXT = {**SMALL, "vocab_size": 50, "num_key_value_heads": 2}
ADAPTER = {"add_adapter": True, "output_hidden_size": 24, "num_adapter_layers": 2}
STACKED: dict[str, Any] = {
    "extractor": "SeamlessM4TFeatureExtractor", "prepares": {"feature_size": BINS, "num_mel_bins": BINS},
}  # fmt: skip
BERT = {**SMALL, "feature_projection_input_dim": 2 * BINS}
SEAMLESS = {
    "vocab_size": 50, "hidden_size": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "speech_encoder_layers": 2, "speech_encoder_attention_heads": 2, "speech_encoder_intermediate_size": 64,
    "feature_projection_input_dim": 2 * BINS, "t2u_encoder_layers": 1, "t2u_decoder_layers": 1,
    "max_position_embeddings": 64, "t2u_max_position_embeddings": 64, "t2u_vocab_size": 20,
}  # fmt: skip
PARAKEET = {**SMALL, "subsampling_conv_channels": 8, "num_mel_bins": BINS, "conv_kernel_size": 5}
LASR = {**SMALL, "subsampling_conv_channels": 16, "num_mel_bins": BINS}
QWEN = {
    "d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 64,
    "num_mel_bins": BINS,
}  # fmt: skip
VOXTRAL = {**SMALL, "num_mel_bins": BINS}
CLAP_AUDIO = {
    "patch_embeds_hidden_size": 8, "depths": [1, 1, 2], "num_attention_heads": [1, 2, 2], "num_mel_bins": 64,
    "spec_size": 256, "num_hidden_layers": 3, "hidden_size": 32, "window_size": 4, "enable_fusion": True,
}  # fmt: skip

SPEECHT5 = {
    **CONVOLUTIONS, "vocab_size": 20, "hidden_size": 32, "encoder_layers": 2, "decoder_layers": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 32,
}  # fmt: skip
MOONSHINE = {
    "vocab_size": 20, "hidden_size": 32, "intermediate_size": 64, "encoder_num_hidden_layers": 2,
    "decoder_num_hidden_layers": 1, "encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2,
}  # fmt: skip
SPEECH2TEXT = {
    "vocab_size": 20, "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 32, "conv_channels": 16,
    "input_feat_per_channel": BINS, "max_source_positions": 600,
}  # fmt: skip
WHISPER_ENCODER = {
    **WHISPER, "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_mel_bins": BINS,
}  # fmt: skip
TRANSDUCER = {"vocab_size": 10, "blank_token_id": 9, "decoder_hidden_size": 16, "encoder_config": PARAKEET}

_waveform: dict[str, Any] = {"extractor": "Wav2Vec2FeatureExtractor"}
_seamless = Case(
    model="SeamlessM4Tv2ForSpeechToText",
    config=SEAMLESS,
    **STACKED,
    encoder=lambda model: model.speech_encoder,
    states=masked,
    output=first(
        lambda network, inputs, *_: network.adapter.layers[0]._compute_sub_sample_lengths_from_attention_mask(
            inputs["attention_mask"]
        )
    ),
)
_parakeet = Case(
    model="ParakeetForCTC",
    config={"vocab_size": 10, "pad_token_id": 9, "encoder_config": PARAKEET},
    extractor="ParakeetFeatureExtractor",
    prepares={"feature_size": BINS},
    encoder=lambda model: model.encoder,
    states=lambda network, inputs, output, samples: output.attention_mask[0].bool(),
    is_padded=True,
    noise=0.3,
)
_lasr = Case(
    model="LasrForCTC",
    config={"vocab_size": 10, "encoder_config": LASR},
    extractor="LasrFeatureExtractor",
    prepares={"feature_size": BINS},
    encoder=lambda model: model.encoder,
    is_padded=True,
)
_whisper: dict[str, Any] = {
    "extractor": "WhisperFeatureExtractor", "prepares": {"feature_size": BINS}, "is_padded": True,
}  # fmt: skip
_qwen = Case(
    model="Qwen2AudioForConditionalGeneration",
    config={
        "audio_config": {**QWEN, "model_type": "qwen2_audio_encoder"},
        "text_config": {**TEXT, "model_type": "qwen2"},
    },
    encoder=lambda model: model.model.audio_tower,
    states=first(
        lambda network, i, o, samples: network._get_feat_extract_output_lengths(mel_frames(samples))[0]
    ),
    output=first(
        lambda network, i, o, samples: network._get_feat_extract_output_lengths(mel_frames(samples))[1]
    ),
    **_whisper,
)
_voxtral = Case(
    model="VoxtralForConditionalGeneration",
    config={
        "audio_config": {**VOXTRAL, "model_type": "voxtral_encoder"},
        "text_config": {**TEXT, "model_type": "llama"},
    },
    encoder=lambda model: model.model.audio_tower,
    states=_qwen.states,
    **_whisper,
)
_clap = Case(
    model="ClapModel",
    config={"text_config": {**SMALL, "vocab_size": 20}, "audio_config": CLAP_AUDIO},
    extractor="ClapFeatureExtractor",
    prepares={"feature_size": 64, "truncation": "fusion"},
    encoder=lambda model: model.audio_model,
    arguments={"is_longer": torch.zeros((1, 1), dtype=torch.bool)},
    has_layers=False,
    is_padded=True,
)

CASES: dict[str, Case] = {
    "wav2vec2": Case(model="Wav2Vec2Model", config=LAYER, is_padded=True, **_waveform),
    "hubert": Case(
        model="HubertForCTC", config=LAYER, encoder=lambda m: m.hubert, is_padded=True, **_waveform
    ),
    "wavlm": Case(model="WavLMModel", config=LAYER, is_padded=True, **_waveform),
    "wavlm adapter": Case(model="WavLMModel", config={**LAYER, **ADAPTER}, **_waveform),
    "wav2vec2 adapter": Case(model="Wav2Vec2Model", config={**LAYER, **ADAPTER}, **_waveform),
    "wav2vec2 group adapter": Case(model="Wav2Vec2Model", config={**GROUP, **ADAPTER}, **_waveform),
    "data2vec-audio": Case(
        model="Data2VecAudioModel",
        config={**SMALL, **CONVOLUTIONS, "num_conv_pos_embeddings": 3},
        **_waveform,
    ),
    "wav2vec2-conformer": Case(model="Wav2Vec2ConformerModel", config=GROUP, **_waveform),
    "unispeech": Case(model="UniSpeechModel", config=GROUP, **_waveform),
    "unispeech-sat": Case(model="UniSpeechSatModel", config=LAYER, **_waveform),
    "sew": Case(model="SEWModel", config=SEW, **_waveform),
    "sew-d": Case(model="SEWDModel", config=SEW, **_waveform),
    "speecht5": Case(
        model="SpeechT5ForSpeechToText",
        config=SPEECHT5,
        extractor="SpeechT5FeatureExtractor",
        encoder=lambda model: model.speecht5.encoder,
    ),
    "moonshine": Case(
        model="MoonshineForConditionalGeneration",
        config=MOONSHINE,
        prepares={"do_normalize": False},
        encoder=lambda model: model.model.encoder,
        **_waveform,
    ),
    "wav2vec2-bert": Case(
        model="Wav2Vec2BertForCTC",
        config={**BERT, "vocab_size": 8},
        **STACKED,
        encoder=lambda model: model.wav2vec2_bert,
        states=masked,
        is_padded=True,
    ),
    "wav2vec2-bert adapter": Case(
        model="Wav2Vec2BertModel",
        config={**BERT, **ADAPTER},
        **STACKED,
        states=masked,
        output=first(
            lambda network, inputs, *_: network._get_feat_extract_output_lengths(
                inputs["attention_mask"].sum(), add_adapter=True
            )
        ),
    ),
    "seamless_m4t": replace(_seamless, model="SeamlessM4TForSpeechToText"),
    "seamless_m4t_v2": _seamless,
    "speech_to_text": Case(
        model="Speech2TextForConditionalGeneration",
        config=SPEECH2TEXT,
        extractor="Speech2TextFeatureExtractor",
        prepares={"feature_size": BINS, "num_mel_bins": BINS},
        encoder=lambda model: model.model.encoder,
    ),
    "parakeet_ctc": _parakeet,
    "parakeet_rnnt": replace(
        _parakeet,
        model="ParakeetForRNNT",
        config=TRANSDUCER,
    ),
    "parakeet_tdt": replace(
        _parakeet,
        model="ParakeetForTDT",
        config=TRANSDUCER,
    ),
    "parakeet_encoder": replace(_parakeet, model="ParakeetEncoder", config=PARAKEET, encoder=alone),
    "lasr_ctc": _lasr,
    "lasr_encoder": replace(_lasr, model="LasrEncoder", config=LASR, encoder=alone),
    "whisper": Case(
        model="WhisperForConditionalGeneration",
        config=WHISPER_ENCODER,
        encoder=lambda model: model.get_encoder(),
        states=first(lambda n, i, o, samples: (mel_frames(samples) - 1) // 2 + 1),
        **_whisper,
    ),
    "qwen2_audio": _qwen,
    "qwen2_audio_encoder": replace(_qwen, model="Qwen2AudioEncoder", config=QWEN, encoder=alone),
    "voxtral": _voxtral,
    "voxtral_encoder": replace(_voxtral, model="VoxtralEncoder", config=VOXTRAL, encoder=alone),
    "audio-spectrogram-transformer": Case(
        model="ASTForAudioClassification",
        config={**SMALL, "num_mel_bins": 32, "max_length": 256},
        extractor="ASTFeatureExtractor",
        prepares={"num_mel_bins": 32, "max_length": 256},
        encoder=lambda model: model.audio_spectrogram_transformer,
        states=patches,
        is_padded=True,
    ),
    "clap": _clap,
    "clap_audio_model": replace(_clap, model="ClapAudioModel", config=CLAP_AUDIO, encoder=alone),
}
"""By model type, and after it what is special about the model."""
