"""From `hf:<id or folder>[@revision]` to the encoder class for its architecture."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import transformers

from hilbert_ray.config import ConfigError, EncoderConfig, Modality, SegmentConfig
from hilbert_ray.encoders.declaration import Declaration, read_declaration, transformer_folder
from hilbert_ray.encoders.folder import (
    check_extractor_files,
    check_folder,
    check_layers,
    check_tokenizer_files,
    reading,
)
from hilbert_ray.encoders.protocol import Encoder
from hilbert_ray.encoders.speech import SpeechEncoder
from hilbert_ray.encoders.speech_types import REMOTE_CODE, SPEECH_TYPES
from hilbert_ray.encoders.text import TextEncoder
from hilbert_ray.encoders.transformer import Pretrained
from hilbert_ray.encoders.weights import fetch


def build_transformer(
    spec: str, modality: Modality, options: EncoderConfig, segment: SegmentConfig, device: str
) -> Encoder:
    """Return the encoder for `hf:<id or folder>[@revision]`; see `registry.build_encoder`."""
    root = fetch(spec, with_code=options.trust_remote_code)
    folder, declaration = root, Declaration()
    if modality == "text":
        with reading("sentence-transformers files", spec):
            folder = transformer_folder(root, spec)
            if options.pooling == "auto":
                declaration = read_declaration(root, spec)
    values = check_folder(folder, spec)
    config = _read_config(folder, spec, modality, values, options)
    model_type = str(config.model_type)
    pretrained = Pretrained(
        spec=spec, root=root, folder=folder, config=config, options=options, segment=segment,
        declaration=declaration, device=device,
    )  # fmt: skip
    kind = SPEECH_TYPES.get(model_type)
    if modality == "text":
        if kind is not None:
            raise ConfigError(
                f"text encoder {spec} is a speech model ({model_type}); use it as the audio encoder "
                f"(--audio {spec}), or name a text model"
            )
        if not options.trust_remote_code:  # such code may have a tokenizer of its own
            check_tokenizer_files(folder, spec)
        return TextEncoder(_with_layer(pretrained, "last"))
    if kind is None and pretrained.runs_code and "AutoModel" in config.auto_map:
        kind = REMOTE_CODE
    # Any architecture may encode text, but audio needs code that knows its input.
    if kind is None:
        raise ConfigError(
            f"audio encoder {spec} is a model of type {model_type!r}, expected one of "
            f"{', '.join(SPEECH_TYPES)}; name one of these"
        )
    check_extractor_files(folder, spec)
    pretrained = _with_layer(pretrained, kind.default_layer)
    if kind.config is not None:
        with reading("config.json", spec):
            pretrained = replace(pretrained, config=getattr(config, kind.config))
    return SpeechEncoder(pretrained, kind)


def _with_layer(pretrained: Pretrained, default: str) -> Pretrained:
    """Return the same with `layer: auto` as what it stands for, so that a store and a run record that."""
    options = pretrained.options
    layer = default if options.layer == "auto" else options.layer
    return replace(pretrained, options=replace(options, layer=layer))


def _read_config(
    folder: str, spec: str, modality: Modality, values: Mapping[str, Any], options: EncoderConfig
) -> Any:  # noqa: ANN401 - transformers has a class for each model
    """Return a model's configuration.

    Raises:
        ConfigError: when transformers does not know such a model, or its code is not allowed to run.
    """
    model_type = values.get("model_type")
    needs_code = "AutoConfig" in (values.get("auto_map") or {})
    if needs_code and model_type not in transformers.CONFIG_MAPPING and not options.trust_remote_code:
        raise ConfigError(
            f"{modality} encoder {spec} is a model of type {model_type!r}, which is defined by Python code "
            f"that comes with its weights; if you trust that code, allow it with "
            f"--{modality}-encoder.trust-remote-code, or name a model that transformers knows"
        )
    check_layers(values, spec)
    with reading("config.json", spec, "name a model that the installed transformers knows"):
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=options.trust_remote_code)
