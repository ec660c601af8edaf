"""Exports: NumPy, Arrow and Hugging Face data sets, whole or not at all."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hilbert_ray.config import MODALITIES, ConfigError, Modality
from hilbert_ray.storage import StorageError
from hilbert_ray.store import FeatureRow, Store, bucket_of, export, export_store, write_snapshot
from tests import make
from tests.store.stores import FINGERPRINT, commit, filled


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """Return the features of each NumPy file of a folder, by file name."""
    return {path.name: np.load(path)["features"] for path in folder.iterdir()}


def test_features_are_exported_as_numpy_files(tmp_path: Path) -> None:
    store = filled(str(tmp_path / "store"), "ab")
    write_snapshot(store, iter([make.stored("a"), make.stored("b"), make.stored("x/y")]))
    commit(store, make.stored("x/y"))
    assert export_store(store, str(tmp_path / "out"), "numpy") == 3
    arrays = {path.name: np.load(path) for path in (tmp_path / "out" / f"audio-{FINGERPRINT}").iterdir()}
    assert sorted(arrays) == ["a.npz", "b.npz", "x%2Fy.npz"]
    for name in ("features", "start", "end", "timed"):
        np.testing.assert_array_equal(arrays["a.npz"][name], getattr(make.feature_row("a"), name))


def test_ids_too_long_for_a_file_name_are_exported_under_their_beginning(tmp_path: Path) -> None:
    long = ["x" * 300 + "a", "x" * 300 + "b"]
    store = filled(str(tmp_path / "store"), "")
    write_snapshot(store, iter([make.stored(doc_id) for doc_id in long]))
    for number, doc_id in enumerate(long):
        commit(store, make.stored(doc_id), unit=f"unit-{number}")
    assert export_store(store, str(tmp_path / "out"), "numpy") == 2
    files = sorted((tmp_path / "out" / f"audio-{FINGERPRINT}").iterdir())
    assert sorted(str(np.load(path)["doc_id"]) for path in files) == long
    assert all(path.name.startswith("x" * 200 + "-") for path in files)


def test_chosen_documents_are_exported_alone_and_only_their_buckets_are_read(tmp_path: Path) -> None:
    store = filled(str(tmp_path / "store"), "abcdef")
    for item in store.snapshot().documents():
        if item.document.doc_id not in "bd" and bucket_of(item.document.doc_id, 4) not in (
            bucket_of("b", 4),
            bucket_of("d", 4),
        ):
            for path in tmp_path.glob(f"store/**/unit-{item.document.doc_id}-*.parquet"):
                path.write_bytes(b"damaged")
    assert export_store(store, str(tmp_path / "out"), "numpy", ["d", "b"]) == 2
    assert sorted(read_folder(tmp_path / "out" / f"audio-{FINGERPRINT}")) == ["b.npz", "d.npz"]
    assert export_store(store, str(tmp_path / "table"), "arrow", ["b"]) == 1
    with pa.ipc.open_file(str(tmp_path / "table" / f"audio-{FINGERPRINT}.arrow")) as reader:
        [row] = reader.read_all().to_pylist()
    np.testing.assert_array_equal(np.array(row["features"], np.float16), make.feature_row("b").features)
    assert (row["doc_id"], row["group"], row["start"], row["seconds"]) == ("b", "b", [0.0, 1.0, 2.0], 3.0)


def test_named_columns_are_listed(tmp_path: Path) -> None:
    store = filled(str(tmp_path / "store"), "ab")
    encoder = tmp_path / "store" / "features" / "audio" / FINGERPRINT / "encoder.json"
    description = json.loads(encoder.read_text())
    parts = [{"dim": 2}, {"dim": 2, "names": ["f0_mean", "jitter"]}]
    encoder.write_text(json.dumps({**description, "parts": parts}))
    export_store(Store.open(store.uri), str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"Columns 2 to 3 of `audio-{FINGERPRINT}` are f0_mean, jitter." in card


def test_one_layer_of_features_that_hold_several_is_cut_out(tmp_path: Path) -> None:
    store = filled(str(tmp_path / "store"), "ab")
    width = make.feature_row("a").features.shape[1]
    encoder = tmp_path / "store" / "features" / "audio" / FINGERPRINT / "encoder.json"
    description = json.loads(encoder.read_text())
    encoder.write_text(json.dumps({**description, "layers": 2, "dim": width}))
    for layer, columns in ((0, slice(0, width // 2)), (1, slice(width // 2, width))):
        out = tmp_path / f"layer-{layer}"
        assert export_store(Store.open(store.uri), str(out), "numpy", layer=layer) == 2
        found = read_folder(out / f"audio-{FINGERPRINT}")["a.npz"]
        np.testing.assert_array_equal(found, make.feature_row("a").features[:, columns])
    with pytest.raises(ConfigError, match="has hidden states 0 to 1, but layer is 2; set it to"):
        export_store(Store.open(store.uri), str(tmp_path / "beyond"), "numpy", layer=2)
    assert not (tmp_path / "beyond").exists()


def test_documents_that_cannot_be_exported_are_named_and_nothing_is_left(tmp_path: Path) -> None:
    store = filled(str(tmp_path / "store"), "a")
    write_snapshot(store, iter([make.stored("a"), make.stored("b")]))
    out = tmp_path / "out"
    with pytest.raises(
        StorageError, match=r"document 'zz' is not in the newest manifest of store .* 2 documents"
    ):
        export_store(store, str(out), "numpy", ["a", "zz"])
    with pytest.raises(
        StorageError, match=r"document 'b' has no features in store .* pending or quarantined"
    ):
        export_store(store, str(out), "numpy", ["a", "b"])
    with pytest.raises(
        StorageError, match=r"of 2 documents, 1 have audio \(mfcc\) that is not embedded yet.*--allow-pending"
    ):
        export_store(store, str(out))
    with pytest.raises(StorageError, match=r"has no features to export; run `hilbert-ray embed` first"):
        export_store(Store.create(str(tmp_path / "empty")), str(out))
    with pytest.raises(StorageError, match=r"folder s3://b/out is not local"):
        export_store(store, "s3://b/out")
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("store", "empty")] == []


def test_an_export_never_mixes_with_what_is_there_and_a_failed_one_leaves_nothing(tmp_path: Path) -> None:
    store = filled(str(tmp_path / "store"), "ab")
    out = tmp_path / "out"
    out.mkdir()
    assert export_store(store, str(out)) == 2
    before = sorted(out.rglob("*"))
    with pytest.raises(StorageError, match=r"out exists and is not empty; name a new folder"):
        export_store(store, str(out))
    assert sorted(out.rglob("*")) == before
    [damaged] = tmp_path.glob("store/**/unit-b-*.parquet")
    damaged.write_bytes(b"damaged")
    with pytest.raises(StorageError, match=r"data file .*unit-b-.*parquet is damaged .* --repair"):
        export_store(store, str(tmp_path / "other"))
    damaged.unlink()
    with pytest.raises(StorageError, match=r"names is gone .*unit-b-.*`hilbert-ray store verify` lists"):
        export_store(store, str(tmp_path / "other"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]


def test_hugging_face_datasets_reads_an_export_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two encoders, documents without labels or split, files of more than one shard."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets  # type: ignore[import-untyped]

    monkeypatch.setattr(export, "_ROW_GROUP_BYTES", 50)
    monkeypatch.setattr(export, "_SHARD_BYTES", 400)
    store = Store.create(str(tmp_path / "store"), 4)
    items = [
        make.stored(
            f"d{i}", labels={"mood": "løw", "age": i} if i % 2 else {}, split="test" if i == 3 else None
        )
        for i in range(9)
    ]
    write_snapshot(store, iter(items))
    expected: dict[Modality, dict[str, FeatureRow]] = {"audio": {}, "text": {}}
    for modality, by_id in expected.items():
        store.add_encoder(modality, FINGERPRINT, {"name": "mfcc", "dim": 4})
        for i, item in enumerate(items[:-1]):
            doc_id = item.document.doc_id
            row = make.feature_row(doc_id, item.source(modality), n=i + 1, seed=i)
            by_id[doc_id] = replace(row, timed=i != 2, roles=("agent", "customer") if i == 1 else None)
            bucket = bucket_of(doc_id, 4)
            store.commit(modality, FINGERPRINT, unit=doc_id, bucket=bucket, rows=[by_id[doc_id]])
    out = tmp_path / "out"
    assert export_store(store, str(out), allow_pending=True) == 8
    assert len(list((out / f"text-{FINGERPRINT}").iterdir())) > 1
    assert "| 8 | 1 |" in (out / "README.md").read_text()
    for modality in MODALITIES:
        dataset = datasets.load_dataset(
            str(out), f"{modality}-{FINGERPRINT}", split="train", cache_dir=str(tmp_path / "cache")
        )
        assert sorted(dataset["doc_id"]) == [f"d{i}" for i in range(8)]
        for row in dataset:
            want = expected[modality][row["doc_id"]]
            number = int(row["doc_id"][1:])
            exported = np.array(row["features"], np.float16)
            assert exported.tobytes() == want.features.tobytes()
            assert np.array(row["start"], np.float32).tobytes() == want.start.tobytes()
            assert np.array(row["end"], np.float32).tobytes() == want.end.tobytes()
            assert row["roles"] == (["agent", "customer"] if number == 1 else None)
            assert json.loads(row["labels"]) == ({"mood": "løw", "age": number} if number % 2 else {})
            assert (row["group"], row["split"]) == (f"d{number}", "test" if number == 3 else None)
            assert (row["timed"], row["seconds" if modality == "audio" else "tokens"]) == (
                number != 2,
                number + 1,
            )
