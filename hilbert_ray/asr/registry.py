"""From the name in the settings to the recogniser it names.

To add an engine, write a class that follows `protocol.Recognizer` and name its module in `ENGINES`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pkgutil import resolve_name

from hilbert_ray.asr.protocol import Precision, Recognizer
from hilbert_ray.config import ASR_ENGINES, Config, ConfigError

# Strings, resolved on use: the driver of `transcribe` parses names without loading torch, transformers or
# CTranslate2.
ENGINES: Mapping[str, str] = {
    "hf": "hilbert_ray.asr.huggingface",
    "faster-whisper": "hilbert_ray.asr.faster_whisper",
}
"""The module for each beginning of a name: its `build` takes the name, options and device, its
`precision_on` a device and the setting of the precision."""


def precision_rule(config: Config) -> Callable[[str], Precision]:
    """Return what says, on a device, in which precision the recogniser of the settings computes there.

    It raises ConfigError where the device does not know the precision, and may be pickled.

    Raises:
        ConfigError: when there is no such recogniser.
    """
    own = resolve_name(f"{_module(config.asr)}:precision_on")
    return partial(own, setting=config.recognition.precision)


def build_recognizer(config: Config, device: str = "cpu") -> Recognizer:
    """Return the recogniser that `config.asr` names; its weights are read at first use.

    Args:
        config: of which `asr` and `recognition` count.
        device: where it computes, `cpu` or `cuda:0`.

    Raises:
        ConfigError: when there is no such recogniser, or the options do not fit it.
    """
    build = resolve_name(f"{_module(config.asr)}:build")
    recognizer: Recognizer = build(config.asr, config.recognition, device)
    return recognizer


def _module(spec: str) -> str:
    engine = spec.partition(":")[0]
    if engine not in ENGINES:
        choices = ", ".join(f"`{choice}`" for choice in ASR_ENGINES)
        raise ConfigError(f"asr is {spec!r}, expected one of {choices}; name a recogniser with --asr")
    return ENGINES[engine]
