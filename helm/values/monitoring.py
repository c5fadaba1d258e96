"""The section on monitoring."""

from pydantic import Field

from helm.values.base import FreeMap, Section


class Monitor(Section):
    """The values that a ServiceMonitor and a PodMonitor have in common."""

    labels: dict[str, str] = Field(
        default={}, description="labels by which a Prometheus selects the object, if it does"
    )
    interval: str = Field(
        default="30s", pattern=r"^[0-9]+s$", description="interval between two scrapes"
    )
    metric_relabelings: list[FreeMap] = Field(
        default=[], description="more relabelling of the metrics, after the chart's own"
    )


class PodMonitor(Monitor):
    """PodMonitors of Ray's pods and of the dispatcher (Prometheus operator)."""

    enabled: bool = Field(default=False, description="make the PodMonitors")


class ServiceMonitor(Monitor):
    """A ServiceMonitor of the API (Prometheus operator)."""

    enabled: bool = Field(default=False, description="make the ServiceMonitor")


class Rules(Section):
    """A PrometheusRule (Prometheus operator).

    Without the PodMonitors or the ServiceMonitor, the alerts on their series are left out.
    """

    enabled: bool = Field(default=False, description="make the PrometheusRule with alerts")
    labels: dict[str, str] = Field(
        default={}, description="labels by which a Prometheus selects the object, if it does"
    )
    disabled: list[str] = Field(default=[], description="alerts to leave out, by name")
    additional_groups: list[FreeMap] = Field(default=[], description="more groups of rules")
    runbook_url: str = Field(
        default="docs/how-to/runbook.md",
        description="page of the runbook, to whose sections the alerts link",
    )


class Dashboards(Section):
    """Dashboards of Grafana, as ConfigMaps that its sidecar finds."""

    enabled: bool = Field(default=False, description="make the ConfigMaps with dashboards")
    labels: dict[str, str] = Field(
        default={"grafana_dashboard": "1"}, description="labels that the sidecar looks for"
    )
    annotations: dict[str, str] = Field(
        default={}, description="annotations, such as the folder of the dashboards"
    )


class Monitoring(Section):
    """Metrics, alerts and dashboards."""

    pod_monitor: PodMonitor = PodMonitor()
    service_monitor: ServiceMonitor = ServiceMonitor()
    rules: Rules = Rules()
    dashboards: Dashboards = Dashboards()
