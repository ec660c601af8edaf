"""Cross-modal fusion and self-attentive pooling: segments of two modalities to document vectors.

`network` calls these in order: `time_embedding` on projected segments, `SelfAttentivePool` before fusion for
the single-modality embeddings, `CrossModalFusion`, then pools of the fused streams for the joint embedding.

Axes: B documents, S audio segments (`time`), U text segments (`tokens`), D model width (`dim`), H hops.
Masks are boolean, True = a segment is there; a row that is all False gives zeros, never NaN.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hilbert_ray.model.dropout import Dropout

CYCLES = (0.5, 256.0)
"""Slowest and fastest wave of the time embedding, in cycles per recording: half a cycle tells the beginning
from the end, 256 cycles tell neighbours apart in a recording of some 500 segments."""


def time_embedding(position: Float[Tensor, "batch time"], dim: int) -> Float[Tensor, "batch time dim"]:
    """Return sines and cosines of segment time, a fraction of the recording in [0, 1].

    The positional encoding of Vaswani et al. 2017, section 3.5, on real time: frequencies rise geometrically
    between the two of `CYCLES`.

    Raises:
        ValueError: when `dim` is odd.
    """
    if dim % 2:
        raise ValueError(f"time embedding of dim {dim}: sines and cosines come in pairs; use an even dim")
    # A fraction of the recording and not seconds: documents of any length fill the same range.
    exponent = torch.linspace(0, 1, dim // 2, device=position.device, dtype=position.dtype)
    slowest, fastest = CYCLES
    angle = position[..., None] * (2 * math.pi * slowest * (fastest / slowest) ** exponent)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class CrossAttention(nn.Module):
    """Multi-head attention of one modality's queries to the other's segments (Vaswani et al. 2017)."""

    def __init__(self, dim: int, heads: int) -> None:
        """Make the projections.

        Raises:
            ValueError: when `heads` does not divide `dim`.
        """
        super().__init__()
        if dim % heads:
            raise ValueError(
                f"attention of dim {dim} with {heads} heads: heads must divide dim; change one of them"
            )
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "batch queries dim"],
        context: Float[Tensor, "batch keys dim"],
        mask: Bool[Tensor, "batch keys"],
        need_attention: bool = False,
    ) -> tuple[Float[Tensor, "batch queries dim"], Float[Tensor, "batch queries keys"] | None]:
        """Return what each query reads, and with `need_attention` its weights, a mean over heads.

        Queries of a document without any valid key read zeros.
        """
        query, key, value = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, heads, segments, D / heads]
            for projected in (self.query(x), *self.key_value(context).chunk(2, dim=-1))
        )
        # A softmax over no key is NaN, in the gradient even where the result is masked after. Documents
        # without any valid key therefore attend to their padding, and the result is multiplied by 0.
        readable = mask.any(dim=1)[:, None, None, None]
        visible = mask[:, None, None, :] | ~readable
        # The fused kernel never forms the weights; only who wants to see them pays for the matrix.
        attention = None
        if need_attention:
            scores = (query @ key.transpose(-2, -1)) / math.sqrt(query.shape[-1])
            weights = scores.masked_fill(~visible, -math.inf).softmax(dim=-1) * readable
            attention = weights.mean(dim=1)
            read = weights @ value
        else:
            read = F.scaled_dot_product_attention(query, key, value, attn_mask=visible) * readable
        # Again after the projection: its bias would otherwise be what such a document reads.
        return self.output(read.transpose(1, 2).flatten(2)) * readable[:, 0], attention


class FeedForward(nn.Sequential):
    """Pre-norm two-layer MLP that a residual stream adds to itself."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(dim),
            nn.Linear(dim, 4 * dim),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(4 * dim, dim),
            Dropout(dropout),
        )


class FusionLayer(nn.Module):
    """Audio attends to text and text to audio, both reading the previous layer; then feed-forward."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.audio_norm, self.text_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.audio_to_text, self.text_to_audio = CrossAttention(dim, heads), CrossAttention(dim, heads)
        self.audio_feed_forward, self.text_feed_forward = FeedForward(dim, dropout), FeedForward(dim, dropout)

    def forward(
        self,
        audio: Float[Tensor, "batch time dim"],
        text: Float[Tensor, "batch tokens dim"],
        audio_mask: Bool[Tensor, "batch time"],
        text_mask: Bool[Tensor, "batch tokens"],
        need_attention: bool = False,
    ) -> "Fused":
        """Return both streams after this layer."""
        # Both read the previous layer's streams, so that neither modality comes first.
        a, t = self.audio_norm(audio), self.text_norm(text)
        read_by_audio, audio_to_text = self.audio_to_text(a, t, text_mask, need_attention)
        read_by_text, text_to_audio = self.text_to_audio(t, a, audio_mask, need_attention)
        audio = audio + read_by_audio
        text = text + read_by_text
        audio = audio + self.audio_feed_forward(audio)
        text = text + self.text_feed_forward(text)
        return Fused(audio, text, audio_to_text, text_to_audio)


class Fused(NamedTuple):
    """Both streams after fusion, and if requested the last layer's attention, a mean over heads.

    audio: [B, S, D]; text: [B, U, D].
    audio_to_text: [B, S, U], each row a distribution over valid text segments; text_to_audio: [B, U, S]
    likewise. None unless requested, and without layers.
    """

    audio: Tensor
    text: Tensor
    audio_to_text: Tensor | None = None
    text_to_audio: Tensor | None = None


class CrossModalFusion(nn.Module):
    """L pre-norm layers in which each modality reads the other; with L = 0 the identity.

    Dropout is in the feed-forward blocks only: dropped attention weights would no longer sum to 1.
    """

    def __init__(self, dim: int, layers: int, heads: int, dropout: float) -> None:
        """Make `layers` layers.

        Raises:
            ValueError: when `heads` does not divide `dim`.
        """
        super().__init__()
        self.layers = nn.ModuleList(FusionLayer(dim, heads, dropout) for _ in range(layers))

    def forward(
        self,
        audio: Float[Tensor, "batch time dim"],
        text: Float[Tensor, "batch tokens dim"],
        audio_mask: Bool[Tensor, "batch time"],
        text_mask: Bool[Tensor, "batch tokens"],
        need_attention: bool = False,
    ) -> Fused:
        """Return both streams; values at masked positions have no meaning.

        Without `need_attention` the weights are never formed (scaled_dot_product_attention).
        """
        fused = Fused(audio, text)
        for layer in self.layers:
            fused = layer(fused.audio, fused.text, audio_mask, text_mask, need_attention)
        return fused


class SelfAttentivePool(nn.Module):
    """A = softmax(W2 tanh(W1 h + b1)) over valid segments, H hops, concatenated and projected to D.

    Lin et al. 2017, "A structured self-attentive sentence embedding", equations 6 and 7.
    """

    def __init__(self, dim: int, hops: int, hidden_dim: int | None = None) -> None:
        super().__init__()
        hidden_dim = hidden_dim or dim
        self.w1 = nn.Linear(dim, hidden_dim)
        self.w2 = nn.Linear(hidden_dim, hops, bias=False)
        self.projection: nn.Module = nn.Linear(hops * dim, dim)

    def forward(
        self, hidden: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"]
    ) -> tuple[Float[Tensor, "batch pooled"], Float[Tensor, "batch hops time"]]:
        """Return the pooled vector [B, D] and A [B, H, S], whose rows sum to 1 over valid segments."""
        scores = self.w2(torch.tanh(self.w1(hidden))).transpose(1, 2)  # [B, H, S]
        valid = mask[:, None, :]
        # A finite floor, so that a row without segments gives zeros instead of NaN.
        attention = scores.masked_fill(~valid, torch.finfo(scores.dtype).min).softmax(dim=-1) * valid
        hidden = hidden.masked_fill(~mask[..., None], 0)  # padding may hold anything, and 0 * inf is NaN
        pooled = attention @ hidden  # [B, H, D]
        return self.projection(pooled.flatten(1)), attention


def redundancy_penalty(
    attention: Float[Tensor, "batch hops time"], form: Literal["off_diagonal", "lin"] = "off_diagonal"
) -> Float[Tensor, " batch"]:
    """Return how much the hops of each document attend to the same segments; the loss is their mean.

    `lin` is ||A A^T - I||_F^2 (Lin et al. 2017, equation 8). Its diagonal also drives each hop to attend to
    one segment only, so `off_diagonal` leaves the diagonal out and only separates hops. In at least float32.
    """
    # bf16 keeps 8 bits, too few for what is left after the diagonal is subtracted.
    with torch.autocast(attention.device.type, enabled=False):
        a = attention.float() if attention.dtype in (torch.float16, torch.bfloat16) else attention
        overlap = a @ a.transpose(1, 2)  # [B, H, H]
        diagonal = torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
        excess = overlap * (1 - diagonal) if form == "off_diagonal" else overlap - diagonal
        return excess.square().sum(dim=(1, 2))
