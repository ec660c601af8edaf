"""A strict schema of what our Kubernetes manifests use: RayCluster and RayJob (ray.io/v1), and NetworkPolicy.

KubeRay's own schemas come with its operator and not with any Python package, so this one says less: fields
that we do not use are refused like misspelt ones.
"""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1}
QUANTITIES: Schema = {
    "type": "object",
    "properties": {"cpu": {}, "memory": {}, "nvidia.com/gpu": COUNT},
    "additionalProperties": False,
    "required": ["cpu", "memory"],
}


def one(required: str, optional: str = "", /, **properties: Schema) -> Schema:
    """Return the schema of an object that may hold no other fields; those not described are text."""
    names = [*required.split(), *optional.split()]
    assert set(properties) <= set(names)
    return {
        "type": "object",
        "properties": {name: properties.get(name, TEXT) for name in names},
        "required": required.split(),
        "additionalProperties": False,
    }


def many(item: Schema) -> Schema:
    """Return the schema of a list that is not empty."""
    return {"type": "array", "items": item, "minItems": 1}


METADATA = one("name")
LOCKED = one(
    "allowPrivilegeEscalation runAsNonRoot capabilities seccompProfile",
    allowPrivilegeEscalation={"const": False},
    runAsNonRoot={"const": True},
    capabilities=one("drop", drop={"const": ["ALL"]}),
    seccompProfile=one("type", type={"const": "RuntimeDefault"}),
)
CONTAINER = one(
    "name image securityContext resources",
    "envFrom",
    securityContext=LOCKED,
    resources=one("requests limits", requests=QUANTITIES, limits=QUANTITIES),
    envFrom=many(one("secretRef", secretRef=one("name optional", optional=FLAG))),
)
POD = one(
    "metadata spec",
    metadata=one("labels", labels=TEXTS),
    spec=one(
        "restartPolicy securityContext containers",
        "nodeSelector tolerations",
        restartPolicy={"const": "Never"},
        securityContext=one(
            "runAsNonRoot runAsUser runAsGroup",
            "fsGroup",
            runAsNonRoot={"const": True},
            runAsUser={"type": "integer", "minimum": 1},
            runAsGroup={"type": "integer", "minimum": 1},
            fsGroup={"type": "integer", "minimum": 1},
        ),
        containers=many(CONTAINER),
        nodeSelector=TEXTS,
        tolerations=many(one("key operator effect")),
    ),
)
WORKERS = one(
    "groupName replicas minReplicas maxReplicas rayStartParams template",
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams={"type": "object", "additionalProperties": {"type": "string"}},
    template=POD,
)
CLUSTER = one(
    "rayVersion authOptions enableInTreeAutoscaling autoscalerOptions headGroupSpec workerGroupSpecs",
    authOptions=one("mode", mode={"const": "token"}),
    enableInTreeAutoscaling={"const": True},
    autoscalerOptions=one(
        "version idleTimeoutSeconds securityContext",
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=COUNT,
        securityContext=LOCKED,
    ),
    headGroupSpec=one("rayStartParams template", rayStartParams=TEXTS, template=POD),
    workerGroupSpecs=many(WORKERS),
)
JOB = one(
    "entrypoint backoffLimit shutdownAfterJobFinishes ttlSecondsAfterFinished submitterPodTemplate "
    "rayClusterSpec",
    backoffLimit=COUNT,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    submitterPodTemplate=POD,
    rayClusterSpec=CLUSTER,
)
PEER = one(
    "podSelector",
    "namespaceSelector",
    podSelector=one("matchLabels", matchLabels=TEXTS),
    namespaceSelector={"type": "object", "maxProperties": 0},
)
PORT = one("protocol port", protocol={"enum": ["TCP", "UDP"]}, port={"type": "integer"})
POLICY = one(
    "podSelector policyTypes ingress egress",
    podSelector=one("matchLabels", matchLabels=TEXTS),
    policyTypes={"const": ["Ingress", "Egress"]},
    ingress=many(one("from", "ports", **{"from": many(PEER)}, ports=many(PORT))),
    egress=many(one("", "to ports", to=many(PEER), ports=many(PORT))),
)
SCHEMAS: dict[str, Schema] = {
    kind: one(
        "apiVersion kind metadata spec",
        apiVersion={"const": version},
        kind={"const": kind},
        metadata=METADATA,
        spec=spec,
    )
    for kind, version, spec in (
        ("RayCluster", "ray.io/v1", CLUSTER),
        ("RayJob", "ray.io/v1", JOB),
        ("NetworkPolicy", "networking.k8s.io/v1", POLICY),
    )
}
