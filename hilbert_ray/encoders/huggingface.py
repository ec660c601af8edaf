"""From `hf:<id or folder>[@revision]` to the encoder class for its architecture."""

import transformers

from hilbert_ray.config import ConfigError, EncoderConfig, Modality, SegmentConfig
from hilbert_ray.encoders.protocol import Encoder
from hilbert_ray.encoders.speech import WAVEFORM_TYPES, WaveformEncoder, WhisperEncoder
from hilbert_ray.encoders.text import TextEncoder
from hilbert_ray.encoders.transformer import Pretrained
from hilbert_ray.encoders.weights import fetch


def build_transformer(
    spec: str, modality: Modality, options: EncoderConfig, segment: SegmentConfig
) -> Encoder:
    """Return the encoder for `hf:<id or folder>[@revision]`; see `registry.build_encoder`."""
    folder = fetch(spec)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=options.trust_remote_code)
    model_type = str(config.model_type)
    pretrained = Pretrained(spec=spec, folder=folder, config=config, options=options, segment=segment)
    is_speech = model_type in WAVEFORM_TYPES or model_type == "whisper"
    if modality == "text":
        if is_speech:
            raise ConfigError(
                f"text encoder {spec} is a speech model ({model_type}); use it as the audio encoder "
                f"(--audio {spec}), or name a text model"
            )
        return TextEncoder(pretrained)
    # Any architecture may encode text, but audio needs code that knows its input: only these have it.
    if not is_speech:
        raise ConfigError(
            f"audio encoder {spec} is a model of type {model_type!r}, expected one of "
            f"{', '.join(WAVEFORM_TYPES)}, whisper; name one of these"
        )
    return WhisperEncoder(pretrained) if model_type == "whisper" else WaveformEncoder(pretrained)
