"""Arrays of documents: padding, order, and what each rank computes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hilbert_ray.features import batch as batch
from hilbert_ray.features.arrays import mean_std
from hilbert_ray.features.batch import collate, documents_of_rank, epoch_batches, eval_batches
from tests import make


def test_collate_pads_and_masks_each_document() -> None:
    features = make.features(20)
    assert features.audio is not None
    indices = np.array([3, 0, 7])
    padded = collate(features, indices)
    assert padded.audio is not None
    for row, i in enumerate(indices):
        own = features.audio.values[features.audio.offsets[i] : features.audio.offsets[i + 1]]
        assert int(padded.audio.mask[row].sum()) == len(own)
        np.testing.assert_array_equal(padded.audio.values[row, : len(own)].numpy(), own)
        assert not padded.audio.values[row, len(own) :].any()
    assert padded.targets["state"].tolist() == features.targets["state"][indices].tolist()


def test_an_absent_modality_is_a_row_of_false_with_room_for_one_token() -> None:
    features = make.features(30, absent=0.3)
    assert features.audio is not None
    absent = np.flatnonzero(features.audio.lengths == 0)[:1]
    padded = collate(features, absent)
    assert padded.audio is not None
    assert padded.audio.mask.shape == (1, 1)
    assert not padded.audio.mask.any()


def test_taking_documents_keeps_their_rows_in_the_new_order() -> None:
    features = make.features(25, absent=0.2)
    indices = np.array([9, 2, 2, 20])
    taken, direct = collate(features.take(indices), np.arange(4)), collate(features, indices)
    for one, other in ((taken.audio, direct.audio), (taken.text, direct.text)):
        assert one is not None
        assert other is not None
        assert torch.equal(one.values, other.values)
        assert torch.equal(one.wide, other.wide)


def test_one_modality_alone_leaves_the_other_out() -> None:
    padded = collate(make.features(10).only("text"), np.arange(4))
    assert padded.audio is None
    assert padded.text is not None


@given(st.integers(2, 400), st.integers(2, 64), st.integers(0, 3))
def test_an_epoch_holds_every_document_once_in_near_equal_batches(n: int, size: int, seed: int) -> None:
    indices = np.arange(n) * 3
    parts = epoch_batches(indices, size, np.random.default_rng(seed))
    assert sorted(np.concatenate(parts)) == indices.tolist()
    assert len(parts) == max(round(n / size), 1)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_batches_are_bucketed_by_length_only_above_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.random.default_rng(0).integers(1, 400, 500)

    def waste(parts: list[np.ndarray]) -> float:
        padded = sum(len(part) * lengths[part].max() for part in parts)
        return float(1 - lengths.sum() / padded)

    free = waste(epoch_batches(np.arange(500), 32, np.random.default_rng(0), lengths))
    monkeypatch.setattr(batch, "LENGTH_BUCKETS_FROM", 100)
    bucketed = epoch_batches(np.arange(500), 32, np.random.default_rng(0), lengths)
    assert sorted(np.concatenate(bucketed)) == list(range(500))
    assert waste(bucketed) < 0.1 < 0.4 < free


@given(st.integers(0, 100), st.integers(1, 7))
def test_the_documents_of_all_ranks_are_the_batch(n: int, world: int) -> None:
    parts = [documents_of_rank(np.arange(n), rank, world) for rank in range(world)]
    assert np.concatenate(parts).tolist() == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.lists(st.integers(0, 500), min_size=1, max_size=60))
def test_evaluation_batches_hold_every_document_within_the_budget(lengths: list[int]) -> None:
    parts = list(eval_batches(len(lengths), np.array(lengths), budget=600))
    assert sorted(np.concatenate(parts)) == list(range(len(lengths)))
    assert all(len(part) == 1 or len(part) * max(lengths[i] for i in part) <= 600 for part in parts)


def test_mean_and_standard_deviation_of_no_segments_are_zeros() -> None:
    assert mean_std(np.zeros((0, 3), np.float32)).tolist() == [0.0] * 6
    np.testing.assert_allclose(mean_std(np.array([[1.0], [3.0]], np.float32)), [2.0, 1.0])


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 3))
def test_mean_and_standard_deviation_are_those_of_numpy_to_the_last_bit(n: int, dim: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(3.0, 5.0, (n, dim)).astype(np.float16).astype(np.float32)
    statistics = mean_std(values)
    assert statistics.dtype == np.float32
    np.testing.assert_array_equal(statistics, np.concatenate([values.mean(0), values.std(0)]))
