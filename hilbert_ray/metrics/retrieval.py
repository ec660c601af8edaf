"""Metrics of embeddings: retrieval between modalities, alignment, uniformity, modality gap.

Embeddings of different networks do not share a space, so queries search only the gallery of their own test
set, and geometry is measured per test set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from hilbert_ray.metrics.intervals import RESAMPLES, bootstrap_interval, resample_groups
from hilbert_ray.metrics.partition import Partition, ratio

DEPTHS = (1, 5, 10)  # test sets are small: beyond 10, most of the gallery is retrieved
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _TestSets:
    """The queries of all test sets in one row of numbers, and what resamples them.

    rows: of each test set, indices into the usable embeddings. partition: the test set of each query.
    weights: float [queries, draws], how often a resample of groups contains each query. groups: how many.
    """

    rows: Sequence[np.ndarray]
    partition: Partition
    weights: Float[np.ndarray, "queries draws"]
    groups: int

    @property
    def sizes(self) -> np.ndarray:
        """The size of each query's gallery, int [queries]."""
        return np.concatenate([np.full(len(rows), len(rows)) for rows in self.rows])


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
    the mean size of its `gallery` and the value that `chance` gives. Geometry is `alignment`, `modality_gap`
    (audio with text) and `uniformity_<modality>`, without intervals. `pooled` is the mean over queries,
    `mean` that over test sets.

    Args:
        audio: embeddings, one row per document and repeat; rows with NaN lack the modality and are left out.
        text: likewise.
        joint: likewise.
        fold: int [rows].
        repeat: int [rows].
        group: int [rows], what intervals are resampled by.
        resamples: bootstrap resamples.
        seed: of the resampling.
    """
    usable = np.isfinite(audio).all(1) & np.isfinite(text).all(1) & np.isfinite(joint).all(1)
    embeddings = {"audio": audio[usable], "text": text[usable], "joint": joint[usable]}
    test_sets = _test_sets(fold[usable], repeat[usable], group[usable], resamples, seed)
    if test_sets is None:
        return {}
    return {**_retrieval(embeddings, test_sets), **_geometry(embeddings, test_sets)}


def _test_sets(
    fold: np.ndarray, repeat: np.ndarray, group: np.ndarray, resamples: int, seed: int
) -> _TestSets | None:
    """Return the test sets that can be searched; None where there is none."""
    pairs = np.unique(np.stack([repeat, fold], 1), axis=0, return_inverse=True)
    index = pairs[1].reshape(-1)
    # A gallery of one document is always retrieved at rank 1: such a test set would only raise the scores.
    rows = [
        members
        for number in range(int(index.max(initial=-1)) + 1)
        if len(members := np.flatnonzero(index == number)) >= 2
    ]
    if not rows:
        return None
    groups, codes = np.unique(group[np.concatenate(rows)], return_inverse=True)
    # Whole groups are drawn, so that the repeats of a document, and the documents of a speaker, go together.
    draws = resample_groups(len(groups), resamples, np.random.default_rng(seed))
    number = np.repeat(np.arange(len(rows)), [len(members) for members in rows])
    return _TestSets(
        rows=rows,
        partition=Partition(index=number, count=len(rows)),
        weights=draws[codes],
        groups=len(groups),
    )


def _retrieval(embeddings: Mapping[str, Embeddings], test_sets: _TestSets) -> dict[str, dict[str, Any]]:
    """Return recall at some depths and mean reciprocal rank, for each direction."""
    scores: dict[str, dict[str, Any]] = {}
    sizes = test_sets.sizes
    # The mean of 1 / rank over a random order of n documents is the n-th harmonic number over n.
    harmonic = np.cumsum(1 / np.arange(1, sizes.max() + 1))
    for query, gallery in (("audio", "text"), ("text", "audio"), ("audio", "joint"), ("text", "joint")):
        ranks = np.concatenate(
            [retrieval_ranks(embeddings[query][rows], embeddings[gallery][rows]) for rows in test_sets.rows]
        )
        name = f"{query}_to_{gallery}"
        for depth in DEPTHS:
            hits = (ranks <= depth).astype(float)
            scores[f"{name}_recall_at_{depth}"] = _entry(hits, np.minimum(depth / sizes, 1), test_sets)
        scores[f"{name}_mrr"] = _entry(1 / ranks, harmonic[sizes - 1] / sizes, test_sets)
    return scores


def _entry(values: np.ndarray, chance: np.ndarray, test_sets: _TestSets) -> dict[str, Any]:
    """Return one retrieval metric from its value for each query, with an interval over groups."""
    everything = Partition(index=np.zeros(len(values), np.int64), count=1)
    num_queries = everything.sums(np.ones(len(values)), test_sets.weights)
    resampled = ratio(everything.sums(values, test_sets.weights), num_queries)[0]
    interval = bootstrap_interval(
        values.mean(keepdims=True),
        resampled[None],
        np.array([test_sets.groups]),
        test_sets.groups,
        len(values),
        "share",
    )
    ones = np.ones((len(values), 1))
    sums, counts = test_sets.partition.sums(values, ones), test_sets.partition.sums(ones[:, 0], ones)
    return {
        "mean": float(ratio(sums, counts).mean()),
        "pooled": float(values.mean()),
        "low": interval.low if np.isfinite(interval.low) else None,
        "high": interval.high if np.isfinite(interval.high) else None,
        "folds": len(test_sets.rows),
        "gallery": float(np.mean([len(rows) for rows in test_sets.rows])),
        "chance": float(chance.mean()),
    }


def _geometry(embeddings: Mapping[str, Embeddings], test_sets: _TestSets) -> dict[str, dict[str, Any]]:
    """Return alignment, modality gap and uniformity, means over test sets without intervals."""
    audio, text = embeddings["audio"], embeddings["text"]
    values = {
        "alignment": [alignment(audio[rows], text[rows]) for rows in test_sets.rows],
        "modality_gap": [modality_gap(audio[rows], text[rows]) for rows in test_sets.rows],
        **{
            f"uniformity_{modality}": [uniformity(points[rows]) for rows in test_sets.rows]
            for modality, points in embeddings.items()
        },
    }
    folds = len(test_sets.rows)
    return {
        name: {"mean": float(np.mean(by_set)), "pooled": None, "low": None, "high": None, "folds": folds}
        for name, by_set in values.items()
    }
