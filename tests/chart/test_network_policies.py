"""Pods reach what they need, and are reached by those that need them, when policies are on."""

from typing import Any

import pytest
from chart.rendering import Chart, Object, Rendered

VALUES: dict[str, Any] = {"networkPolicy": {"enabled": True}}


def _pod(rendered: Rendered, component: str) -> dict[str, str]:
    """The labels of the pods of a component."""
    if component in ("inference", "training"):
        return rendered.pods()[f"{component} head"]["metadata"]["labels"]
    (labels,) = (
        pod["metadata"]["labels"]
        for name, pod in rendered.pods().items()
        if name == f"Deployment t-dti-{component}" or name == f"Pod t-dti-{component}"
    )
    return labels


def _matches(selector: Object, labels: dict[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items()


def _allows(rules: list[Object], side: str, labels: dict[str, str], port: int) -> bool:
    """Whether a rule allows pods with these labels (`from` or `to`) at a port."""
    for rule in rules:
        ports = [each["port"] for each in rule.get("ports", [])]
        peers = rule.get(side, [])
        if ports and port not in ports:
            continue
        if not peers or any(_matches(peer["podSelector"], labels) for peer in peers):
            return True
    return False


def allowed(rendered: Rendered, source: str | dict[str, str], target: str, port: int) -> bool:
    """Whether pods may connect: both sides must allow it. Other pods are given by labels."""
    labels = source if isinstance(source, dict) else _pod(rendered, source)
    incoming = rendered.get("NetworkPolicy", f"-{target}")["spec"]
    if not _allows(incoming.get("ingress", []), "from", labels, port):
        return False
    if isinstance(source, dict) or rendered.find("NetworkPolicy", f"-{source}") is None:
        return True
    outgoing = rendered.get("NetworkPolicy", f"-{source}")["spec"]
    return _allows(outgoing["egress"], "to", _pod(rendered, target), port)


OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}
STRANGER = {"app": "stranger"}

NEEDED: list[tuple[str | dict[str, str], str, int]] = [
    ("api", "inference", 8000),
    ("dispatcher", "inference", 8000),
    (OPERATOR, "inference", 8265),
    (OPERATOR, "inference", 8000),
    (OPERATOR, "training", 8265),
    (PROMETHEUS, "inference", 8080),
    (PROMETHEUS, "training", 8080),
    (PROMETHEUS, "api", 8001),
    (PROMETHEUS, "dispatcher", 8001),
    ("inference", "inference", 6379),
    ("training", "training", 10002),
    (STRANGER, "api", 8000),
    ("test", "api", 8000),
]
REFUSED: list[tuple[str | dict[str, str], str, int]] = [
    (STRANGER, "inference", 8265),
    (STRANGER, "inference", 8000),
    (STRANGER, "inference", 6379),
    (STRANGER, "training", 8265),
    (STRANGER, "dispatcher", 8001),
    (STRANGER, "api", 8001),
    ("dispatcher", "api", 8001),
    ("api", "training", 8265),
    ("api", "inference", 8265),
    ("inference", "training", 6379),
    ("training", "inference", 8000),
    (PROMETHEUS, "inference", 8265),
    (OPERATOR, "inference", 6379),
]


@pytest.mark.parametrize(("source", "target", "port"), NEEDED)
def test_what_is_needed_is_allowed(
    chart: Chart, source: str | dict[str, str], target: str, port: int
) -> None:
    assert allowed(chart.render(VALUES), source, target, port)


@pytest.mark.parametrize(("source", "target", "port"), REFUSED)
def test_everything_else_is_refused(
    chart: Chart, source: str | dict[str, str], target: str, port: int
) -> None:
    assert not allowed(chart.render(VALUES), source, target, port)


def test_callers_of_the_api_can_be_limited(chart: Chart) -> None:
    clients = [{"podSelector": {"matchLabels": {"app": "ingress"}}}]
    peers = {"peers": {"apiClients": clients}}
    rendered = chart.render({"networkPolicy": {"enabled": True} | peers})
    for source in (STRANGER, PROMETHEUS):
        assert not allowed(rendered, source, "api", 8000)
    for source in ({"app": "ingress"}, "test"):
        assert allowed(rendered, source, "api", 8000)
        assert not allowed(rendered, source, "api", 8001)
    assert allowed(rendered, PROMETHEUS, "api", 8001)


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [("http://rgw:7480", 7480), ("http://rgw/", 80), ("https://s3.example.com", 443)],
)
def test_every_pod_reaches_the_store(chart: Chart, endpoint: str, port: int) -> None:
    rendered = chart.render(VALUES | {"s3": {"settings": {"endpoint": endpoint}}})
    policies = [each for each in rendered.objects if each["kind"] == "NetworkPolicy"]
    assert len(policies) == 4
    for policy in policies:
        assert _allows(policy["spec"]["egress"], "to", {}, port)


def test_every_pod_resolves_names(chart: Chart) -> None:
    for policy in chart.render(VALUES).objects:
        if policy["kind"] == "NetworkPolicy":
            assert {"port": 53, "protocol": "UDP"} in policy["spec"]["egress"][0]["ports"]


def test_redis_is_reached_when_it_is_used(chart: Chart) -> None:
    rendered = chart.render(VALUES | {"redis": {"enabled": True, "address": "redis:6380"}})
    for component in ("inference", "training"):
        policy = rendered.get("NetworkPolicy", f"-{component}")
        assert _allows(policy["spec"]["egress"], "to", {}, 6380)


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_an_empty_list_of_peers_lets_nobody_in(chart: Chart, helm: str) -> None:
    clients = [{"podSelector": {"matchLabels": {"app": "ingress"}}}]
    peers = {"operator": [], "prometheus": [], "apiClients": clients}
    rendered = chart.render({"networkPolicy": {"enabled": True, "peers": peers}}, helm=helm)
    for policy in rendered.objects:
        if policy["kind"] == "NetworkPolicy":
            assert "Ingress" in policy["spec"]["policyTypes"]
            for rule in policy["spec"].get("ingress") or []:
                assert rule["from"]
    assert rendered.get("NetworkPolicy", "-dispatcher")["spec"].get("ingress") is None
    for source, target, port in [
        (PROMETHEUS, "dispatcher", 8001),
        (PROMETHEUS, "inference", 8080),
        (OPERATOR, "inference", 8265),
        (STRANGER, "training", 8265),
        (STRANGER, "api", 8000),
        (PROMETHEUS, "api", 8001),
    ]:
        assert not allowed(rendered, source, target, port)
    assert allowed(rendered, {"app": "ingress"}, "api", 8000)
    assert allowed(rendered, "api", "inference", 8000)
