"""Supervised losses of the five task kinds, and what their logits mean: probabilities and decisions.

Axes: B documents (`batch`), K classes (multiclass, ordinal) or labels (multilabel) of `TaskConfig.classes`.

| kind | logits o | targets; unlabelled | statistics of the training part | prior |
|---|---|---|---|---|
| binary | [B, 1], logit P(y = 1) | int64 [B]; -1 | [2] counts | log n_1 / n_0 |
| multiclass | [B, K] | int64 [B]; -1 | [K] counts | log n_k / n |
| multilabel | [B, K] | float [B, K] of 0 and 1; NaN | [K, 2] counts, without and with | log n_k1 / n_k0 |
| ordinal | [B, K - 1], logit P(y > k) | int64 [B]; -1 | [K] counts | logit of the share above k |
| regression | [B, 1], standardised | float [B]; NaN | [2] mean and standard deviation | none |

A binary task is an ordinal one of two classes, and is computed as such. A head gives one score for an ordinal
task, which `moe.OrdinalThresholds` turns into ordered logits; the functions here take free ones too.
"""

from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num, Shaped
from torch import Tensor

from hilbert_ray.config import TaskConfig
from hilbert_ray.losses.precision import full_precision

Targets: TypeAlias = Num[Tensor, "batch ..."]
Statistics: TypeAlias = Float[Tensor, "..."]
BETA = 0.999
"""Of the effective number of samples: weights level off at about 1 / (1 - BETA) = 1,000 cases of a class."""
GAMMA = 2.0
"""Of the focal loss, the value that worked best in its paper (Lin et al. 2017, table 1b)."""
UNSEEN = 0.5
"""A class without a training case counts as half a case, so that its prior and weight are finite."""


def num_outputs(task: TaskConfig) -> int:
    """Return how many scores a head gives for the task: K, or 1 for binary, ordinal and regression."""
    return len(task.classes) if task.kind in ("multiclass", "multilabel") else 1


def statistics_shape(task: TaskConfig) -> tuple[int, ...]:
    """Return the shape of `label_statistics`."""
    return {"multilabel": (len(task.classes), 2), "regression": (2,)}.get(task.kind, (len(task.classes),))


def label_statistics(task: TaskConfig, targets: Targets) -> Statistics:
    """Return what the loss knows of the training part's labels: counts of classes, or mean and deviation.

    Unlabelled entries do not count. Shapes are in the table of this module; float32.
    """
    if task.kind == "multilabel":
        return torch.stack([(targets == 0).sum(dim=0), (targets == 1).sum(dim=0)], dim=1).float()
    if task.kind == "regression":
        # float64: counts in the thousands times large numbers lose digits of the deviation in float32.
        known = targets[~targets.isnan()].double()
        mean = known.sum() / max(len(known), 1)
        return torch.stack([mean, ((known - mean).square().sum() / max(len(known), 1)).sqrt()]).float()
    return torch.bincount(targets[targets >= 0], minlength=len(task.classes)).float()


def log_prior(task: TaskConfig, statistics: Statistics) -> Float[Tensor, " logits"]:
    """Return the log odds of the training part's classes, in the shape of one document's logits.

    Evidence plus this is what probabilities are made of. A class without a training case counts as half a
    case. Zero for regression.
    """
    if task.kind == "regression":
        return statistics.new_zeros(1)
    return _log_odds(task, statistics.clamp_min(UNSEEN))


def added_prior(task: TaskConfig, statistics: Statistics) -> Float[Tensor, " logits"]:
    """Return what training adds to the logits (Menon et al. 2021, equation 10).

    The log prior with `logit_adjustment`, zeros otherwise.
    """
    prior = log_prior(task, statistics)
    return prior if task.imbalance == "logit_adjustment" else torch.zeros_like(prior)


def learned_prior(task: TaskConfig, statistics: Statistics) -> Float[Tensor, " logits"]:
    """Return the prior that logits hold after training: logits less this are evidence alone.

    Zeros where training adds the prior itself. Otherwise the network has to learn it: that of the classes'
    frequencies, times the weights of `class_balanced`. `focal` has no exact form and is taken as unweighted.
    """
    if task.kind == "regression" or task.imbalance == "logit_adjustment":
        return torch.zeros_like(log_prior(task, statistics))
    if task.imbalance == "class_balanced":
        return _log_odds(task, statistics.clamp_min(UNSEEN) * class_weights(statistics))
    return log_prior(task, statistics)


def _log_odds(task: TaskConfig, n: Tensor) -> Float[Tensor, " logits"]:
    """Return the log odds of (weighted) counts of classes, all above 0."""
    # An offset common to all classes cancels in a softmax, but not in a sigmoid: those get log odds.
    if task.kind == "multiclass":
        return (n / n.sum()).log()
    if task.kind == "multilabel":
        return (n[:, 1] / n[:, 0]).log()
    up_to = n.cumsum(dim=0)[:-1]  # cases with y <= k
    return ((n.sum() - up_to) / up_to).log()


def class_weights(counts: Float[Tensor, "*labels classes"]) -> Float[Tensor, "*labels classes"]:
    """Return (1 - beta) / (1 - beta^n_k), scaled to a mean of 1 over classes (Cui et al. 2019, eq. 2)."""
    # A mean of 1 keeps the size of the term, and with it its balance with the other terms.
    weights = (1 - BETA) / (1 - BETA ** counts.clamp_min(UNSEEN))
    return weights / weights.mean(dim=-1, keepdim=True)


@full_precision
def task_loss(
    task: TaskConfig, logits: Float[Tensor, "batch logits"], targets: Targets, statistics: Statistics
) -> tuple[Float[Tensor, ""], Shaped[Tensor, ""]]:
    """Return the sum of the losses of all labelled entries, and their number.

    The mean over the global batch is `distributed.global_mean(total, count)`; 0 where nothing is labelled. An
    entry is a document, for multilabel a document with a label.

    - multiclass: cross-entropy; binary, multilabel: binary cross-entropy.
    - ordinal: the sum over cuts k of the binary cross-entropy of "y > k" (Niu et al. 2016).
    - regression: squared error, in units of the training part's variance.

    `task.imbalance`: `logit_adjustment` trains o + log prior; `class_balanced` weights an entry by the
    effective number of its class (`class_weights`; the number returned stays that of entries); `focal`
    multiplies each cross-entropy by (1 - p)^2, p the probability of the truth (Lin et al. 2017, equation 4).

    Args:
        task: kind, classes and imbalance.
        logits: o, without the prior.
        targets: with unlabelled entries marked; see the table of this module.
        statistics: `label_statistics` of the training part.
    """
    if task.kind == "regression":
        known = ~targets.isnan()
        error = logits[:, 0] - _standardised(targets.to(logits.dtype).nan_to_num(), statistics)
        return (error.square() * known).sum(), known.sum()

    # Trained with the prior added, the logits o themselves become those of balanced classes.
    logits = logits + added_prior(task, statistics).to(logits.dtype)
    # Unlabelled entries are computed with some valid target and then multiplied by 0: shapes stay the same
    # whatever is labelled, and nothing is gathered by a mask.
    known = ~targets.isnan() if task.kind == "multilabel" else (targets >= 0)[:, None]
    truth = (
        targets.nan_to_num().long() if task.kind == "multilabel" else targets.clamp_min(0)[:, None]
    )  # [B, 1 or K]
    if task.kind == "multiclass":
        cross_entropy = -logits.log_softmax(dim=-1).gather(1, truth)  # [B, 1]
    else:
        positive = (
            truth if task.kind == "multilabel" else truth > torch.arange(logits.shape[1], device=truth.device)
        )
        cross_entropy = F.binary_cross_entropy_with_logits(
            logits, positive.to(logits.dtype), reduction="none"
        )
    # p of the truth is exp(-cross-entropy), for softmax and sigmoid alike.
    if task.imbalance == "focal":
        cross_entropy = (1 - (-cross_entropy).exp()) ** GAMMA * cross_entropy
    if task.imbalance == "class_balanced":
        # By the class of the entry; an ordinal entry has one class for all its cuts.
        weights = class_weights(statistics.to(logits.dtype)).expand(truth.shape[1], -1)  # [1 or K, classes]
        cross_entropy = cross_entropy * weights.gather(1, truth.T).T
    return (cross_entropy * known).sum(), known.sum()


@full_precision
def probabilities(
    task: TaskConfig, evidence: Float[Tensor, "batch logits"], statistics: Statistics
) -> Float[Tensor, "batch ..."]:
    """Return probabilities: softmax or sigmoid of evidence + log prior.

    [B, K], rows summing to 1, for binary (K = 2), multiclass and ordinal; [B, K], each label on its own, for
    multilabel; for regression the predicted number [B], in the targets' unit. Free cumulative logits that
    rise with k are cut to the smallest so far, so that no class has a negative probability.

    Args:
        task: kind and classes.
        evidence: logits less `learned_prior`, over the temperature: a temperature scales the evidence and
            never the prior, or uncertain predictions would leave the classes' frequencies behind.
        statistics: `label_statistics` of the training part.
    """
    if task.kind == "regression":
        mean, deviation = _mean_and_deviation(statistics.to(evidence.dtype))
        return evidence[:, 0] * deviation + mean
    adjusted = evidence + log_prior(task, statistics).to(evidence.dtype)
    if task.kind == "multiclass":
        return adjusted.softmax(dim=-1)
    if task.kind == "multilabel":
        return adjusted.sigmoid()
    # P(y = k) = P(y > k - 1) - P(y > k). The network's logits fall with k by construction, free ones may not.
    above = F.pad(adjusted.sigmoid().cummin(dim=1).values, (1, 0), value=1.0)  # P(y > k), k from -1
    return above - F.pad(above[:, 1:], (0, 1))


@full_precision
def decide(
    task: TaskConfig, evidence: Float[Tensor, "batch logits"], statistics: Statistics
) -> Shaped[Tensor, "batch ..."]:
    """Return decisions, int64 [B] (multilabel [B, K]); for regression the predicted number, float [B].

    One rule per treatment of imbalance. `logit_adjustment` and `class_balanced` decide on evidence alone, as
    if all classes were equally frequent, which minimises the balanced error (Menon et al. 2021, equation
    8): a class is chosen where its odds are above those of its frequency. `none` and `focal` take the most
    probable class. The rule is argmax (multiclass), above 0 (binary, multilabel), or the number of cuts
    above 0 (ordinal).
    """
    if task.kind == "regression":
        return probabilities(task, evidence, statistics)
    if task.imbalance in ("none", "focal"):
        evidence = evidence + log_prior(task, statistics).to(evidence.dtype)
    # No temperature matters here: it never changes which class is the largest.
    if task.kind == "multiclass":
        return evidence.argmax(dim=-1)
    positive = (evidence > 0).long()
    return positive if task.kind == "multilabel" else positive.sum(dim=1)


def _mean_and_deviation(statistics: Statistics) -> tuple[Tensor, Tensor]:
    """Return a regression task's mean and standard deviation, 1 for targets that do not vary."""
    mean, deviation = statistics
    return mean, torch.where(deviation > 0, deviation, 1)


def _standardised(targets: Tensor, statistics: Statistics) -> Tensor:
    mean, deviation = _mean_and_deviation(statistics.to(targets.dtype))
    return (targets - mean) / deviation
