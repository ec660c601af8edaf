"""Rows, commits and buckets of any content: float16 and float32 bounds, hashes against hashlib, sums."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from hilbert_ray.config import Modality
from hilbert_ray.document.records import Utterance
from hilbert_ray.storage.files import Files
from hilbert_ray.store import DataLocation, Store, compact_store, store_info
from hilbert_ray.store import store as store_module
from hilbert_ray.store.features import (
    STATISTICS_BYTES,
    Commit,
    FeatureRow,
    commit_from_json,
    decode_rows,
    encode_rows,
)
from hilbert_ray.store.snapshot import FileVersions, Snapshot, _decode_text, bucket_of, digest, encode_text
from hilbert_ray.store.store import batches_by_size
from tests.store.stores import FINGERPRINT, filled, many

texts = st.text(st.characters(codec="utf-8"), max_size=12)
NO_FILES = Files("memory://none")
MODALITIES: Sequence[Modality] = ("audio", "text")


@settings(max_examples=30, deadline=None)
@given(texts, st.integers(1, 5000))
def test_a_bucket_is_blake2b_of_the_id_modulo_their_number(doc_id: str, buckets: int) -> None:
    hashed = hashlib.blake2b(doc_id.encode(), digest_size=8).hexdigest()
    assert bucket_of(doc_id, buckets) == int(hashed, 16) % buckets


@pytest.mark.parametrize("buckets", [7, 64])
def test_documents_spread_over_buckets_as_at_random(buckets: int) -> None:
    counts = Counter(bucket_of(f"visit-{i}", buckets) for i in range(6400))
    expected = 6400 / buckets
    statistic = sum((counts[b] - expected) ** 2 / expected for b in range(buckets))
    low, high = chi2.ppf([1e-4, 1 - 1e-4], buckets - 1)
    assert low < statistic < high


@settings(max_examples=40, deadline=None)
@given(st.lists(texts, max_size=4))
def test_a_digest_is_blake2b_of_its_parts_between_zero_bytes(parts: list[str]) -> None:
    assert digest(*parts) == hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "patient"]), unique=True), st.booleans(), texts, texts)
def test_a_source_is_the_hash_of_what_features_depend_on(
    roles: list[str], reads_turns: bool, audio: str, turns: str
) -> None:
    versions = FileVersions(audio=audio, text="words", turns=turns)
    parts = [audio, turns if reads_turns or roles else "", *sorted(roles)]
    for given_roles in (roles, roles[::-1]):
        assert versions.source("audio", reads_turns=reads_turns, roles=given_roles) == digest("audio", *parts)
        assert versions.source("text", roles=given_roles) == digest("text", "words", *sorted(roles))


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(MODALITIES),
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9), st.booleans()), min_size=1, max_size=5),
    st.floats(1e-3, 1e3),
    st.integers(0, 9),
)
def test_rows_come_back_within_the_rounding_of_their_columns(
    modality: Modality, sizes: list[tuple[int, int, bool]], scale: float, seed: int
) -> None:
    """Features as float16 (11 bits), times as float32 (24 bits), amounts as they are."""
    rng = np.random.default_rng(seed)
    exact = [rng.normal(0, scale, (n, dim)) for n, dim, _ in sizes]
    starts = [np.sort(rng.uniform(0, 65_000, n)) for n, _, _ in sizes]
    rows = [
        FeatureRow(
            doc_id=f"d{i}", source="s", features=values.astype(np.float16), start=start.astype(np.float32),
            end=(start + 1).astype(np.float32), timed=timed, seen=start.sum(), present=start.sum(),
            roles=None if timed else tuple(f"speaker {k % 2}" for k in range(len(start))),
        )
        for i, (values, start, (_, _, timed)) in enumerate(zip(exact, starts, sizes, strict=True))
    ]  # fmt: skip
    found = list(decode_rows(modality, encode_rows(modality, rows)))
    assert [(row.doc_id, row.roles) for row in found] == [(row.doc_id, row.roles) for row in rows]
    for row, values, start, (n, dim, timed) in zip(found, exact, starts, sizes, strict=True):
        assert row.features.shape == (n, dim)
        assert (row.features.dtype.name, row.start.dtype.name, row.timed) == ("float16", "float32", timed)
        # Half a unit in the last place; below 2^-14 float16 has fixed steps of 2^-24.
        np.testing.assert_allclose(row.features.astype(float), values, rtol=2**-11, atol=2**-25)
        np.testing.assert_allclose(row.start, start, rtol=2**-24)
        np.testing.assert_allclose(row.end, start + 1, rtol=2**-24)
        assert row.seen == row.present == start.sum()


amounts = st.lists(st.floats(0, 1e5), max_size=8)


@settings(max_examples=40, deadline=None)
@given(amounts, st.dictionaries(texts, texts, max_size=2), st.integers(1, 8))
def test_a_commit_reads_back_equal_and_its_amount_is_the_sum_of_its_rows(
    parts: list[float], versions: dict[str, str], threads: int
) -> None:
    stored = tuple((f"d{i}", "s", i + 1, amount) for i, amount in enumerate(parts))
    commit = Commit(
        unit="u", bucket=3, file="f", sha256="0", size_bytes=9, stored=stored, quarantined=(),
        versions=versions, threads=threads,
    )  # fmt: skip
    assert commit_from_json(commit.to_json()) == commit
    assert commit.to_json().count(b"\n") == 0
    assert commit.amount == pytest.approx(math.fsum(parts), rel=1e-12)


times = st.floats(0, 1e6)
utterances = st.builds(
    lambda text, start, length, role: Utterance(text=text, start=start, end=start + length, role=role),
    texts, times, times, st.none() | texts,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(texts | st.lists(utterances | st.builds(Utterance, text=texts), min_size=1, max_size=4).map(tuple))
def test_a_transcript_reads_back_equal_with_times_to_the_last_bit(text: str | tuple[Utterance, ...]) -> None:
    assert _decode_text(encode_text(text)) == text


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 100))
def test_batches_by_size_keep_the_order_and_end_where_they_are_full(sizes: list[int], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "_READ_BYTES", most)
        batches = list(batches_by_size(enumerate(sizes)))
    assert [i for batch in batches for i in batch] == list(range(len(sizes)))
    totals = [sum(sizes[i] for i in batch) for batch in batches]
    assert all(total >= most for total in totals[:-1])
    assert all(total - sizes[batch[-1]] < most for total, batch in zip(totals, batches, strict=True))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(1, 256), min_size=1, max_size=3), max_size=12), st.integers(1, 700))
def test_blocks_of_a_snapshot_are_whole_buckets_with_enough_documents(
    buckets: list[list[int]], least: int
) -> None:
    groups = tuple((bucket, rows) for bucket, sizes in enumerate(buckets) for rows in sizes)
    snapshot = Snapshot(files=NO_FILES, row_groups=groups)
    blocks = snapshot.blocks(num_documents=least)
    assert [bucket for block in blocks for bucket in sorted(block)] == list(range(len(buckets)))
    totals = [sum(sum(buckets[bucket]) for bucket in block) for block in blocks]
    assert all(total >= least for total in totals[:-1])
    # As small as whole buckets allow: without its last bucket no block has enough.
    for block, total in zip(blocks, totals, strict=True):
        assert total - sum(buckets[max(block)]) < least


def read(store: Store) -> dict[str, np.ndarray]:
    locations = {
        doc_id: DataLocation(str(commit.file), commit.size_bytes, segments)
        for commit in store.commits("audio", FINGERPRINT).read()
        for doc_id, _, segments, _ in commit.stored
    }
    return {row.doc_id: row.features for row in store.rows("audio", locations)}


def test_a_compacted_store_holds_equal_arrays(tmp_path: Path) -> None:
    store = many(str(tmp_path / "store"), 12)
    before = read(store)
    assert len(before) == 22
    assert len(compact_store(store, min_commits=2)) == 2
    after = read(store)
    assert list(after) == list(before)
    for doc_id, values in before.items():
        np.testing.assert_allclose(after[doc_id], values, rtol=0, atol=0)


def test_info_counts_hours_segments_and_bytes_as_a_plain_sum(tmp_path: Path) -> None:
    store = filled(str(tmp_path / "store"), "abcdefg")
    [info] = store_info(store)["encoders"]
    rows = list(store.read("audio", FINGERPRINT))
    commits = list(store.commits("audio", FINGERPRINT).read())
    assert info["hours"] == pytest.approx(sum(row.seen for row in rows) / 3600)
    assert info["hours"] == pytest.approx(7 * 3 / 3600)
    assert info["segments"] == sum(len(row.features) for row in rows) == 21
    assert info["size_bytes"] == sum(len(store.files.read(str(commit.file))) for commit in commits)
    assert (info["documents"], info["stored"], info["pending"], info["units"]) == (7, 7, 0, 7)


def test_features_of_a_large_file_have_no_statistics() -> None:
    """To compute them, and then to leave them out, Parquet took six times the memory of the features."""
    ends = np.arange(1, 401, dtype=np.float32)
    row = FeatureRow(
        doc_id="long", source="s", features=np.ones((400, 25 * 1024), np.float16), start=ends - 1, end=ends,
        timed=True, seen=400.0, present=400.0,
    )  # fmt: skip
    short = replace(row, features=row.features[:, :8])
    assert short.features.nbytes < STATISTICS_BYTES < row.features.nbytes
    for written, names in ((row, {"doc_id"}), (short, {"doc_id", "features"})):
        data = encode_rows("audio", [written])
        [read] = decode_rows("audio", data)
        np.testing.assert_array_equal(read.features, written.features)
        group = pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0)
        columns = [group.column(k) for k in range(group.num_columns)]
        described = {column.path_in_schema for column in columns if column.is_stats_set}
        assert described & {"doc_id", "features"} == names
