"""Text encoders from transformers, used as their folders declare: pooling, projections, prompts, limits."""

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import normalizers
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED_NAMES

from hilbert_ray.config import ConfigError, Modality
from hilbert_ray.document import Segment, TextSegment
from hilbert_ray.encoders.folder import reading
from hilbert_ray.encoders.loading import WITH_DECODER, is_encoder_half
from hilbert_ray.encoders.pooling import load_modules
from hilbert_ray.encoders.transformer import Pretrained, SegmentTooLongError, Transformer

logger = logging.getLogger("hilbert_ray.encoders")
BATCH_TOKENS = 8192
"""Most padded tokens in a batch."""
BATCH_OVERHEAD = 32
"""The fixed cost of a batch, as the tokens that take as long."""
OFFSET_TYPES = ("roberta", "camembert", "mpnet", "data2vec-text", "longformer", "xmod")
"""Model types that count positions from the id of their padding token on, so the first ones are unused."""
POSITIONS = (
    "max_position_embeddings", "max_encoder_position_embeddings", "max_decoder_position_embeddings",
)  # fmt: skip
"""Fields that count positions; the halves of LED have numbers of their own."""
RELATIVE_TYPES = ("t5", "mt5", "umt5")
"""Model types with relative positions, which limit nothing."""
PROJECTED = {"embedding_gemma2": "embedding_dim", "embedding_gemma2_text": "embedding_dim"}
"""By model type, which field has the width of the output, where it is not that of the hidden states."""
NO_LIMIT = 100_000
"""Limits from here on mean none: tokenizers without one report an astronomic number."""
DEFAULT_TOKENS = 512
"""What a model takes that states no limit: what nearly all text encoders were trained on."""

LETTERS = "the and of to in a e i o n s 0 1 2 . , а е и о н α ε ا ل न ㄱ 가 の 的 一"  # noqa: RUF001
"""Words, letters and digits of several scripts: every real vocabulary knows some of them."""


class TextEncoder(Transformer):
    """Token states, pooled over the real tokens; nothing is ever truncated."""

    modality: Modality = "text"
    budget = BATCH_TOKENS
    overhead = BATCH_OVERHEAD

    def __init__(self, pretrained: Pretrained) -> None:
        self.declaration = pretrained.declaration
        prefix = pretrained.options.prefix
        self.prefix = self.declaration.prompt if prefix == "auto" else prefix
        super().__init__(pretrained)
        self._check_declaration()
        tokenizer = self._read_tokenizer()
        # The Rust tokenizer itself, without the wrapper: faster, and nothing of the wrapper's settings
        # applies.
        self.pad_id = int(tokenizer.pad_token_id)
        self.special = int(tokenizer.num_special_tokens_to_add(False))
        self.tokenizer = tokenizer.backend_tokenizer
        # Its file may enable both; here nothing may be cut off, and `_encode` pads.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        if self.declaration.lower_case:
            own = [self.tokenizer.normalizer] if self.tokenizer.normalizer is not None else []
            self.tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
        # Without a prefix none, even if the tokenizer has a token for the beginning of any text.
        prefix_ids = self.tokenizer.encode(self.prefix, add_special_tokens=False).ids if self.prefix else []
        self.prefix_tokens = len(prefix_ids)
        self.limit = self._limit(self.declaration.max_tokens or int(tokenizer.model_max_length))
        self.max_tokens = self.limit - self.special - self.prefix_tokens
        if self.max_tokens < 1:
            raise ConfigError(
                f"text encoder {self.name} takes {self.limit} tokens, but {self.special} special ones and "
                f"the {self.prefix_tokens} of the prefix {self.prefix[:100]!r} leave none for words; set "
                "text_encoder.prefix to a shorter one"
            )
        self.unpooled = self._unpooled(tokenizer)

    def _modes(self) -> tuple[str, ...]:
        if self.pretrained.options.pooling != "auto":
            return super()._modes()
        return self.declaration.modes or (("last",) if _is_causal(self.text_config) else ("mean",))

    @property
    def text_config(self) -> Any:  # noqa: ANN401 - transformers has a class for each model
        """The part of the configuration that describes the text encoder: mostly all of it."""
        if hasattr(self.config, "hidden_size"):
            return self.config
        return (getattr(self.config, "encoder", None) or self.config).get_text_config()

    def _width(self) -> int:
        field = PROJECTED.get(self.config.model_type) if self.layers is None else None
        return int(getattr(self.text_config, field or "hidden_size"))

    def _last_state(self) -> int:
        # Models of several parts count the layers of the text encoder in its own part.
        config = self.config if hasattr(self.config, "num_hidden_layers") else self.text_config
        field = "decoder_layers" if config.model_type in WITH_DECODER else "encoder_layers"
        return int(getattr(config, field, None) or config.num_hidden_layers)

    def _dim(self) -> int:
        return self.declaration.dim(self.width, super()._dim(), self.name)

    def _facts(self) -> dict[str, Any]:
        facts = super()._facts()
        # Only what is not as under the explicit settings: stores hold hashes of facts without these.
        if self.prefix:
            facts["prefix"] = self.prefix
        if declared := self.declaration.facts(self.pretrained.root):
            facts["declared"] = declared
        return facts

    def _check_declaration(self) -> None:
        """Check that what is declared fits the settings, and say which prompts are declared but not used."""
        if self.pretrained.options.context == "fill":
            raise ConfigError(
                f"text encoder {self.name} reads each segment alone, but text_encoder.context is `fill`; "
                "leave it out: it is for audio"
            )
        trained = [module.folder for module in self.declaration.modules if module.folder]
        if trained and self.layers is not None:
            raise ConfigError(
                f"text encoder {self.name}: its folder declares {', '.join(trained)}, trained on the last "
                f"layer, but text_encoder.layer is {self.pretrained.options.layer}; set layer to `last`, or "
                "pooling to mean, cls or last"
            )
        if self.declaration.other_prompts and self.pretrained.options.prefix == "auto":
            logger.warning(
                "text encoder %s: its folder declares the prompts %s, of which %s is used; to use "
                "another, set text_encoder.prefix to its text, or to '' for none",
                self.name,
                ", ".join(self.declaration.other_prompts),
                f"only the default, {self.prefix!r}," if self.prefix else "none",
            )

    def _unpooled(self, tokenizer: Any) -> int:  # noqa: ANN401 - transformers has a class for each model
        """Return how many tokens at the start are of the prefix and not to be pooled."""
        if self.declaration.include_prompt or not self.prefix:
            return 0
        ids = self.tokenizer.encode(self.prefix).ids
        # What the tokenizer puts at the end follows the text, not the prefix.
        return len(ids) - (ids[-1] in tokenizer.all_special_ids)

    @cached_property
    def projections(self) -> torch.nn.Sequential:
        """What the folder declares after the pooling, in float32; loaded at first use."""
        modules = load_modules(self.declaration.modules, self.pretrained.root, self.name)
        return modules.to(self.device)

    @cached_property
    def model(self) -> Any:  # noqa: ANN401 - transformers has no common type
        """The network; what is no text encoder is found out here, before any document is read."""
        network = super().model
        try:
            self._try_out()
        except ConfigError:
            del self.__dict__["model"]  # where the parent keeps it: the next attempt must fail as well
            raise
        return network

    def _try_out(self) -> None:
        """Check that the network encodes a text: of some types, only a run shows that they need more."""
        tokens = np.array(self.tokenizer.encode(self.prefix + LETTERS).ids[: self.limit], np.int64)
        with torch.inference_mode(), reading("network", self.name, "name a model that encodes text"):
            vectors = self._encode([tokens], [])
            if vectors.shape != (1, self.dim):
                raise ValueError(f"its features have the shape {list(vectors.shape)}, not {[1, self.dim]}")

    def _load(self) -> Any:  # noqa: ANN401
        network = super()._load()
        for part in network.modules():
            if getattr(getattr(part, "config", None), "use_cache", False):
                part.config.use_cache = False  # keys and values are kept for generating text alone
        return network.get_encoder() if is_encoder_half(self.config) else network

    def rehearse(self) -> None:
        """Check that the weights would load; see `Transformer.rehearse`."""
        load_modules(self.declaration.modules, self.pretrained.root, self.name)
        super().rehearse()

    def _read_tokenizer(self) -> Any:  # noqa: ANN401 - transformers has a class for each model
        """Return the tokenizer that comes with the weights.

        Raises:
            ConfigError: when it cannot be read, does not fit the network, or knows no letters.
        """
        with reading("tokenizer", self.name):
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                self.pretrained.folder, trust_remote_code=self.pretrained.options.trust_remote_code
            )
        if not tokenizer.is_fast:
            raise ConfigError(
                f"text encoder {self.name} has no fast tokenizer, which splitting long texts needs; use a "
                "model that has a tokenizer.json"
            )
        # Any token pads as well as another, since the mask hides it; GPT-like tokenizers have none for it.
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if tokenizer.pad_token_id is None:
            raise ConfigError(
                f"text encoder {self.name}: its tokenizer names none of pad_token, eos_token and unk_token, "
                "with which short texts are filled up; name one in its "
                'tokenizer_config.json, such as "pad_token": "<pad>"'
            )
        self._check_vocabulary(tokenizer)
        return tokenizer

    def _check_vocabulary(self, tokenizer: Any) -> None:  # noqa: ANN401
        """Check that a tokenizer has words, and that the network has a vector for each of its tokens."""
        with reading("tokenizer", self.name):
            found = set(tokenizer.backend_tokenizer.encode(LETTERS, add_special_tokens=False).ids)
            ids = [*tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False).values()]
            ids += tokenizer("")["input_ids"]
        if not found - {tokenizer.unk_token_id}:
            raise ConfigError(
                f"text encoder {self.name}: to its tokenizer, which has {len(ids)} tokens, all letters and "
                "digits are unknown, so all texts would look alike; fetch the tokenizer again"
            )
        rows = getattr(self.text_config, "vocab_size", None)
        if isinstance(rows, int) and max(ids) >= rows:
            raise ConfigError(
                f"text encoder {self.name}: its tokenizer has tokens up to number {max(ids)}, but the "
                f"network has vectors for {rows}; use the tokenizer that belongs to these weights"
            )
        if isinstance(rows, int) and len(ids) < rows / 2:
            logger.warning(
                "text encoder %s: its tokenizer has %d tokens, but the network has vectors for %d; if the "
                "tokenizer's files are cut off or of another model, texts are not read as they should be",
                self.name, len(ids), rows,
            )  # fmt: skip

    def _limit(self, tokenizer_limit: int) -> int:
        """Return the longest input with special tokens: the lower limit of tokenizer and positions."""
        limits = [tokenizer_limit]
        if self.config.model_type not in RELATIVE_TYPES:
            is_offset = any(name in self.config.model_type for name in OFFSET_TYPES)
            unused = int(self.config.pad_token_id or 0) + 1 if is_offset else 0
            positions = (getattr(self.text_config, name, None) for name in POSITIONS)
            limits += [int(count) - unused for count in positions if count]
        known = [limit for limit in limits if 0 < limit < NO_LIMIT]
        return min(known, default=DEFAULT_TOKENS)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, without special tokens and without those of the prefix."""
        # Counted together, not added up: tokens may span the border.
        encodings = self.tokenizer.encode_batch_fast(
            [self.prefix + text for text in texts], add_special_tokens=False
        )
        return [max(len(encoding) - self.prefix_tokens, 0) for encoding in encodings]

    def split(self, text: str, limit: int) -> list[str]:
        """Return pieces of at most `limit` tokens, cut between words where that is possible."""
        pieces: list[str] = []
        rest = text
        while rest.strip():
            spans = self.tokenizer.encode(rest, add_special_tokens=False).offsets
            if self.count_tokens([rest])[0] <= limit:
                pieces.append(rest)
                break
            cut = self._cut(rest, spans, limit)
            pieces.append(rest[:cut])
            rest = rest[cut:]
        return pieces

    def _cut(self, text: str, spans: Sequence[tuple[int, int]], limit: int) -> int:
        """Return where to cut so that the first piece, tokenised alone, stays within the limit.

        Args:
            text: more than `limit` tokens.
            spans: begin and end of each token in the text, characters.
            limit: most tokens of the first piece.
        """
        # A piece may have more tokens alone than it had in the whole text, so each cut is tried out.
        most = min(limit, len(spans))
        for last in range(most, 0, -1):
            cut = spans[last - 1][1]
            starts_word = cut < len(text) and text[cut].isspace()
            if starts_word and self.count_tokens([text[:cut]])[0] <= limit:
                return cut
        for last in range(most, 0, -1):  # a single word is longer than the limit
            cut = spans[last - 1][1]
            if cut and self.count_tokens([text[:cut]])[0] <= limit:
                return cut
        return 1  # a character always makes progress, even if it has more tokens than the limit

    def _inputs(self, segments: Sequence[Segment]) -> Sequence[np.ndarray]:
        texts = [segment.text for segment in segments if isinstance(segment, TextSegment)]
        encodings = self.tokenizer.encode_batch_fast([self.prefix + text for text in texts])
        inputs = [np.array(encoding.ids, np.int64) for encoding in encodings]
        assert self.max_tokens is not None
        for text, ids in zip(texts, inputs, strict=True):
            count = len(ids) - self.special - self.prefix_tokens
            if count > self.max_tokens:
                raise SegmentTooLongError(
                    f"text {text[:40]!r}... has {count} tokens, more than the "
                    f"{self.max_tokens} that {self.name} takes; cut it with `segmentation.text_segments`"
                )
        return inputs

    def _encode(self, inputs: Sequence[np.ndarray], heard: Sequence[Sequence[Segment]]) -> Tensor:
        lengths = torch.tensor([len(tokens) for tokens in inputs])
        padded = np.full((len(inputs), int(lengths.max())), self.pad_id, np.int64)
        for row, tokens in enumerate(inputs):
            padded[row, : len(tokens)] = tokens
        mask = (torch.arange(padded.shape[1])[None] < lengths[:, None]).to(self.device)
        output = self.model(
            input_ids=torch.from_numpy(padded).to(self.device),
            attention_mask=mask.to(torch.int64),
            output_hidden_states=self.layers is not None,
        )
        if self.unpooled:
            mask[:, : self.unpooled] = False
        vectors = [self.projections(self._pool(self._states(output, layers), mask)) for layers in self.kept]
        return torch.cat([each[:, : self.layer_dim] for each in vectors], 1)


def _is_causal(config: Any) -> bool:  # noqa: ANN401 - transformers has a class for each model
    """Return whether a network's tokens see only those before them, so that only the last sees the text."""
    sees_all = not getattr(config, "is_causal", True) or getattr(config, "use_bidirectional_attention", False)
    if sees_all or getattr(config, "is_encoder_decoder", False):
        return False
    architecture = next(iter(config.architectures or ()), "")
    # Types that fill in masked words too, such as BERT, are causal only where they are said to be.
    is_causal_type = config.model_type in CAUSAL_NAMES and config.model_type not in {*MASKED_NAMES, "xlnet"}
    return architecture.endswith("ForCausalLM") or is_causal_type
