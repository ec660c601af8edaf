"""CTC models from transformers: an encoder that spells, frame by frame; words and times come from the frames.

Connectionist temporal classification (Graves et al. 2006): of each frame the likeliest token, repeats merged,
blanks dropped. Such a model has one language, writes no word from silence by itself, and cannot loop.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from hilbert_ray.asr.protocol import Spoken, Window, Word
from hilbert_ray.config import ConfigError, RecognitionConfig
from hilbert_ray.document import Seconds
from hilbert_ray.encoders import (
    SPEECH_TYPES,
    Part,
    check_extractor_files,
    check_tokenizer_files,
    fingerprint_of,
    load,
    reading,
    rehearse,
    resolve_precision,
    shortest_input,
    weights_hash,
)

LONGEST_S = 30.0
"""Most seconds of a window; the cost of attention grows with its square."""
PAUSE_S = 0.5
"""A longer gap between words ends an utterance, as does the end of a sentence where a model writes it."""
LOW_CONFIDENCE = math.exp(-1.0)
"""Utterances below it are doubtful: a mean log probability of -1, as Whisper's (Radford et al. 2022)."""
_ENDS = (".", "?", "!")
_NEVER = "(?!)"
"""A regular expression that fits no name of a tensor: the network is loaded with its head."""


@dataclass(frozen=True, slots=True)
class _Token:
    """A token after merging: its id, the frames [first, end) it spans, and its highest log probability."""

    id: int
    first: int
    end: int
    log_probability: float


class CtcRecognizer:
    """Words of a CTC model with their times and confidence.

    Windows are computed one by one, and so are the same in any batch: most of these networks let padding into
    their statistics.
    """

    longest_s: Seconds = LONGEST_S

    def __init__(
        self,
        name: str,
        folder: str,
        config: Any,  # noqa: ANN401 - transformers has a class for each model
        options: RecognitionConfig,
        device: str,
    ) -> None:
        """Read the settings of a model; its weights are read at first use.

        Args:
            name: as in the settings.
            folder: with its files.
            config: its configuration, of a type for which `is_ctc` holds.
            options: of which the precision counts; the language is the model's own, whatever they say.
            device: where it computes.

        Raises:
            ConfigError: when a file is missing or cannot be read, or an option does not fit.
        """
        self.name, self.folder, self.config = name, folder, config
        self.device = torch.device(device)
        self.precision = resolve_precision(options.precision, device)
        self.dtype = {"bf16": torch.bfloat16, "float32": torch.float32}[self.precision]
        check_extractor_files(folder, name)
        check_tokenizer_files(folder, name)
        with reading("preprocessor_config.json", name):
            self.extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
            self.rate_hz = int(self.extractor.sampling_rate)
        with reading("tokenizer", name):
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        if "Phoneme" in type(self.tokenizer).__name__:
            raise ConfigError(f"recogniser {name} writes phonemes, not words; name a model that writes words")
        kind = SPEECH_TYPES[config.model_type]
        encoder = config if kind.config is None else getattr(config, kind.config)
        with reading("config.json", name):
            steps = (*kind.steps(encoder, self.extractor), *kind.adapter(encoder))
            hop = math.prod(stride for _, stride, _ in steps) / kind.upsampling(encoder)
            self.frame_s = hop / self.rate_hz
            # Two frames of the first step, since a spectrogram is normalised by its deviation over time.
            self.shortest = max(shortest_input(1, steps), shortest_input(2, steps[:1]))
        self.fingerprint = fingerprint_of(self._facts())

    def _facts(self) -> dict[str, Any]:
        return {
            "engine": "ctc 1",
            "weights": weights_hash(self.folder),
            "precision": self.precision,
            "pause_s": PAUSE_S,
            "longest_s": LONGEST_S,
        }

    def describe(self) -> dict[str, Any]:
        """Return what decides the transcripts, as plain values."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "type": self.config.model_type,
            "rate_hz": self.rate_hz,
            **self._facts(),
        }

    @property
    def _part(self) -> Part:
        network = transformers.MODEL_FOR_CTC_MAPPING[type(self.config)]
        module = network.__module__.removeprefix("transformers.models.")
        return Part(network=f"{module}:{network.__name__}", prefix=_NEVER)

    @cached_property
    def model(self) -> Any:  # noqa: ANN401 - transformers has no common type
        """The network, in the chosen precision and on the device; loaded at first use."""
        network = load(self.folder, self.name, self.config, False, self._part)
        return network.to(self.device, self.dtype).eval()

    def rehearse(self) -> None:
        """Check that the weights would load, from their names and shapes.

        Raises:
            ConfigError: when they cannot be read, or lack what the network computes with.
        """
        rehearse(self.folder, self.name, self.config, self._part)

    def detect_languages(self, windows: Sequence[Window]) -> list[dict[str, float]]:
        """Return nothing of any window: the model has one language."""
        return [{} for _ in windows]

    def recognize(self, windows: Sequence[Window]) -> list[list[Spoken]]:
        """Return the utterances in each window; called without windows, only load the weights."""
        _ = self.model
        return [self._recognize(window) for window in windows]

    def _recognize(self, window: Window) -> list[Spoken]:
        tokens = [
            token for token in merged(self.log_probabilities(window.samples)) if token.id != self._blank
        ]
        words = [(word, of_word) for word, of_word in self._words(tokens, window.start) if word.text]
        return [_spoken(group, window.role) for group in _utterances(words)]

    @property
    def _blank(self) -> int:
        # The blank of CTC losses in transformers, whatever the tokenizer calls it.
        return int(self.config.pad_token_id)

    def log_probabilities(self, samples: np.ndarray) -> Tensor:
        """Return float32 [frames, tokens] of samples float32 [n] at `rate_hz`."""
        padded = np.pad(samples, (0, max(self.shortest - len(samples), 0))).astype(np.float32)
        made = self.extractor(padded, sampling_rate=self.rate_hz, return_tensors="pt")
        inputs = {
            key: (value.to(self.dtype) if value.is_floating_point() else value).to(self.device)
            for key, value in made.items()
        }
        with torch.inference_mode():
            logits = self.model(**inputs).logits[0].float()
        return torch.log_softmax(logits, -1).cpu()

    def _words(self, tokens: Sequence[_Token], start: Seconds) -> Iterator[tuple[Word, list[_Token]]]:
        """Yield words with their tokens; `start` is that of the window, in seconds of the recording."""
        delimiter = getattr(self.tokenizer, "word_delimiter_token", None)
        names = self.tokenizer.convert_ids_to_tokens([token.id for token in tokens])
        groups: list[list[_Token]] = [[]]
        for token, name in zip(tokens, names, strict=True):
            # Characters have a token between words, pieces of sentencepiece begin them.
            if name == delimiter or name.startswith("▁"):
                groups.append([])
            if name != delimiter:
                groups[-1].append(token)
        for group in filter(None, groups):
            ids = [token.id for token in group]
            text = self.tokenizer.decode(ids, group_tokens=False, skip_special_tokens=True).strip()
            first, end = group[0].first * self.frame_s, group[-1].end * self.frame_s
            yield Word(text, start + first, start + end, _confidence(group)), group


def is_ctc(config: Any) -> bool:  # noqa: ANN401
    """Return whether a model's configuration is of a type that this recogniser reads."""
    return type(config) in transformers.MODEL_FOR_CTC_MAPPING and config.model_type in SPEECH_TYPES


def merged(log_probabilities: Tensor) -> list[_Token]:
    """Return the likeliest token of each frame, repeats merged; blanks are among them.

    Args:
        log_probabilities: float32 [frames, tokens].
    """
    best, ids = log_probabilities.max(-1)
    tokens, first = [], 0
    for token, frames in groupby(ids.tolist()):
        end = first + len(list(frames))
        tokens.append(_Token(token, first, end, float(best[first:end].max())))
        first = end
    return tokens


def _utterances(words: Sequence[tuple[Word, list[_Token]]]) -> list[list[tuple[Word, list[_Token]]]]:
    """Return words as utterances, cut at pauses and after the ends of sentences."""
    groups: list[list[tuple[Word, list[_Token]]]] = []
    for word, tokens in words:
        last = groups[-1][-1][0] if groups else None
        if last is None or word.start - last.end > PAUSE_S or last.text.endswith(_ENDS):
            groups.append([])
        groups[-1].append((word, tokens))
    return groups


def _spoken(words: Sequence[tuple[Word, list[_Token]]], role: str | None) -> Spoken:
    confidence = _confidence([token for _, tokens in words for token in tokens])
    return Spoken(
        text=" ".join(word.text for word, _ in words),
        start=words[0][0].start,
        end=words[-1][0].end,
        words=tuple(word for word, _ in words),
        confidence=confidence,
        doubts=("low confidence",) if confidence < LOW_CONFIDENCE else (),
        role=role,
    )


def _confidence(tokens: Sequence[_Token]) -> float:
    """Return the geometric mean of the tokens' probabilities."""
    return math.exp(sum(token.log_probability for token in tokens) / len(tokens))
