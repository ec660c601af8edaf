"""From `hf:<id or folder>[@revision]` to the encoder class that knows its architecture."""

import transformers

from hilbert_ray.config import ConfigError, EncoderConfig, Modality, SegmentConfig
from hilbert_ray.encoders.protocol import Encoder
from hilbert_ray.encoders.speech import WAVEFORM, Waveform, Whisper
from hilbert_ray.encoders.text import Text
from hilbert_ray.encoders.transformer import Pretrained
from hilbert_ray.encoders.weights import fetch


def load_model(spec: str, modality: Modality, options: EncoderConfig, segment: SegmentConfig) -> Encoder:
    """Return the encoder for `hf:<id or folder>[@revision]`; see `encoders.load`."""
    folder = fetch(spec)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=options.trust_remote_code)
    kind = str(config.model_type)
    pretrained = Pretrained(spec=spec, folder=folder, config=config, options=options, segment=segment)
    if modality == "text":
        if kind in WAVEFORM or kind == "whisper":
            raise ConfigError(
                f"text encoder {spec} is a speech model ({kind}); name it as --audio, or a text model here"
            )
        return Text(pretrained)
    if kind == "whisper":
        return Whisper(pretrained)
    if kind in WAVEFORM:
        return Waveform(pretrained)
    raise ConfigError(
        f"audio encoder {spec} is of type {kind}; the types are {', '.join(WAVEFORM)} and whisper"
    )
