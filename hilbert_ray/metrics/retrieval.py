"""Metrics of embeddings: retrieval between modalities, alignment, uniformity, modality gap.

Embeddings of different networks do not share a space, so queries search only the gallery of their own test
set, and geometry is measured a test set at a time.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from hilbert_ray.metrics.intervals import RESAMPLES, IntervalScale, bootstrap_interval, resample_groups
from hilbert_ray.metrics.partition import Partition, ratio

DEPTHS = (1, 5, 10)
Embeddings = Float[np.ndarray, "rows dim"]


def retrieval_ranks(queries: Embeddings, gallery: Embeddings) -> Float[np.ndarray, " rows"]:
    """Return the rank (from 1) of row i of the gallery for query i by cosine; a tie counts half a place."""
    similarity = normalised(queries) @ normalised(gallery).T
    own = np.diagonal(similarity)[:, None]
    return np.asarray(1 + (similarity > own).sum(1) + 0.5 * ((similarity == own).sum(1) - 1))


def normalised(x: Embeddings) -> Embeddings:
    """Return rows scaled to length 1, in float64; a zero row stays zero."""
    x = x.astype(np.float64)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def alignment(x: Embeddings, y: Embeddings) -> float:
    """Return the mean squared distance of pairs on the unit sphere, 0 to 4 (Wang and Isola 2020)."""
    return float(((normalised(x) - normalised(y)) ** 2).sum(1).mean())


def uniformity(x: Embeddings) -> float:
    """Return log mean exp(-2 d^2) over pairs on the unit sphere, at most 0 (Wang and Isola 2020, t = 2)."""
    unit = normalised(x)
    similarity = (unit @ unit.T)[np.triu_indices(len(x), 1)]
    return float(np.log(np.exp(-2 * (2 - 2 * similarity)).mean()))


def modality_gap(x: Embeddings, y: Embeddings) -> float:
    """Return the distance between the means of two modalities on the unit sphere (Liang et al. 2022)."""
    return float(np.linalg.norm(normalised(x).mean(0) - normalised(y).mean(0)))


def evaluate_embeddings(
    audio: Embeddings,
    text: Embeddings,
    joint: Embeddings,
    fold: np.ndarray,
    repeat: np.ndarray,
    group: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Return retrieval and geometry of out-of-fold embeddings: {metric: {mean, pooled, low, ...}}.

    Retrieval is audio to text (the headline), text to audio, and audio or text to joint (nearly trivial,
    since the joint embedding is made of both): `<query>_to_<gallery>_recall_at_<k>` and `..._mrr`, each with
    the mean size of its `gallery` and what `chance` gives. Geometry is `alignment`, `modality_gap` (audio
    with text) and `uniformity_<modality>`, without intervals. `pooled` is the mean over queries, `mean` that
    over test sets.

    Args:
        audio: embeddings, a row a document and repeat; rows with NaN lack the modality and are left out.
        text: likewise.
        joint: likewise.
        fold: int [rows].
        repeat: int [rows].
        group: int [rows], what intervals are resampled by.
        resamples: bootstrap resamples.
        seed: of the resampling.
    """
    whole = {"audio": audio, "text": text, "joint": joint}
    usable = np.isfinite(audio).all(1) & np.isfinite(text).all(1) & np.isfinite(joint).all(1)
    embeddings = {name: values[usable] for name, values in whole.items()}
    index = np.unique(np.stack([repeat[usable], fold[usable]], 1), axis=0, return_inverse=True)[1].reshape(-1)
    sets = [
        rows for s in range(int(index.max(initial=-1)) + 1) if len(rows := np.flatnonzero(index == s)) >= 2
    ]
    if not sets:
        return {}
    rows = np.concatenate(sets)
    sizes = np.concatenate([np.full(len(part), len(part)) for part in sets])
    segments = Partition(index=np.repeat(np.arange(len(sets)), [len(part) for part in sets]), count=len(sets))
    units, codes = np.unique(group[usable][rows], return_inverse=True)
    draws = resample_groups(len(units), resamples, np.random.default_rng(seed))
    everything = Partition(index=np.zeros(len(rows), np.int64), count=1)

    def entry(values: np.ndarray, chance: np.ndarray, scale: IntervalScale) -> dict[str, Any]:
        weights = draws[codes]
        total = everything.sums(np.ones(len(values)), weights)
        drawn = ratio(everything.sums(values, weights), total)[0]
        support = np.array([len(units)])
        around = bootstrap_interval(
            values.mean(keepdims=True), drawn[None], support, len(units), len(rows), scale
        )
        ones = np.ones((len(values), 1))
        return {
            "mean": float(ratio(segments.sums(values, ones), segments.sums(ones[:, 0], ones)).mean()),
            "pooled": float(values.mean()),
            "low": around.low if np.isfinite(around.low) else None,
            "high": around.high if np.isfinite(around.high) else None,
            "folds": len(sets),
            "gallery": float(np.mean([len(part) for part in sets])),
            "chance": float(chance.mean()),
        }

    found: dict[str, dict[str, Any]] = {}
    harmonic = np.cumsum(1 / np.arange(1, sizes.max() + 1))
    for query, gallery in (("audio", "text"), ("text", "audio"), ("audio", "joint"), ("text", "joint")):
        ranks = np.concatenate(
            [retrieval_ranks(embeddings[query][part], embeddings[gallery][part]) for part in sets]
        )
        name = f"{query}_to_{gallery}"
        for depth in DEPTHS:
            hits = (ranks <= depth).astype(float)
            found[f"{name}_recall_at_{depth}"] = entry(hits, np.minimum(depth / sizes, 1), "share")
        found[f"{name}_mrr"] = entry(1 / ranks, harmonic[sizes - 1] / sizes, "share")
    geometry = {
        "alignment": [alignment(audio[usable][part], text[usable][part]) for part in sets],
        "modality_gap": [modality_gap(audio[usable][part], text[usable][part]) for part in sets],
        **{
            f"uniformity_{m}": [uniformity(values[part]) for part in sets] for m, values in embeddings.items()
        },
    }
    for name, values in geometry.items():
        found[name] = {
            "mean": float(np.mean(values)),
            "pooled": None,
            "low": None,
            "high": None,
            "folds": len(sets),
        }
    return found
