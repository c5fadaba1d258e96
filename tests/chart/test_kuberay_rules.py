"""KubeRay's own rules, which no schema has.

They are those of `ray-operator/controllers/ray/utils/validation.go` of KubeRay 1.7. An object that
breaks one is accepted by the API server, and then the operator does nothing but complain.
"""

import re
from collections.abc import Callable, Iterator

import pytest
from chart.rendering import Chart, Object, environment
from chart.test_profiles import Profile, profiles

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL_KEY = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


def _groups(cluster: Object) -> Iterator[Object]:
    yield cluster["headGroupSpec"]
    yield from cluster.get("workerGroupSpecs", [])


def _version(cluster: Object) -> tuple[int, ...]:
    return tuple(int(part) for part in cluster["rayVersion"].split("."))


def _scales(cluster: Object) -> bool:
    return cluster.get("enableInTreeAutoscaling", False)


def _variables(group: Object) -> set[str]:
    return set(environment(group["template"]["spec"]["containers"][0]))


def pods_never_restart_with_autoscaler_v2(cluster: Object) -> bool:
    if not _scales(cluster):
        return True
    return cluster["autoscalerOptions"]["version"] == "v2" and all(
        group["template"]["spec"].get("restartPolicy", "Never") == "Never"
        for group in _groups(cluster)
    )


def the_version_of_the_autoscaler_stands_in_one_place(cluster: Object) -> bool:
    return "RAY_enable_autoscaler_v2" not in _variables(cluster["headGroupSpec"])


def labels_stand_in_groups_and_not_in_start_parameters(cluster: Object) -> bool:
    return all("labels" not in group["rayStartParams"] for group in _groups(cluster))


def labels_of_groups_have_the_syntax_of_kubernetes(cluster: Object) -> bool:
    return all(
        LABEL_KEY.fullmatch(key) and LABEL_VALUE.fullmatch(value)
        for group in _groups(cluster)
        for key, value in group.get("labels", {}).items()
    )


def resources_stand_in_one_place(cluster: Object) -> bool:
    return all("resources" not in group for group in _groups(cluster))


def a_token_has_a_version_of_ray_that_knows_it(cluster: Object) -> bool:
    return "authOptions" not in cluster or _version(cluster) >= (2, 52, 0)


def groups_have_both_limits(cluster: Object) -> bool:
    return all(
        0 <= group["minReplicas"] <= group["maxReplicas"]
        for group in cluster.get("workerGroupSpecs", [])
    )


def idle_timeouts_of_groups_need_autoscaler_v2(cluster: Object) -> bool:
    return _scales(cluster) or all(
        "idleTimeoutSeconds" not in group for group in cluster.get("workerGroupSpecs", [])
    )


def redis_stands_in_the_options_of_fault_tolerance_alone(cluster: Object) -> bool:
    head = cluster["headGroupSpec"]
    return not {"redis-password", "redis-username"} & set(head["rayStartParams"]) and not {
        "RAY_REDIS_ADDRESS",
        "REDIS_PASSWORD",
        "REDIS_USERNAME",
    } & _variables(head)


def no_gate_that_is_off_by_default_is_needed(cluster: Object) -> bool:
    return not {"networkPolicy", "tlsOptions", "historyServerOptions"} & set(cluster)


def the_token_is_not_that_of_kubernetes(cluster: Object) -> bool:
    # KubeRay does not support it for a RayService.
    return "enableK8sTokenAuth" not in cluster.get("authOptions", {})


def containers_have_no_command_of_their_own(cluster: Object) -> bool:
    # With one, the annotation ray.io/overwrite-container-cmd is needed, or KubeRay puts its own
    # command behind it.
    return all(
        not {"command", "args"} & set(group["template"]["spec"]["containers"][0])
        for group in _groups(cluster)
    )


def no_group_is_called_head(cluster: Object) -> bool:
    names = [group["groupName"] for group in cluster.get("workerGroupSpecs", [])]
    return len(set(names)) == len(names) and "head" not in names


RULES: list[Callable[[Object], bool]] = [
    pods_never_restart_with_autoscaler_v2,
    the_version_of_the_autoscaler_stands_in_one_place,
    labels_stand_in_groups_and_not_in_start_parameters,
    labels_of_groups_have_the_syntax_of_kubernetes,
    resources_stand_in_one_place,
    a_token_has_a_version_of_ray_that_knows_it,
    groups_have_both_limits,
    idle_timeouts_of_groups_need_autoscaler_v2,
    redis_stands_in_the_options_of_fault_tolerance_alone,
    no_gate_that_is_off_by_default_is_needed,
    the_token_is_not_that_of_kubernetes,
    containers_have_no_command_of_their_own,
    no_group_is_called_head,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@profiles
def test_kuberay_accepts_every_cluster(
    chart: Chart, profile: Profile, rule: Callable[[Object], bool]
) -> None:
    for cluster in chart.render(None, *profile).clusters().values():
        assert rule(cluster)


@profiles
def test_only_a_cluster_of_its_own_has_an_upgrade_strategy(chart: Chart, profile: Profile) -> None:
    rendered = chart.render(None, *profile)
    service = rendered.get("RayService")["spec"]
    assert "upgradeStrategy" not in service["rayClusterConfig"]
    assert service["upgradeStrategy"]["type"] in ("NewCluster", "None")
    assert service["rayClusterDeletionDelaySeconds"] >= 0
    if cluster := rendered.find("RayCluster"):
        assert cluster["spec"]["upgradeStrategy"] == {"type": "Recreate"}


def test_the_longest_name_fits_into_those_of_clusters(chart: Chart) -> None:
    name = "a" * 37
    rendered = chart.render({"fullnameOverride": name})
    service = rendered.get("RayService")["metadata"]["name"]
    cluster = rendered.get("RayCluster")["metadata"]["name"]
    assert len(service) <= 47
    assert len(cluster) <= 53
    assert DNS_1035.fullmatch(service)
    assert DNS_1035.fullmatch(cluster)
