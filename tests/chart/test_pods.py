"""What the rendered pods are: commands, variables, probes, drain and what makes them anew."""

from typing import Any

import pytest
from chart.rendering import Chart, Object, containers, environment

GPU = {"limits": {"cpu": 8, "memory": "32Gi", "nvidia.com/gpu": 1}}
POOLS: dict[str, Any] = {
    "inference": {"workerGroups": {"l4": {"maxReplicas": 8, "resources": GPU}}},
    "training": {"workerGroups": {"a100": {"maxReplicas": 8, "resources": GPU}}},
}


def _api(chart: Chart, values: Any = None) -> Object:
    return chart.render(values).get("Deployment", "-api")["spec"]["template"]


def _supervisor(chart: Chart, values: Any = None) -> Object:
    head = chart.render(values).clusters()["training"]["headGroupSpec"]["template"]
    (supervisor,) = head["spec"]["initContainers"]
    return supervisor


def test_the_supervisor_is_a_sidecar_that_restarts(chart: Chart) -> None:
    supervisor = _supervisor(chart)
    assert supervisor["restartPolicy"] == "Always"
    assert supervisor["command"] == ["python", "-m", "services.supervisor"]
    assert "startupProbe" not in supervisor, "it would hold back Ray, which the supervisor needs"


def test_the_supervisor_finds_rays_node(chart: Chart) -> None:
    pod = chart.render().clusters()["training"]["headGroupSpec"]["template"]["spec"]
    assert pod["shareProcessNamespace"] is True
    ray, supervisor = pod["containers"][0], pod["initContainers"][0]
    for path in ("/tmp", "/tmp/ray"):
        volumes = [
            {m["mountPath"]: m["name"] for m in each["volumeMounts"]}[path]
            for each in (ray, supervisor)
        ]
        assert volumes[0] == volumes[1]


def test_the_supervisor_has_rays_token(chart: Chart) -> None:
    variables = environment(_supervisor(chart))
    assert variables["RAY_AUTH_MODE"] == "token"
    assert variables["RAY_AUTH_TOKEN"]["secretKeyRef"] == {"name": "t-dti-ray", "key": "auth_token"}


def test_only_the_training_head_has_a_supervisor(chart: Chart) -> None:
    with_supervisor = {
        name
        for name, pod in chart.render(POOLS).pods().items()
        if any(each["name"] == "supervisor" for each in containers(pod))
    }
    assert with_supervisor == {"training head"}


def test_the_autoscaler_has_the_tmp_of_the_head(chart: Chart) -> None:
    # KubeRay mounts a volume of its own on /tmp/ray unless the path is mounted already.
    spec = chart.render(POOLS).clusters()["training"]
    paths = {each["mountPath"] for each in spec["autoscalerOptions"]["volumeMounts"]}
    assert paths == {"/tmp", "/tmp/ray"}


def test_the_api_has_no_command_but_its_own(chart: Chart) -> None:
    (container,) = _api(chart)["spec"]["containers"]
    assert container["command"] == ["python", "-m", "services.api"]


def test_rays_containers_have_the_command_of_kuberay(chart: Chart) -> None:
    for spec in chart.render(POOLS).clusters().values():
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            container = group["template"]["spec"]["containers"][0]
            assert "command" not in container
            assert "args" not in container


def test_the_api_starts_when_the_store_answers_and_stays_when_it_is_silent(chart: Chart) -> None:
    (container,) = _api(chart)["spec"]["containers"]
    assert container["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"


@pytest.mark.parametrize("timeout", [300, 45.5, 1800])
def test_all_grace_periods_derive_from_the_timeout_of_generation(
    chart: Chart, timeout: float
) -> None:
    rendered = chart.render(POOLS | {"api": {"settings": {"generation_timeout_s": timeout}}})
    drain = -int(-timeout // 1) + 30
    api = rendered.get("Deployment", "-api")["spec"]["template"]["spec"]
    assert environment(api["containers"][0])["DTI_SHUTDOWN_TIMEOUT_S"] == str(drain)
    assert api["terminationGracePeriodSeconds"] == 10 + drain + 10
    assert rendered.get("RayService")["spec"]["rayClusterDeletionDelaySeconds"] == drain + 30
    worker = rendered.pods()["inference l4"]["spec"]
    assert environment(worker["containers"][0])["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == str(
        drain
    )
    assert worker["terminationGracePeriodSeconds"] == drain + 30


def test_training_workers_drain_in_a_minute_and_heads_in_seconds(chart: Chart) -> None:
    pods = chart.render(POOLS).pods()
    drains = {
        name: environment(pod["spec"]["containers"][0])["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]
        for name, pod in pods.items()
        if name.startswith(("training", "inference"))
    }
    assert drains == {
        "inference head": "10",
        "inference l4": "330",
        "training head": "10",
        "training a100": "60",
    }


def test_all_processes_have_the_same_lease(chart: Chart) -> None:
    pods = chart.render({"ledger": {"lease_s": 45}}).pods()
    leases = {
        each["name"]: environment(each)["DTI_LEASE_S"]
        for pod in pods.values()
        for each in containers(pod)
        if each["name"] in ("api", "dispatcher", "supervisor")
    }
    assert leases == {"api": "45", "dispatcher": "45", "supervisor": "45"}


def test_large_numbers_have_no_exponent(chart: Chart) -> None:
    pod = _api(chart, {"api": {"settings": {"max_body_bytes": 67108864}}})
    assert environment(pod["spec"]["containers"][0])["DTI_MAX_BODY_BYTES"] == "67108864"


def test_the_engines_url_is_that_of_the_service_that_kuberay_makes(chart: Chart) -> None:
    rendered = chart.render(release="images")
    service = rendered.get("RayService")["metadata"]["name"]
    for component in ("-api", "-dispatcher"):
        (container,) = rendered.get("Deployment", component)["spec"]["template"]["spec"][
            "containers"
        ]
        url = environment(container)["DTI_ENGINES_URL"]
        assert url == f"http://{service}-serve-svc.prod:8000/engines"


MODEL = {"weights": "miniature", "recipe": "miniature", "gpus": 0}


def _clusters_with(chart: Chart, model: Any) -> dict[str, Object]:
    return chart.render({"models": {"miniature": MODEL | model}} | POOLS).clusters()


@pytest.mark.parametrize(
    "model", [{"max_workers": 3}, {"slots": 9}, {"generation": {"max_engines": 3}}]
)
def test_a_change_of_models_makes_no_cluster_anew(chart: Chart, model: Any) -> None:
    assert _clusters_with(chart, model) == _clusters_with(chart, {})


def test_no_version_stands_in_the_pods_of_clusters(chart: Chart) -> None:
    # KubeRay makes a cluster anew when its pods change, also by a label.
    for spec in chart.render(POOLS).clusters().values():
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            labels = group["template"]["metadata"]["labels"]
            assert set(labels) == {
                "app.kubernetes.io/name",
                "app.kubernetes.io/instance",
                "app.kubernetes.io/component",
            }


def test_ray_offers_no_gpu_of_a_node_that_the_pod_did_not_ask_for(chart: Chart) -> None:
    # The image's NVIDIA_VISIBLE_DEVICES may show all GPUs of the node to a pod without any.
    groups = {
        "a100": {"resources": GPU},
        "cpu": {"resources": {"limits": {"cpu": 8, "memory": "8Gi"}}},
        "mine": {"rayStartParams": {"num-gpus": "3"}},
    }
    cluster = chart.render({"training": {"workerGroups": groups}}).clusters()["training"]
    given = {
        group["groupName"]: group["rayStartParams"].get("num-gpus")
        for group in cluster["workerGroupSpecs"]
    }
    assert given == {"a100": None, "cpu": "0", "mine": "3"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
