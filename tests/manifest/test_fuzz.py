"""Damaged manifests of every kind: each row a document or named as invalid, or all refused with one error."""

import json
import random
import re
import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hilbert_ray.document import Document, InvalidRow, number_of
from hilbert_ray.manifest import ManifestError, manifest_notes, read_manifest
from tests.manifest.samples import SAMPLES, Files
from tests.mutation import bounded_time, damaged

KINDS = sorted(SAMPLES)
SOAK = pytest.param(range(1000, 500_000), marks=pytest.mark.soak)
_BUG = "which is a fault of hilbert_ray"


def written(folder: Path, files: Files) -> str:
    """Write the files of a manifest and return its path: that of its file, or of the folder of several."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    [first, *more] = files
    return str(folder if more else folder / first)


def check(manifest: str) -> int:
    """Read a manifest; return its number of documents, after checking what it says of each row."""
    manifest_notes(manifest)
    documents = 0
    rows = 0
    for rows, (row, item) in enumerate(read_manifest(manifest), start=1):
        assert row == rows
        if isinstance(item, Document):
            documents += 1
            repr(item).encode()
        else:
            item.message.encode()
            assert _BUG not in item.message, item.message
    assert rows
    return documents


def attack(seed: int, folder: Path) -> None:
    kind = KINDS[seed % len(KINDS)]
    files = dict(SAMPLES[kind])
    name = random.Random(seed).choice(sorted(files))
    files[name] = damaged(seed, files[name], list(files.values()))
    manifest = written(folder, files)
    try:
        with bounded_time():
            check(manifest)
    except ManifestError as error:
        str(error).encode()
    except BaseException as error:
        error.add_note(f"seed {seed}: {kind}, {len(files[name])} bytes of {name}: {files[name][:300]!r}")
        raise


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_sample_that_is_read(kind: str, tmp_path: Path) -> None:
    assert check(written(tmp_path, SAMPLES[kind]))


@pytest.mark.parametrize("seeds", [range(1000), SOAK], ids=len)
def test_damaged_manifests_are_read_or_refused(seeds: range, tmp_path: Path) -> None:
    for seed in seeds:
        attack(seed, tmp_path / KINDS[seed % len(KINDS)])


def test_texts_of_arrow_that_lie_beyond_the_file_are_not_read(tmp_path: Path) -> None:
    """Arrow trusts offsets: one that is damaged would read other memory of the process, or end it."""
    offsets = struct.pack("<2i", 0, 1)
    data = bytearray(SAMPLES["arrow"]["m.arrow"])
    at = data.rindex(offsets)
    data[at : at + 8] = struct.pack("<2i", 0, 2**30)
    with pytest.raises(ManifestError, match=r"m\.arrow cannot be read as \.arrow: .*[oO]ffset"):
        check(written(tmp_path, {"m.arrow": bytes(data)}))


def test_a_date_that_no_calendar_has_is_a_fault_of_its_row(tmp_path: Path) -> None:
    days = pa.array([10, 10**7], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"doc_id": ["a", "b"], "text": ["x", "y"], "born": days}), tmp_path / "m.parquet")
    (_, first), (_, second) = read_manifest(str(tmp_path / "m.parquet"))
    assert isinstance(first, Document)
    assert first.attributes == {"born": "1970-01-11"}
    assert isinstance(second, InvalidRow)
    assert "row 2: column `born` holds a date or time that no calendar has" in second.message


@pytest.mark.parametrize("kind", ["bz2", "gzip", "xz", "parquet", "arrow"])
def test_a_file_that_is_cut_off_is_refused_as_damaged(kind: str, tmp_path: Path) -> None:
    [(name, data)] = SAMPLES[kind].items()
    with pytest.raises(ManifestError, match=rf"{re.escape(name)} (is cut off or damaged|cannot be read as)"):
        check(written(tmp_path, {name: data[: len(data) * 2 // 3]}))


@pytest.mark.parametrize("names", [["../other"], ["/etc"], [7], "train", []])
def test_a_dataset_that_names_what_is_elsewhere_is_refused(names: object, tmp_path: Path) -> None:
    files = {**SAMPLES["save_to_disk"], "dataset_dict.json": json.dumps({"splits": names}).encode()}
    with pytest.raises(ManifestError, match=r"dataset_dict\.json does not list `splits` by names"):
        check(written(tmp_path, files))


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("m.jsonl", "custom", True, "custom a mapping"),
        ("m.jsonl", "supervisions", {"a": 1}, "supervisions must be a list"),
        ("m.jsonl", "start", 10**400, "not seconds"),
        ("x_recordings_a.jsonl", "sources", [3, {"type": "file"}], "it must be one file"),
        ("x_recordings_a.jsonl", "sources", "file", "it must be one file"),
        ("x_supervisions_a.jsonl", "custom", ["x"], "custom of a supervision is of type list"),
    ],
)
def test_values_that_lhotse_never_writes_are_faults_of_their_row(
    file: str, key: str, value: object, message: str, tmp_path: Path
) -> None:
    files = dict(SAMPLES["cuts" if file == "m.jsonl" else "lhotse"])
    first, *_ = files[file].splitlines()
    files[file] = json.dumps({**json.loads(first), key: value}).encode()
    faults = [row for _, row in read_manifest(written(tmp_path, files)) if isinstance(row, InvalidRow)]
    assert len(faults) == 1
    assert message in faults[0].message


def test_text_of_a_hundred_thousand_digits_takes_linear_time() -> None:
    with bounded_time():
        assert number_of("1" * 100_000 + "x") is None


def test_a_header_that_is_no_csv_is_refused(tmp_path: Path) -> None:
    """Found by a seed: its bytes are a header that a looser reading takes, and a strict one does not."""
    attack(5_046_578, tmp_path / KINDS[5_046_578 % len(KINDS)])
