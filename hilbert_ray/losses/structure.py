"""Centred kernel alignment: the joint embedding keeps the similarity structure of each modality.

Two embeddings of the same documents, of any widths, are compared by which documents are similar in each;
shifts and scales cancel. Axes: B documents (`batch`), n = B in the formulas.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hilbert_ray.losses.contrast import Present
from hilbert_ray.losses.precision import full_precision

Estimator = Literal["unbiased", "biased"]
Kernel = Literal["linear", "rbf"]
MINIMUM = 4
"""Rows from which unbiased HSIC is defined: it divides by n - 3."""
ROUNDING = 16
"""Multiples of the dtype's epsilon below which a sum of order 1 counts as 0: what is left of it is
rounding."""


class Sums(NamedTuple):
    """What HSIC needs of two kernel matrices K and L; for the unbiased estimator their diagonals are 0.

    tr_KL, tr_KK, tr_LL: traces of products, scalars. K1, L1: row sums, [B].
    """

    tr_KL: Tensor
    tr_KK: Tensor
    tr_LL: Tensor
    K1: Tensor
    L1: Tensor


def kernel_sums(
    K: Float[Tensor, "batch batch"], L: Float[Tensor, "batch batch"], estimator: Estimator
) -> Sums:
    """Return the sums from kernel matrices."""
    if estimator == "unbiased":
        K, L = K - K.diagonal().diag(), L - L.diagonal().diag()
    return Sums((K * L).sum(), (K * K).sum(), (L * L).sum(), K.sum(dim=1), L.sum(dim=1))


def feature_sums(
    x: Float[Tensor, "batch dim_x"], y: Float[Tensor, "batch dim_y"], estimator: Estimator
) -> Sums:
    """Return the sums for K = X X^T and L = Y Y^T without these matrices, by tr(KL) = ||X^T Y||_F^2."""
    # B D^2 instead of B^2 D: D is the width, and B the gathered batch of all ranks. The unbiased estimator
    # leaves the diagonals out, which are known without the matrices.
    diagonal_k, diagonal_l = x.square().sum(dim=1), y.square().sum(dim=1)  # the diagonals of K and L
    if estimator == "biased":
        diagonal_k, diagonal_l = torch.zeros_like(diagonal_k), torch.zeros_like(diagonal_l)
    return Sums(
        (x.T @ y).square().sum() - diagonal_k @ diagonal_l,
        (x.T @ x).square().sum() - diagonal_k @ diagonal_k,
        (y.T @ y).square().sum() - diagonal_l @ diagonal_l,
        x @ x.sum(dim=0) - diagonal_k,
        y @ y.sum(dim=0) - diagonal_l,
    )


def hsic(tr_KL: Tensor, K1: Tensor, L1: Tensor, estimator: Estimator) -> Float[Tensor, ""]:
    """Return the Hilbert-Schmidt independence criterion up to a factor that cancels in CKA.

    unbiased: tr(KL) + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'KL1, diagonals 0 (Song et al. 2012, eq. 5)
    biased: tr(KHLH) = tr(KL) + 1'K1 1'L1 / n^2 - 2 / n 1'KL1 (Gretton et al. 2005, eq. 9)
    """
    # Only sums of the kernels: both callers have these without a centred B x B matrix.
    n = len(K1)
    if estimator == "unbiased":
        return tr_KL + K1.sum() * L1.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (K1 @ L1)
    return tr_KL + K1.sum() * L1.sum() / n**2 - 2 / n * (K1 @ L1)


def _centred(x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    """Return x centred, with sum of squares 1; zeros where all rows are equal up to rounding.

    CKA does not change, but in float32 a large common offset would hide the differences, and the eighth
    powers in the product of two HSICs would overflow at |x| = 1e4.
    """
    centred = x - x.mean(dim=0)
    spread = centred.square().sum()
    rounding = (ROUNDING * torch.finfo(x.dtype).eps) ** 2 * x.square().sum()
    # Detached: CKA does not depend on the norm, so that its gradient through the norm is 0 up to rounding.
    return centred * torch.where(spread > rounding, spread.rsqrt(), 0).detach()


def _off_diagonal(square: Float[Tensor, "rows rows"]) -> Float[Tensor, "fewer rows"]:
    """Return a matrix without its diagonal, in order; by shape, since a mask would wait for a GPU."""
    rows = len(square)
    return square.flatten()[1:].view(rows - 1, rows + 1)[:, :-1]


def _rbf(x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch"]:
    """Return exp(-||x_i - x_j||^2 / (2 sigma^2)) / n, sigma the (lower) median distance of two rows."""
    # ||x_i - x_j||^2 by a matrix product; rounding may make it slightly negative.
    norm = x.square().sum(dim=1)
    distance = (norm[:, None] + norm - 2 * x @ x.T).clamp_min(0)
    # The median heuristic (Gretton et al. 2012, section 8), without the zeros of the diagonal.
    variance = _off_diagonal(distance).median().clamp_min(torch.finfo(x.dtype).eps)
    return (-distance / (2 * variance)).exp() / len(x)


@full_precision
def cka(
    x: Float[Tensor, "batch dim_x"],
    y: Float[Tensor, "batch dim_y"],
    estimator: Estimator = "unbiased",
    kernel: Kernel = "linear",
) -> Float[Tensor, ""]:
    """Return CKA(x, y) = HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)), at most 1 (Kornblith et al. 2019, eq. 4).

    The unbiased estimator is 0 in the mean for independent data and may be negative; the biased one is near 1
    for small batches of wide embeddings, whatever they hold. 0, without gradient, where one side does not
    vary. The linear kernel is computed in feature space when B exceeds both widths; `rbf` takes the median
    distance.

    Raises:
        ValueError: for fewer than 4 rows, where the unbiased estimator is not defined.
    """
    if len(x) < MINIMUM:
        raise ValueError(
            f"CKA of {len(x)} rows: unbiased HSIC divides by n - 3, so it needs at least {MINIMUM}; give "
            "more documents"
        )
    x, y = _centred(x), _centred(y)
    if kernel == "rbf":
        sums = kernel_sums(_rbf(x), _rbf(y), estimator)
    # Both ways give the same sums; the cheaper one is taken.
    elif len(x) > max(x.shape[1], y.shape[1]):
        sums = feature_sums(x, y, estimator)
    else:
        sums = kernel_sums(x @ x.T, y @ y.T, estimator)
    xy = hsic(sums.tr_KL, sums.K1, sums.L1, estimator)
    xx = hsic(sums.tr_KK, sums.K1, sums.K1, estimator)
    yy = hsic(sums.tr_LL, sums.L1, sums.L1, estimator)
    rounding = ROUNDING * torch.finfo(x.dtype).eps  # all sums are of order 1 after `_centred`
    # The inner `where` too: a division by 0 in the branch not taken would still make the gradient NaN.
    varies = (xx > rounding) & (yy > rounding)
    return torch.where(varies, xy / torch.where(varies, xx * yy, 1).sqrt(), 0)


@full_precision
def cka_loss(
    audio: Float[Tensor, "batch audio_dim"],
    text: Float[Tensor, "batch text_dim"],
    joint: Float[Tensor, "batch dim"],
    estimator: Estimator = "unbiased",
    kernel: Kernel = "linear",
    *,
    audio_present: Present = None,
    text_present: Present = None,
    minimum: int = MINIMUM,
) -> Float[Tensor, ""]:
    """Return ( 1 - CKA(a, j) + 1 - CKA(t, j) ) / 2 on embeddings that are not normalised.

    To compare j with the frozen features, pass their means over segments as `audio` and `text`. Rows without
    a modality leave its half; a half with fewer than `minimum` rows (at least 4; training uses 16) is a 0
    that still joins the graph.
    """
    # A half without enough rows is computed from no data but stays in the graph, as in `contrast`.
    halves = []
    for modality, present in ((audio, audio_present), (text, text_present)):
        x, j = (modality, joint) if present is None else (modality[present], joint[present])
        halves.append(1 - cka(x, j, estimator, kernel) if len(x) >= minimum else (x.sum() + j.sum()) * 0)
    return (halves[0] + halves[1]) / 2
