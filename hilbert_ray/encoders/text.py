"""Text encoders from transformers: BERT, RoBERTa, DeBERTa, ModernBERT, MiniLM, the encoder half of T5."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from hilbert_ray.config import ConfigError, Modality
from hilbert_ray.document import Segment, TextSegment
from hilbert_ray.encoders.folder import reading
from hilbert_ray.encoders.transformer import Pretrained, SegmentTooLongError, Transformer

logger = logging.getLogger("hilbert_ray.encoders")
BATCH_TOKENS = 8192
"""Most padded tokens in a batch."""
BATCH_OVERHEAD = 32
"""The fixed cost of a batch, as the tokens that take as long."""
OFFSET_TYPES = ("roberta", "camembert", "mpnet", "data2vec-text", "longformer", "xmod")
"""Model types that count positions from the id of their padding token on, so the first ones are unused."""
RELATIVE_TYPES = ("t5", "mt5", "umt5")
"""Model types with relative positions, which limit nothing."""
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
        super().__init__(pretrained)
        tokenizer = self._read_tokenizer()
        # The Rust tokenizer itself, without the wrapper: faster, and nothing of the wrapper's settings
        # applies.
        self.pad_id = int(tokenizer.pad_token_id)
        self.special = int(tokenizer.num_special_tokens_to_add(False))
        self.max_tokens = self._limit(int(tokenizer.model_max_length)) - self.special
        self.tokenizer = tokenizer.backend_tokenizer
        # Its file may enable both; here nothing may be cut off, and `_encode` pads.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

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
        rows = getattr(self.config, "vocab_size", None)
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
        positions = getattr(self.config, "max_position_embeddings", None)
        if positions and self.config.model_type not in RELATIVE_TYPES:
            is_offset = any(name in self.config.model_type for name in OFFSET_TYPES)
            limits.append(int(positions) - (int(self.config.pad_token_id or 0) + 1 if is_offset else 0))
        known = [limit for limit in limits if 0 < limit < NO_LIMIT]
        return min(known, default=DEFAULT_TOKENS)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, without special tokens."""
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(encoding) for encoding in encodings]

    def split(self, text: str, limit: int) -> list[str]:
        """Return pieces of at most `limit` tokens, cut between words where that is possible."""
        pieces: list[str] = []
        rest = text
        while rest.strip():
            spans = self.tokenizer.encode(rest, add_special_tokens=False).offsets
            if len(spans) <= limit:
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
        for last in range(limit, 0, -1):
            cut = spans[last - 1][1]
            starts_word = cut < len(text) and text[cut].isspace()
            if starts_word and self.count_tokens([text[:cut]])[0] <= limit:
                return cut
        for last in range(limit, 0, -1):  # a single word is longer than the limit
            cut = spans[last - 1][1]
            if cut and self.count_tokens([text[:cut]])[0] <= limit:
                return cut
        return 1  # a character always makes progress, even if it has more tokens than the limit

    def _inputs(self, segments: Sequence[Segment]) -> Sequence[np.ndarray]:
        texts = [segment.text for segment in segments if isinstance(segment, TextSegment)]
        inputs = [np.array(encoding.ids, np.int64) for encoding in self.tokenizer.encode_batch_fast(texts)]
        assert self.max_tokens is not None
        for text, ids in zip(texts, inputs, strict=True):
            if len(ids) - self.special > self.max_tokens:
                raise SegmentTooLongError(
                    f"text {text[:40]!r}... has {len(ids) - self.special} tokens, more than the "
                    f"{self.max_tokens} that {self.name} takes; cut it with `segmentation.text_segments`"
                )
        return inputs

    def _encode(self, inputs: Sequence[np.ndarray]) -> Tensor:
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
        return self._pool(self._states(output), mask)
