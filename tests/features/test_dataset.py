"""What runs start from: which encoder, which tasks, and when two runs read the same data."""

import json
import logging
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hilbert_ray.config import MODALITIES, Config, ConfigError, Modality, TaskConfig, from_dict, to_dict
from hilbert_ray.document.labels import encode_labels
from hilbert_ray.document.records import Utterance
from hilbert_ray.document.splits import SplitError
from hilbert_ray.encoders.registry import build_encoder
from hilbert_ray.evaluation.driver import evaluate
from hilbert_ray.evaluation.shortcuts import describe_duplicates
from hilbert_ray.features import dataset as datasets
from hilbert_ray.features.batch import Batch, collate, epoch_batches
from hilbert_ray.features.dataset import Dataset, open_dataset
from hilbert_ray.features.memory_map import map_folder, remove_maps
from hilbert_ray.model import network
from hilbert_ray.model.network import Network
from hilbert_ray.run.folder import write_run_config
from hilbert_ray.storage.access import StorageError
from hilbert_ray.storage.files import Files
from hilbert_ray.storage.workspace import Workspace
from hilbert_ray.store.errors import PendingError
from hilbert_ray.store.features import Quarantined
from hilbert_ray.store.snapshot import StoredDocument, bucket_of
from hilbert_ray.store.sorting import write_snapshot
from hilbert_ray.store.store import Store
from hilbert_ray.training.driver import train
from hilbert_ray.tuning.driver import tune
from tests import make, models

CONFIG = Config()
LABELS = {"a": "work", "b": "home", "c": "work", "d": None}


def fingerprint_of(modality: Modality, config: Config = CONFIG) -> str:
    spec, options = getattr(config, modality), getattr(config, f"{modality}_encoder")
    return build_encoder(spec, modality, options, config.segment).fingerprint


def stored(**changes: dict[str, Any]) -> list[StoredDocument]:
    """Return a document for each entry of `LABELS`; `changes` are fields by id."""
    documents = []
    for row, (doc_id, topic) in enumerate(LABELS.items(), start=1):
        labels = {} if topic is None else {"topic": topic}
        fields = {"labels": labels, "group": f"g{row % 2}", **changes.get(doc_id, {})}
        documents.append(make.stored(doc_id, row=row, **fields))
    return documents


def store_of(
    map_folder: Path, documents: list[StoredDocument], *configs: Config, without: str = "", seed: int = 0
) -> str:
    """Write a store with features of the built-in encoders of some settings; `without` lacks its audio."""
    store = Store.create(str(map_folder), 4)  # in their order, "b" is the first document
    write_snapshot(store, iter(documents))
    for config in configs or (CONFIG,):
        add_features(store, config, without, seed)
    return store.uri


def add_features(store: Store, config: Config, without: str, seed: int) -> None:
    modalities: tuple[Modality, Modality] = ("audio", "text")
    for modality in modalities:
        encoder = build_encoder(getattr(config, modality), modality, config.audio_encoder, config.segment)
        store.add_encoder(modality, encoder.fingerprint, encoder.describe())
        for number, item in enumerate(store.snapshot().documents()):
            doc_id, source = item.document.doc_id, item.source(modality)
            rows = [make.feature_row(doc_id, source, dim=encoder.dim, seed=seed + number)]
            failures = []
            if (modality, doc_id) == ("audio", without):
                failure = Quarantined(
                    doc_id=doc_id, source=source, stage="audio", error="AudioError", message="broken"
                )
                rows, failures = [], [failure]
            store.commit(
                modality, encoder.fingerprint, unit=f"unit-{doc_id}", bucket=bucket_of(doc_id, store.buckets),
                rows=rows, quarantined=failures,
            )  # fmt: skip


def opened(map_folder: Path, *documents: StoredDocument, config: Config = CONFIG, **store: Any) -> Dataset:  # noqa: ANN401
    return open_dataset(store_of(map_folder, list(documents) or stored(), **store), config)


def test_features_documents_and_targets_are_in_one_order_that_the_manifest_does_not_change(
    tmp_path: Path,
) -> None:
    dataset = opened(tmp_path / "one")
    assert dataset.features.doc_ids.tolist() == [d.doc_id for d in dataset.documents] == list("abcd")
    assert dataset.features.targets["topic"].tolist() == [1, 0, 1, -1]
    assert dataset.features.audio is not None
    assert dataset.features.audio.lengths.tolist() == [3, 3, 3, 3]
    backwards = [replace(item, row=5 - item.row) for item in reversed(stored())]
    other = opened(tmp_path / "other", *backwards)
    assert other.features.doc_ids.tolist() == list("abcd")
    assert other.fingerprint == dataset.fingerprint


def test_tasks_that_are_not_declared_are_inferred_and_put_on_record(tmp_path: Path) -> None:
    dataset = opened(tmp_path)
    task = TaskConfig(kind="binary", classes=("home", "work"))
    assert dataset.config.tasks == {"topic": task}
    write_run_config(Workspace(str(tmp_path / "run"), tmp_path / "run"), dataset)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert from_dict(Config, saved["config"]) == dataset.config
    assert (saved["data"], saved["documents"], saved["seed"]) == (dataset.fingerprint, 4, 0)
    assert saved["encoders"]["audio"]["fingerprint"] == fingerprint_of("audio")
    declared = replace(CONFIG, tasks={"topic": TaskConfig(classes=("work", "home", "garden"))})
    assert open_dataset(str(tmp_path), declared).features.targets["topic"].tolist() == [0, 1, 0, -1]


@pytest.mark.ray
def test_tasks_of_all_kinds_are_inferred_from_a_manifest(embedded: make.Embedded) -> None:
    dataset = open_dataset(embedded.store, CONFIG)
    assert to_dict(dataset.config)["tasks"] == {
        "age": {"kind": "regression", "classes": [], "imbalance": "logit_adjustment"},
        "mood": {"kind": "ordinal", "classes": ["0", "1", "2"], "imbalance": "logit_adjustment"},
        "place": {
            "kind": "multiclass",
            "classes": ["car", "office", "street"],
            "imbalance": "logit_adjustment",
        },
        "themes": {"kind": "multilabel", "classes": ["art", "law", "sea"], "imbalance": "logit_adjustment"},
        "topic": {"kind": "binary", "classes": ["home", "work"], "imbalance": "logit_adjustment"},
    }
    labels = {record["doc_id"]: record.get("labels") or {} for record in embedded.records}
    for i, doc_id in enumerate(dataset.features.doc_ids.tolist()):
        assert dataset.features.targets["mood"][i] == labels[doc_id].get("mood", -1)
        held = labels[doc_id].get("themes")
        expected = (
            [float(theme in held) for theme in ("art", "law", "sea")] if held is not None else [np.nan] * 3
        )
        np.testing.assert_array_equal(dataset.features.targets["themes"][i], expected)
    assert (dataset.config.segment.window_s, dataset.config.segment.hop_s) == (0.5, 0.5), "as it was embedded"


def test_a_label_outside_its_task_is_refused_by_document_label_and_classes(tmp_path: Path) -> None:
    config = replace(CONFIG, tasks={"topic": TaskConfig(kind="binary", classes=("home", "garden"))})
    with pytest.raises(
        ConfigError,
        match=r"document 'a', task `topic`: unknown class 'work', expected one of home, garden",
    ):
        opened(tmp_path, config=config)


def test_a_store_without_labels_or_without_those_of_a_declared_task_is_refused(tmp_path: Path) -> None:
    nothing = [make.stored(doc_id, row=row, labels={}) for row, doc_id in enumerate("ab", start=1)]
    with pytest.raises(ConfigError, match=r"the documents of store .* have no label, .*; add labels"):
        opened(tmp_path / "none", *nothing)
    config = replace(CONFIG, tasks={"topics": TaskConfig(kind="binary", classes=("home", "work"))})
    with pytest.raises(
        ConfigError,
        match=r"has a label of task `topics`; there are labels of tasks topic: correct the task's name",
    ):
        opened(tmp_path / "misspelt", config=config)


def test_the_only_encoder_is_taken_and_one_of_several_must_be_named(tmp_path: Path) -> None:
    other = replace(CONFIG, segment=replace(CONFIG.segment, window_s=2.0, hop_s=2.0))
    uri = store_of(tmp_path, stored(), CONFIG, other)
    both = sorted([fingerprint_of("audio"), fingerprint_of("audio", other)])
    listed = ", ".join(f"mfcc (fingerprint {fingerprint})" for fingerprint in both)
    with pytest.raises(ConfigError) as caught:
        open_dataset(uri, CONFIG)
    assert str(caught.value) == (
        f"no --audio was given, and store {uri} has these audio encoders: {listed}; name one of them by "
        "its fingerprint, or use `--audio none`"
    )
    with pytest.raises(ConfigError, match="--audio mfcc was given, and store"):
        open_dataset(uri, CONFIG, audio="mfcc")
    for config in (CONFIG, other):
        dataset = open_dataset(uri, CONFIG, audio=fingerprint_of("audio", config))
        assert dataset.encoders["audio"]["fingerprint"] == fingerprint_of("audio", config)
        assert dataset.config.segment.window_s == config.segment.window_s
        assert (dataset.config.audio, dataset.config.text) == ("mfcc", "hashing")
    assert open_dataset(uri, CONFIG, audio="none", text="hashing").features.audio is None


def test_joined_encoders_are_named_as_they_were_for_embed(tmp_path: Path) -> None:
    joined = replace(CONFIG, audio="mfcc+prosody")
    uri = store_of(tmp_path / "joined", stored(), CONFIG, joined)
    for config in (CONFIG, joined):
        dataset = open_dataset(uri, CONFIG, audio=config.audio, text="hashing")
        assert dataset.encoders["audio"]["fingerprint"] == fingerprint_of("audio", config)
        assert dataset.config.audio == config.audio
    with pytest.raises(ConfigError, match=r"--audio prosody\+mfcc was given, and store"):
        open_dataset(uri, CONFIG, audio="prosody+mfcc", text="hashing")


def test_an_encoder_in_a_folder_may_be_named_as_it_was_for_embed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(CONFIG, text=models.made("bert", tmp_path / "bert"))
    uri = store_of(tmp_path / "store", stored(), CONFIG, other)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hashing").mkdir()  # a folder that is no encoder hides none
    for spec in ("hf:bert", "hf:./bert", other.text):
        dataset = open_dataset(uri, CONFIG, text=spec)
        assert dataset.encoders["text"]["fingerprint"] == fingerprint_of("text", other)
    assert open_dataset(uri, CONFIG, text="hashing").encoders["text"]["name"] == "hashing"
    with pytest.raises(ConfigError, match="--text hf:other was given, and store"):
        open_dataset(uri, CONFIG, text="hf:other")


def test_an_encoder_that_the_store_does_not_hold_is_refused_with_those_that_it_holds(tmp_path: Path) -> None:
    uri = store_of(tmp_path, stored())
    with pytest.raises(
        ConfigError,
        match=r"--text hf:bert was given, and store .* has these text encoders: hashing \(fingerprint ",
    ):
        open_dataset(uri, CONFIG, text="hf:bert")
    assert open_dataset(uri, CONFIG, text="hashing").features.text is not None


def test_none_leaves_a_modality_out_of_features_and_settings(tmp_path: Path) -> None:
    uri = store_of(tmp_path, stored())
    dataset = open_dataset(uri, CONFIG, text="none")
    assert dataset.features.text is None
    assert (dataset.config.audio, dataset.config.text) == ("mfcc", "none")
    assert list(dataset.encoders) == ["audio"]
    assert dataset.fingerprint != open_dataset(uri, CONFIG).fingerprint


def test_a_store_without_features_of_the_encoders_says_what_to_do(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), 2)
    write_snapshot(store, iter(stored()))
    with pytest.raises(ConfigError, match=r"has no features of the chosen encoders; run `hilbert-ray embed`"):
        open_dataset(store.uri, CONFIG)


def test_a_document_lacks_the_modality_that_is_in_quarantine_and_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = opened(tmp_path / "store", without="b")
    assert dataset.quarantined == {"audio": 1, "text": 0}
    assert dataset.features.audio is not None
    assert dataset.features.text is not None
    assert dataset.features.audio.lengths.tolist() == [3, 0, 3, 3]
    assert dataset.features.text.lengths.tolist() == [3, 3, 3, 3]
    assert "1 documents count as having no audio, which is quarantined" in caplog.text
    alone = open_dataset(str(tmp_path / "store"), CONFIG, text="none")
    assert [d.doc_id for d in alone.documents] == alone.features.doc_ids.tolist() == list("acd")


def test_the_fingerprint_changes_with_labels_groups_splits_and_features(tmp_path: Path) -> None:
    fingerprints = [
        opened(tmp_path / "as-it-was").fingerprint,
        opened(tmp_path / "label", *stored(d={"labels": {"topic": "home"}})).fingerprint,
        opened(tmp_path / "group", *stored(d={"group": "g9"})).fingerprint,
        opened(tmp_path / "split", *stored(d={"split": "test"})).fingerprint,
        opened(tmp_path / "features", seed=1).fingerprint,
        opened(tmp_path / "quarantined", without="d").fingerprint,
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert opened(tmp_path / "again").fingerprint == fingerprints[0]


def test_documents_that_are_held_out_take_no_part_and_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"b": {"split": "test", "group": "t"}, "d": {"split": "train"}}
    uri = store_of(tmp_path, stored(**changes))
    with caplog.at_level(logging.INFO):
        kept = open_dataset(uri, CONFIG, held_out=False)
    assert "3 documents take part; 1 of split test are held out" in caplog.text
    assert kept.features.doc_ids.tolist() == [d.doc_id for d in kept.documents] == ["a", "c", "d"]
    assert kept.features.targets["topic"].tolist() == [1, 1, -1]
    assert (kept.held_out, kept.left_out) == ({"test": 1}, 0)
    everything = open_dataset(uri, CONFIG)
    assert everything.features.doc_ids.tolist() == list("abcd")
    assert everything.held_out == {}
    # `home` has no document left, but the classes of a study do not depend on what is held out.
    assert kept.config.tasks == everything.config.tasks
    assert kept.config.tasks["topic"].classes == ("home", "work")


def test_without_held_out_documents_nothing_changes(tmp_path: Path) -> None:
    uri = store_of(tmp_path, stored(a={"split": "train"}))
    kept, everything = open_dataset(uri, CONFIG, held_out=False), open_dataset(uri, CONFIG)
    assert kept.fingerprint == everything.fingerprint
    assert kept.config == everything.config
    assert kept.held_out == {}


@pytest.mark.parametrize("command", [evaluate, train, tune])
def test_a_group_of_several_splits_is_refused_before_anything_runs(
    tmp_path: Path, command: Callable[[str, str, Config], object]
) -> None:
    """Documents a and c are of group g1, b and d of g0."""
    uri = store_of(tmp_path / "store", stored(c={"split": "validation"}, d={"split": "test"}))
    message = (
        "group 'g0' has documents of the splits train and test; a group must be of one split, or what is "
        "held out is learned from: give all its documents the same `split` in the manifest (none counts as "
        "train), and embed it again (2 groups are of several splits)"
    )
    with pytest.raises(SplitError, match=re.escape(message)):
        command(uri, str(tmp_path / "run"), CONFIG)
    assert not (tmp_path / "run").exists()


def test_near_duplicates_are_named_and_their_groups_joined_on_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = Utterance(text=" ".join(f"word{i}" for i in range(40)), role="guest")
    uri = store_of(
        tmp_path,
        stored(
            a={"group": "z", "text": (said,)},
            b={"group": "y"},
            c={"group": "x", "text": (Utterance(text="well"), said)},
            d={"group": "z"},
        ),
    )
    plain = open_dataset(uri, CONFIG)
    described = describe_duplicates(plain)
    assert described == {
        "found": 1, "documents": 2, "groups": 2, "are_joined": False, "checked": {"audio": 4, "text": 2},
        "pairs": [{"first": "a", "second": "c", "audio": None, "text": 1.0}],
        "held_out_found": 0, "held_out_pairs": [],
    }  # fmt: skip
    assert "1 pairs of documents of different groups are near duplicates, such as a and c" in caplog.text
    assert [d.group for d in plain.documents] == ["z", "y", "x", "z"]
    caplog.clear()
    joining = replace(CONFIG, folds=replace(CONFIG.folds, join_duplicates=True))
    with caplog.at_level(logging.INFO):
        joined = open_dataset(uri, joining)
    assert "1 pairs of near duplicates; 3 groups are now 2" in caplog.text
    assert [d.group for d in joined.documents] == ["x", "y", "x", "x"], "d is of the group of a"
    assert joined.features.groups.tolist() == [0, 1, 0, 0]
    assert joined.fingerprint != plain.fingerprint
    caplog.clear()
    assert describe_duplicates(joined) == {**described, "are_joined": True}
    assert not caplog.records


def test_near_duplicates_of_what_is_learned_from_are_sought_among_what_is_held_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = Utterance(text=" ".join(f"word{i}" for i in range(40)), role="guest")
    uri = store_of(
        tmp_path,
        stored(
            a={"group": "z", "split": "test", "text": (said,)},
            b={"group": "y", "split": "validation", "text": (said,)},
            c={"group": "x", "text": (Utterance(text="well"), said)},
            d={"group": "w"},
        ),
    )
    described = describe_duplicates(open_dataset(uri, CONFIG, held_out=False))
    assert (described["found"], described["held_out_found"]) == (0, 2), "a and b are both held out"
    assert described["held_out_pairs"] == [
        {"first": "c", "second": held_out, "audio": None, "text": 1.0} for held_out in ("a", "b")
    ]
    assert "2 pairs of a document that takes part and one that is held out are near duplicates" in caplog.text


def test_joining_without_near_duplicates_changes_nothing(tmp_path: Path) -> None:
    uri = store_of(tmp_path, stored())
    joining = replace(CONFIG, folds=replace(CONFIG.folds, join_duplicates=True))
    plain, joined = open_dataset(uri, CONFIG), open_dataset(uri, joining)
    assert joined.fingerprint == plain.fingerprint
    np.testing.assert_array_equal(joined.features.groups, plain.features.groups)


def test_a_document_whose_recording_changed_makes_other_data(tmp_path: Path) -> None:
    """Same id, group and label, but a checkpoint of the old recording's features must not be resumed."""
    uri = store_of(tmp_path, stored())
    before = open_dataset(uri, CONFIG).fingerprint
    store = Store.open(uri)
    replaced = stored()
    replaced[0] = replace(replaced[0], audio_version="2")
    write_snapshot(store, iter(replaced))
    [item] = store.snapshot().documents(doc_ids={"a"})
    row = make.feature_row("a", item.source("audio"), dim=120, seed=99)
    store.commit("audio", fingerprint_of("audio"), unit="later", bucket=bucket_of("a", 4), rows=[row])
    assert open_dataset(uri, CONFIG).fingerprint != before


def test_a_run_does_not_depend_on_the_roots_of_manifests(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", stored(), CONFIG)
    rooted = open_dataset(store, replace(CONFIG, roots=("/data",)))
    assert rooted.config == open_dataset(store, CONFIG).config


def test_targets_are_those_of_the_documents_kept(tmp_path: Path) -> None:
    dataset = opened(tmp_path)
    expected = encode_labels("topic", dataset.config.tasks["topic"], dataset.documents)
    np.testing.assert_array_equal(dataset.features.targets["topic"], expected)


# Features that are not held in memory

MAPPED = replace(CONFIG, fit=replace(CONFIG.fit, memory_gib=1e-9))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a test a temporary folder of its own, as TMPDIR would."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))


def assert_same(actual: Batch, expected: Batch) -> None:
    assert actual.by_modality.keys() == expected.by_modality.keys() == {"audio", "text"}
    for modality, padded in expected.by_modality.items():
        for name in ("values", "mask", "position", "wide"):
            tensor, other = getattr(actual.by_modality[modality], name), getattr(padded, name)
            assert tensor.dtype == other.dtype
            assert torch.equal(tensor, other), f"{modality} {name}"
    assert torch.equal(actual.targets["topic"], expected.targets["topic"])


def statistics(dataset: Dataset, indices: np.ndarray) -> dict[str, torch.Tensor]:
    """Return what a network takes from its training documents before it trains, by name."""
    fitted = Network(dataset.config, {"audio": 8, "text": 8})
    fitted.fit_statistics(dataset.features, indices)
    return {name: x for name, x in fitted.state_dict().items() if "scale" in name or "labels" in name}


@pytest.mark.usefixtures("scratch")
def test_mapped_features_are_those_in_memory_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    audio, text = rng.integers(1, 9, 60), rng.integers(1, 30, 60)
    audio[[3, 20]] = text[[7, 59]] = 0
    uri = make.features_store(tmp_path / "store", audio.tolist(), text.tolist(), 8)
    plain, mapped = open_dataset(uri, CONFIG), open_dataset(uri, MAPPED)
    assert len(mapped.features.mapped_files) == 2
    assert not plain.features.mapped_files
    assert mapped.fingerprint == plain.fingerprint
    assert mapped.config == plain.config, "runs do not depend on where features are"
    some = rng.permutation(60)[:40]
    for actual, expected in (
        (mapped.features, plain.features),
        (mapped.features.take(some), plain.features.take(some)),
    ):
        for batch in epoch_batches(np.arange(40), 16, np.random.default_rng(1)):
            assert_same(collate(actual, batch), collate(expected, batch))
        for modality in MODALITIES:
            for name in ("start", "end"):
                times = [getattr(getattr(each, modality), name) for each in (actual, expected)]
                np.testing.assert_array_equal(*times)
    whole = statistics(plain, some)
    assert len(whole) >= 2, "of both modalities"
    monkeypatch.setattr(network, "BLOCK_ROWS", 7)
    by_blocks = statistics(plain, some)
    for name, tensor in statistics(mapped, some).items():
        assert torch.equal(tensor, by_blocks[name]), name
        torch.testing.assert_close(tensor, whole[name], rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.usefixtures("scratch")
def test_what_other_processes_are_sent_is_small_and_reads_the_same_on_a_node_without_the_file(
    tmp_path: Path,
) -> None:
    uri = make.features_store(tmp_path / "store", [400] * 8, [300] * 8, 64)
    features = open_dataset(uri, MAPPED).features
    assert features.audio is not None
    assert features.text is not None
    sent = pickle.dumps(features)
    assert len(sent) < 0.1 * sum(
        4 * ragged.values.shape[0] * 64 for ragged in (features.audio, features.text)
    )
    before = collate(features, np.arange(8))
    for name in features.mapped_files:
        remove_maps(name)
    received = pickle.loads(sent)
    assert_same(collate(received, np.arange(8)), before)
    names = sorted(path.name for path in map_folder().iterdir() if path.suffix != ".lock")
    assert names == features.mapped_files


@pytest.mark.usefixtures("scratch")
def test_a_store_that_changed_is_not_read_in_place_of_what_a_run_began_with(tmp_path: Path) -> None:
    """Rows of another recording, as many as before, would pass unseen."""
    uri = store_of(tmp_path / "store", stored())
    features = open_dataset(uri, MAPPED).features
    sent, names = pickle.dumps(features), features.mapped_files
    store, replaced = Store.open(uri), stored()
    replaced[0] = replace(replaced[0], audio_version="2")
    write_snapshot(store, iter(replaced))
    [item] = store.snapshot().documents(doc_ids={"a"})
    row = make.feature_row("a", item.source("audio"), dim=120, seed=99)
    store.commit("audio", fingerprint_of("audio"), unit="later", bucket=bucket_of("a", 4), rows=[row])
    for name in names:
        remove_maps(name)
    with pytest.raises(StorageError, match=r"the audio features of store .* changed while a run read them"):
        collate(pickle.loads(sent), np.arange(2))


@pytest.mark.usefixtures("scratch")
def test_an_eighth_of_memory_decides_where_features_go_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="hilbert_ray")
    uri = store_of(tmp_path / "store", stored())
    size = 4 * sum(4 * 3 * build_encoder(s, m, CONFIG.audio_encoder, CONFIG.segment).dim for s, m in SPECS)
    for unlimited, limit, is_mapped in (("max", 8 * size, False), ("max", 8 * size - 8, True)):
        files = [tmp_path / "memory.max", tmp_path / "absent", tmp_path / "limit_in_bytes"]
        files[0].write_text(unlimited)
        files[2].write_text(f"{limit}\n")
        monkeypatch.setattr(datasets, "CONTAINER_LIMITS", files)
        assert bool(open_dataset(uri, CONFIG).features.mapped_files) == is_mapped
        assert ("mapped from files in" if is_mapped else "read into memory") in caplog.messages[-1]
    monkeypatch.setattr(datasets, "CONTAINER_LIMITS", ())
    assert not open_dataset(uri, CONFIG).features.mapped_files
    generous = replace(CONFIG, fit=replace(CONFIG.fit, memory_gib=1.0))
    monkeypatch.setattr(datasets, "CONTAINER_LIMITS", (files[2],))
    assert not open_dataset(uri, generous).features.mapped_files


SPECS: tuple[tuple[str, Modality], tuple[str, Modality]] = (("mfcc", "audio"), ("hashing", "text"))

BOUNDED = """
import resource, sys
from dataclasses import replace
import numpy as np
from hilbert_ray.config import Config, FitConfig, FoldsConfig, ModelConfig
from hilbert_ray.features import open_dataset
from hilbert_ray.store import store as store_module
from hilbert_ray.training import fit

store_module._READ_BYTES = 8 * 2**20  # bytes read at a time; the default would be large next to this limit

def config(memory_gib):
    return Config(
        model=ModelConfig(dim=16), folds=FoldsConfig(inner=0),
        fit=FitConfig(epochs=1, seeds=1, batch_size=8, memory_gib=memory_gib),
    )

def train(store, memory_gib):
    dataset = open_dataset(store, config(memory_gib))
    everyone = np.arange(len(dataset.features))
    fitted = fit(dataset.config, dataset.features, everyone)
    fitted.model().predict(dataset.features.take(everyone))
    return dataset.features.lengths.sum()

train(sys.argv[1], 1e-9)  # loads and starts what a process needs only once
[used] = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")]
limit = used * 1024 + int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
print(train(sys.argv[2], 1e-9))
try:
    train(sys.argv[2], 1000.0)
except MemoryError:
    print("in memory: MemoryError")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads what a process holds in /proc")
def test_features_larger_than_a_process_may_hold_are_read_and_trained_on(tmp_path: Path) -> None:
    """Private memory may grow by a third of what the features take; mapped pages are not private."""
    small = make.features_store(tmp_path / "small", [64] * 16, [2] * 16, 256)
    large = make.features_store(tmp_path / "large", [512] * 960, [2] * 960, 256)
    size = 960 * 512 * 256 * 4
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    stacks = ["sh", "-c", 'ulimit -s 2048 && exec "$@"', "sh"]  # those of threads count
    command = [*stacks, sys.executable, "-c", BOUNDED, small, large, str(size // 3)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(960 * 512), "in memory: MemoryError"]
    assert not list((tmp_path / f"hilbert-ray-{os.getuid()}").glob("*-*")), "nothing is left"


def test_the_manifest_of_a_store_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an object store each read is a request, and of a newer manifest it would be other documents."""
    uri = store_of(tmp_path, stored())
    read: list[str] = []
    plain = Files.read

    def listen(files: Files, name: str) -> bytes:
        read.append(name)
        return plain(files, name)

    monkeypatch.setattr(Files, "read", listen)
    dataset = open_dataset(uri, CONFIG)
    assert [name for name in read if name.startswith("documents/")] == ["documents/00000001.json"]
    write_snapshot(dataset.store, iter(stored()[:1]))
    texts = {item.document.doc_id: item.document.text for item in dataset.snapshot.documents()}
    assert sorted(texts) == list("abcd"), "what is read later is of the same manifest"
    assert all(texts.values())
    assert dataset.documents[0].text == ""


def test_what_is_not_embedded_yet_is_told_from_what_the_manifest_lacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = stored()
    # Document a has no transcript; e and f came after the last run of `embed`.
    items[0] = replace(items[0], document=replace(items[0].document, text=None), text_version=None)
    uri = store_of(tmp_path, items)
    first = items[0]
    later = [
        replace(first, row=20 + n, document=replace(first.document, doc_id=doc_id, labels={}))
        for n, doc_id in enumerate("ef")
    ]
    write_snapshot(Store.open(uri), iter([*items, *later]))
    with pytest.raises(PendingError, match=r"of 6 documents, 2 have audio that is not embedded yet; rerun"):
        open_dataset(uri, CONFIG)
    assert "not embedded yet" not in caplog.text, "a store that is refused counts nothing as absent"
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset(uri, CONFIG, allow_pending=True)
    assert dataset.pending["audio"] == 2
    assert dataset.left_out == 2
    assert len(dataset.features) == 4
    assert dataset.absent == {"audio": 0, "text": 1}
    assert "2 documents count as having no audio, which is not embedded yet" in caplog.text
    assert opened(tmp_path / "whole").pending == {"audio": 0, "text": 0}
