"""The sections on the two Ray clusters: inference and training."""

from pydantic import Field

from helm.values.base import GroupName, Name, Pod, Quantity, Resources, Section, settings_of
from services.settings import SupervisorProcessSettings

SupervisorSettingsValues = settings_of(
    "SupervisorSettingsValues",
    {
        key: info
        for key, info in SupervisorProcessSettings.model_fields.items()
        if key != "health_port"
    },
    "store",
    "models",
    "ray_address",
    "node_ip",
    "drain_timeout_s",
    "lease_s",
    "poll_interval_s",
)

StartParameters = dict[str, str]


class RayToken(Section):
    """The token that Ray's dashboard, jobs and nodes require.

    Without it, any process that reaches a head can run code in the cluster.
    """

    enabled: bool = Field(default=True, description="require the token")
    existing_secret: Name = Field(
        default="",
        description="Secret with the key `auth_token`; empty: the chart makes one and keeps it",
    )


class Head(Pod):
    """The head of a Ray cluster. It runs no model unless `cpus` or GPUs are given."""

    cpus: int = Field(
        default=0,
        ge=0,
        description="processor cores that Ray may give to actors on the head. A head with 0 and no "
        "GPU does not mount the model cache if there are worker groups",
    )
    resources: Resources = Field(
        default=Resources(requests={"cpu": "1", "memory": "4Gi"}, limits={"memory": "4Gi"}),
        description="resources of the container; a head with 2Gi runs out of memory in time",
    )
    shared_memory: Quantity = Field(default="1Gi", description="limit of /dev/shm")
    ray_start_params: StartParameters = Field(
        default={}, description="more parameters of `ray start`"
    )


class WorkerGroup(Pod):
    """Equal pods of a Ray cluster, one per node as a rule: a group for each type of GPU."""

    min_replicas: int = Field(default=0, ge=0, description="pods at least")
    max_replicas: int = Field(default=1, ge=1, description="pods at most")
    labels: dict[str, str] = Field(
        default={},
        description="Ray's labels of the nodes, which `labels` of a model select, such as "
        "`ray.io/accelerator-type: L4`",
    )
    resources: Resources = Field(
        default=Resources(),
        description="resources of the container. Ray counts the GPUs of `limits` and the cores of "
        "`limits`, or else of `requests`",
    )
    shared_memory: Quantity = Field(default="2Gi", description="limit of /dev/shm")
    spot: bool = Field(
        default=False,
        description="the nodes are spot nodes: pods drain within `spotDrainSeconds`, and have "
        "Ray's label `ray.io/market-type: spot`",
    )
    spot_drain_seconds: int = Field(
        default=10,
        ge=1,
        description="time to drain on a spot node, 5 s less than the cloud leaves to pods: GKE "
        "leaves 15 s, Azure 30 s, AWS 120 s",
    )
    idle_timeout_seconds: int | None = Field(
        default=None, ge=0, description="time after which an idle pod ends; none: the cluster's"
    )
    ray_start_params: StartParameters = Field(
        default={}, description="more parameters of `ray start`"
    )


class RayAutoscaling(Section):
    """Ray's autoscaler (version 2), which adds and removes pods of the worker groups."""

    enabled: bool = Field(default=True, description="scale between `minReplicas` and `maxReplicas`")
    idle_timeout_seconds: int = Field(
        default=300, ge=0, description="time after which an idle pod ends"
    )
    resources: Resources = Field(
        default=Resources(requests={"cpu": "200m", "memory": "512Mi"}, limits={"memory": "512Mi"}),
        description="resources of the autoscaler's container",
    )


class Kueue(Section):
    """A Kueue queue that admits the cluster."""

    enabled: bool = Field(default=False, description="queue the cluster")
    queue_name: Name = Field(default="", description="LocalQueue in the release's namespace")
    elastic: bool = Field(
        default=False,
        description="the queue admits pods one by one (gate ElasticJobsViaWorkloadSlices), which "
        "autoscaling needs",
    )


class Cluster(Section):
    """A Ray cluster."""

    enabled: bool = Field(default=True, description="make the cluster")
    autoscaling: RayAutoscaling = RayAutoscaling()
    head: Head = Head()
    worker_groups: dict[GroupName, WorkerGroup] = Field(
        default={}, description="groups of worker pods by name"
    )
    kueue: Kueue = Kueue()
    annotations: dict[str, str] = Field(default={}, description="annotations of the cluster")


class Inference(Cluster):
    """The engines on Ray Serve: a RayService."""

    upgrade_strategy: str = Field(
        default="NewCluster",
        pattern="^(NewCluster|None)$",
        description="on a change of image or pods: NewCluster starts a second cluster, which needs "
        "twice the GPUs, and then ends the first; None changes nothing until the RayService is "
        "made anew",
    )
    serve_from_head: bool = Field(
        default=True,
        description="the head takes requests too, and wakes engines of models with "
        "`min_engines: 0`",
    )


class Supervisor(Section):
    """The supervisor, a sidecar of the training head. A change restarts the training cluster."""

    settings: SupervisorSettingsValues = Field(  # pyright: ignore[reportInvalidTypeForm]
        default=SupervisorSettingsValues(),
        description="settings of `python -m services.supervisor`",
    )
    resources: Resources = Field(
        default=Resources(requests={"cpu": "200m", "memory": "768Mi"}, limits={"memory": "768Mi"}),
        description="resources of the container",
    )


class Training(Cluster):
    """The training workers: a RayCluster, with the supervisor beside its head."""

    enabled: bool = Field(
        default=True,
        description="make the cluster. Without a supervisor, no jobs are recovered and no webhooks "
        "are sent",
    )
    # One core, so that workers of the miniature need no group. GPU pools set 0.
    head: Head = Head(cpus=1)

    shared_cluster: bool = Field(
        default=False,
        description="train in the cluster of `inference` and make no other: for one GPU. An "
        "upgrade of the engines then ends the workers too",
    )
    drain_seconds: int = Field(
        default=60,
        ge=1,
        description="time for a worker to write its checkpoints when its pod ends",
    )
    supervisor: Supervisor = Supervisor()
