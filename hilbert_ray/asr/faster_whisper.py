"""Whisper by CTranslate2, the engine of faster-whisper: `faster-whisper:<id or folder>`.

Each window is decoded by itself on one thread, as many at a time as there are threads: CTranslate2 computes
with fewer rows as some of a batch end, and rounding with another number of rows, or of threads, would make a
window's text depend on its batch or its machine.
"""

from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers

from hilbert_ray.asr.protocol import Precision, Recognizer, Spoken, Window
from hilbert_ray.asr.whisper_tokens import LATEST_FIRST, Vocabulary, check_language
from hilbert_ray.asr.whisper_windows import Decoded, is_loop, recognize_windows, rules
from hilbert_ray.config import ConfigError, RecognitionConfig
from hilbert_ray.document import Hertz, Seconds
from hilbert_ray.encoders import fingerprint_of, reading, resolve_precision, weights_hash

BEAMS = 5
"""Beams of the first try, the default of faster-whisper; the second is greedy, which goes another way."""
_MOST_TOKENS = 224
"""Tokens of a window, half of the network's context, which is where CTranslate2 stops."""
COMPUTE_TYPES = {"float32": "float32", "bf16": "bfloat16", "int8": "int8_float32"}
"""What CTranslate2 calls each precision."""
_FILES = ("config.json", "model.bin", "tokenizer.json")


def build(spec: str, options: RecognitionConfig, device: str) -> Recognizer:
    """Return the recogniser for `faster-whisper:<id or folder>`; see `registry.build_recognizer`."""
    _require_installed()
    return FasterWhisperRecognizer(spec, options, device)


def precision_on(device: str, setting: str) -> Precision:
    """Return the precision that a setting means on a device.

    `auto` is int8 on a CPU, where it takes less than half the time for as few errors.

    Raises:
        ConfigError: when the device does not know it.
    """
    _require_installed()
    import ctranslate2

    kind = torch.device(device).type
    own: Precision = "int8" if kind == "cpu" else resolve_precision("auto", device)
    precision = own if setting == "auto" else cast(Precision, setting)
    try:
        known = ctranslate2.get_supported_compute_types(kind)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"CTranslate2 cannot compute on {device}: {error}; install a build of ctranslate2 for it, set "
            "embed.gpu to `no`, or use a model of transformers (`hf:...`)"
        ) from error
    if COMPUTE_TYPES[precision] not in known:
        names = [name for name, its in COMPUTE_TYPES.items() if its in known]
        raise ConfigError(
            f"recognition.precision is {precision}, but on this {kind} CTranslate2 computes in "
            f"{', '.join(names)}; set it to one of these"
        )
    return precision


def _require_installed() -> None:
    """Check that the extra `asr` is there.

    Raises:
        ConfigError: when it is not.
    """
    if find_spec("faster_whisper") is None or find_spec("ctranslate2") is None:
        raise ConfigError(
            "asr names a model of `faster-whisper:`, which needs faster-whisper, and it is not installed: "
            "pip install 'hilbert-ray[asr]' on every node, or use a model of transformers (`hf:...`)"
        )


class FasterWhisperRecognizer:
    """Utterances of a Whisper model in CTranslate2's format, with their times and confidence."""

    rate_hz: Hertz = 16_000
    longest_s: Seconds = 30.0

    def __init__(self, name: str, options: RecognitionConfig, device: str) -> None:
        """Read the settings of a model; its weights are read at first use.

        Args:
            name: as in the settings.
            options: of which precision and language count.
            device: where it computes.

        Raises:
            ConfigError: when a file is missing or cannot be read, or the model does not know the language.
        """
        self.name, self.device = name, torch.device(device)
        self.folder = _folder(name)
        for file in _FILES:
            if not (self.folder / file).is_file():
                raise ConfigError(
                    f"recogniser {name} has no {file}; a model in CTranslate2's format has "
                    f"{', '.join(_FILES)}: name its folder, or convert one with ct2-transformers-converter "
                    "--copy_files tokenizer.json"
                )
        with reading("tokenizer.json", name):
            self.tokenizer = transformers.PreTrainedTokenizerFast(
                tokenizer_file=str(self.folder / "tokenizer.json")
            )
        with reading("tokenizer.json", name):
            self.vocabulary = _vocabulary(self.tokenizer)
        check_language(name, options.language, self.vocabulary)
        setting = options.precision
        # What is named was checked on the device of the workers, which the driver may lack.
        self.compute_type = COMPUTE_TYPES[precision_on(device, "auto") if setting == "auto" else setting]
        self.fingerprint = fingerprint_of(self._facts())

    def _facts(self) -> dict[str, Any]:
        return {
            "engine": "faster-whisper 2",
            "weights": weights_hash(str(self.folder)),
            "precision": self.compute_type,
            "beams": BEAMS,
            "rules": rules(),
        }

    def describe(self) -> dict[str, Any]:
        """Return what decides the transcripts, as plain values."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "type": "whisper",
            "rate_hz": self.rate_hz,
            **self._facts(),
        }

    def rehearse(self) -> None:
        """Check that the weights are of a Whisper model in CTranslate2's format.

        Raises:
            ConfigError: when they are not.
        """
        # A number, and the name of the network with its length before it.
        with (self.folder / "model.bin").open("rb") as file:
            start = file.read(64)
        if b"WhisperSpec" not in start:
            raise ConfigError(
                f"recogniser {self.name}: model.bin does not hold a Whisper model in CTranslate2's format; "
                "it may be cut off: fetch it again, or convert the model with ct2-transformers-converter"
            )

    @cached_property
    def model(self) -> Any:  # noqa: ANN401 - CTranslate2 has no types
        """The network on the device; loaded at first use."""
        import ctranslate2

        with reading("weights", self.name):
            return ctranslate2.models.Whisper(
                str(self.folder),
                device=self.device.type,
                device_index=self.device.index or 0,
                compute_type=self.compute_type,
                intra_threads=1,
                inter_threads=self._windows_at_once,
            )

    @property
    def _windows_at_once(self) -> int:
        return torch.get_num_threads() if self.device.type == "cpu" else 1

    @cached_property
    def _extractor(self) -> transformers.WhisperFeatureExtractor:
        return transformers.WhisperFeatureExtractor(feature_size=self.model.n_mels)

    def detect_languages(self, windows: Sequence[Window]) -> list[dict[str, float]]:
        """Return the probability of each language, by its code, in each window; {} if there is but one."""
        if not self.vocabulary.languages:
            return [{} for _ in windows]
        found = [self.model.detect_language(self._features(window))[0] for window in windows]
        return [{name.strip("<|>"): share for name, share in shares} for shares in found]

    def recognize(self, windows: Sequence[Window]) -> list[list[Spoken]]:
        """Return the utterances in each window; called without windows, only load the weights."""
        _ = self.model
        return recognize_windows(self, windows)

    def texts(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Return tokens as text."""
        texts: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts

    def decode(self, windows: Sequence[Window], is_second: bool) -> list[Decoded]:
        """Return the tokens of each window: those of a beam search, or the likeliest one by one."""
        # The longest first, so that none is left for the end, when other threads have nothing to do.
        order = sorted(range(len(windows)), key=lambda number: -len(windows[number].samples))
        started = {number: self._start(windows[number], 1 if is_second else BEAMS) for number in order}
        return [self._decoded(started[number].result()) for number in range(len(windows))]

    def _start(self, window: Window, beams: int) -> Any:  # noqa: ANN401 - CTranslate2 has no types
        """Return what will be the result for a window."""
        (result,) = self.model.generate(
            self._features(window),
            [self.vocabulary.prompt(window.language)],
            asynchronous=True,
            beam_size=beams,
            max_length=2 * _MOST_TOKENS,
            return_scores=True,
            return_no_speech_prob=True,
            max_initial_timestamp_index=LATEST_FIRST,
        )
        return result

    def _decoded(self, result: Any) -> Decoded:  # noqa: ANN401
        tokens = [int(token) for token in result.sequences_ids[0]]
        return Decoded(
            tokens=tokens,
            # The engine tells their mean alone.
            log_probabilities=[float(result.scores[0])] * len(tokens),
            no_speech=float(result.no_speech_prob),
            is_ended=len(tokens) < _MOST_TOKENS and not is_loop(tokens),
        )

    def _features(self, window: Window) -> Any:  # noqa: ANN401
        import ctranslate2

        made = self._extractor(window.samples, sampling_rate=self.rate_hz, return_tensors="np")
        return ctranslate2.StorageView.from_array(np.ascontiguousarray(made.input_features, np.float32))


def _folder(name: str) -> Path:
    """Return the folder of `faster-whisper:<id or folder>`; an id is downloaded, once per node.

    Raises:
        ConfigError: when there is no such model.
    """
    model = name.partition(":")[2]
    if Path(model).is_dir():
        return Path(model)
    from faster_whisper import download_model

    try:
        return Path(download_model(model))
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"recogniser {name} is not a local folder and cannot be fetched: {error}; give the path of a "
            "folder with model.bin, or correct the name or the network"
        ) from error


def _vocabulary(tokenizer: Any) -> Vocabulary:  # noqa: ANN401
    """Return the special tokens of a tokenizer.json."""
    token = tokenizer.get_vocab()
    first = token["<|0.00|>"] if "<|0.00|>" in token else token["<|notimestamps|>"] + 1
    # Between the start and the tasks lie the languages, if the model knows several.
    between = range(token["<|startoftranscript|>"] + 1, min(token["<|transcribe|>"], token["<|translate|>"]))
    is_multilingual = token["<|endoftext|>"] != 50256
    names = [name.strip("<|>") for name in tokenizer.convert_ids_to_tokens(list(between))]
    languages = dict(sorted(zip(names, between, strict=True))) if is_multilingual else {}
    return Vocabulary(
        size=first + 1501,
        end=token["<|endoftext|>"],
        first_timestamp=first,
        no_speech=token["<|notimestamps|>"] - 1,
        suppressed=(),
        languages=languages,
        start=token["<|startoftranscript|>"],
        task=token["<|transcribe|>"] if languages else None,
    )
