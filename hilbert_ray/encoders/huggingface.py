"""Encoders from transformers, for speech (wav2vec2, HuBERT, WavLM, Whisper) and text (BERT to T5).

How segments may share a batch depends on the architecture, and each class below knows its own: encoders whose
features change with padding take segments of exactly equal length together, others pad, mask and pool what is
real.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from hilbert_ray.config import ConfigError, EncoderConfig, Modality, SegmentConfig, to_dict
from hilbert_ray.document import AudioSegment, DocumentError, Hertz, Samples, Segment, TextSegment
from hilbert_ray.encoders import Encoder, cutting, fingerprint_of

SPEECH = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "wav2vec2-conformer", "unispeech", "unispeech-sat")
PADDABLE = ("wav2vec2", "hubert", "wavlm")
"""Speech encoders that masks make independent of padding, when their feature extractor uses layer norm."""
BATCH_S, BATCH_TOKENS = 60.0, 8192
"""Most padded seconds of audio and padded tokens of text in a batch."""
WHISPER_S = 30.0
NO_LIMIT = 100_000  # tokenizers without a limit report an astronomic one
DEFAULT_TOKENS = 512


class SegmentTooLongError(DocumentError):
    """A segment beyond what the encoder takes; nothing is cut off to make it fit."""


@dataclass(kw_only=True, slots=True)
class Waste:
    """How much was computed for padding: real and padded amounts (seconds or tokens) so far."""

    real: float = 0.0
    padded: float = 0.0

    @property
    def share(self) -> float:
        """Padding's share of all that was computed."""
        return 1 - self.real / self.padded if self.padded else 0.0


def load_model(spec: str, modality: Modality, options: EncoderConfig, segment: SegmentConfig) -> Encoder:
    """Return the encoder for `hf:<id or folder>[@revision]`; see `encoders.load`."""
    folder = _folder(*_parse(spec))
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=options.trust_remote_code)
    kind = str(config.model_type)
    if modality == "text":
        if kind in SPEECH or kind == "whisper":
            raise ConfigError(
                f"text encoder {spec} is a speech model ({kind}); name it as --audio, or a text model here"
            )
        return Text(spec, folder, config, options, segment)
    if kind == "whisper":
        return Whisper(spec, folder, config, options, segment)
    if kind in SPEECH:
        return Speech(spec, folder, config, options, segment)
    raise ConfigError(
        f"audio encoder {spec} is of type {kind}; the types are {', '.join(SPEECH)} and whisper"
    )


def _parse(spec: str) -> tuple[str, str | None]:
    """Split `hf:<id or folder>[@revision]`; a folder whose own name holds an @ is taken whole."""
    name = spec.removeprefix("hf:")
    if Path(name).is_dir() or "@" not in name:
        return name, None
    name, _, revision = name.rpartition("@")
    return name, revision


def _folder(name: str, revision: str | None) -> str:
    """Return a model's folder; what is no folder is fetched, once a node, into the Hugging Face cache."""
    if Path(name).is_dir():
        if revision is not None:
            raise ConfigError(
                f"encoder folder {name} is local and has no revision {revision!r}; leave it out"
            )
        return name
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    files = ["*.json", "*.txt", "*.model", "*.safetensors"]
    try:
        found = snapshot_download(name, revision=revision, allow_patterns=files)
        if not list(Path(found).glob("*.safetensors")):
            found = snapshot_download(name, revision=revision, allow_patterns=[*files, "*.bin"])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ConfigError(
            f"encoder hf:{name} is no folder here and cannot be fetched: {error}; give the path of a folder "
            "with config.json and model.safetensors, or mend the name, the revision or the network"
        ) from error
    return str(found)


@cache
def _weights_hash(folder: str, stamp: tuple[tuple[str, int, int], ...]) -> str:
    """Return the SHA-256 over the files that features depend on; `stamp` makes the cache notice changes."""
    digest = hashlib.sha256()
    for name, _, _ in stamp:
        digest.update(name.encode())
        with (Path(folder) / name).open("rb") as file:
            while block := file.read(2**22):
                digest.update(block)
    return digest.hexdigest()


def _stamp(folder: str) -> tuple[tuple[str, int, int], ...]:
    files = sorted(Path(folder).iterdir())
    weights = [f for f in files if f.suffix == ".safetensors"] or [f for f in files if f.suffix == ".bin"]
    if not weights:
        raise ConfigError(f"encoder folder {folder} has no weights; it must hold model.safetensors")
    read = {"config.json", "preprocessor_config.json", "tokenizer.json", "vocab.txt", "spiece.model"}
    chosen = [*weights, *(f for f in files if f.name in read)]
    return tuple((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in chosen)


def precision(wanted: str) -> torch.dtype:
    """Return the arithmetic for `auto`, `float32` or `bf16`: `auto` is bf16 where hardware has it."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bf16" else torch.float32
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float32
    return torch.bfloat16 if _cpu_has_bf16() else torch.float32


@cache
def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


class _Model:
    """What transformers encoders share: folder, fingerprint, lazily loaded weights, layers and pooling."""

    modality: Modality
    rate_hz: Hertz = 0
    max_tokens: int | None = None

    def __init__(
        self,
        spec: str,
        folder: str,
        config: Any,  # noqa: ANN401 - transformers gives no common type
        options: EncoderConfig,
        segment: SegmentConfig,
    ) -> None:
        self.name, self.folder, self.config, self.options, self.segment = (
            spec,
            folder,
            config,
            options,
            segment,
        )
        self.dtype = precision(options.precision)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.waste = Waste()
        self.layers = self._layers()
        width = int(config.hidden_size)
        self.dim = 2 * width if options.pooling == "mean_std" else width
        self.fingerprint = fingerprint_of(self._facts())

    def _layers(self) -> tuple[int, int] | None:
        """Return the first and last hidden state to average, None for the model's output."""
        if self.options.layer == "last":
            return None
        parts = [int(part) for part in self.options.layer.split(":")]
        count = int(getattr(self.config, "encoder_layers", None) or self.config.num_hidden_layers)
        if parts[-1] > count:
            raise ConfigError(
                f"encoder {self.name} has hidden states 0 to {count}, but layer {self.options.layer} was "
                "asked for"
            )
        return parts[0], parts[-1]

    def _facts(self) -> dict[str, Any]:
        return {
            "weights": _weights_hash(self.folder, _stamp(self.folder)),
            "layer": self.options.layer,
            "pooling": self.options.pooling,
            "precision": str(self.dtype).removeprefix("torch."),
            "cutting": cutting(self.segment, self.modality),
        }

    def describe(self) -> dict[str, Any]:
        """Return what makes the features, as plain values."""
        return {
            **self._facts(), "name": self.name, "spec": self.name, "dim": self.dim, "type":
            self.config.model_type, "options": to_dict(self.options), "segment": to_dict(self.segment),
            "rate_hz": self.rate_hz, "fingerprint": self.fingerprint,
        }  # fmt: skip

    @cached_property
    def model(self) -> Any:  # noqa: ANN401 - transformers gives no common type
        """The network, in the chosen precision, on the GPU where there is one."""
        return self._load().to(self.device, self.dtype).eval()

    def _load(self) -> Any:  # noqa: ANN401
        transformers.utils.logging.disable_progress_bar()  # logs of many workers are no terminal
        safe = any(name.endswith(".safetensors") for name, _, _ in _stamp(self.folder))
        kind = (
            transformers.AutoModelForTextEncoding
            if self.config.model_type in ("t5", "mt5", "umt5")
            else transformers.AutoModel
        )
        return kind.from_pretrained(
            self.folder, use_safetensors=safe, trust_remote_code=self.options.trust_remote_code
        )

    def _states(self, output: Any) -> Tensor:  # noqa: ANN401
        """Return float32 [batch, time, width]: the output, or the mean of the chosen hidden states."""
        if self.layers is None:
            return output.last_hidden_state.float()  # type: ignore[no-any-return]
        first, last = self.layers
        return torch.stack([state.float() for state in output.hidden_states[first : last + 1]]).mean(0)

    def _pool(self, states: Tensor, mask: Tensor) -> np.ndarray:
        """Return float32 [batch, dim] from states [batch, time, width] over places where `mask` is True."""
        if self.options.pooling == "cls":
            return states[:, 0].cpu().numpy()
        weights = mask[..., None].to(states.dtype)
        count = weights.sum(1)
        states = states.masked_fill(~mask[..., None], 0)
        mean = states.sum(1) / count
        if self.options.pooling == "mean":
            return mean.cpu().numpy()
        variance = ((states - mean[:, None]).square() * weights).sum(1) / count
        return torch.cat([mean, variance.sqrt()], 1).cpu().numpy()

    def count_tokens(self, text: str) -> int:
        """Audio has no tokens."""
        raise TypeError(f"{self.name} encodes audio; it has no tokens")

    def split(self, text: str, limit: int) -> list[str]:
        """Audio has no tokens."""
        raise TypeError(f"{self.name} encodes audio; it has no tokens")

    def encode(self, segments: Sequence[Segment]) -> np.ndarray:
        """Return features float32 [n, dim]; batches are packed longest first within a budget."""
        features = np.zeros((len(segments), self.dim), np.float32)
        sizes = self._sizes(segments)
        for rows in self._batches(sizes):
            with torch.inference_mode():
                features[rows] = self._encode([segments[i] for i in rows])
            self.waste.real += float(sizes[rows].sum())
            self.waste.padded += float(sizes[rows].max() * len(rows))
        return features

    def _sizes(self, segments: Sequence[Segment]) -> np.ndarray:
        raise NotImplementedError

    def _batches(self, sizes: np.ndarray) -> Iterator[np.ndarray]:
        raise NotImplementedError

    def _encode(self, segments: Sequence[Segment]) -> np.ndarray:
        raise NotImplementedError


def pack(sizes: np.ndarray, budget: float, only_equal: bool = False) -> Iterator[np.ndarray]:
    """Yield batches of indices, largest first, of padded size within `budget` (one segment always fits)."""
    order = np.argsort(-sizes, kind="stable")
    start = 0
    while start < len(order):
        largest = sizes[order[start]]
        stop = start + 1
        while (
            stop < len(order)
            and (stop - start + 1) * largest <= budget
            and (not only_equal or sizes[order[stop]] == largest)
        ):
            stop += 1
        yield order[start:stop]
        start = stop


class Speech(_Model):
    """wav2vec2 and its kin, on the raw waveform.

    With a group-norm feature extractor the statistics run over padded time too, so only segments of exactly
    equal length share a batch; so it is for data2vec, whose positional convolutions see padding. Layer-norm
    wav2vec2, HuBERT and WavLM pad, mask, and pool valid frames.
    """

    modality: Modality = "audio"

    def __init__(
        self,
        spec: str,
        folder: str,
        config: Any,  # noqa: ANN401 - transformers gives no common type
        options: EncoderConfig,
        segment: SegmentConfig,
    ) -> None:
        if options.pooling == "cls":
            raise ConfigError(f"speech encoder {spec} has no cls token; set pooling to mean or mean_std")
        super().__init__(spec, folder, config, options, segment)
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
        self.rate_hz = int(extractor.sampling_rate)
        self.normalises = bool(extractor.do_normalize)
        self.pads = config.model_type in PADDABLE and getattr(config, "feat_extract_norm", "group") == "layer"
        self.least = self._least_samples()

    def _least_samples(self) -> Samples:
        """Return the samples that the convolutions need for one frame."""
        samples = 1
        for kernel, stride in zip(
            reversed(self.config.conv_kernel), reversed(self.config.conv_stride), strict=True
        ):
            samples = (samples - 1) * stride + kernel
        return samples

    def _sizes(self, segments: Sequence[Segment]) -> np.ndarray:
        return np.array(
            [max(len(s.samples), self.least) for s in segments if isinstance(s, AudioSegment)], np.int64
        )

    def _batches(self, sizes: np.ndarray) -> Iterator[np.ndarray]:
        return pack(sizes, BATCH_S * self.rate_hz, only_equal=not self.pads)

    def _encode(self, segments: Sequence[Segment]) -> np.ndarray:
        waves = [self._prepare(s.samples) for s in segments if isinstance(s, AudioSegment)]
        longest = max(len(wave) for wave in waves)
        values = np.zeros((len(waves), longest), np.float32)
        mask = np.zeros((len(waves), longest), np.int64)
        for row, wave in enumerate(waves):
            values[row, : len(wave)], mask[row, : len(wave)] = wave, 1
        inputs = torch.from_numpy(values).to(self.device, self.dtype)
        attention = torch.from_numpy(mask).to(self.device)
        output = self.model(
            inputs,
            attention_mask=attention if self.pads else None,
            output_hidden_states=self.layers is not None,
        )
        states = self._states(output)
        if self.pads:
            valid = self.model._get_feature_vector_attention_mask(states.shape[1], attention).bool()
        else:
            valid = torch.ones(states.shape[:2], dtype=torch.bool, device=self.device)
        return self._pool(states, valid)

    def _prepare(self, samples: np.ndarray) -> np.ndarray:
        """Normalise a waveform as the model's feature extractor does, alone, and fill it up to one frame."""
        wave = samples.astype(np.float32)
        if self.normalises and len(wave):
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
        return np.pad(wave, (0, max(self.least - len(wave), 0)))


class Whisper(_Model):
    """The encoder half of Whisper: always 30 s of log-mel frames, pooled over those that the audio covers."""

    modality: Modality = "audio"

    def __init__(
        self,
        spec: str,
        folder: str,
        config: Any,  # noqa: ANN401 - transformers gives no common type
        options: EncoderConfig,
        segment: SegmentConfig,
    ) -> None:
        if options.pooling == "cls":
            raise ConfigError(f"speech encoder {spec} has no cls token; set pooling to mean or mean_std")
        longest = segment.window_s if segment.audio == "window" else segment.max_s
        if longest > WHISPER_S:
            raise ConfigError(
                f"audio encoder {spec} takes at most {WHISPER_S:.0f} s, but segments may last {longest} s; "
                f"set segment.{'window_s' if segment.audio == 'window' else 'max_s'} to at most "
                f"{WHISPER_S:.0f}"
            )
        super().__init__(spec, folder, config, options, segment)
        self.extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
        self.rate_hz = int(self.extractor.sampling_rate)

    def _load(self) -> Any:  # noqa: ANN401
        return super()._load().get_encoder()

    def _sizes(self, segments: Sequence[Segment]) -> np.ndarray:
        return np.array([len(s.samples) for s in segments if isinstance(s, AudioSegment)], np.int64)

    def _batches(self, sizes: np.ndarray) -> Iterator[np.ndarray]:
        return pack(np.where(sizes > 0, sizes, 0), BATCH_S * 4 * self.rate_hz)

    def _encode(self, segments: Sequence[Segment]) -> np.ndarray:
        waves = [s.samples for s in segments if isinstance(s, AudioSegment)]
        for segment, wave in zip(segments, waves, strict=True):
            if len(wave) > WHISPER_S * self.rate_hz:
                raise SegmentTooLongError(
                    f"segment from {segment.start:.2f} to {segment.end:.2f} s is longer than the "
                    f"{WHISPER_S:.0f} s that {self.name} takes; set segment.window_s or max_s to at most "
                    f"{WHISPER_S:.0f}"
                )
        made = self.extractor(waves, sampling_rate=self.rate_hz, return_tensors="pt", padding="max_length")
        inputs = made.input_features.to(self.device, self.dtype)
        output = self.model(inputs, output_hidden_states=self.layers is not None)
        states = self._states(output)
        frames = [max((len(wave) // self.extractor.hop_length + 1) // 2, 1) for wave in waves]
        valid = torch.arange(states.shape[1])[None] < torch.tensor(frames)[:, None]
        return self._pool(states, valid.to(self.device))


class Text(_Model):
    """BERT, RoBERTa, DeBERTa, ModernBERT, MiniLM and their like, the encoder half of T5; never truncated."""

    modality: Modality = "text"

    def __init__(
        self,
        spec: str,
        folder: str,
        config: Any,  # noqa: ANN401 - transformers gives no common type
        options: EncoderConfig,
        segment: SegmentConfig,
    ) -> None:
        super().__init__(spec, folder, config, options, segment)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=options.trust_remote_code
        )
        if not self.tokenizer.is_fast:
            raise ConfigError(
                f"text encoder {spec} has no fast tokenizer (tokenizer.json), which splitting needs"
            )
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.unk_token
        self.special = int(self.tokenizer.num_special_tokens_to_add(False))
        self.max_tokens = self._limit() - self.special

    def _limit(self) -> int:
        """Return the longest input with special tokens: the tokenizer's limit or the positions'."""
        limits = [int(self.tokenizer.model_max_length)]
        positions = getattr(self.config, "max_position_embeddings", None)
        if positions and self.config.model_type not in ("t5", "mt5", "umt5"):
            # RoBERTa counts positions from its padding token's number on.
            offset = int(self.config.pad_token_id or 0) + 1 if "roberta" in self.config.model_type else 0
            limits.append(int(positions) - offset)
        known = [limit for limit in limits if 0 < limit < NO_LIMIT]
        return min(known, default=DEFAULT_TOKENS)

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a text has, without special tokens."""
        return len(self._tokens(text))

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer(
            text, add_special_tokens=False, truncation=False, verbose=False
        ).input_ids
        return tokens

    def split(self, text: str, limit: int) -> list[str]:
        """Return pieces of at most `limit` tokens, cut where a word begins where that is possible."""
        pieces: list[str] = []
        rest = text
        while rest.strip():
            coded = self.tokenizer(
                rest, add_special_tokens=False, truncation=False, verbose=False, return_offsets_mapping=True
            )
            spans = coded.offset_mapping
            if len(spans) <= limit:
                pieces.append(rest)
                break
            cut = self._cut(rest, spans, limit)
            pieces.append(rest[:cut])
            rest = rest[cut:]
        return pieces

    def _cut(self, text: str, spans: Sequence[tuple[int, int]], limit: int) -> int:
        """Return where to cut so that the first piece, tokenised by itself, stays within the limit."""
        for last in range(limit, 0, -1):
            cut = spans[last - 1][1]
            starts_word = cut < len(text) and text[cut].isspace()
            if starts_word and self.count_tokens(text[:cut]) <= limit:
                return cut
        for last in range(limit, 0, -1):  # one word alone is longer than the limit
            cut = spans[last - 1][1]
            if cut and self.count_tokens(text[:cut]) <= limit:
                return cut
        return 1

    def _sizes(self, segments: Sequence[Segment]) -> np.ndarray:
        sizes = np.array(
            [self.count_tokens(s.text) for s in segments if isinstance(s, TextSegment)], np.int64
        )
        for segment, size in zip(segments, sizes, strict=True):
            if self.max_tokens is not None and size > self.max_tokens and isinstance(segment, TextSegment):
                raise SegmentTooLongError(
                    f"text {segment.text[:40]!r}... has {size} tokens, more than the {self.max_tokens} that "
                    f"{self.name} takes; cut it with `segment.text_segments`"
                )
        return sizes + self.special

    def _batches(self, sizes: np.ndarray) -> Iterator[np.ndarray]:
        return pack(sizes, BATCH_TOKENS)

    def _encode(self, segments: Sequence[Segment]) -> np.ndarray:
        texts = [s.text for s in segments if isinstance(s, TextSegment)]
        coded = self.tokenizer(texts, padding=True, truncation=False, verbose=False, return_tensors="pt")
        mask = coded.attention_mask.to(self.device)
        output = self.model(
            input_ids=coded.input_ids.to(self.device),
            attention_mask=mask,
            output_hidden_states=self.layers is not None,
        )
        return self._pool(self._states(output), mask.bool())
