"""The device of a worker is what Ray gave it, and not what torch finds."""

import json
import os
import subprocess
import sys

import pytest

from hilbert_ray.cluster import gpu_number

WORKERS = """
import json
import ray
import torch
from hilbert_ray.cluster import given_device

def device(finds_gpu):
    torch.cuda.is_available = lambda: finds_gpu
    try:
        return given_device()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
task = ray.remote(device)
print(json.dumps({
    "driver": device(True),
    "no GPU": ray.get(task.options(num_gpus=0).remote(True)),
    "half of one": ray.get(task.options(num_gpus=0.5).remote(True)),
    "torch without CUDA": ray.get(task.options(num_gpus=1).remote(False)),
}))
"""


@pytest.mark.parametrize(
    ("gpu", "visible", "number"),
    [("3", "3", 0), ("3", "1,3", 1), ("3", None, 3), ("3", "0,1,2,4,3", 4), ("GPU-7f", "GPU-1a,GPU-7f", 1)],
)
def test_torch_counts_the_visible_gpus(gpu: str, visible: str | None, number: int) -> None:
    assert gpu_number(gpu, visible) == number


@pytest.mark.ray
def test_a_worker_computes_where_ray_put_it() -> None:
    # Ray believes in GPUs that it is told of; since 2.60 it hides none from workers that requested none.
    ended = subprocess.run(
        [sys.executable, "-c", WORKERS], capture_output=True, text=True, check=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "4,5"},
    )  # fmt: skip
    devices = json.loads(ended.stdout.splitlines()[-1])
    assert devices["driver"] == devices["no GPU"] == "cpu"
    assert devices["half of one"] == "cuda:0"
    assert devices["torch without CUDA"].startswith("ClusterError: Ray gave this worker on node ")
