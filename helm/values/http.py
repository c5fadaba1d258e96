"""The sections on the API and the dispatcher."""

from pydantic import Field

from helm.values.base import FreeMap, Name, Pod, Resources, Section, resources, settings_of
from services.settings import (
    ApiProcessSettings,
    DispatcherProcessSettings,
)

_EVERY_PROCESS = ("store", "models", "engine_secret")

ApiSettingsValues = settings_of(
    "ApiSettingsValues",
    {
        key: info
        for key, info in ApiProcessSettings.model_fields.items()
        # All processes have the same timing of the ledger; the rest derives from other values.
        if key not in ("lease_s", "poll_interval_s", "shutdown_timeout_s")
    },
    *_EVERY_PROCESS,
    "engines_url",
    "host",
    "port",
    "metrics_port",
)

DispatcherSettingsValues = settings_of(
    "DispatcherSettingsValues",
    DispatcherProcessSettings.model_fields,
    *_EVERY_PROCESS,
    "engines_url",
    "metrics_port",
    "lease_s",
    "poll_interval_s",
)


class Service(Section):
    """The Service of the API."""

    type: str = Field(
        default="ClusterIP",
        pattern="^(ClusterIP|NodePort|LoadBalancer)$",
        description="ClusterIP, NodePort or LoadBalancer",
    )
    port: int = Field(default=80, ge=1, le=65535, description="port of the Service")
    annotations: dict[str, str] = Field(default={}, description="annotations of the Service")


class Autoscaling(Section):
    """A HorizontalPodAutoscaler of the API."""

    enabled: bool = Field(default=False, description="let the number of replicas follow the load")
    min_replicas: int = Field(default=2, ge=1, description="replicas at least")
    max_replicas: int = Field(default=10, ge=1, description="replicas at most")
    target_cpu_utilization_percentage: int = Field(
        default=70, ge=1, description="share of the requested processor time to aim at"
    )
    metrics: list[FreeMap] = Field(default=[], description="more metrics to follow")
    behavior: FreeMap = Field(default={}, description="how fast the number changes")


class DisruptionBudget(Section):
    """A PodDisruptionBudget of the API."""

    enabled: bool = Field(default=True, description="limit how many pods a node drain takes")
    max_unavailable: int | str = Field(default=1, description="pods that may be down at a time")


class Ingress(Section):
    """An Ingress of the API. The annotations for ingress-nginx are set unless overridden."""

    enabled: bool = Field(default=False, description="make an Ingress")
    class_name: str = Field(default="", description="IngressClass; empty: the cluster's default")
    host: str = Field(default="", description="host name of the API")
    tls_secret: Name = Field(
        default="", description="Secret with the certificate of the host; empty: no TLS"
    )
    annotations: dict[str, str] = Field(
        default={}, description="annotations, which override those for ingress-nginx"
    )


class HttpRoute(Section):
    """An HTTPRoute of the API (Gateway API).

    Set `api.settings.public_url` too if the Gateway ends TLS, or links to images begin with http.
    """

    enabled: bool = Field(default=False, description="make an HTTPRoute")
    parent_refs: list[FreeMap] = Field(default=[], description="Gateways that the route joins")
    hostnames: list[str] = Field(default=[], description="host names of the API")
    annotations: dict[str, str] = Field(default={}, description="annotations of the HTTPRoute")


class Api(Pod):
    """The HTTP API: a Deployment."""

    replicas: int = Field(default=2, ge=1, description="pods, unless `autoscaling` is on")
    settings: ApiSettingsValues = Field(  # pyright: ignore[reportInvalidTypeForm]
        default=ApiSettingsValues(),
        description="settings of `python -m services.api`. All grace periods follow from "
        "`generation_timeout_s`",
    )
    resources: Resources = resources("250m", "512Mi")
    pre_stop_seconds: int = Field(
        default=10,
        ge=0,
        description="time for load balancers to forget a pod before it stops accepting requests",
    )
    service: Service = Service()
    autoscaling: Autoscaling = Autoscaling()
    disruption_budget: DisruptionBudget = DisruptionBudget()
    ingress: Ingress = Ingress()
    http_route: HttpRoute = HttpRoute()


class Dispatcher(Pod):
    """The dispatcher, which has engines generate the images of jobs: a Deployment."""

    replicas: int = Field(default=1, ge=0, description="pods; several share the jobs")
    settings: DispatcherSettingsValues = Field(  # pyright: ignore[reportInvalidTypeForm]
        default=DispatcherSettingsValues(),
        description="settings of `python -m services.dispatch`",
    )
    resources: Resources = resources("100m", "256Mi")
