"""Embeddings: retrieval and geometry equal scikit-learn, brute force and definitions."""

import itertools
import json

import numpy as np
import pytest
import sklearn.metrics as sk

from hilbert_ray.metrics.retrieval import (
    alignment,
    evaluate_embeddings,
    modality_gap,
    retrieval_ranks,
    uniformity,
)


def brute_recall(queries: np.ndarray, gallery: np.ndarray, depth: int) -> float:
    hits = 0
    for i, query in enumerate(queries):
        cosine = [query @ row / np.linalg.norm(query) / np.linalg.norm(row) for row in gallery]
        hits += i in np.argsort(cosine)[::-1][:depth]
    return hits / len(queries)


def test_retrieval_within_test_sets_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    audio, noise = rng.normal(size=(60, 8)), rng.normal(size=(60, 8))
    text, joint = audio + noise, audio + 0.2 * noise
    fold, repeat, group = np.arange(60) % 4, np.arange(60) // 30, np.arange(60) // 2
    result = evaluate_embeddings(audio, text, joint, fold, repeat, group, resamples=100)
    sets = [np.flatnonzero((fold == f) & (repeat == r)) for r in (0, 1) for f in range(4)]
    for depth in (1, 5):
        expected = [brute_recall(audio[rows], text[rows], depth) for rows in sets]
        score = result[f"audio_to_text_recall_at_{depth}"]
        assert score["mean"] == pytest.approx(np.mean(expected))
        assert score["pooled"] == pytest.approx(np.average(expected, weights=[len(rows) for rows in sets]))
        assert score["low"] < score["pooled"] <= score["high"]
        assert (score["folds"], score["gallery"]) == (8, pytest.approx(np.mean([len(rows) for rows in sets])))
    ranks = np.concatenate([retrieval_ranks(audio[rows], text[rows]) for rows in sets])
    assert result["audio_to_text_mrr"]["pooled"] == pytest.approx((1 / ranks).mean())
    assert result["alignment"]["mean"] == pytest.approx(
        np.mean([alignment(audio[rows], text[rows]) for rows in sets])
    )
    json.dumps(result, allow_nan=False)


def test_retrieval_equals_scikit_learn() -> None:
    """A query has one right answer, so R@k is top-k accuracy and MRR is label ranking average precision."""
    rng = np.random.default_rng(0)
    audio = rng.normal(size=(40, 6))
    text = audio + rng.normal(size=(40, 6))
    ranks = retrieval_ranks(audio, text)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (audio, text)]
    cosine = unit[0] @ unit[1].T
    for depth in (1, 5, 10):
        expected = sk.top_k_accuracy_score(np.arange(40), cosine, k=depth)
        assert (ranks <= depth).mean() == pytest.approx(expected)
    expected = sk.label_ranking_average_precision_score(np.eye(40, dtype=int), cosine)
    assert (1 / ranks).mean() == pytest.approx(expected)


def test_chance_of_retrieval_is_what_unrelated_embeddings_reach() -> None:
    rng = np.random.default_rng(0)
    audio, text = rng.normal(size=(2, 4000, 8))
    fold = np.arange(4000) // 20
    result = evaluate_embeddings(audio, text, text, fold, np.zeros(4000, int), np.arange(4000), resamples=2)
    for name in ("recall_at_1", "recall_at_5", "recall_at_10", "mrr"):
        score = result[f"audio_to_text_{name}"]
        assert score["pooled"] == pytest.approx(score["chance"], abs=0.03)
    assert result["audio_to_text_recall_at_5"]["chance"] == pytest.approx(0.25)
    assert result["audio_to_text_mrr"]["chance"] == pytest.approx(sum(1 / k for k in range(1, 21)) / 20)


def test_ties_in_retrieval_earn_half_a_place() -> None:
    same = np.ones((3, 4))
    assert retrieval_ranks(same, same).tolist() == [2.0, 2.0, 2.0]
    assert retrieval_ranks(np.eye(3), np.eye(3)).tolist() == [1.0, 1.0, 1.0]


def test_documents_that_lack_a_modality_are_left_out_of_retrieval() -> None:
    rng = np.random.default_rng(0)
    audio, text, joint = rng.normal(size=(3, 20, 4))
    fold, zero, group = np.arange(20) // 10, np.zeros(20, int), np.arange(20)
    holed = audio.copy()
    holed[[0, 13]] = np.nan
    kept = np.isfinite(holed).all(1)
    expected = evaluate_embeddings(audio[kept], text[kept], joint[kept], fold[kept], zero[kept], group[kept])
    assert evaluate_embeddings(holed, text, joint, fold, zero, group) == expected
    assert evaluate_embeddings(holed[:1], text[:1], joint[:1], fold[:1], zero[:1], group[:1]) == {}


def test_geometry_equals_its_definitions() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 12, 5))
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y)]
    assert alignment(x, y) == pytest.approx(
        np.mean([np.sum((a - b) ** 2) for a, b in zip(*unit, strict=True)])
    )
    distances = [np.sum((a - b) ** 2) for a, b in itertools.combinations(unit[0], 2)]
    assert uniformity(x) == pytest.approx(np.log(np.mean(np.exp(-2 * np.array(distances)))))
    assert modality_gap(x, y) == pytest.approx(np.linalg.norm(unit[0].mean(0) - unit[1].mean(0)))
    assert [alignment(x, 3 * x), modality_gap(x, 3 * x)] == pytest.approx([0, 0])
