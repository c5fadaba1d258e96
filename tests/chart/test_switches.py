"""Every switch of the chart does something when it is on, and nothing when it is off."""

import json
from typing import Any

import pytest
from chart.rendering import Chart, Rendered, containers, environment

from helm.values.documents import schema

GPU = {"limits": {"cpu": 8, "memory": "32Gi", "nvidia.com/gpu": 1}}
GROUP = {"gpu": {"maxReplicas": 8, "resources": GPU}}
POOLS: dict[str, Any] = {
    "inference": {"workerGroups": GROUP},
    "training": {"workerGroups": GROUP},
}


def merged(base: Any, more: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(more, dict):
        return more
    return base | {key: merged(base.get(key), value) for key, value in more.items()}


def at(path: str, value: Any) -> dict[str, Any]:
    """Values with one value at a path."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def has(kind: str, name: str = "") -> Any:
    def check(rendered: Rendered) -> bool:
        return any(
            each["kind"] == kind and each["metadata"]["name"].endswith(name)
            for each in rendered.objects
        )

    return check


def _has_kueue(component: str) -> Any:
    def check(rendered: Rendered) -> bool:
        kind = {"inference": "RayService", "training": "RayCluster"}[component]
        found = rendered.find(kind)
        return bool(found) and "kueue.x-k8s.io/queue-name" in found["metadata"]["labels"]

    return check


def _is_elastic(component: str) -> Any:
    def check(rendered: Rendered) -> bool:
        kind = {"inference": "RayService", "training": "RayCluster"}[component]
        annotations = rendered.get(kind)["metadata"].get("annotations", {})
        pods = [pod["spec"] for name, pod in rendered.pods().items() if name.startswith(component)]
        gates = [p.get("schedulingGates") == [{"name": "kueue.x-k8s.io/elastic-job"}] for p in pods]
        assert len(set(gates)) == 1, "the gate stands on all groups or on none"
        return gates[0] and annotations.get("kueue.x-k8s.io/elastic-job") == "true"

    return check


def _scales(component: str) -> Any:
    def check(rendered: Rendered) -> bool:
        spec = rendered.clusters()[component]
        return (
            spec.get("enableInTreeAutoscaling") is True
            and "replicas" not in (spec["workerGroupSpecs"][0])
        )

    return check


def _cluster_field(field: str) -> Any:
    def check(rendered: Rendered) -> bool:
        found = {field in spec for spec in rendered.clusters().values()}
        assert len(found) == 1
        return found.pop()

    return check


def _is_offline(rendered: Rendered) -> bool:
    head = rendered.clusters()["inference"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    return environment(head).get("HF_HUB_OFFLINE") == "1"


def _serves_from_head(rendered: Rendered) -> bool:
    return rendered.get("RayService")["spec"]["excludeHeadPodFromServeSvc"] is False


def _supervises_inference(rendered: Rendered) -> bool:
    head = rendered.clusters()["inference"]["headGroupSpec"]["template"]
    names = {each["name"] for each in containers(head)}
    assert rendered.find("RayCluster") is None or "supervisor" not in names
    return "supervisor" in names


def _has_spot(rendered: Rendered) -> bool:
    (group,) = rendered.clusters()["training"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    drain = environment(pod["containers"][0])["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]
    short = drain == "10" and pod["terminationGracePeriodSeconds"] == 15
    assert short == (group.get("labels") == {"ray.io/market-type": "spot"})
    return short


HUB = {"weights": "sdxl", "recipe": "sdxl-release", "generation": {"gpus": 1}}
KUEUE = {"enabled": True, "queueName": "gpus"}
QUEUED = {"autoscaling": {"enabled": False}, "kueue": {"queueName": "gpus"}}

SWITCHES: dict[str, tuple[Any, dict[str, Any]]] = {
    "serviceAccount.create": (
        has("ServiceAccount", "t-dti"),
        at("serviceAccount.headName", "scaler"),
    ),
    "storeCheck.enabled": (has("Job", "-store-check"), {}),
    "huggingFace.offline": (_is_offline, {}),
    "modelCache.claim.enabled": (has("PersistentVolumeClaim", "-models"), {}),
    "modelCache.fetch.enabled": (
        lambda rendered: any("-fetch-" in name for name in rendered.names()),
        {"modelCache": {"existingClaim": "weights"}, "models": {"sdxl": HUB}},
    ),
    "redis.enabled": (
        _cluster_field("gcsFaultToleranceOptions"),
        at("redis.address", "redis:6379"),
    ),
    "rayToken.enabled": (_cluster_field("authOptions"), {}),
    "api.autoscaling.enabled": (has("HorizontalPodAutoscaler", "-api"), {}),
    "api.disruptionBudget.enabled": (has("PodDisruptionBudget", "-api"), {}),
    "api.ingress.enabled": (has("Ingress", "-api"), at("api.ingress.host", "dti.example.com")),
    "api.httpRoute.enabled": (
        has("HTTPRoute", "-api"),
        at("api.httpRoute.parentRefs", [{"name": "gateway"}]),
    ),
    "inference.enabled": (has("RayService", "-inference"), {}),
    "inference.autoscaling.enabled": (_scales("inference"), {}),
    "inference.serveFromHead": (_serves_from_head, {}),
    "inference.kueue.enabled": (_has_kueue("inference"), {"inference": QUEUED}),
    "inference.kueue.elastic": (_is_elastic("inference"), at("inference.kueue", KUEUE)),
    "training.enabled": (has("RayCluster", "-training"), {}),
    "training.autoscaling.enabled": (_scales("training"), {}),
    "training.sharedCluster": (_supervises_inference, at("training.workerGroups", None)),
    "training.kueue.enabled": (_has_kueue("training"), {"training": QUEUED}),
    "training.kueue.elastic": (_is_elastic("training"), at("training.kueue", KUEUE)),
    "training.workerGroups.gpu.spot": (_has_spot, {}),
    "networkPolicy.enabled": (has("NetworkPolicy"), {}),
    "monitoring.podMonitor.enabled": (has("PodMonitor"), {}),
    "monitoring.serviceMonitor.enabled": (has("ServiceMonitor"), {}),
    "monitoring.rules.enabled": (
        has("PrometheusRule"),
        {"monitoring": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}},
    ),
    "monitoring.dashboards.enabled": (
        lambda rendered: any("dashboard" in name for name in rendered.names()),
        {},
    ),
}

NOT_RENDERED = {
    "kuberay.required": "tests/chart/test_bad_values.py has both ways",
    "models": "its switches are the service's own",
}


def _renders(chart: Chart, path: str, *, on: bool) -> bool:
    check, needed = SWITCHES[path]
    values = merged(merged(POOLS, needed), at(path, on))
    if path.endswith("kueue.elastic") and not on:
        # Kueue refuses scaling that is not elastic.
        values = merged(values, at(f"{path.split('.')[0]}.autoscaling.enabled", False))
    return check(chart.render(values))


@pytest.mark.parametrize("path", SWITCHES)
def test_a_switch_that_is_on_does_what_it_says(chart: Chart, path: str) -> None:
    assert _renders(chart, path, on=True)


@pytest.mark.parametrize("path", SWITCHES)
def test_a_switch_that_is_off_leaves_it_out(chart: Chart, path: str) -> None:
    assert not _renders(chart, path, on=False)


def _booleans(node: dict[str, Any], whole: dict[str, Any], path: str = "") -> set[str]:
    """The paths of all booleans, `gpu` standing for the names of groups."""
    if reference := node.get("$ref"):
        return _booleans(whole["$defs"][reference.rsplit("/", 1)[1]], whole, path)
    if node.get("type") == "boolean":
        return {path}
    found: set[str] = set()
    for key, value in node.get("properties", {}).items():
        found |= _booleans(value, whole, f"{path}.{key}".lstrip("."))
    for value in node.get("patternProperties", {}).values():
        found |= _booleans(value, whole, f"{path}.gpu")
    return found


def test_every_switch_has_a_test() -> None:
    whole = schema()
    paths = {
        path.replace("inference.workerGroups", "training.workerGroups")
        for path in _booleans(whole, whole)
        if ".settings." not in path and not path.startswith("models.")
    }
    assert paths - set(NOT_RENDERED) == set(SWITCHES)


TEXTS: dict[str, tuple[Any, str]] = {
    "fullnameOverride": ("images", '"images-api"'),
    "nameOverride": ("images", '"t-images-api"'),
    "commonLabels": ({"team": "images"}, '"team": "images"'),
    "commonAnnotations": ({"owner": "me"}, '"owner": "me"'),
    "image.api.tag": ("9.9", '"dti-api:9.9"'),
    "image.ray.tag": ("9.9", '"dti-ray:9.9"'),
    "image.ray.digest": ("sha256:" + "0" * 64, '"dti-ray@sha256:' + "0" * 64),
    "image.ray.pullPolicy": ("Always", '"imagePullPolicy": "Always"'),
    "imagePullSecrets": ([{"name": "registry"}], '"imagePullSecrets": [{"name": "registry"}]'),
    "serviceAccount.name": ("me", '"serviceAccountName": "me"'),
    "serviceAccount.annotations": ({"role": "x"}, '"role": "x"'),
    "s3.settings.endpoint": ("http://rgw:7480", '"DTI_S3_ENDPOINT", "value": "http://rgw:7480"'),
    "s3.existingSecret": ("creds", '"secretKeyRef": {"key": "AWS_ACCESS_KEY_ID", "name": "creds"}'),
    "engineSecret.existingSecret": ("mine", '{"key": "engine-secret", "name": "mine"}'),
    "rayToken.existingSecret": ("mine", '"secretName": "mine"'),
    "huggingFace.existingSecret": ("hub", '"secretKeyRef": {"key": "token", "name": "hub"}'),
    "modelCache.existingClaim": ("weights", '"claimName": "weights"'),
    "modelCache.nodePath": ("/mnt", '"hostPath": {"path": "/mnt"'),
    "modelCache.sizeLimit": ("3Gi", '{"sizeLimit": "3Gi"}'),
    "rayVersion": ("2.61.0", '"rayVersion": "2.61.0"'),
    "ledger.lease_s": (30, '"DTI_LEASE_S", "value": "30"'),
    "allPods.nodeSelector": ({"disk": "ssd"}, '"nodeSelector": {"disk": "ssd"}'),
    "allPods.priorityClassName": ("high", '"priorityClassName": "high"'),
    "allPods.runtimeClassName": ("nvidia", '"runtimeClassName": "nvidia"'),
    "allPods.tolerations": ([{"operator": "Exists"}], '"tolerations": [{"operator": "Exists"}]'),
    "allPods.affinity": ({"podAffinity": {}}, '"affinity": {"podAffinity": {}}'),
    "allPods.podLabels": ({"cost": "7"}, '"cost": "7"'),
    "allPods.podAnnotations": ({"cost": "7"}, '"cost": "7"'),
    "allPods.extraEnv": ([{"name": "A", "value": "b"}], '{"name": "A", "value": "b"}'),
    "allPods.extraEnvFrom": ([{"secretRef": {"name": "x"}}], '[{"secretRef": {"name": "x"}}]'),
    "allPods.extraVolumes": ([{"name": "x", "emptyDir": {}}], '{"emptyDir": {}, "name": "x"}'),
    "allPods.extraVolumeMounts": (
        [{"name": "x", "mountPath": "/x"}],
        '{"mountPath": "/x", "name": "x"}',
    ),
    "allPods.topologySpreadConstraints": ([{"maxSkew": 1}], '[{"maxSkew": 1}]'),
    "api.replicas": (7, '"replicas": 7'),
    "api.preStopSeconds": (3, '"sleep": {"seconds": 3}'),
    "api.service.type": ("NodePort", '"type": "NodePort"'),
    "api.service.port": (8080, '"port": 8080'),
    "api.settings.public_url": ("https://x", '"DTI_PUBLIC_URL", "value": "https://x"'),
    "api.settings.allow_private_webhooks": (True, '"DTI_ALLOW_PRIVATE_WEBHOOKS", "value": "true"'),
    "dispatcher.replicas": (5, '"replicas": 5'),
    "dispatcher.settings.max_in_flight": (9, '"DTI_MAX_IN_FLIGHT", "value": "9"'),
    "inference.upgradeStrategy": ("None", '"upgradeStrategy": {"type": "None"}'),
    "inference.annotations": ({"a": "b"}, '"annotations": {"a": "b"}'),
    "inference.head.cpus": (3, '"num-cpus": "3"'),
    "inference.head.sharedMemory": ("5Gi", '"sizeLimit": "5Gi"'),
    "inference.head.rayStartParams": ({"object-store-memory": "1"}, '"object-store-memory": "1"'),
    "inference.autoscaling.idleTimeoutSeconds": (77, '"idleTimeoutSeconds": 77'),
    "inference.workerGroups.gpu.idleTimeoutSeconds": (0, '"idleTimeoutSeconds": 0'),
    "inference.workerGroups.gpu": (
        GROUP["gpu"] | {"spot": True, "spotDrainSeconds": 90},
        '"terminationGracePeriodSeconds": 95',
    ),
    "inference.workerGroups.gpu.labels": ({"a": "b"}, '"labels": {"a": "b"}'),
    "inference.workerGroups.gpu.minReplicas": (2, '"minReplicas": 2'),
    "inference.workerGroups.gpu.runtimeClassName": ("nvidia", '"runtimeClassName": "nvidia"'),
    "inference.workerGroups.gpu.sharedMemory": ("9Gi", '"sizeLimit": "9Gi"'),
    "training.drainSeconds": (90, '"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": "90"'),
    "training.supervisor.settings.idle_timeout_s": (9, '"DTI_IDLE_TIMEOUT_S", "value": "9"'),
    "storeCheck.activeDeadlineSeconds": (33, '"activeDeadlineSeconds": 33'),
    "helmTest.timeoutSeconds": (33, '"activeDeadlineSeconds": 33'),
    "helmTest.model": ("none", '"args": ["http://t-dti-api.prod:80"]'),
    "networkPolicy": (
        {"enabled": True, "egress": [{"ports": [{"port": 99}]}]},
        '{"ports": [{"port": 99}]}',
    ),
    "extraObjects": (
        ["apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}-x'}"],
        '{"name": "t-x"}',
    ),
}


@pytest.mark.parametrize("path", TEXTS)
def test_a_value_reaches_the_objects(chart: Chart, path: str) -> None:
    value, expected = TEXTS[path]
    without = json.dumps(chart.render(POOLS).objects, sort_keys=True)
    rendered = json.dumps(chart.render(merged(POOLS, at(path, value))).objects, sort_keys=True)
    assert expected in rendered
    assert expected not in without


def test_variables_of_the_user_take_the_place_of_the_charts(chart: Chart) -> None:
    # An API server refuses a name that stands twice.
    values: dict[str, Any] = {
        "allPods": {"extraEnv": [{"name": "DTI_STORE", "value": "s3://other"}]},
        "api": {
            "settings": {"public_url": "https://mine"},
            "ingress": {"enabled": True, "host": "dti.example.com", "tlsSecret": "tls"},
        },
    }
    rendered = chart.render(merged(POOLS, values))
    for name, pod in rendered.pods().items():
        for container in containers(pod):
            names = [each["name"] for each in container["env"]]
            assert len(set(names)) == len(names), name
            assert environment(container)["DTI_STORE"] == "s3://other"
    api = rendered.pods()["Deployment t-dti-api"]["spec"]["containers"][0]
    assert environment(api)["DTI_PUBLIC_URL"] == "https://mine"


def test_fields_of_a_pod_are_added_to_those_of_all_pods(chart: Chart) -> None:
    values = {
        "allPods": {"nodeSelector": {"a": "1"}, "tolerations": [{"key": "a"}]},
        "api": {"nodeSelector": {"b": "2"}, "tolerations": [{"key": "b"}]},
    }
    pods = chart.render(values).pods()
    api, dispatcher = (pods[f"Deployment t-dti-{name}"]["spec"] for name in ("api", "dispatcher"))
    assert api["nodeSelector"] == {"a": "1", "b": "2"}
    assert api["tolerations"] == [{"key": "a"}, {"key": "b"}]
    assert dispatcher["nodeSelector"] == {"a": "1"}


def test_the_ingress_lets_long_requests_and_large_manifests_through(chart: Chart) -> None:
    values = at("api.ingress", {"enabled": True, "host": "dti.example.com", "tlsSecret": "tls"})
    rendered = chart.render(values)
    annotations = rendered.get("Ingress")["metadata"]["annotations"]
    prefix = "nginx.ingress.kubernetes.io/"
    assert annotations == {
        f"{prefix}proxy-read-timeout": "330",
        f"{prefix}proxy-send-timeout": "330",
        f"{prefix}proxy-body-size": "191m",
        f"{prefix}proxy-buffering": "off",
        f"{prefix}proxy-request-buffering": "off",
    }
    api = rendered.pods()["Deployment t-dti-api"]["spec"]["containers"][0]
    assert environment(api)["DTI_PUBLIC_URL"] == "https://dti.example.com"


def test_the_ingress_lets_a_manifest_through_that_is_larger_than_uploads(chart: Chart) -> None:
    values = at("api.ingress", {"enabled": True, "host": "dti.example.com"})
    values = merged(values, at("api.settings.max_manifest_bytes", 2**30))
    for helm in ("helm", "helm3"):
        annotations = chart.render(values, helm=helm).get("Ingress")["metadata"]["annotations"]
        assert annotations["nginx.ingress.kubernetes.io/proxy-body-size"] == "1024m"


def test_the_ingress_lets_a_body_through_that_is_larger_than_uploads(chart: Chart) -> None:
    values = at("api.ingress", {"enabled": True, "host": "dti.example.com"})
    values = merged(values, at("api.settings.max_body_bytes", 2**30))
    annotations = chart.render(values).get("Ingress")["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-body-size"] == "1024m"


def test_annotations_of_the_user_override_those_for_nginx(chart: Chart) -> None:
    key = "nginx.ingress.kubernetes.io/proxy-read-timeout"
    ingress = {"enabled": True, "host": "x", "annotations": {key: "900"}}
    rendered = chart.render(at("api.ingress", ingress))
    assert rendered.get("Ingress")["metadata"]["annotations"][key] == "900"


def test_a_replica_count_is_left_to_the_autoscaler(chart: Chart) -> None:
    on = chart.render(at("api.autoscaling.enabled", True)).get("Deployment", "-api")
    assert "replicas" not in on["spec"]
    assert chart.render().get("Deployment", "-api")["spec"]["replicas"] == 2


def test_a_field_of_the_security_context_can_be_left_to_the_cluster(chart: Chart) -> None:
    # OpenShift chooses users itself.
    rights = {"runAsUser": None, "runAsGroup": None, "fsGroup": None}
    for helm in ("helm", "helm3"):
        for pod in (
            chart.render(at("allPods.podSecurityContext", rights), helm=helm).pods().values()
        ):
            assert set(pod["spec"]["securityContext"]) == {
                "runAsNonRoot",
                "fsGroupChangePolicy",
                "seccompProfile",
            }
