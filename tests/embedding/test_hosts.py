"""Embedding on several hosts, one of which is lost in mid-run."""

import time
from pathlib import Path

import pytest

from hilbert_ray.store.maintenance import verify_store
from hilbert_ray.store.store import Store
from tests import hosts, make
from tests.embedding.in_process import CONFIG, assert_same_rows, embed_here, rows_of

RUN = """
import sys
from hilbert_ray.config import Config, EmbedConfig
from hilbert_ray import embed

print(embed(sys.argv[1], sys.argv[2], Config(embed=EmbedConfig(buckets=4, unit_s=0.001, workers=2))).text())
"""


@pytest.mark.ray
@pytest.mark.skipif(hosts.missing() is not None, reason=str(hosts.missing()))
def test_a_run_over_two_hosts_survives_the_loss_of_one(tmp_path: Path, ray_home: Path) -> None:
    manifest = make.corpus(tmp_path, 150)
    store = tmp_path / "store"
    with hosts.cluster(ray_home, cpus=[2, 2]) as (head, other):
        run = head.start(["-c", RUN, manifest, str(store)])
        deadline = time.monotonic() + 120
        while len(list(store.glob("features/*/*/commits/*/*.json"))) < 10:
            assert run.poll() is None, run.communicate()[0]
            assert time.monotonic() < deadline, "the run stored nothing"
            time.sleep(0.01)
        other.kill()
        at_loss = len(list(store.glob("features/*/*/commits/*/*.json")))
        shown, _ = run.communicate(timeout=240)
    assert run.returncode == 0, shown
    assert 10 <= at_loss < 290, "the host was lost before or after the work"
    assert "150 embedded" in shown
    assert "0 quarantined" in shown
    plain = Store.create(str(tmp_path / "plain"), 4)
    embed_here(manifest, plain, CONFIG)
    assert_same_rows(rows_of(str(store)), rows_of(plain.uri))
    assert list(verify_store(Store.open(str(store)))) == []
