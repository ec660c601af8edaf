"""From the name in the settings to the recogniser it names.

To add an engine, write a class that follows `protocol.Recognizer` and name it in `ENGINES`.
"""

from collections.abc import Mapping
from pkgutil import resolve_name

from hilbert_ray.asr.protocol import Precision, Recognizer
from hilbert_ray.config import ASR_ENGINES, Config, ConfigError
from hilbert_ray.encoders import resolve_precision

# Strings, resolved on use: the driver of `transcribe` parses names without loading torch, transformers or
# CTranslate2.
ENGINES: Mapping[str, str] = {
    "hf": "hilbert_ray.asr.huggingface:build",
    "faster-whisper": "hilbert_ray.asr.faster_whisper:build",
}
"""What builds the recogniser for each beginning of a name; called with name, options and device."""


def auto_precision(spec: str, device: str) -> Precision:
    """Return what `auto` means for a recogniser on a device.

    Raises:
        ConfigError: when its engine is not installed.
    """
    if spec.startswith("faster-whisper:"):
        from hilbert_ray.asr import faster_whisper

        return faster_whisper.auto_precision(spec, device)
    return resolve_precision("auto", device)


def build_recognizer(config: Config, device: str = "cpu") -> Recognizer:
    """Return the recogniser that `config.asr` names; its weights are read at first use.

    Args:
        config: of which `asr` and `recognition` count.
        device: where it computes, `cpu` or `cuda:0`.

    Raises:
        ConfigError: when there is no such recogniser, or the options do not fit it.
    """
    engine = config.asr.partition(":")[0]
    if engine not in ENGINES:
        choices = ", ".join(f"`{choice}`" for choice in ASR_ENGINES)
        raise ConfigError(f"asr is {config.asr!r}, expected one of {choices}; name a recogniser with --asr")
    recognizer: Recognizer = resolve_name(ENGINES[engine])(config.asr, config.recognition, device)
    return recognizer
