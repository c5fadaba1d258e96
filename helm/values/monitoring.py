"""The section on monitoring."""

from pydantic import Field

from helm.values.base import Section


class PodMonitor(Section):
    """A PodMonitor (Prometheus operator)."""

    enabled: bool = Field(default=False, description="make a PodMonitor of Ray's pods")


class ServiceMonitor(Section):
    """A ServiceMonitor (Prometheus operator)."""

    enabled: bool = Field(default=False, description="make a ServiceMonitor of the API")


class Rules(Section):
    """A PrometheusRule (Prometheus operator)."""

    enabled: bool = Field(default=False, description="make a PrometheusRule with alerts")


class Dashboards(Section):
    """Dashboards of Grafana."""

    enabled: bool = Field(default=False, description="make ConfigMaps with dashboards")


class Monitoring(Section):
    """Metrics, alerts and dashboards."""

    pod_monitor: PodMonitor = PodMonitor()
    service_monitor: ServiceMonitor = ServiceMonitor()
    rules: Rules = Rules()
    dashboards: Dashboards = Dashboards()
