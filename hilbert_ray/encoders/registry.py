"""From the name in the settings to the encoder it names.

To add a built-in encoder, write a class that follows `protocol.Encoder` and name it in `BUILTIN`, and in
`BUILTIN_ENCODERS` of the settings.
"""

from collections.abc import Mapping
from pkgutil import resolve_name

from hilbert_ray.config import ConfigError, EncoderConfig, Modality, SegmentConfig, encoder_parts
from hilbert_ray.encoders.joined import JoinedEncoder
from hilbert_ray.encoders.protocol import Encoder

# Strings, resolved on use: the driver of `embed` describes encoders without loading torch or transformers,
# which take seconds.
BUILTIN: Mapping[Modality, Mapping[str, str]] = {
    "audio": {
        "mfcc": "hilbert_ray.encoders.builtin:Mfcc",
        "prosody": "hilbert_ray.encoders.prosody:Prosody",
    },
    "text": {"hashing": "hilbert_ray.encoders.builtin:Hashing"},
}
"""The class of each built-in encoder by modality and name; it is called with the segmentation settings."""
TRANSFORMERS = "hilbert_ray.encoders.huggingface:build_transformer"
"""What builds the encoders whose names begin with `hf:`."""


def build_encoder(
    spec: str, modality: Modality, options: EncoderConfig, segment: SegmentConfig, device: str = "cpu"
) -> Encoder:
    """Return the encoder that the settings name; the weights of a transformers model are read at first use.

    Args:
        spec: `mfcc`, `prosody`, `hashing`, `hf:<id or folder>[@revision]`, or audio encoders joined with +.
        modality: what it is to encode.
        options: for a transformers model; built-in encoders have none.
        segment: how documents are cut, which is part of the fingerprint.
        device: where a transformers model computes, `cpu` or `cuda:0`; built-in encoders know the CPU only.

    Raises:
        ConfigError: when the name is unknown or of the other modality, the options do not fit the model, or
            encoders cannot be joined.
    """
    if modality == "audio" and len(parts := encoder_parts(spec)) > 1:
        joined = [build_encoder(part, modality, options, segment, device) for part in parts]
        return JoinedEncoder(spec, joined, options, segment)
    if spec.startswith("hf:"):
        encoder: Encoder = resolve_name(TRANSFORMERS)(spec, modality, options, segment, device)
    elif spec in BUILTIN[modality]:
        encoder = resolve_name(BUILTIN[modality][spec])(segment)
    else:
        known = ", ".join(f"`{name}`" for name in BUILTIN[modality])
        raise ConfigError(
            f"{modality} encoder is {spec!r}; the choices are {known}, `hf:<id or folder>[@revision]` "
            "and `none`"
        )
    return encoder
