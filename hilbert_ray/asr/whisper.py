"""Whisper by transformers: batches of a fixed shape, so that a window has the same tokens in any of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from hilbert_ray.asr.protocol import Spoken, Window
from hilbert_ray.asr.whisper_tokens import TokenRules, Vocabulary, check_language
from hilbert_ray.asr.whisper_windows import (
    LOOP_TOKENS,
    SECOND_TEMPERATURE,
    Decoded,
    is_loop,
    recognize_windows,
    rules,
)
from hilbert_ray.config import ConfigError, RecognitionConfig
from hilbert_ray.document import Seconds
from hilbert_ray.encoders import (
    Part,
    check_extractor_files,
    check_tokenizer_files,
    fingerprint_of,
    load,
    reading,
    rehearse,
    resolve_precision,
    weights_hash,
)
from hilbert_ray.segmentation import VAD_SPEECH

ROWS = 8
"""Windows that are decoded together, always: the kernels of another number round in another way. Those that
are missing in the last batch are silence."""
NOTES = "♩♪♫♬♭♮♯"
SIGNS = (
    *"\"#()*+/:;<=>@[\\]^_`{|}~「」『』-'", *NOTES,
    "<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))", "(((", ")))", "[[", "]]",
    "{{", "}}", "♪♪", "♪♪♪",
)  # fmt: skip
"""What Whisper writes where nobody speaks, such as `[music]` or `♪`, if it is let."""
_PART = Part(network="whisper.modeling_whisper:WhisperForConditionalGeneration", prefix="(?!)")
"""The network with its head; a pattern that fits no name leaves all tensors theirs."""


class WhisperRecognizer:
    """Utterances of a Whisper model with their times and confidence, greedy, with a second try in doubt."""

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
            config: its configuration, of the type `whisper`.
            options: of which precision and language count.
            device: where it computes.

        Raises:
            ConfigError: when a file is missing or cannot be read, or the model does not know the language.
        """
        self.name, self.folder, self.config = name, folder, config
        self.device = torch.device(device)
        self.precision = resolve_precision(options.precision, device)
        self.dtype = {"bf16": torch.bfloat16, "float32": torch.float32}[self.precision]
        check_extractor_files(folder, name)
        check_tokenizer_files(folder, name)
        with reading("preprocessor_config.json", name):
            self.extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
            self.rate_hz = int(self.extractor.sampling_rate)
            self.longest_s: Seconds = self.extractor.n_samples / self.rate_hz
        with reading("tokenizer", name):
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        with reading("generation_config.json", name):
            generation = transformers.GenerationConfig.from_pretrained(folder)
            suppressed = generation.suppress_tokens or symbols(self.tokenizer)
            self.vocabulary = _vocabulary(generation, config, suppressed)
        self._check_tokens()
        check_language(name, options.language, self.vocabulary)
        self.fingerprint = fingerprint_of(self._facts())

    def _check_tokens(self) -> None:
        stamp = self.tokenizer.convert_ids_to_tokens(self.vocabulary.first_timestamp)
        if stamp not in (None, "<|0.00|>"):
            raise ConfigError(
                f"recogniser {self.name}: its tokenizer has {stamp!r} where its generation_config.json has "
                "the first timestamp; use files that belong to each other, or fetch the model again"
            )

    def _facts(self) -> dict[str, Any]:
        return {
            "engine": "whisper 1",
            "weights": weights_hash(self.folder),
            "tokens": fingerprint_of(asdict(self.vocabulary)),  # generation_config.json is no part of them
            "precision": self.precision,
            "rows": ROWS,
            "rules": rules(),
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

    def rehearse(self) -> None:
        """Check that the weights would load, from their names and shapes.

        Raises:
            ConfigError: when they cannot be read, or lack what the network computes with.
        """
        rehearse(self.folder, self.name, self.config, _PART)

    @cached_property
    def model(self) -> Any:  # noqa: ANN401 - transformers has no common type
        """The network, in the chosen precision and on the device; loaded at first use."""
        with torch.inference_mode(False):
            network = load(self.folder, self.name, self.config, False, _PART)
            return network.to(self.device, self.dtype).eval()

    def detect_languages(self, windows: Sequence[Window]) -> list[dict[str, float]]:
        """Return the probability of each language, by its code, in each window; {} if there is but one."""
        languages = self.vocabulary.languages
        if not languages:
            return [{} for _ in windows]
        tokens = torch.tensor([*languages.values()], device=self.device)
        found = []
        with torch.inference_mode():
            for start in range(0, len(windows), ROWS):
                batch = windows[start : start + ROWS]
                prompts = torch.full((ROWS, 1), self.vocabulary.start, device=self.device)
                cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
                logits = self._step(prompts, self._encode(batch), cache)[:, -1]
                shares = torch.softmax(logits[:, tokens], 1).tolist()
                found += [dict(zip(languages, row, strict=True)) for row in shares[: len(batch)]]
        return found

    def recognize(self, windows: Sequence[Window]) -> list[list[Spoken]]:
        """Return the utterances in each window; called without windows, only load the weights."""
        _ = self.model
        return recognize_windows(self, windows)

    def texts(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Return tokens as text."""
        texts: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts

    def decode(self, windows: Sequence[Window], is_second: bool) -> list[Decoded]:
        """Return the tokens of each window: the likeliest, or drawn from a seed that the window gives."""
        temperature = SECOND_TEMPERATURE if is_second else 0.0
        decoded: list[Decoded | None] = [None] * len(windows)
        # Those with as much speech together, since a batch takes as long as its longest row.
        order = sorted(range(len(windows)), key=lambda number: _frames_of_speech(windows[number]))
        for start in range(0, len(order), ROWS):
            numbers = order[start : start + ROWS]
            batch = self._decode([windows[number] for number in numbers], temperature)
            for number, row in zip(numbers, batch, strict=True):
                decoded[number] = row
        return [row for row in decoded if row is not None]

    @torch.inference_mode()
    def _decode(self, windows: Sequence[Window], temperature: float) -> list[Decoded]:
        """Return the tokens of at most `ROWS` windows."""
        vocabulary = self.vocabulary
        prompts = [vocabulary.prompt(window.language) for window in windows]
        prompts += [prompts[0]] * (ROWS - len(prompts))
        draws = [_Draws(window, temperature, vocabulary.size) for window in windows] if temperature else []
        states, cache = self._encode(windows), EncoderDecoderCache(DynamicCache(), DynamicCache())
        allowed = TokenRules(vocabulary, ROWS, self.device)
        logits = self._step(torch.tensor(prompts, device=self.device), states, cache)
        no_speech = torch.softmax(logits[:, 0], 1)[:, vocabulary.no_speech].tolist()
        is_open = torch.arange(ROWS, device=self.device) < len(windows)
        written: list[Tensor] = []
        scores: list[Tensor] = []
        for _ in range(self.config.max_target_positions - len(prompts[0])):
            scored = torch.log_softmax(allowed.allow(logits[:, -1]), 1)
            chosen = scored / temperature + self._noise(draws) if draws else scored
            tokens = torch.where(is_open, chosen.argmax(1), vocabulary.end)
            written.append(tokens)
            scores.append(scored.gather(1, tokens[:, None])[:, 0])
            is_open = is_open & (tokens != vocabulary.end)
            # At fixed steps, so that when a loop is seen depends on its row alone.
            if len(written) % LOOP_TOKENS == 0:
                recent = torch.stack(written[-LOOP_TOKENS:], 1).tolist()
                is_open = is_open & ~torch.tensor([is_loop(row) for row in recent], device=self.device)
            if not is_open.any():
                break
            allowed.write(tokens)
            logits = self._step(tokens[:, None], states, cache)
        rows = zip(torch.stack(written, 1).tolist(), torch.stack(scores, 1).tolist(), no_speech, strict=True)
        return [_decoded(*row, vocabulary.end) for _, row in zip(windows, rows, strict=False)]

    def _encode(self, windows: Sequence[Window]) -> Float[Tensor, "rows time dim"]:
        """Return the encoder's states of at most `ROWS` windows, and zeros for those that are missing."""
        states = [self._states(window) for window in windows]
        return torch.cat([*states, *[torch.zeros_like(states[0])] * (ROWS - len(states))])

    def _states(self, window: Window) -> Float[Tensor, "1 time dim"]:
        # One by one: on a CPU as fast as together, and the same bits in any batch.
        made = self.extractor(window.samples, sampling_rate=self.rate_hz, return_tensors="pt")
        features = made.input_features.to(self.device, self.dtype)
        states: Tensor = self.model.model.encoder(features).last_hidden_state
        return states

    def _step(
        self,
        tokens: Int[Tensor, "rows new"],
        states: Float[Tensor, "rows time dim"],
        cache: EncoderDecoderCache,
    ) -> Float[Tensor, "rows new size"]:
        """Return the logits, float32, after each of the tokens that follow those in the cache."""
        decoder = self.model.model.decoder
        output = decoder(
            input_ids=tokens, encoder_hidden_states=states, past_key_values=cache, use_cache=True
        )
        logits: Tensor = self.model.proj_out(output.last_hidden_state)
        return logits.float()

    def _noise(self, draws: "Sequence[_Draws]") -> Float[Tensor, "rows size"]:
        noise = np.zeros((ROWS, self.vocabulary.size), np.float32)
        for row, draw in zip(noise, draws, strict=False):
            row[:] = draw()
        return torch.from_numpy(noise).to(self.device)


class _Draws:
    """Gumbel noise, with which the largest of some log probabilities is a draw from them.

    Its seed is of the window alone, so that a window draws the same in any batch and on any worker.
    """

    def __init__(self, window: Window, temperature: float, size: int) -> None:
        digest = hashlib.sha256(np.ascontiguousarray(window.samples, "<f4").tobytes())
        digest.update(f"{temperature:g}".encode())
        self._generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest.digest(), "big")))
        self._size = size

    def __call__(self) -> np.ndarray:
        """Return float32 [size] for the next token."""
        return self._generator.gumbel(size=self._size).astype(np.float32)


def _decoded(tokens: list[int], scores: list[float], no_speech: float, end: int) -> Decoded:
    length = tokens.index(end) if end in tokens else len(tokens)
    return Decoded(
        tokens=tokens[:length],
        log_probabilities=scores[:length],
        no_speech=no_speech,
        # A row that was closed in a loop is filled with end tokens, too.
        is_ended=length < len(tokens) and not is_loop(tokens[:length]),
    )


def _vocabulary(generation: Any, config: Any, suppressed: Sequence[int]) -> Vocabulary:  # noqa: ANN401
    """Return the special tokens that a folder's generation_config.json declares."""
    # Models of English alone may list languages, which they were not trained to be told.
    is_multilingual = getattr(generation, "is_multilingual", True)
    languages = dict(getattr(generation, "lang_to_id", None) or {}) if is_multilingual else {}
    tasks = dict(getattr(generation, "task_to_id", None) or {})
    without_times = int(generation.no_timestamps_token_id)
    end = generation.eos_token_id
    return Vocabulary(
        size=int(config.vocab_size),
        end=int(end[0] if isinstance(end, list) else end),
        first_timestamp=without_times + 1,
        no_speech=without_times - 1,
        suppressed=(*suppressed, without_times),
        languages={name.strip("<|>"): int(token) for name, token in sorted(languages.items())},
        start=int(generation.decoder_start_token_id),
        task=int(tasks["transcribe"]) if languages else None,
    )


def symbols(tokenizer: Any) -> list[int]:  # noqa: ANN401
    """Return the tokens of brackets, notes and other signs that nobody speaks.

    As Whisper's own decoding suppresses them; for folders that do not list them.
    """
    tokens = set()
    for sign in SIGNS:
        for spelling in (sign, f" {sign}"):
            encoded = tokenizer.encode(spelling, add_special_tokens=False)
            # Hyphens and apostrophes are signs only where they begin a word.
            is_inside = sign in "-'" and spelling == sign
            if (len(encoded) == 1 or sign in NOTES) and not is_inside:
                tokens.add(int(encoded[0]))
    return sorted(tokens)


def _frames_of_speech(window: Window) -> int:
    return len(window.samples) if window.speech is None else int((window.speech >= VAD_SPEECH).sum())
