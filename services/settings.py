"""Settings of every process, read from flags, the environment and secret files.

One rule for all: the field `lease_s` is the flag `--lease-s` and the variable `DTI_LEASE_S`. A flag
overrides the variable, the variable overrides a file of its name, in lower case, in the folder
`DTI_SECRETS_DIR` (such as `dti_engine_secret`), and that overrides the default. Every duration ends
in `_s` and is in seconds.

The classes without a process (`LedgerSettings`, `ApiSettings`, ...) are the parts that a component
takes; a process combines them. What S3 needs besides is in `services.storage.settings`, credentials
are in boto3's own chain.
"""

from math import ceil
from pathlib import Path
from typing import Annotated, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.api_settings import ServerSettings, ShareSettings
from services.contracts.models import MINIATURE, ServedModels, read_models
from services.environment import EnvironmentSettings

_SHUTDOWN_RESERVE_S = 30
"""Time by which the API outlives the longest request for images after SIGTERM."""

StoreUrl: TypeAlias = Annotated[
    str,
    Field(description="store of the service: s3://BUCKET/PREFIX, file:///FOLDER or a path"),
]
TorchThreads: TypeAlias = Annotated[
    int | None,
    Field(ge=1, description="number of CPU threads of torch; none: torch's own default"),
]
HttpUrl: TypeAlias = Annotated[str, Field(pattern=r"^https?://[^?#@\s]+$")]
EngineTimeout: TypeAlias = Annotated[
    float, Field(gt=0, description="time for an engine to accept a connection")
]
PrivateWebhooks: TypeAlias = Annotated[
    bool, Field(description="also accept and send webhooks to private addresses, and by http")
]


class _Part(BaseModel):
    """Settings of one component, which can be sent to another machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LedgerSettings(_Part):
    """Timing of the ledger, which is the same for all processes of a service."""

    lease_s: float = Field(
        default=60, gt=0, description="time after which a lease that is not renewed expires"
    )
    poll_interval_s: float = Field(
        default=1, gt=0, description="interval at which an idle process looks for work"
    )


class WorkerTimeouts(_Part):
    """The intervals and timeouts of a training worker."""

    checkpoint_interval_s: float = Field(
        default=30, gt=0, description="interval between checkpoints of a subject"
    )
    batch_affinity_s: float = Field(
        default=300, gt=0, description="time that a worker prefers jobs that fit into its batch"
    )
    progress_interval_s: float = Field(
        default=1, gt=0, description="interval between reports of progress"
    )
    flush_timeout_s: float = Field(
        default=30,
        gt=0,
        description="time that an ending worker waits for a store that does not answer",
    )
    # A first step that compiles its kernels takes minutes.
    watchdog_timeout_s: float = Field(
        default=600, gt=0, description="time without progress after which a worker exits"
    )
    load_timeout_s: float = Field(
        default=3600, gt=0, description="time that loading the model may take"
    )


class WorkerSettings(WorkerTimeouts, LedgerSettings):
    """The settings of a training worker, as a process or as a Ray actor."""

    store: StoreUrl
    threads: TorchThreads = None


class SupervisorTimeouts(_Part):
    """The intervals and timeouts of the supervisor."""

    reconcile_interval_s: float = Field(
        default=2, gt=0, description="interval between passes over all open jobs"
    )
    sweep_interval_s: float = Field(
        default=3600, gt=0, description="interval between passes over all jobs, also ended ones"
    )
    idle_timeout_s: float = Field(
        default=60, ge=0, description="time for which an idle worker is kept"
    )
    fair_share_interval_s: float = Field(
        default=120,
        ge=0,
        description="time that a model waits for its share before others are drained",
    )
    scale_down_delay_s: float = Field(
        default=600, ge=0, description="time that a model keeps its place if others have none"
    )
    upload_retention_s: float | None = Field(
        default=None, ge=3600, description="age at which unneeded uploads are deleted; none: never"
    )
    image_retention_s: float | None = Field(
        default=None, ge=3600, description="age at which stored images are deleted; none: never"
    )


class RayClusterSettings(_Part):
    """The address of a Ray cluster."""

    ray_address: str = Field(
        default="auto",
        description="address of the Ray cluster; auto: RAY_ADDRESS, or this host's cluster",
    )
    node_ip: str | None = Field(
        default=None, description="address of this host in the cluster, if Ray detects another one"
    )


class RequestTimeout(_Part):
    """The time that a request for images may take. The API and the engines have the same."""

    generation_timeout_s: float = Field(
        default=300,
        gt=0,
        le=3600,
        description="time that the images of a request may take; a request may set less",
    )

    @property
    def request_drain_s(self) -> int:
        """Return the time in which a process that is told to end finishes its requests."""
        return ceil(self.generation_timeout_s) + _SHUTDOWN_RESERVE_S


class ApiSettings(ShareSettings, RequestTimeout):
    """Limits and timeouts of the API."""

    presigned_upload_ttl_s: int = Field(
        default=900, ge=1, le=86400, description="time for which a form for an upload is valid"
    )
    allow_private_webhooks: PrivateWebhooks = False
    event_poll_interval_s: float = Field(
        default=1.0, gt=0, description="interval at which event streams read the progress of jobs"
    )
    keepalive_interval_s: float = Field(
        default=15.0,
        gt=0,
        description="time without an event after which an event stream sends a comment",
    )
    quota_cache_ttl_s: float = Field(
        default=5.0, ge=0, description="time for which a count of open items is reused"
    )
    store_timeout_s: float = Field(
        default=2.0, gt=0, description="time for the readiness check of the store"
    )
    engines_url: HttpUrl | None = Field(
        default=None,
        description="URL of the engines without the model's name; none: images are refused",
    )
    engine_timeout_s: EngineTimeout = 5.0
    image_link_ttl_s: int = Field(
        default=3600, ge=1, description="time for which a signed link to an image is valid"
    )
    public_url: HttpUrl | None = Field(
        default=None,
        description="URL of this service, with a proxy's path prefix; none: that of the request",
    )


class EngineSecret(EnvironmentSettings):
    """The secret that requests to engines must carry.

    Engines on Ray read it from the environment of their node.
    """

    engine_secret: str = Field(
        min_length=1,
        repr=False,
        description="secret of engines and their callers, such as one by `openssl rand -hex 32`; "
        "of several, separated by commas, the first is sent; not as a flag, which others see",
    )


class ProcessSettings(EnvironmentSettings):
    """The settings that every process has."""

    store: StoreUrl
    models: Path | None = Field(
        default=None, description="JSON file of the served models; none: only the miniature"
    )

    def served_models(self) -> ServedModels:
        """Return the models that the service offers. Raises: SettingsError."""
        return read_models(self.models) if self.models else MINIATURE


# pydantic merges the two kinds of model_config, which pyright compares as they stand.
class ApiProcessSettings(  # pyright: ignore[reportIncompatibleVariableOverride]
    ServerSettings, LedgerSettings, ApiSettings, ProcessSettings
):
    """The HTTP API. It needs neither torch nor Ray, and any number may run beside each other.

    Keys are made by `dti keys create`; the documentation is at /docs.
    """

    metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="port of /metrics alone, for a port that clients cannot reach; none: /metrics "
        "is at the port of the API",
    )
    shutdown_timeout_s: int | None = Field(
        default=None,
        ge=1,
        description="time that requests have to finish after SIGTERM; none: "
        f"{_SHUTDOWN_RESERVE_S} s more than generation_timeout_s",
    )
    engine_secret: str = Field(
        default="",
        repr=False,
        description="secret of the engines; of several, separated by commas, the first is sent",
    )

    @model_validator(mode="after")
    def _metrics_port_is_another(self) -> Self:
        if self.metrics_port and self.metrics_port == self.port:
            raise ValueError(
                f"metrics_port is {self.metrics_port}, which is the port of the API: give another "
                "port, or leave it out to have /metrics at the port of the API"
            )
        return self

    @property
    def grace_s(self) -> int:
        """Return the time that requests have to finish after SIGTERM."""
        return self.shutdown_timeout_s or self.request_drain_s


class WorkerProcessSettings(WorkerSettings, ProcessSettings):
    """A training worker as a plain process, without Ray. SIGTERM drains it."""

    pool: str = Field(default="miniature", description="name of the served model to train")


# pydantic merges the two kinds of model_config, as for the API.
class SupervisorProcessSettings(  # pyright: ignore[reportIncompatibleVariableOverride]
    RayClusterSettings, SupervisorTimeouts, WorkerSettings, ProcessSettings
):
    """The supervisor: recovers jobs, sizes the pools of training workers on Ray, sends webhooks."""

    unresponsive_after_s: float = Field(
        default=600, gt=0, description="time without an answer after which a worker is killed"
    )
    allow_private_webhooks: PrivateWebhooks = False
    drain_timeout_s: float = Field(
        default=0,
        ge=0,
        description="time for draining all workers at the end; 0: workers stay",
    )
    health_port: int | None = Field(
        default=None, ge=1, le=65535, description="port of /healthz; none: it is not served"
    )
    # A pass over many jobs takes long where the store is slow.
    health_timeout_s: float = Field(
        default=600, gt=0, description="age of the last pass at which /healthz answers 503"
    )


class DispatcherProcessSettings(LedgerSettings, EngineSecret, ProcessSettings):
    """A dispatcher: has engines generate the images of generation jobs. SIGTERM drains it."""

    engines_url: HttpUrl = Field(description="URL of the engines without a model's name")
    engine_timeout_s: EngineTimeout = 5.0
    max_in_flight: int | None = Field(
        default=None,
        ge=1,
        le=512,
        description="images of each model in flight; none: as many as fill its engines",
    )
    image_timeout_s: float = Field(default=600, gt=0, le=86_400, description="time of one image")
    metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="port of /metrics and /healthz; none: neither is served",
    )


# As above, for the two kinds of model_config.
class EngineConfigSettings(  # pyright: ignore[reportIncompatibleVariableOverride]
    RequestTimeout, ProcessSettings
):
    """The configuration of Ray Serve for the engines of all served models, printed as JSON."""

    host: str = Field(default="0.0.0.0", description="address that Serve listens on")
    port: int = Field(default=8000, ge=1, le=65535, description="port that Serve listens on")
    threads: TorchThreads = None


class _EngineOptions(EngineSecret, ProcessSettings):
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8100, ge=1, le=65535, description="port to listen on")
    threads: TorchThreads = None


class EngineProcessSettings(_EngineOptions):
    """An engine as a plain process, without Ray, at http://HOST:PORT/engines/MODEL."""

    model: str = Field(default="miniature", description="name of the served model")


# As above, for the two kinds of model_config.
class EngineDeploymentSettings(  # pyright: ignore[reportIncompatibleVariableOverride]
    RayClusterSettings, RequestTimeout, _EngineOptions
):
    """Engines of all served models in a Ray cluster, at http://HOST:PORT/engines/MODEL."""


PROCESSES: tuple[type[ProcessSettings], ...] = (
    ApiProcessSettings,
    WorkerProcessSettings,
    SupervisorProcessSettings,
    DispatcherProcessSettings,
    EngineProcessSettings,
    EngineDeploymentSettings,
    EngineConfigSettings,
)
