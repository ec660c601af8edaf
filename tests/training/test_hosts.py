"""Training and searching over several hosts, one of which is lost in mid-run."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests import hosts, make

EMBED = """
import sys
from hilbert_ray.config import Config, EmbedConfig, SegmentConfig
from hilbert_ray import embed

embed(sys.argv[1], sys.argv[2], Config(segment=SegmentConfig(window_s=0.5, hop_s=0.5),
    embed=EmbedConfig(buckets=4, unit_s=16.0, workers=1)))
"""
TRAIN = """
import sys
from hilbert_ray.config import Config, FitConfig, FoldsConfig, ModelConfig, TrainConfig
from hilbert_ray import train

print(train(sys.argv[1], sys.argv[2], Config(model=ModelConfig(dim=8, hops=2),
    fit=FitConfig(epochs=40, seeds=1, batch_size=8), folds=FoldsConfig(inner=0),
    train=TrainConfig(workers=2, max_failures=3, checkpoint_epochs=2))).text())
"""
TUNE = """
import sys
from hilbert_ray.config import Config, FitConfig, FoldsConfig, ModelConfig, TuneConfig
from hilbert_ray import tune

print(tune(sys.argv[1], sys.argv[2], Config(model=ModelConfig(dim=8, hops=2),
    fit=FitConfig(epochs=4, seeds=1, batch_size=8), folds=FoldsConfig(folds=2, inner=2),
    tune=TuneConfig(trials=6, algorithm="random", scheduler="none"))).text())
"""


def records(run: Path) -> list[dict[str, float]]:
    """Return the records that a run has written so far, one per epoch."""
    path = run / "metrics.jsonl"
    lines = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.skipif(hosts.missing() is not None, reason=str(hosts.missing()))
def test_training_resumes_with_the_same_losses_after_a_host_is_lost(tmp_path: Path, ray_home: Path) -> None:
    manifest = make.manifest(tmp_path / "manifest.jsonl", make.labelled(tmp_path))
    store, whole, cut = (str(tmp_path / name) for name in ("store", "whole", "cut"))
    with hosts.cluster(ray_home, cpus=[1, 1]) as (head, other):  # one rank per host: neither has room for two
        head.run(["-c", EMBED, manifest, store])
        head.run(["-c", TRAIN, store, whole])
        training = head.start(["-c", TRAIN, store, cut])
        deadline = time.monotonic() + 120
        while len(records(Path(cut))) < 5:
            assert training.poll() is None, training.communicate()[0]
            assert time.monotonic() < deadline, "training has not begun"
            time.sleep(0.01)
        other.kill()
        assert len(records(Path(cut))) < 40, "the host was lost after the work"
        other.revive()
        hosts.start_node(other, 1)
        shown, _ = training.communicate(timeout=240)
    assert training.returncode == 0, shown
    undisturbed, resumed = records(Path(whole)), records(Path(cut))
    assert [r["epoch"] for r in resumed] == list(range(40))
    assert [r["loss"] for r in resumed] == pytest.approx([r["loss"] for r in undisturbed], rel=1e-6)


def trials(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what each search of a run has finished so far, by settings."""
    by_search = {}
    for path in run.glob("search/*/*.jsonl"):
        lines = path.read_text().rpartition("\n")[0].splitlines()
        by_search[path.name] = sorted(map(json.loads, lines), key=lambda trial: json.dumps(trial["settings"]))
    return by_search


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.skipif(hosts.missing() is not None, reason=str(hosts.missing()))
def test_a_search_over_three_hosts_continues_after_one_is_lost(tmp_path: Path, ray_home: Path) -> None:
    """Settings are drawn at random, so that they do not depend on which trial ends first."""
    manifest = make.manifest(tmp_path / "manifest.jsonl", make.labelled(tmp_path))
    store, whole, cut = (str(tmp_path / name) for name in ("store", "whole", "cut"))
    with hosts.cluster(ray_home, cpus=[1, 1, 1]) as (head, other, _):
        head.run(["-c", EMBED, manifest, store])
        head.run(["-c", TUNE, store, whole])
        searching = head.start(["-c", TUNE, store, cut])
        deadline = time.monotonic() + 200
        while sum(map(len, trials(Path(cut)).values())) < 4:
            assert searching.poll() is None, searching.communicate()[0]
            assert time.monotonic() < deadline, "the search has not begun"
            time.sleep(0.01)
        other.kill()
        assert sum(map(len, trials(Path(cut)).values())) < 12, "the host was lost after the work"
        shown, _ = searching.communicate(timeout=280)
    assert searching.returncode == 0, shown
    undisturbed, resumed = trials(Path(whole)), trials(Path(cut))
    assert sum(map(len, undisturbed.values())) == 18
    assert sorted(resumed) == sorted(undisturbed)
    for name, expected in undisturbed.items():
        assert [trial["settings"] for trial in resumed[name]] == [trial["settings"] for trial in expected]
        scores = [[trial["score"] for trial in some] for some in (resumed[name], expected)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert (Path(cut) / "best.yaml").read_text() == (Path(whole) / "best.yaml").read_text()
