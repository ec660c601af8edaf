"""From the name in the settings to the encoder it names."""

from collections.abc import Mapping
from pkgutil import resolve_name

from hilbert_ray.config import ConfigError, EncoderConfig, Modality, SegmentConfig
from hilbert_ray.encoders.protocol import Encoder

BUILTIN: Mapping[Modality, Mapping[str, str]] = {
    "audio": {"mfcc": "hilbert_ray.encoders.builtin:Mfcc"},
    "text": {"hashing": "hilbert_ray.encoders.builtin:Hashing"},
}
TRANSFORMERS = "hilbert_ray.encoders.huggingface:load_model"
"""Named, not imported: the driver of `embed` describes encoders without loading torch or transformers."""


def load_encoder_spec(
    spec: str, modality: Modality, options: EncoderConfig, segment: SegmentConfig
) -> Encoder:
    """Return the encoder that the settings name; the weights of a transformers model are read at first use.

    Args:
        spec: `mfcc`, `hashing`, or `hf:<id or folder>[@revision]`.
        modality: what it is to encode.
        options: of a transformers model.
        segment: segmentation, which is part of the fingerprint.

    Raises:
        ConfigError: for a name that is not known or is of the other modality, or options that do not fit the
        model.
    """
    if spec.startswith("hf:"):
        encoder: Encoder = resolve_name(TRANSFORMERS)(spec, modality, options, segment)
    elif spec in BUILTIN[modality]:
        encoder = resolve_name(BUILTIN[modality][spec])(segment)
    else:
        known = ", ".join(f"`{name}`" for name in BUILTIN[modality])
        raise ConfigError(
            f"{modality} encoder is {spec!r}; the choices are {known}, `hf:<id or folder>[@revision]` "
            "and `none`"
        )
    return encoder
