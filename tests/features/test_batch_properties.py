"""Ragged arrays and batches against plain loops over documents, for any lengths and any world size."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.config import Config
from hilbert_ray.features.arrays import Features, Ragged, mean_std
from hilbert_ray.features.batch import ModalityBatch, collate, documents_of_rank, epoch_batches, eval_batches
from hilbert_ray.features.dataset import open_dataset
from tests import make

pairs_of_lengths = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=8)


def documents(lengths: list[tuple[int, int]]) -> Features:
    """Return documents with these numbers of segments of audio (width 3) and text (width 4)."""
    rng, signal = np.random.default_rng(len(lengths)), np.zeros(len(lengths), np.float32)
    audio, text = np.array(lengths).T
    return Features(
        doc_ids=np.arange(len(lengths)).astype(str),
        groups=np.arange(len(lengths)) // 2,
        audio=make.ragged(audio, 3, signal, rng),
        text=make.ragged(text, 4, signal, rng),
        targets={"age": np.arange(len(lengths), dtype=np.float32)},
    )


def segments_of(ragged: Ragged, i: int) -> slice:
    return slice(int(ragged.offsets[i]), int(ragged.offsets[i + 1]))


def expect_padded(padded: ModalityBatch | None, ragged: Ragged | None, indices: np.ndarray) -> None:
    assert padded is not None
    assert ragged is not None
    longest = max([1, *(int(ragged.lengths[i]) for i in indices)])
    values = np.zeros((len(indices), longest, ragged.dim))
    mask, position = np.zeros(values.shape[:2], bool), np.zeros(values.shape[:2])
    for row, i in enumerate(indices):
        for k, source in enumerate(range(*segments_of(ragged, i).indices(len(ragged.values)))):
            values[row, k], position[row, k] = ragged.values[source], ragged.position[source]
            mask[row, k] = True
    np.testing.assert_allclose(padded.values.numpy(), values)
    np.testing.assert_allclose(padded.position.numpy(), position)
    np.testing.assert_allclose(padded.wide.numpy(), ragged.wide[indices])
    np.testing.assert_array_equal(padded.mask.numpy(), mask)


@settings(max_examples=20, deadline=None)
@given(pairs_of_lengths, st.data())
def test_a_batch_is_what_a_plain_loop_pads(lengths: list[tuple[int, int]], data: st.DataObject) -> None:
    features = documents(lengths)
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
    indices = np.array(chosen)
    padded = collate(features, indices)
    expect_padded(padded.audio, features.audio, indices)
    expect_padded(padded.text, features.text, indices)
    assert padded.targets["age"].tolist() == pytest.approx(chosen)
    assert padded.group.tolist() == [i // 2 for i in chosen]


@settings(max_examples=40, deadline=None)
@given(pairs_of_lengths, st.data())
def test_documents_taken_are_their_rows_one_after_another(
    lengths: list[tuple[int, int]], data: st.DataObject
) -> None:
    ragged = documents(lengths).text
    assert ragged is not None
    indices = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=6)), np.int64)
    taken = ragged.take(indices)
    parts = [ragged.values[segments_of(ragged, i)] for i in indices]
    np.testing.assert_allclose(taken.values, np.concatenate([np.zeros((0, 4)), *parts]))
    assert taken.lengths.tolist() == [lengths[i][1] for i in indices]
    np.testing.assert_allclose(taken.wide, ragged.wide[indices])


@settings(max_examples=40, deadline=None)
@given(pairs_of_lengths)
def test_the_length_of_a_document_is_that_of_its_longer_sequence(lengths: list[tuple[int, int]]) -> None:
    features = documents(lengths)
    np.testing.assert_array_equal(features.lengths, [max(pair) for pair in lengths])
    np.testing.assert_array_equal(features.only("audio").lengths, [audio for audio, _ in lengths])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.floats(-50, 50), st.floats(0.01, 10), st.integers(0, 5))
def test_mean_and_deviation_of_float32_are_near_those_of_float64_and_follow_shift_and_scale(
    count: int, shift: float, scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    plain = rng.normal(size=(count, 3)).astype(np.float32)
    exact = plain.astype(np.float64)
    expected = np.concatenate([exact.mean(0), exact.std(0)])
    np.testing.assert_allclose(mean_std(plain), expected, atol=2e-6)
    np.testing.assert_allclose(mean_std(plain[rng.permutation(count)]), expected, atol=2e-6)
    moved = mean_std((shift + scale * exact).astype(np.float32))
    np.testing.assert_allclose(moved[:3], shift + scale * expected[:3], atol=1e-4)
    np.testing.assert_allclose(moved[3:], scale * expected[3:], atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 9), st.integers(0, 3))
def test_an_epoch_is_each_document_once_over_batches_and_ranks_whatever_the_world_size(
    count: int, size: int, world_size: int, seed: int
) -> None:
    alone, shared = (epoch_batches(np.arange(count), size, np.random.default_rng(seed)) for _ in range(2))
    shares = [[documents_of_rank(b, rank, world_size) for rank in range(world_size)] for b in shared]
    assert sorted(np.concatenate([np.concatenate(by_rank) for by_rank in shares])) == list(range(count))
    for batch, by_rank in zip(alone, shares, strict=True):
        np.testing.assert_array_equal(np.concatenate(by_rank), batch)
        assert np.ptp([len(part) for part in by_rank]) <= 1
    sizes = [len(batch) for batch in alone]
    assert np.ptp(sizes) <= 1
    assert np.mean(sizes) == pytest.approx(count / max(round(count / size), 1))


@settings(deadline=None, max_examples=60)
@given(
    documents=st.integers(2, 400), share=st.floats(0, 1), batch_size=st.integers(2, 40),
    has_buckets=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
def test_labelled_documents_are_spread_evenly_over_batches(
    documents: int, share: float, batch_size: int, has_buckets: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    documents += 2001 if has_buckets else 0
    indices, is_labelled = rng.permutation(3 * documents)[:documents], rng.random(documents) < share
    lengths = rng.integers(0, 50, documents)
    batches = epoch_batches(indices, batch_size, np.random.default_rng(seed), lengths, is_labelled)
    assert sorted(np.concatenate(batches)) == sorted(indices)
    sizes = [len(batch) for batch in batches]
    labelled = [np.isin(batch, indices[is_labelled]).sum() for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert max(labelled) - min(labelled) <= 1


def test_batches_of_documents_that_are_all_labelled_are_those_drawn_without_looking_at_labels() -> None:
    indices = np.arange(50)
    plain = epoch_batches(indices, 8, np.random.default_rng(3))
    labelled = epoch_batches(indices, 8, np.random.default_rng(3), None, np.ones(50, bool))
    assert [batch.tolist() for batch in plain] == [batch.tolist() for batch in labelled]


def test_a_document_is_labelled_if_any_task_has_a_label_of_it() -> None:
    features = replace(
        documents([(1, 1)] * 5),
        targets={
            "state": np.array([-1, 2, -1, -1, -1]),
            "score": np.array([np.nan, np.nan, 3.5, np.nan, np.nan], np.float32),
            "tags": np.array([[np.nan, np.nan]] * 3 + [[np.nan, 0.0]] + [[np.nan, np.nan]], np.float32),
        },
    )
    assert features.is_labelled.tolist() == [False, True, True, True, False]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 60))
def test_an_evaluation_batch_is_full_before_the_next_begins(lengths: list[int], budget: int) -> None:
    parts = list(eval_batches(len(lengths), np.array(lengths), budget))
    in_order = [lengths[i] for part in parts for i in part]
    assert in_order == sorted(lengths, reverse=True)
    for part in parts[:-1]:
        longest = max(lengths[part[0]], 1)
        assert (len(part) + 1) * longest > budget, "one more document would still fit"


def test_positions_and_statistics_of_a_store_are_those_of_its_rows(tmp_path: Path) -> None:
    """Segments of a second each in recordings that last half a second longer; text has audio's length."""
    audio, text = [3, 1, 4, 0, 2], [2, 5, 0, 2, 1]
    features = open_dataset(make.features_store(tmp_path / "store", audio, text, 6), Config()).features
    for ragged, own, other in ((features.audio, audio, text), (features.text, text, audio)):
        assert ragged is not None
        assert ragged.lengths.tolist() == own
        for i, n in enumerate(own):
            span = segments_of(ragged, i)
            # Text that runs past the recording, or has none, is measured by its own end.
            duration = n + 0.5 if ragged is features.audio else max(n, other[i] + 0.5 if other[i] else 0)
            np.testing.assert_allclose(
                ragged.position[span], (np.arange(n) + 0.5) / (duration or 1), rtol=1e-6
            )
            np.testing.assert_allclose(ragged.end[span] - ragged.start[span], 1.0)
            values = np.asarray(ragged.values[span], np.float64)
            expected = np.concatenate([values.mean(0), values.std(0)]) if n else np.zeros(12)
            np.testing.assert_allclose(ragged.wide[i], expected, atol=1e-5)
