"""The contrast of each modality with the joint embedding, and the balance of the information they carry.

Rows are documents. `present` masks are True where the modality is there (and was not dropped): other rows
leave the term, as anchors and as negatives. A term with fewer than 2 rows is a 0 that still joins the graph,
since the collectives of the backward pass need the same graph on every rank and in every step.

Axes: B documents (`batch`), D width (`dim`). `scale` is s = exp(logit_scale) <= 100. Everything is in nats.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from hilbert_ray.losses.precision import full_precision

ContrastiveScale = Float[Tensor, ""] | float
"""s = exp(logit_scale), the inverse temperature: what cosines are multiplied by, not its logarithm."""
Present = Bool[Tensor, " batch"] | Int[Tensor, " selected"] | None
"""Which documents have a modality: a mask, or their places in rising order. With a mask, each selection waits
for a GPU to learn how many they are. None means all."""
CHUNK_ROWS = 128
"""Rows of logits computed at a time: products stay large, and the logits take 8 MB at B = 16,384."""
STRIP_ROWS = 256
"""Rows of kept logits worked on at a time: few enough to stay in the processor's cache."""
MAX_KEPT_ROWS = 4096
"""Rows up to which the matrix of logits is kept for backward (64 MB); above, it is computed again."""
EXCLUDED = -1e30
"""Logit of a pair that is not a negative. Finite: in a chunk all pairs of a column may be excluded, and a
logsumexp over infinities alone has a NaN gradient."""


class _LogSumExps(torch.autograd.Function):
    """Logsumexps of the logits z = x y^T over their columns and over their rows, a chunk of rows at a time.

    The derivative of logsumexp_k z_ik by z_ik is the softmax exp(z_ik - logsumexp_k z_ik), so backward needs
    the logits and the two vectors of logsumexps, and no other matrix. The logits are kept, or computed again
    if `chunk` is set.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, group: Tensor | None, chunk: int | None) -> Any:  # noqa: ANN401
        over_y, over_x = x.new_empty(len(x)), x.new_full((len(y),), -math.inf)
        logits = x.new_empty(chunk or len(x), len(y))
        for rows in _chunks(len(x), chunk):
            z = _logits(x, y, group, rows, out=logits[: rows.stop - rows.start] if chunk else logits[rows])
            over_y[rows] = z.logsumexp(dim=1)
            # A chunk sees whole rows but only part of each column: sums over x grow with each, from
            # exp(-inf).
            over_x = torch.logaddexp(over_x, z.logsumexp(dim=0))
        ctx.chunk = chunk
        ctx.save_for_backward(x, y, group, over_y, over_x, None if chunk else logits)
        return over_y, over_x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_over_y: Tensor, d_over_x: Tensor) -> Any:  # noqa: ANN401
        x, y, group, over_y, over_x, logits = ctx.saved_tensors
        # Rows of d_x are complete after their chunk, d_y is a sum over chunks, from 0.
        d_x, d_y = torch.empty_like(x), torch.zeros_like(y)
        # All chunks share buffers: memory is that of one chunk, and nothing is allocated in the loop.
        buffers = x.new_empty(3 if ctx.chunk else 2, ctx.chunk or STRIP_ROWS, len(y))
        for rows in _chunks(len(x), ctx.chunk):
            d_z, softmax, *recomputed = buffers[:, : rows.stop - rows.start]
            z = _logits(x, y, group, rows, out=recomputed[0]) if ctx.chunk else logits[rows]
            # Each logit is in one sum over its row and in one over its column: its gradient is both
            # softmaxes, weighted by what flows back to the two sums.
            torch.sub(z, over_y[rows, None], out=d_z).exp_().mul_(d_over_y[rows, None])
            d_z += torch.sub(z, over_x, out=softmax).exp_().mul_(d_over_x)
            torch.mm(d_z, y, out=d_x[rows])
            d_y.addmm_(d_z.T, x[rows])
        return d_x, d_y, None, None


def _chunks(rows: int, chunk: int | None) -> Iterator[slice]:
    """Yield slices of at most `chunk` rows, or of `STRIP_ROWS` where all logits are kept."""
    step = chunk or STRIP_ROWS
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _logits(x: Tensor, y: Tensor, group: Tensor | None, rows: slice, out: Tensor) -> Tensor:
    """Write x y^T of some rows into `out`; pairs of one group, but a document with itself, are `EXCLUDED`."""
    torch.mm(x[rows], y.T, out=out)
    if group is not None:
        same = group[rows, None] == group
        same.diagonal(rows.start).fill_(False)  # a document with itself is the positive pair
        out.masked_fill_(same, EXCLUDED)
    return out


@full_precision
def nce(
    x: Float[Tensor, "batch dim"],
    y: Float[Tensor, "batch dim"],
    scale: ContrastiveScale,
    group: Int[Tensor, " batch"] | None = None,
    *,
    chunk: int | None = None,
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return the InfoNCE loss of each row, x -> y and y -> x (van den Oord et al. 2018, equation 4).

    l_i(x -> y) = logsumexp_k s x_i.y_k - s x_i.y_i, on L2-normalised rows

    Args:
        x: one embedding of each document.
        y: another, row by row of the same documents.
        scale: s, the inverse temperature.
        group: pairs of one group are not negatives; a row without any negative has loss 0.
        chunk: rows whose logits exist at a time, computed again in backward; None keeps the B x B matrix up
        to
            4,096 rows and takes chunks of 128 above. Value and gradient are the same.

    Returns:
        The losses x -> y and y -> x, float [B] each, nats.
    """
    # Normalised here and not by the network: CKA compares the same embeddings with their norms.
    x, y = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
    positive = scale * (x * y).sum(dim=-1)
    if chunk is None and len(x) > MAX_KEPT_ROWS:
        chunk = CHUNK_ROWS
    # The scale multiplies x and not the logits: one product less over B x B, and its gradient comes with x's.
    over_y, over_x = _LogSumExps.apply(scale * x, y, group, chunk)  # type: ignore[no-untyped-call]
    return over_y - positive, over_x - positive


def _mean_over_contrasted(rows: Tensor, group: Tensor | None) -> Tensor:
    """Return the mean over rows that have a negative; 0 where there is none.

    Groups partition the batch, so rows lack negatives only if all are of one group: then all rows do.
    """
    if group is None:
        return rows.mean()
    is_contrasted = (group != group[0]).any()
    return (rows * is_contrasted).sum() / (is_contrasted * len(rows)).clamp_min(1)


@full_precision
def info_nce(
    x: Float[Tensor, "batch dim"],
    y: Float[Tensor, "batch dim"],
    scale: ContrastiveScale,
    group: Int[Tensor, " batch"] | None = None,
    *,
    present: Present = None,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """Return NCE(x, y): the mean over rows of the average of both directions, nats.

    NCE(x, y) = 1 / B sum_i ( l_i(x -> y) + l_i(y -> x) ) / 2, CLIP's symmetric loss (Radford et al. 2021,
    figure 3) Rows without any negative (see `nce`) leave the mean; it is 0 if none is left, and for fewer
    than 2 rows. `present` selects rows; the other arguments are those of `nce`.
    """
    if present is not None:
        x, y, group = x[present], y[present], None if group is None else group[present]
    if len(x) < 2:
        return (x.sum() + y.sum()) * scale * 0
    x_to_y, y_to_x = nce(x, y, scale, group, chunk=chunk)
    return _mean_over_contrasted((x_to_y + y_to_x) / 2, group)


@full_precision
def contrastive(
    audio: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    joint: Float[Tensor, "batch dim"],
    scale: ContrastiveScale,
    group: Int[Tensor, " batch"] | None = None,
    *,
    audio_present: Present = None,
    text_present: Present = None,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """Return ( NCE(a, j) + NCE(t, j) ) / 2, the reciprocal dual contrast: audio never meets text directly.

    On several ranks pass the gathered batch. For the CLIP-style baseline call `info_nce(audio, text, ...)`.
    Arguments are those of `info_nce`, embeddings [B, D]; nats.
    """
    a_j = info_nce(audio, joint, scale, group, present=audio_present, chunk=chunk)
    t_j = info_nce(text, joint, scale, group, present=text_present, chunk=chunk)
    return (a_j + t_j) / 2


@full_precision
def information(
    x: Float[Tensor, "batch dim"],
    joint: Float[Tensor, "batch dim"],
    scale: ContrastiveScale,
    estimator: Literal["infonce", "smile"] = "infonce",
    clip: float = 5.0,
    *,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """Return an estimate of the mutual information between two embeddings, nats; 0 for fewer than 2 rows.

    infonce: log B - NCE(x, j), a lower bound that saturates at log B (van den Oord et al. 2018, equation 5).
    smile: mean_i T_ii - log mean_(i != k) exp(clamp(T_ik, -tau, tau)), T = s x.j, tau = `clip` nats (Song and
    Ermon 2020, equation 10); it does not saturate and forms the whole B x B matrix.
    """
    rows = len(x)
    if rows < 2:
        return (x.sum() + joint.sum()) * scale * 0
    if estimator == "infonce":
        return math.log(rows) - info_nce(x, joint, scale, chunk=chunk)
    critic = scale * F.normalize(x, dim=-1) @ F.normalize(joint, dim=-1).T
    # Only the marginal term is clipped: its exponentials have the variance that grows with the information.
    is_pair = torch.eye(rows, dtype=torch.bool, device=x.device)
    marginal = critic.clamp(-clip, clip).masked_fill(is_pair, -math.inf).flatten().logsumexp(dim=0)
    return critic.diagonal().mean() - (marginal - math.log(rows * (rows - 1)))


@full_precision
def balance(
    audio: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    joint: Float[Tensor, "batch dim"],
    scale: ContrastiveScale,
    estimator: Literal["infonce", "smile"] = "infonce",
    gradient: Literal["both", "weaker"] = "both",
    clip: float = 5.0,
    *,
    present: Present = None,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """Return ( (I_a - I_t) / log B )^2 over the B rows that have both modalities; 0 if B < 2.

    I_m = `information` between modality m and the joint embedding, without groups. The scale is detached: a
    smaller scale would equalise both by losing them. `smile` does not saturate and is not divided by log B.

    Args:
        audio: a; rows of documents that lack a modality may hold anything.
        text: t, likewise.
        joint: j.
        scale: s; no gradient flows to it.
        estimator: of mutual information.
        gradient: `both` moves all embeddings; `weaker` detaches j and the side with more information, so that
            the weaker side rises instead of the stronger falling.
        clip: tau of SMILE, nats.
        present: rows with both modalities.
        chunk: as in `nce`.
    """
    # Both estimates on the same rows: their bound log B depends on the number of rows.
    if present is not None:
        audio, text, joint = audio[present], text[present], joint[present]
    # A smaller scale would lower both estimates, and with them their difference.
    scale = scale.detach() if isinstance(scale, Tensor) else scale
    if gradient == "weaker":
        joint = joint.detach()
    i_a = information(audio, joint, scale, estimator, clip, chunk=chunk)
    i_t = information(text, joint, scale, estimator, clip, chunk=chunk)
    # The value stays the same: only where its gradient flows changes.
    if gradient == "weaker":
        i_a, i_t = torch.where(i_a < i_t, i_a, i_a.detach()), torch.where(i_t < i_a, i_t, i_t.detach())
    unit = math.log(max(len(joint), 2)) if estimator == "infonce" else 1.0
    return ((i_a - i_t) / unit).square()
