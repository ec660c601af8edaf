"""Pools on a cluster that has no worker yet: Ray's autoscaler with a provider that starts nodes here."""

import json
from pathlib import Path

import pytest

from hilbert_ray.store.maintenance import verify_store
from hilbert_ray.store.store import Store
from tests import hosts, make

HEAD = "f" * 51 + "0" * 5
"""The id that the provider takes the head to have."""
PROVIDER = {
    "type": "external",
    "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
    "use_node_id_as_ip": True,
    "disable_node_updaters": True,
    "disable_launch_config_check": True,
    "launch_multiple": True,
    "head_node_id": HEAD,
}
UNUSED = ("setup_commands", "head_setup_commands", "worker_setup_commands", "cluster_synced_files")
"""Fields that the autoscaler wants to find; the cloud's launcher fills them in."""
RUN = """
import sys
import threading
import ray
from hilbert_ray.config import Config, EmbedConfig, TuneConfig
from hilbert_ray import embed
from hilbert_ray.units.resources import plan_pool
from hilbert_ray.tuning import concurrency

ray.init(log_to_driver=False)
assert "GPU" not in ray.cluster_resources(), "the cluster has grown before there was work"
assert plan_pool(Config(embed=EmbedConfig(workers=3)), 10) == (3, {"num_cpus": 1.0})
assert concurrency(TuneConfig(trials=5)) == 5
seen, done = [], threading.Event()

def watch():
    while not done.wait(0.1):
        seen.append(int(ray.cluster_resources().get("GPU", 0)))

watcher = threading.Thread(target=watch)
watcher.start()
print(embed(sys.argv[1], sys.argv[2], Config(
    embed=EmbedConfig(buckets=4, unit_s=0.001, gpu="yes", workers=2))).text())
done.set()
watcher.join()
print("grown to", max(seen))
"""
SHRUNK = """
import time
import ray

ray.init(log_to_driver=False)
deadline = time.monotonic() + 300
while ray.cluster_resources().get("GPU") and time.monotonic() < deadline:
    time.sleep(1)
print(ray.cluster_resources())
"""


@pytest.mark.ray
@pytest.mark.skipif(hosts.missing() is not None, reason=str(hosts.missing()))
def test_a_pool_of_gpus_grows_from_no_worker_and_shrinks_again(tmp_path: Path, ray_home: Path) -> None:
    record = make.record(tmp_path, 0)
    rows = [{**record, "doc_id": f"d{number:03d}"} for number in range(600)]
    manifest = make.manifest(tmp_path / "manifest.jsonl", rows)
    store = tmp_path / "store"
    config = tmp_path / "cluster.json"
    node = {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}
    config.write_text(
        json.dumps(
            {
                "cluster_name": "grows",
                "max_workers": 2,
                "idle_timeout_minutes": 0.1,
                "provider": PROVIDER,
                "head_node_type": "ray.head.default",
                "available_node_types": {
                    "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
                    "worker": node,
                },
                **{name: [] for name in UNUSED},
            }
        )
    )
    with hosts.network(ray_home, 1) as (head,):
        head.environment.update(
            AUTOSCALER_UPDATE_INTERVAL_S="1",
            RAY_FAKE_CLUSTER="1",
            RAY_enable_autoscaler_v2="1",
            RAY_CLOUD_INSTANCE_ID=HEAD,
            RAY_OVERRIDE_NODE_ID_FOR_TESTING=HEAD,
        )
        hosts.start_node(head, 0, f"--autoscaling-config={config}")
        for name in ("RAY_CLOUD_INSTANCE_ID", "RAY_OVERRIDE_NODE_ID_FOR_TESTING"):
            del head.environment[name]
        shown = head.run(["-c", RUN, manifest, str(store)])
        after = head.run(["-c", SHRUNK])
    assert "600 embedded" in shown
    assert "grown to 2" in shown
    assert "GPU" not in after
    assert list(verify_store(Store.open(str(store)))) == []
