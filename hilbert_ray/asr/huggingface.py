"""From `hf:<id or folder>[@revision]` to the recogniser for its architecture: Whisper, or CTC models."""

from dataclasses import replace

import transformers

from hilbert_ray.asr.ctc import CtcRecognizer, is_ctc
from hilbert_ray.asr.protocol import Precision, Recognizer
from hilbert_ray.asr.whisper import WhisperRecognizer
from hilbert_ray.config import ConfigError, RecognitionConfig
from hilbert_ray.encoders import check_folder, check_layers, fetch, reading, resolve_precision


def precision_on(device: str, setting: str) -> Precision:
    """Return the precision that a setting means on a device, as for encoders."""
    if setting == "int8":
        raise ConfigError(
            "recognition.precision is int8, in which models of transformers (`hf:`) cannot compute; set it "
            "to `auto`, float32 or bf16, or name a model in CTranslate2's format, `faster-whisper:...`"
        )
    return resolve_precision(setting, device)


def build(spec: str, options: RecognitionConfig, device: str) -> Recognizer:
    """Return the recogniser for `hf:<id or folder>[@revision]`; see `registry.build_recognizer`."""
    options = replace(options, precision=precision_on(device, options.precision))
    folder = fetch(spec)
    check_layers(check_folder(folder, spec), spec)
    with reading("config.json", spec, "name a model that the installed transformers knows"):
        config = transformers.AutoConfig.from_pretrained(folder)
    if config.model_type == "whisper":
        return WhisperRecognizer(spec, folder, config, options, device)
    if is_ctc(config):
        return CtcRecognizer(spec, folder, config, options, device)
    raise ConfigError(
        f"recogniser {spec} is a model of type {config.model_type!r}; name a Whisper model, or a CTC model "
        "such as wav2vec 2.0 or Parakeet that was trained to write text"
    )
