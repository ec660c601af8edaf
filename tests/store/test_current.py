"""Which rows count, against a plain search of all rows of all commits."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from hilbert_ray.store.current import CurrentBlock, DataLocation
from hilbert_ray.store.features import Commit, Quarantined

IDS, SOURCES = "abc", "xy"
KEYS = st.tuples(st.sampled_from(IDS), st.sampled_from(SOURCES))


def commit(unit: int, stored: Sequence[tuple[str, str]], failed: Sequence[tuple[str, str]]) -> Commit:
    """Return a commit whose row number `i` has `10 * unit + i` segments."""
    return Commit(
        unit=f"u{unit}",
        bucket=0,
        file=f"{unit}.parquet",
        sha256="0",
        size_bytes=100 + unit,
        stored=tuple((doc_id, source, 10 * unit + i, 1.0) for i, (doc_id, source) in enumerate(stored)),
        quarantined=tuple(
            Quarantined(doc_id=doc_id, source=source, stage="read", error="E", message=f"u{unit}")
            for doc_id, source in failed
        ),
    )


@given(
    sources=st.dictionaries(st.sampled_from(IDS), st.sampled_from(SOURCES)),
    units=st.lists(
        st.tuples(st.lists(KEYS, max_size=4, unique=True), st.lists(KEYS, max_size=3, unique=True)),
        max_size=4,
    ),
)
def test_the_first_unit_with_the_current_source_counts_and_failures_only_where_no_unit_has_it(
    sources: dict[str, str], units: list[tuple[list[tuple[str, str]], list[tuple[str, str]]]]
) -> None:
    commits = [commit(unit, stored, failed) for unit, (stored, failed) in enumerate(units)]
    block = CurrentBlock(buckets={0}, sources=sources, commits=commits)
    expected: dict[str, DataLocation] = {}
    failures: dict[str, str] = {}
    for doc_id, source in sources.items():
        for each in commits:
            segments = [n for stored, of, n, _ in each.stored if (stored, of) == (doc_id, source)]
            if segments and doc_id not in expected:
                expected[doc_id] = DataLocation(str(each.file), each.size_bytes, segments[0])
            for failure in each.quarantined:
                if (failure.doc_id, failure.source) == (doc_id, source):
                    failures[doc_id] = failure.message  # the latest tells why
    assert block.locations() == expected
    assert {doc_id: failure.message for doc_id, failure in block.failures.items()} == {
        doc_id: message for doc_id, message in failures.items() if doc_id not in expected
    }
    assert block.locations({"a"}) == {key: value for key, value in expected.items() if key == "a"}
