"""Near duplicates: copies are found whatever was done to them, others are not; their groups are joined."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.features import duplicates
from hilbert_ray.features.arrays import Ragged
from hilbert_ray.features.duplicates import NearDuplicates, near_duplicates
from tests import make

DIM = 24


def recordings(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    """Return segments of recordings whose voices and channels differ: neighbours in time are alike."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(DIM, DIM)) / DIM**0.5
    return [
        ((rng.normal(size=(n, DIM)) + rng.normal(size=DIM)) @ mixing * rng.uniform(0.5, 2, DIM)).astype(
            np.float32
        )
        for n in lengths
    ]


def ragged(values: list[np.ndarray]) -> Ragged:
    made = make.ragged(
        np.array([len(each) for each in values]), DIM, np.zeros(len(values)), np.random.default_rng(0)
    )
    return replace(made, values=np.concatenate(values))


def found(values: list[np.ndarray], groups: list[int] | None = None) -> list[tuple[int, int]]:
    pairs = near_duplicates(ragged(values), [None] * len(values), np.array(groups or range(len(values))))
    return [(first, second) for first, second, _, _ in pairs.rows()]


def test_copies_are_found_whatever_their_gain_channel_noise_or_part() -> None:
    plain = recordings([20] * 40)
    rng = np.random.default_rng(1)
    copies = [
        plain[3],
        plain[7].astype(np.float16).astype(np.float32),
        plain[11] * rng.uniform(0.8, 1.2, DIM) + rng.normal(size=DIM),  # another channel
        plain[15] + 0.1 * plain[15].std(0) * rng.normal(size=plain[15].shape),
        plain[19][4:16],
        plain[23][::-1],
    ]
    values = [*plain, *(copy.astype(np.float32) for copy in copies)]
    assert found(values) == [(3, 40), (7, 41), (11, 42), (15, 43), (19, 44), (23, 45)]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 50])
def test_recordings_of_any_length_are_only_like_their_copies(length: int) -> None:
    values = recordings([length] * 60, seed=length)
    assert found([*values, values[5]]) == [(5, 60)]


def test_a_half_in_common_is_enough_and_less_is_not() -> None:
    values = recordings([20] * 40)
    half = np.concatenate([values[2][:13], recordings([7], seed=5)[0]])
    less = np.concatenate([values[4][:6], recordings([14], seed=6)[0]])
    assert found([*values, half, less]) == [(2, 40)]


def test_what_many_recordings_share_is_no_evidence() -> None:
    """A jingle in all, and silence, which is a half of short recordings."""
    jingle, silence = recordings([4], seed=9)[0], np.zeros((1, DIM), np.float32)
    assert found([np.concatenate([jingle, each]) for each in recordings([12] * 60)]) == []
    halves = [np.concatenate([silence, each]) for each in recordings([1] * 60)]
    assert found(halves) == []
    assert found(halves[:3]) == [(0, 1), (0, 2), (1, 2)], "of three documents, none is common"


def test_copies_in_one_group_are_no_fault_and_no_audio_is_no_copy_of_none() -> None:
    plain = recordings([6] * 30)
    nothing = np.zeros((0, DIM), np.float32)
    values = [*plain, plain[4], nothing, nothing]
    groups = [*range(30), 4, 31, 32]
    assert found(values, groups) == []
    pairs = near_duplicates(ragged(values), [None] * 33, np.array(groups))
    assert pairs.checked == {"audio": 31}
    assert (len(pairs), pairs.groups) == (0, 0)
    empty = near_duplicates(ragged([nothing, nothing]), [None, None], np.arange(2))
    assert (len(empty), empty.checked) == (0, {})


def sentences(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{k}" for k in rng.integers(0, 500, 8)) + "." for _ in range(count)]


def brute_force(texts: list[str]) -> dict[tuple[int, int], float]:
    """Return the share of runs of five words in common, by pair, where no run is common."""
    runs = []
    for text in texts:
        words = text.lower().replace(".", "").split()
        runs.append({tuple(words[i : i + 5]) for i in range(len(words) - 4)})
    return {
        (i, j): len(runs[i] & runs[j]) / min(len(runs[i]), len(runs[j]))
        for i in range(len(texts))
        for j in range(i + 1, len(texts))
    }


def test_shares_of_text_are_those_of_brute_force() -> None:
    texts = [" ".join(sentences(12, seed)) for seed in range(20)]
    texts[5] = texts[4].upper().replace(".", " !")
    texts[9] = " ".join(sentences(12, 8)[:4] + sentences(5, 99))
    texts[13] = " ".join(sentences(12, 12)[:6] + sentences(3, 98))
    pairs = near_duplicates(None, texts, np.arange(20))
    expected = {
        pair: share
        for pair, share in brute_force([text.replace(" !", ".") for text in texts]).items()
        if share >= 0.5
    }
    assert {(first, second): share for first, second, _, share in pairs.rows()} == pytest.approx(expected)
    assert sorted(expected) == [(4, 5), (12, 13)]
    assert pairs.checked == {"text": 20}
    assert np.isnan(pairs.audio).all()


def test_texts_that_are_short_or_read_by_many_are_no_duplicates() -> None:
    passage = " ".join(sentences(12, 77))
    short = " ".join(sentences(2, 78))
    own = [" ".join(sentences(12, seed)) for seed in range(28)]
    texts = [*[f"{passage} {text}" for text in own], short, short, None]
    pairs = near_duplicates(None, texts, np.arange(31))
    assert len(pairs) == 0
    assert pairs.checked == {"text": 28}


def test_scripts_without_spaces_have_words_too() -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(chr(0x4E00 + k) for k in rng.integers(0, 3000, 60)) for _ in range(12)]
    pairs = near_duplicates(None, [*texts, texts[3][10:50]], np.arange(13))
    assert [(first, second) for first, second, _, _ in pairs.rows()] == [(3, 12)]


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from(["g0", "g1", "g2", "g3", "g4", "g5"]), min_size=2, max_size=8),
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=5),
)
def test_joined_groups_are_what_pairs_connect_named_by_their_first(
    groups: list[str], links: list[tuple[int, int]]
) -> None:
    pairs = sorted({(min(i, j), max(i, j)) for i, j in links if i != j and max(i, j) < len(groups)})
    index = np.array(pairs, np.int64).reshape(-1, 2)
    none = np.full(len(pairs), np.nan)
    made = NearDuplicates(groups=0, first=index[:, 0], second=index[:, 1], audio=none, text=none, checked={})
    names = {group: group for group in groups}
    for _ in groups:  # repeated until nothing changes
        for i, j in pairs:
            one = min(names[groups[i]], names[groups[j]])
            other = {names[groups[i]], names[groups[j]]}
            names = {group: one if name in other else name for group, name in names.items()}
    assert made.joined(groups) == [names[group] for group in groups]


def test_the_hash_of_a_run_depends_on_the_order_of_its_words() -> None:
    runs = duplicates._runs(np.array([1, 2, 3, 4, 5, 1, 2, 3, 5, 4], np.uint64))
    assert len(runs) == len(np.unique(runs)) == 6
    np.testing.assert_array_equal(runs[:1], duplicates._runs(np.array([1, 2, 3, 4, 5], np.uint64)))
    assert len(duplicates._runs(np.array([1, 2], np.uint64))) == 0
