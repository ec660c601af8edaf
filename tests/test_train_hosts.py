"""Training over two hosts, one of which is lost in mid-run and comes back."""

import json
import time
from pathlib import Path

import pytest

from tests import hosts, make

EMBED = """
import sys
from hilbert_ray.config import Config, EmbedConfig, SegmentConfig
from hilbert_ray.embed import embed

embed(sys.argv[1], sys.argv[2], Config(segment=SegmentConfig(window_s=0.5, hop_s=0.5),
    embed=EmbedConfig(buckets=4, unit_s=16.0, workers=1)))
"""
TRAIN = """
import sys
from hilbert_ray.config import Config, FitConfig, FoldsConfig, ModelConfig, TrainConfig
from hilbert_ray.train import train

print(train(sys.argv[1], sys.argv[2], Config(model=ModelConfig(dim=8, hops=2),
    fit=FitConfig(epochs=40, seeds=1, batch_size=8), folds=FoldsConfig(inner=0),
    train=TrainConfig(workers=2, max_failures=3, checkpoint_epochs=2))).text())
"""


def records(run: Path) -> list[dict[str, float]]:
    """Return what a run has logged so far, an epoch each."""
    path = run / "metrics.jsonl"
    lines = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.skipif(hosts.missing() is not None, reason=str(hosts.missing()))
def test_training_goes_on_with_the_same_losses_after_a_host_is_lost(tmp_path: Path, ray_home: Path) -> None:
    manifest = make.manifest(tmp_path / "manifest.jsonl", make.labelled(tmp_path))
    store, whole, cut = (str(tmp_path / name) for name in ("store", "whole", "cut"))
    with hosts.cluster(ray_home, cpus=[1, 1]) as (head, other):  # a rank a host: neither has room for two
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
