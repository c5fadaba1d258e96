"""Settings of every process, read from flags, the environment and secret files.

One rule for all: the field `lease_s` is the flag `--lease-s` and the variable `DTI_LEASE_S`. A flag
overrides the variable, the variable overrides a file of its name, in lower case, in the folder
`DTI_SECRETS_DIR` (such as `dti_engine_secret`), and that overrides the default. Every duration ends
in `_s` and is in seconds.

The classes without a process (`LedgerSettings`, `ApiSettings`, ...) are the parts that a component
takes; a process combines them. What S3 needs besides is in `services.storage.settings`, credentials
are in boto3's own chain.
"""

import os
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from services.contracts.models import MINIATURE, ServedModels, read_models
from services.errors import SettingsError

PREFIX = "DTI_"
"""The first letters of every variable of ours."""

_SECRETS_DIR = "DTI_SECRETS_DIR"

_OTHER_VARIABLES = re.compile(
    # Variables of the client, of the S3 store, and of the tests.
    r"DTI_(API_KEY|SERVER|SECRETS_DIR|S3_\w+|TEST_\w+)"
    # Kubernetes sets these in every pod beside a Service called dti or dti-...: not ours to refuse.
    r"|DTI_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)


class _Part(BaseModel):
    """Settings of one component, which can be sent to another machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LedgerSettings(_Part):
    """Timing of the ledger, which is the same for all processes of a service."""

    lease_s: float = Field(
        default=60, gt=0, description="a worker that has not renewed its lease for so long is dead"
    )
    poll_interval_s: float = Field(
        default=1, gt=0, description="pause between two looks for work while there is none"
    )


class WorkerTimeouts(_Part):
    """The intervals and timeouts of a training worker."""

    checkpoint_interval_s: float = Field(
        default=30, gt=0, description="between two checkpoints of a subject: lost if a worker dies"
    )
    batch_affinity_s: float = Field(
        default=300, gt=0, description="until a job of another batch shape gets its turn"
    )
    progress_interval_s: float = Field(
        default=1, gt=0, description="between two reports of progress"
    )
    flush_timeout_s: float = Field(
        default=30, gt=0, description="for a silent store at the end; unwritten results are lost"
    )
    # A first step that compiles its kernels takes minutes.
    watchdog_timeout_s: float = Field(
        default=600, gt=0, description="until a process whose device hangs ends itself"
    )
    load_timeout_s: float = Field(default=3600, gt=0, description="for loading the model")


class WorkerSettings(WorkerTimeouts, LedgerSettings):
    """The settings of a training worker, as a process or as a Ray actor."""

    store: str = Field(description="s3://BUCKET/PREFIX, file:///FOLDER or a path")
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of torch; none: its own number"
    )


class SupervisorTimeouts(_Part):
    """The intervals and timeouts of the supervisor."""

    reconcile_interval_s: float = Field(
        default=2, gt=0, description="between two passes over all open jobs"
    )
    sweep_interval_s: float = Field(
        default=3600, gt=0, description="between two passes over all jobs that ever were"
    )
    idle_timeout_s: float = Field(default=60, ge=0, description="for which an idle worker is kept")
    fair_share_interval_s: float = Field(
        default=120, ge=0, description="until workers leave for a model that waits for its share"
    )
    scale_down_delay_s: float = Field(
        default=600, ge=0, description="turn of a model where there are fewer places than models"
    )


class RayClusterSettings(_Part):
    """The address of a Ray cluster."""

    ray_address: str = Field(
        default="auto", description="of the Ray cluster; auto: RAY_ADDRESS, or this host's"
    )
    node_ip: str | None = Field(
        default=None, description="of this host as the cluster knows it, where Ray is mistaken"
    )


class ApiSettings(_Part):
    """Limits and timeouts of the API."""

    max_body_bytes: int = Field(
        default=32 * 2**20, gt=0, description="of a request, except for uploads"
    )
    max_manifest_bytes: int = Field(default=64 * 2**20, gt=0, description="of an uploaded manifest")
    max_concurrent_uploads: int = Field(default=8, ge=1, description="in this process")
    upload_timeout_s: float = Field(default=300, gt=0, description="for the body of an upload")
    presigned_upload_ttl_s: int = Field(
        default=3600, ge=1, description="validity of a presigned form for uploads"
    )
    allow_private_webhooks: bool = Field(
        default=False, description="also accept webhooks to private addresses, and by http"
    )
    event_poll_interval_s: float = Field(
        default=1.0, gt=0, description="between two reads of the progress of jobs"
    )
    keepalive_interval_s: float = Field(
        default=15.0, gt=0, description="silence of an event stream before a comment is sent"
    )
    max_stream_s: float = Field(
        default=3600, gt=0, description="length of an event stream; clients then reconnect"
    )
    max_streams_per_tenant: int = Field(default=100, ge=1, description="event streams at a time")
    quota_cache_ttl_s: float = Field(
        default=5.0, ge=0, description="for which a count of open items is reused"
    )
    store_timeout_s: float = Field(
        default=5.0, gt=0, description="of the readiness check of the store"
    )
    engines_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^?#@\s]+$",
        description="URL of the engines, before the model's name; none: images are refused",
    )
    engine_timeout_s: float = Field(
        default=5.0, gt=0, description="for an engine to accept a connection"
    )
    generation_timeout_s: float = Field(
        default=300, gt=0, le=3600, description="for the images of a request that names no timeout"
    )
    image_link_ttl_s: int = Field(
        default=3600, ge=1, description="validity of a signed link to an image"
    )
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^?#@\s]+$",
        description="of this service, for links to images; none: as the request has it",
    )


class _EnvironmentSettings(BaseSettings):
    """Settings that a process reads from flags, the environment and secret files."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_show_env_vars=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources of values, first come, first served; flags go before them."""
        folder = os.environ.get(_SECRETS_DIR) or None
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, folder)

    @classmethod
    def read(cls, arguments: Sequence[str] = ()) -> Self:
        """Return the settings by command line, environment and secret files.

        Raises: SettingsError. SystemExit for --help and for an unknown flag.
        """
        reject_unknown_variables(
            PREFIX, (name for process in PROCESSES for name in process.model_fields)
        )
        try:
            return CliApp.run(cls, cli_args=[*arguments])
        except ValidationError as error:
            raise SettingsError(explain(error, PREFIX)) from error


class EngineSecret(_EnvironmentSettings):
    """The secret that requests to engines must carry.

    Engines on Ray read it themselves, from their node.
    """

    engine_secret: str = Field(
        min_length=1,
        repr=False,
        description="of engines and their callers, such as one by `openssl rand -hex 32`; give it "
        "as a variable or a file, as others see the flags of a process",
    )


class ProcessSettings(_EnvironmentSettings):
    """The settings that every process has."""

    store: str = Field(description="s3://BUCKET/PREFIX, file:///FOLDER or a path")
    models: Path | None = Field(
        default=None, description="JSON file of the served models; none: the miniature alone"
    )

    def served_models(self) -> ServedModels:
        """Return the models that the service offers. Raises: SettingsError."""
        return read_models(self.models) if self.models else MINIATURE


class ApiProcessSettings(ApiSettings, ProcessSettings):
    """The HTTP API. It needs neither torch nor Ray, and any number may run beside each other.

    Keys are made by `dti keys create`; the documentation is at /docs.
    """

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="0: any free one")
    engine_secret: str = Field(default="", repr=False, description="shared with the engines")


class WorkerProcessSettings(WorkerSettings, ProcessSettings):
    """A training worker as a plain process, without Ray. SIGTERM drains it."""

    pool: str = Field(default="miniature", description="name of the served model to train")


# pydantic merges the two kinds of model_config, which pyright compares as they stand.
class SupervisorProcessSettings(  # pyright: ignore[reportIncompatibleVariableOverride]
    RayClusterSettings, SupervisorTimeouts, WorkerSettings, ProcessSettings
):
    """The supervisor: recovers jobs, sizes the pools of training workers on Ray, sends webhooks."""

    unresponsive_after_s: float = Field(
        default=600, gt=0, description="without an answer, a worker is killed"
    )
    allow_private_webhooks: bool = Field(
        default=False, description="also send webhooks to private addresses, and by http"
    )
    drain_timeout_s: float = Field(
        default=0, ge=0, description="for draining all workers at the end; 0: leave them at work"
    )


class DispatcherProcessSettings(LedgerSettings, EngineSecret, ProcessSettings):
    """A dispatcher: has engines generate the images of generation jobs. SIGTERM drains it."""

    engines_url: str = Field(
        pattern=r"^https?://[^?#@\s]+$", description="URL of the engines, before the model's name"
    )
    engine_timeout_s: float = Field(
        default=5.0, gt=0, description="for an engine to accept a connection"
    )
    max_in_flight: int | None = Field(
        default=None, ge=1, le=512, description="images of a model; none: as its engines take"
    )
    image_timeout_s: float = Field(default=600, gt=0, description="for one image")
    metrics_port: int | None = Field(
        default=None, ge=1, le=65535, description="of /metrics; none: nowhere"
    )


class _EngineOptions(EngineSecret, ProcessSettings):
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8100, ge=1, le=65535, description="to listen on")
    threads: int | None = Field(default=None, ge=1, description="CPU threads of torch")


class EngineProcessSettings(_EngineOptions):
    """An engine as a plain process, without Ray, at http://HOST:PORT/engines/MODEL."""

    model: str = Field(default="miniature", description="name of the served model")


class EngineDeploymentSettings(RayClusterSettings, _EngineOptions):
    """Engines of all served models in a Ray cluster, at http://HOST:PORT/engines/MODEL."""


PROCESSES: tuple[type[ProcessSettings], ...] = (
    ApiProcessSettings,
    WorkerProcessSettings,
    SupervisorProcessSettings,
    DispatcherProcessSettings,
    EngineProcessSettings,
    EngineDeploymentSettings,
)


def reject_unknown_variables(prefix: str, fields: Iterable[str]) -> None:
    """Raise SettingsError if a variable with the prefix names no field: a typo would go unnoticed.

    The variables of the other processes are known to each: they may share one environment.
    """
    known = {prefix + name.upper() for name in fields}
    for name in sorted(os.environ):
        if not name.startswith(prefix) or name in known:
            continue
        if prefix == PREFIX and _OTHER_VARIABLES.fullmatch(name):
            continue
        nearest = get_close_matches(name, known, n=1, cutoff=0)
        raise SettingsError(f"no setting is called {name}: did you mean {nearest[0]}? Unset it")


def explain(error: ValidationError, prefix: str) -> str:
    """Return what is wrong with which setting, without credentials, which end up in logs."""
    problems: list[str] = []
    for item in error.errors():
        name = str(item["loc"][0]) if item["loc"] else "settings"
        flag, variable = f"--{name.replace('_', '-')}", prefix + name.upper()
        either = f"{flag} or {variable}" if prefix == PREFIX else variable
        if item["type"] == "missing":
            problems.append(f"{either} is not given")
        else:
            shown = without_credentials(item["input"]) if "secret" not in name else "(withheld)"
            problems.append(f"{either} is {shown!r}: {item['msg']}; change or unset it")
    return "; ".join(problems)


def without_credentials(value: object) -> object:
    """Return a URL without what stands before an @; anything else as it is."""
    return re.sub(r"//.*@", "//...@", value) if isinstance(value, str) else value
