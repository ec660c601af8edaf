"""What workers compute on: their number, the CPUs or GPUs of each, and what `auto` precision means there."""

from collections.abc import Callable
from typing import TypeVar

import ray
from ray.exceptions import RayTaskError

from hilbert_ray.cluster import connect, given_device, has_cluster
from hilbert_ray.config import Config, EmbedConfig
from hilbert_ray.errors import HilbertError
from hilbert_ray.units.errors import UnitsError

P = TypeVar("P", bound=str)


def takes_gpus(config: EmbedConfig) -> bool:
    """Return whether workers take GPUs; the cluster must be connected."""
    return config.gpu == "yes" or (config.gpu == "auto" and bool(ray.cluster_resources().get("GPU")))


def plan_pool(config: Config, units: int) -> tuple[int, dict[str, float]]:
    """Return the number of workers and the resources of each, for at most `units` units.

    Raises:
        UnitsError: when workers shall use GPUs, the cluster has none yet, and `embed.workers` is not set.
    """
    cluster, settings = ray.cluster_resources(), config.embed
    gpus, cpus = cluster.get("GPU", 0.0), cluster.get("CPU", 0.0)
    if takes_gpus(settings):
        workers = settings.workers or int(gpus / settings.gpus_per_worker)
        if not workers:
            raise UnitsError(
                f"embed.gpu is {settings.gpu}, embed.workers is 0 and the cluster has {gpus:g} GPUs now; an "
                "autoscaling cluster does not report its maximum size: set embed.workers to the number of "
                "encoder actors"
            )
        return min(workers, units), {"num_gpus": settings.gpus_per_worker}
    workers = min(settings.workers or max(1, int(cpus // 2)), units)
    # Half of the CPUs stay free for decoding tasks and whatever else the cluster runs: a run hangs if an
    # actor never gets its CPU. A cluster without any CPU is one that grows.
    return workers, {"num_cpus": min(1.0, round(cpus / (2 * workers), 2)) if cpus else 1.0}


def precision_of_workers(config: EmbedConfig, rule: Callable[[str], P]) -> P:
    """Return what a rule says of the device that workers compute on, which may not be of this machine.

    Args:
        config: of which workers' GPUs count.
        rule: from a device such as `cuda` to a precision; may be pickled.
    """
    # Ray started on this machine will find the GPUs that torch finds.
    if not has_cluster():
        import torch  # here, since the driver of a run with built-in encoders does without

        has_gpu = config.gpu != "no" and torch.cuda.is_available()
        return rule("cuda" if has_gpu else "cpu")
    connect()
    # A sliver of the device that the workers will use, so that the task runs even on a busy cluster.
    resources = {"num_gpus": 0.01} if takes_gpus(config) else {"num_cpus": 0.01}
    try:
        precision: P = ray.get(ray.remote(_precision_here).options(**resources).remote(rule))
    except RayTaskError as error:
        if isinstance(error.cause, HilbertError):  # what the rule says, without its traceback
            raise error.cause from None
        raise
    return precision


def _precision_here(rule: Callable[[str], P]) -> P:
    """Return what a rule says of the device that Ray gave this task."""
    return rule(given_device())
