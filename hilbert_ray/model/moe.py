"""Routing and experts: [audio; text; joint] to the logits of each task.

E shared experts and a router for each task (multi-gate mixture of experts, Ma et al. 2018). `network` adds
the scores of the single-modality heads; `training` adds the two router losses, on router logits gathered over
ranks.

Axes: B documents (`batch`), T tasks, E experts, `hidden` units of one expert.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hilbert_ray.config import MoEConfig
from hilbert_ray.model.dropout import Dropout


def _full_precision(x: Tensor) -> Tensor:
    """Return `x` in at least float32: a softmax over bf16 logits could tie or flip close experts."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _top_k_mask(logits: Float[Tensor, "*batch experts"], top_k: int) -> Bool[Tensor, "*batch experts"]:
    """Return True for the `top_k` experts with the largest logits."""
    experts = logits.shape[-1]
    if not 1 <= top_k <= experts:
        raise ValueError(
            f"routing to top_k {top_k} of {experts} experts: top_k must be from 1 to the number of experts"
        )
    # By index and not by comparison with the k-th largest: equal logits would choose more than k experts.
    chosen = torch.zeros_like(logits, dtype=torch.bool)
    return chosen.scatter(-1, logits.topk(top_k, dim=-1).indices, True)


def route(logits: Float[Tensor, "*batch experts"], top_k: int) -> Float[Tensor, "*batch experts"]:
    """Return the gates: softmax over experts, the `top_k` largest kept and renormalised, the others 0.

    In at least float32. The gates of a document sum to 1, as in Mixtral (Jiang et al. 2024, section 2.1).

    Raises:
        ValueError: when `top_k` is not from 1 to the number of experts.
    """
    logits = _full_precision(logits)
    # A softmax over the chosen experts alone equals dividing their probabilities by their sum, but cannot
    # underflow to 0 / 0. The choice itself has no gradient; the router learns through the gates it keeps.
    return logits.masked_fill(~_top_k_mask(logits, top_k), -torch.inf).softmax(dim=-1)


def load_balance_loss(logits: Float[Tensor, "batch *tasks experts"], top_k: int) -> Float[Tensor, ""]:
    """Return E sum_e f_e P_e, the mean over routers; 1 when all experts are used alike.

    f_e is the fraction of the B top_k assignments that go to expert e (no gradient), P_e the mean router
    probability (Switch Transformer, Fedus et al. 2021, equations 4 to 6; Mixtral's loss in transformers does
    not divide by top_k and is top_k times this). Both are means over the batch, so on several ranks gather
    the logits first. 0 for an empty batch.

    Raises:
        ValueError: when `top_k` is not from 1 to the number of experts.
    """
    logits = _full_precision(logits)
    # Sums over B instead of means: an empty batch gives 0, not NaN.
    B, E = max(len(logits), 1), logits.shape[-1]
    f = _top_k_mask(logits, top_k).to(logits.dtype).sum(dim=0) / (B * top_k)  # [*T, E]
    P = logits.softmax(dim=-1).sum(dim=0) / B
    return E * (f * P).sum(dim=-1).mean()


def effective_experts(logits: Float[Tensor, "batch *tasks experts"], top_k: int) -> float:
    """Return how many experts are in use: exp of the entropy of the assignments' distribution, 1 to E."""
    experts = logits.shape[-1]
    # Over all tasks together: an expert that any task uses is in use.
    chosen = logits.topk(top_k, dim=-1).indices.reshape(-1)
    frequency = torch.bincount(chosen, minlength=experts) / max(len(chosen), 1)
    return float(torch.special.entr(frequency).sum().exp())


def router_z_loss(logits: Float[Tensor, "batch *tasks experts"]) -> Float[Tensor, ""]:
    """Return mean(logsumexp(logits)^2), which keeps router logits small (ST-MoE, Zoph et al. 2022, eq. 5).

    A mean over documents and routers; 0 for an empty batch.
    """
    # A sum over a count of at least 1, so that an empty batch gives 0.
    squared = _full_precision(logits).logsumexp(dim=-1).square()
    return squared.sum() / max(squared.numel(), 1)


class Experts(nn.Module):
    """Shared experts, with a router and a linear tower for each task; or one MLP with as many hidden units.

    logits_t = tower_t( sum_e gate_te(x) GELU(W_e x + b_e) )        (Ma et al. 2018, equations 6 and 7)

    `kind="mlp"` leaves the routers out: the towers read all E experts' hidden units side by side.
    """

    def __init__(self, in_dim: int, widths: Mapping[str, int], config: MoEConfig, dropout: float) -> None:
        """Make the head.

        Args:
            in_dim: width of [audio; text; joint], 3 D.
            widths: logits of each task, in the order in which router logits are returned.
            config: number and size of experts, top_k, and the plain-MLP switch.
            dropout: on the hidden units.
        """
        super().__init__()
        self.config, self.tasks = config, tuple(widths)
        routed = config.kind == "experts"
        units = config.experts * config.hidden_dim
        self.hidden = nn.Linear(in_dim, units)
        self.dropout = Dropout(dropout)
        self.router = nn.Linear(in_dim, len(widths) * config.experts) if routed else None
        # A list, not a ModuleDict: task names are free text, module names must not hold dots.
        self.towers = nn.ModuleList(
            nn.Linear(config.hidden_dim if routed else units, width) for width in widths.values()
        )

    def forward(
        self, x: Float[Tensor, "batch in_dim"]
    ) -> tuple[dict[str, Float[Tensor, "batch _"]], Float[Tensor, "batch tasks experts"] | None]:
        """Return the logits of each task and the router logits [B, T, E], None for the plain MLP."""
        # All experts' first layers are one matrix product. A batch has few documents, so computing every
        # expert for each is faster than dispatching documents to the chosen ones.
        hidden = self.dropout(F.gelu(self.hidden(x)))  # [B, E * hidden]
        if self.router is None:
            return {task: tower(hidden) for task, tower in zip(self.tasks, self.towers, strict=True)}, None
        router_logits = self.router(x).unflatten(-1, (len(self.tasks), self.config.experts))
        gates = route(router_logits, self.config.top_k).to(hidden.dtype)  # [B, T, E]
        mixed = gates @ hidden.unflatten(-1, (self.config.experts, -1))  # [B, T, hidden]
        # Each task reads its own mixture: tasks share experts, and choose among them on their own.
        by_task = zip(self.tasks, self.towers, mixed.unbind(dim=1), strict=True)
        return {task: tower(x) for task, tower, x in by_task}, router_logits


class OrdinalThresholds(nn.Module):
    """Turns one score into cumulative logits by ordered thresholds: logit P(y > k) = score - theta_k.

    The proportional-odds model (McCullagh 1980).

    theta_0 is free and theta_k - theta_(k-1) = softplus(increment_k) > 0, so the thresholds never cross.
    """

    def __init__(self, num_classes: int) -> None:
        """Make K - 1 thresholds, centred on 0 and one unit apart.

        Raises:
            ValueError: below 2 classes.
        """
        super().__init__()
        if num_classes < 2:
            raise ValueError(
                f"ordinal thresholds for {num_classes} classes: an ordinal task needs at least 2 classes"
            )
        unit = torch.tensor(1.0).expm1().log()  # softplus(unit) = 1
        self.first = nn.Parameter(torch.tensor([-(num_classes - 2) / 2]))
        self.increments = nn.Parameter(unit.repeat(num_classes - 2))

    def thresholds(self) -> Float[Tensor, " cuts"]:
        """Return the K - 1 thresholds in rising order."""
        return torch.cat([self.first, self.first + F.softplus(self.increments).cumsum(0)])

    def forward(self, score: Float[Tensor, "batch 1"]) -> Float[Tensor, "batch cuts"]:
        """Return the logits of P(y > k) for k from 0 to K - 2."""
        return score - self.thresholds()
