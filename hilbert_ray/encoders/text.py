"""Text encoders from transformers: BERT, RoBERTa, DeBERTa, ModernBERT, MiniLM, the encoder half of T5."""

from collections.abc import Sequence

import numpy as np
import torch
import transformers
from torch import Tensor

from hilbert_ray.config import ConfigError, Modality
from hilbert_ray.document import Segment, TextSegment
from hilbert_ray.encoders.transformer import Pretrained, SegmentTooLongError, Transformer

BATCH_TOKENS = 8192
"""Most padded tokens in a batch."""
BATCH_OVERHEAD = 32
"""Tokens that take about as long as what a batch costs by itself."""
OFFSET = ("roberta", "camembert", "mpnet", "data2vec-text", "longformer", "xmod")
"""Types that count positions from their padding token's number on, so that the first ones are lost."""
NO_LIMIT = 100_000  # tokenizers without a limit report an astronomic one
DEFAULT_TOKENS = 512


class Text(Transformer):
    """Token states, pooled over those that are real; nothing is ever truncated."""

    modality: Modality = "text"
    budget = BATCH_TOKENS
    overhead = BATCH_OVERHEAD

    def __init__(self, pretrained: Pretrained) -> None:
        super().__init__(pretrained)
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            pretrained.folder, trust_remote_code=pretrained.options.trust_remote_code
        )
        if not tokenizer.is_fast:
            raise ConfigError(
                f"text encoder {self.name} has no fast tokenizer (tokenizer.json), which splitting needs"
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        self.pad_id = int(tokenizer.pad_token_id)
        self.special = int(tokenizer.num_special_tokens_to_add(False))
        self.max_tokens = self._limit(int(tokenizer.model_max_length)) - self.special
        self.tokenizer = tokenizer.backend_tokenizer
        # Its file may ask for either; here nothing is cut off, and batches are padded when they are made.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def _limit(self, tokenizer_limit: int) -> int:
        """Return the longest input with special tokens: the tokenizer's limit or the positions'."""
        limits = [tokenizer_limit]
        positions = getattr(self.config, "max_position_embeddings", None)
        if positions and self.config.model_type not in ("t5", "mt5", "umt5"):
            is_offset = any(name in self.config.model_type for name in OFFSET)
            limits.append(int(positions) - (int(self.config.pad_token_id or 0) + 1 if is_offset else 0))
        known = [limit for limit in limits if 0 < limit < NO_LIMIT]
        return min(known, default=DEFAULT_TOKENS)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, without special tokens."""
        coded = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(one) for one in coded]

    def split(self, text: str, limit: int) -> list[str]:
        """Return pieces of at most `limit` tokens, cut where a word begins where that is possible."""
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
        """Return where to cut so that the first piece, tokenised by itself, stays within the limit."""
        for last in range(limit, 0, -1):
            cut = spans[last - 1][1]
            starts_word = cut < len(text) and text[cut].isspace()
            if starts_word and self.count_tokens([text[:cut]])[0] <= limit:
                return cut
        for last in range(limit, 0, -1):  # one word alone is longer than the limit
            cut = spans[last - 1][1]
            if cut and self.count_tokens([text[:cut]])[0] <= limit:
                return cut
        return 1

    def _inputs(self, segments: Sequence[Segment]) -> Sequence[np.ndarray]:
        texts = [segment.text for segment in segments if isinstance(segment, TextSegment)]
        tokens = [np.array(coded.ids, np.int64) for coded in self.tokenizer.encode_batch_fast(texts)]
        assert self.max_tokens is not None
        for text, one in zip(texts, tokens, strict=True):
            if len(one) - self.special > self.max_tokens:
                raise SegmentTooLongError(
                    f"text {text[:40]!r}... has {len(one) - self.special} tokens, more than the "
                    f"{self.max_tokens} that {self.name} takes; cut it with `segment.text_segments`"
                )
        return tokens

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
