"""What the KubeRay operator 1.7.0 makes of a rendered cluster: pods with its command and probes.

The rules are those of `BuildPod` and what it calls, in ray-operator/controllers/ray/common/pod.go.
"""

import math
from copy import deepcopy
from typing import Any, Literal

Object = dict[str, Any]
NodeType = Literal["head", "worker"]

HEALTH_PORT, DASHBOARD_PORT, METRICS_PORT, SERVE_PORT = 52365, 8265, 8080, 8000
APPLICATIONS = "/api/serve/applications/"
"""The path of the dashboard to which the operator sends `serveConfigV2`."""

_WGET = "wget --tries 1 -T {} -q -O- http://localhost:{} | grep success"
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 1e3, "M": 1e6, "G": 1e9, "m": 1e-3}


def quantity(value: str | float) -> float:
    """Return a quantity of Kubernetes, such as `500m` or `3Gi`, as a number."""
    text = str(value)
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)


def head_service(cluster: str, namespace: str) -> str:
    """Return the host name by which workers find the head."""
    return f"{cluster}-head-svc.{namespace}.svc.cluster.local"


def head_pod(name: str, spec: Object, namespace: str, *, serves: bool) -> Object:
    """Return the pod of the head of a cluster; `serves`: the cluster is that of a RayService."""
    group = spec["headGroupSpec"]
    return _pod(name, spec, group, "head", namespace, serves=serves)


def worker_pod(name: str, spec: Object, group: Object, namespace: str, *, serves: bool) -> Object:
    """Return a pod of a group of workers."""
    pod = _pod(name, spec, group, "worker", namespace, serves=serves)
    ray = pod["spec"]["containers"][0]
    address = f"{head_service(name, namespace)}:6379"
    waiting = f"until ray health-check --address {address} > /dev/null 2>&1; do sleep 5; done"
    # It has the environment of Ray's container before the operator adds to it, and the token.
    given = deepcopy(group["template"]["spec"]["containers"][0].get("env", []))
    pod["spec"].setdefault("initContainers", []).append(
        {
            "name": "wait-gcs-ready",
            "image": ray["image"],
            "command": ["/bin/bash", "-c", "--"],
            "args": [waiting],
            "env": given + _token(spec),
            "securityContext": ray.get("securityContext", {}),
            "volumeMounts": ray.get("volumeMounts", []),
            "resources": {"limits": {"memory": "256Mi"}},
        }
    )
    return pod


def _pod(
    name: str, spec: Object, group: Object, node_type: NodeType, namespace: str, *, serves: bool
) -> Object:
    pod = deepcopy(group["template"])
    ray = pod["spec"]["containers"][0]
    annotations = pod["metadata"].get("annotations", {})
    assert "command" not in ray
    assert "ray.io/overwrite-container-cmd" not in annotations
    start = _start_command(name, spec, group, node_type, namespace)
    ray["command"] = ["/bin/bash", "-c", "--"]
    ray["args"] = [f"ulimit -n ${{RAY_START_ULIMIT_OPEN_FILES:-65536}}; {start}"]
    ip = "127.0.0.1" if node_type == "head" else head_service(name, namespace)
    added = {
        "RAY_CLUSTER_NAME": name,
        "RAY_CLUSTER_NAMESPACE": namespace,
        "RAY_CLOUD_INSTANCE_ID": f"{name}-{node_type}",
        "RAY_NODE_TYPE_NAME": group.get("groupName", "headgroup"),
        "KUBERAY_GEN_RAY_START_CMD": start,
        "RAY_PORT": "6379",
        "RAY_ADDRESS": f"{ip}:6379",
        "RAY_USAGE_STATS_KUBERAY_IN_USE": "1",
        "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE": "1",
    }
    if node_type == "worker":
        added |= {"FQ_RAY_IP": ip, "RAY_IP": ip.partition(".")[0]}
    if serves:
        added |= {
            "RAY_timeout_ms_task_wait_for_death_info": "0",
            "RAY_gcs_server_request_timeout_seconds": "5",
            "RAY_SERVE_KV_TIMEOUT_S": "5",
        }
    ray["env"] = _merged(ray.get("env", []), [_variable(*each) for each in added.items()])
    ray["env"] = _merged(ray["env"], _token(spec))
    for container in pod["spec"].get("initContainers", []):
        container["env"] = _merged(container.get("env", []), [_variable("RAY_IP", "")])
    _add_probes(ray, node_type, serves=serves)
    return pod


def _start_command(
    name: str, spec: Object, group: Object, node_type: NodeType, namespace: str
) -> str:
    ray = group["template"]["spec"]["containers"][0]
    resources = ray.get("resources", {})
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    flags = {str(flag): str(value) for flag, value in group.get("rayStartParams", {}).items()}
    if node_type == "worker":
        flags.setdefault("address", f"{head_service(name, namespace)}:6379")
    else:
        flags.setdefault("dashboard-host", "0.0.0.0")
    if spec.get("enableInTreeAutoscaling") and node_type == "head":
        flags["no-monitor"] = "true"
    if labels := group.get("labels"):
        flags["labels"] = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    flags.setdefault("metrics-export-port", str(METRICS_PORT))
    flags["block"] = "true"
    flags.setdefault("dashboard-agent-listen-port", str(HEALTH_PORT))
    if cpu := limits.get("cpu") or requests.get("cpu"):
        flags.setdefault("num-cpus", str(math.ceil(quantity(cpu))))
    if memory := limits.get("memory"):
        flags.setdefault("memory", str(int(quantity(memory))))
    for resource, number in sorted(limits.items()):
        if resource.endswith("gpu"):
            flags.setdefault("num-gpus", str(number))
    words = ["ray", "start", *(["--head"] if node_type == "head" else [])]
    for flag, value in sorted(flags.items()):
        if value.lower() == "true":
            words.append(f"--{flag}")
        elif value.lower() != "false" or flag == "include-dashboard":
            words.append(f"--{flag}={value}")
    return " ".join(words)


def _add_probes(ray: Object, node_type: NodeType, *, serves: bool) -> None:
    timeout_s = 5 if node_type == "head" else 2
    health = {
        "httpGet": {"path": "/api/healthz", "port": HEALTH_PORT},
        "timeoutSeconds": timeout_s,
        "periodSeconds": 5,
    }
    ray.setdefault("livenessProbe", health | {"failureThreshold": 120})
    readiness = health | {"failureThreshold": 10}
    if serves and node_type == "worker":
        raylet = _WGET.format(2, f"{HEALTH_PORT}/api/local_raylet_healthz")
        proxy = _WGET.format(10, f"{SERVE_PORT}/-/healthz")
        readiness = {
            "exec": {"command": ["bash", "-c", f"{raylet} && {proxy}"]},
            "timeoutSeconds": timeout_s,
            "periodSeconds": 5,
            "failureThreshold": 1,
        }
    ray.setdefault("readinessProbe", readiness)


def _token(spec: Object) -> list[Object]:
    options = spec.get("authOptions", {})
    if options.get("mode") != "token":
        return []
    secret = {"name": options["secretName"], "key": "auth_token"}
    return [
        _variable("RAY_AUTH_MODE", "token"),
        {"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": secret}},
    ]


def _variable(name: str, value: str) -> Object:
    return {"name": name, "value": value}


def _merged(given: list[Object], added: list[Object]) -> list[Object]:
    """Return the variables that are given, and those added ones that are not among them."""
    names = {each["name"] for each in given}
    return [*given, *(each for each in added if each["name"] not in names)]
