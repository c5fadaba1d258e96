"""What the chart renders for Prometheus and Grafana, with each switch on and off."""

import json
import re
import subprocess
from typing import Any

import pytest
import yaml
from chart.rendering import CHART, TOOLS, Chart, environment

from helm.dashboards.pages import DASHBOARDS
from services.metrics import TABLE

SWITCHES = ("serviceMonitor", "podMonitor", "rules", "dashboards")
ON = {"monitoring": {switch: {"enabled": True} for switch in SWITCHES}}
KINDS = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}


def _with(section: str, **values: Any) -> dict[str, Any]:
    return {"monitoring": {section: {"enabled": True, **values}}}


def _monitored(section: str, **values: Any) -> dict[str, Any]:
    """All monitoring, with values of one section."""
    changed = {section: {"enabled": True, **values}}
    return {"monitoring": {switch: {"enabled": True} for switch in SWITCHES} | changed}


def _alerts(chart: Chart, values: dict[str, Any]) -> dict[str, Any]:
    groups = chart.render(values).get("PrometheusRule")["spec"]["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def test_nothing_is_made_by_default(chart: Chart) -> None:
    rendered = chart.render()
    assert KINDS.isdisjoint(each["kind"] for each in rendered.objects)
    assert not any("dashboard" in name for name in rendered.names())


@pytest.mark.parametrize(
    ("switch", "names"),
    [
        ("serviceMonitor", {"ServiceMonitor t-dti-api"}),
        ("podMonitor", {"PodMonitor t-dti-dispatcher", "PodMonitor t-dti-ray"}),
        ("rules", {"PrometheusRule t-dti"}),
        ("dashboards", {f"ConfigMap t-dti-dashboard-{each.name}" for each in DASHBOARDS}),
    ],
)
def test_each_switch_makes_its_objects_alone(chart: Chart, switch: str, names: set[str]) -> None:
    assert chart.render(_with(switch)).names() - chart.render().names() == names


def _monitoring(chart: Chart, helm: str = "helm") -> list[dict[str, Any]]:
    kinds = {*KINDS, "ConfigMap"}
    return [each for each in chart.render(ON, helm=helm).objects if each["kind"] in kinds]


def test_a_strict_api_server_accepts_all_objects(chart: Chart) -> None:
    command = [TOOLS / "kube-validate", "--fail-on-skip", "-"]
    text = yaml.safe_dump_all(_monitoring(chart))
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_helm_majors_render_the_same(chart: Chart) -> None:
    assert _monitoring(chart, "helm3") == _monitoring(chart)


def test_the_service_monitor_finds_the_service_and_its_port(chart: Chart) -> None:
    rendered = chart.render(ON)
    service, monitor = rendered.get("Service", "-api-metrics"), rendered.get("ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    (port,) = service["spec"]["ports"]
    assert monitor["spec"]["endpoints"][0]["port"] == port["name"]
    api = rendered.pods()["Deployment t-dti-api"]
    assert service["spec"]["selector"].items() <= api["metadata"]["labels"].items()
    ports = {each["name"]: each["containerPort"] for each in api["spec"]["containers"][0]["ports"]}
    variables = environment(api["spec"]["containers"][0])
    assert str(ports[port["targetPort"]]) == variables["DTI_METRICS_PORT"] == str(port["port"])


def test_nothing_that_clients_reach_leads_to_the_metrics_of_the_api(chart: Chart) -> None:
    values = {
        "api": {
            "service": {"type": "LoadBalancer"},
            "ingress": {"enabled": True, "host": "dti.example.com"},
            "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]},
        }
    }
    rendered = chart.render(ON | values)
    service = rendered.get("Service", "-api")
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http"]
    assert rendered.get("Service", "-api-metrics")["spec"]["clusterIP"] == "None"
    for kind in ("Ingress", "HTTPRoute"):
        text = json.dumps(rendered.get(kind)["spec"])
        assert '"t-dti-api"' in text
        assert "metrics" not in text


def test_the_pod_monitors_find_every_ray_pod_and_the_dispatcher(chart: Chart) -> None:
    groups = {"gpu": {"resources": {"limits": {"cpu": 4, "memory": "8Gi"}}}}
    values = ON | {
        "inference": {"workerGroups": groups},
        "training": {"workerGroups": groups},
    }
    rendered = chart.render(values)
    expected = {
        "t-dti-dispatcher": {"Deployment t-dti-dispatcher"},
        "t-dti-ray": {f"{c} {pod}" for c in ("inference", "training") for pod in ("head", "gpu")},
    }
    for name, pods in expected.items():
        spec = rendered.get("PodMonitor", name)["spec"]
        found = {
            pod
            for pod, template in rendered.pods().items()
            if _selects(spec["selector"], template["metadata"].get("labels", {}))
        }
        assert found == pods
        for pod in pods:
            ports = rendered.pods()[pod]["spec"]["containers"][0]["ports"]
            assert spec["podMetricsEndpoints"][0]["port"] in [port["name"] for port in ports]


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    # KubeRay adds this one to the pods that it makes.
    wanted = dict(selector["matchLabels"])
    wanted.pop("ray.io/is-ray-node", None)
    return wanted.items() <= labels.items() and all(
        labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", [])
    )


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PodMonitor"])
def test_monitors_take_labels_an_interval_and_more_relabelling(chart: Chart, kind: str) -> None:
    more = {"action": "drop", "regex": "ray_grpc_.*", "sourceLabels": ["__name__"]}
    values = {"labels": {"prom": "main"}, "interval": "15s", "metricRelabelings": [more]}
    rendered = chart.render(_with(kind[:1].lower() + kind[1:], **values))
    monitors = [each for each in rendered.objects if each["kind"] == kind]
    assert monitors
    for monitor in monitors:
        spec = monitor["spec"]
        (endpoint,) = spec.get("endpoints") or spec["podMetricsEndpoints"]
        assert monitor["metadata"]["labels"]["prom"] == "main"
        assert endpoint["interval"] == "15s"
        assert endpoint["metricRelabelings"][-1] == more


def test_every_alert_links_to_its_section_of_the_runbook_that_is_given(chart: Chart) -> None:
    page = "https://docs.example/runbook.html"
    alerts = _alerts(chart, _monitored("rules", runbookUrl=page))
    links = {name: alert["annotations"]["runbook_url"] for name, alert in alerts.items()}
    assert links == {name: f"{page}#{name.lower()}" for name in alerts}
    assert len(links) > 10


def test_templates_of_alerts_are_left_to_prometheus(chart: Chart) -> None:
    description = _alerts(chart, ON)["DTIAPIErrors"]["annotations"]["description"]
    assert "{{ $value | humanizePercentage }}" in description


def test_an_alert_can_be_left_out_and_another_take_its_place(chart: Chart) -> None:
    group = {"name": "mine", "rules": [{"alert": "APIErrors", "expr": "vector(1)"}]}
    values = _monitored("rules", disabled=["DTIAPIErrors"], additionalGroups=[group])
    alerts = _alerts(chart, values)
    assert "DTIAPIErrors" not in alerts
    assert {"APIErrors", "DTIAPIDown"} <= alerts.keys()


def test_a_group_without_rules_is_left_out(chart: Chart) -> None:
    values = _with("rules", disabled=["DTIStoreErrors", "DTIStoreSlow"])
    groups = chart.render(values).get("PrometheusRule")["spec"]["groups"]
    assert all(group["rules"] for group in groups)


def test_the_name_of_a_disabled_alert_must_exist(chart: Chart) -> None:
    message = chart.error(_with("rules", disabled=["DTIApiErrors"]))
    assert 'monitoring.rules.disabled has "DTIApiErrors", which is no alert' in message
    assert "DTIAPIErrors" in message


@pytest.mark.parametrize(
    ("component", "alert"), [("training", "DTISupervisorStale"), ("inference", "DTIDispatcherDown")]
)
def test_no_alert_misses_a_part_that_is_turned_off(
    chart: Chart, component: str, alert: str
) -> None:
    assert alert in _alerts(chart, ON)
    assert alert not in _alerts(chart, ON | {component: {"enabled": False}})


@pytest.mark.parametrize("monitor", ["serviceMonitor", "podMonitor"])
def test_alerts_are_left_out_if_no_monitor_brings_their_series(chart: Chart, monitor: str) -> None:
    values = {"monitoring": {monitor: {"enabled": True}, "rules": {"enabled": True}}}
    kept, whole = _alerts(chart, values), _alerts(chart, ON)
    expected = {name for name, rule in whole.items() if monitor in _monitors(rule["expr"])}
    assert set(kept) == expected
    assert set(kept) < set(whole)


def _monitors(expression: str) -> set[str]:
    """The monitors of which one alone brings the series of an alert."""
    for group in yaml.safe_load((CHART / "files/rules.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                expression = expression.replace(rule["record"], rule["expr"])
    sources = [
        {"serviceMonitor" if process == "api" else "podMonitor" for process in metric.processes}
        for metric in TABLE
        if re.search(rf"\b{metric.name}(_count|_bucket)?\b", expression)
    ]
    sources += [{"podMonitor"}] * ("ray_serve_" in expression)
    # An alert on targets that are not there always fires if nothing looks for them.
    sources += [
        {"serviceMonitor" if component == "api" else "podMonitor"}
        for component in re.findall(r'unless group by [^u]*up\{component="(\w+)"\}', expression)
    ]
    return set.intersection(*sources) if sources else {"serviceMonitor", "podMonitor"}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each.name)
def test_a_dashboard_is_current_and_whole_in_its_config_map(chart: Chart, dashboard: Any) -> None:
    text = (CHART / f"files/dashboards/{dashboard.name}.json").read_text()
    assert text == dashboard.text(), "run `make chart`"
    config_map = chart.render(ON).get("ConfigMap", f"-dashboard-{dashboard.name}")
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(config_map["data"][f"dti-{dashboard.name}.json"]) == json.loads(text)


def test_dashboards_take_labels_and_the_annotation_of_a_folder(chart: Chart) -> None:
    values = _with("dashboards", labels={"board": "yes"}, annotations={"grafana_folder": "ML"})
    config_map = chart.render(values).get("ConfigMap", "-dashboard-store")
    assert config_map["metadata"]["labels"]["board"] == "yes"
    assert config_map["metadata"]["annotations"]["grafana_folder"] == "ML"


def test_panels_of_a_dashboard_do_not_overlap() -> None:
    for dashboard in DASHBOARDS:
        panels = json.loads(dashboard.text())["panels"]
        cells = [
            (x, y)
            for place in (panel["gridPos"] for panel in panels)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        assert len(cells) == len(set(cells))
        assert max(x for x, _ in cells) < 24
        assert len({panel["id"] for panel in panels}) == len(panels)
