"""Engines in Ray Serve: one application for each served model, one replica for each GPU.

A replica accepts every request that it is sent, so that the engine's own queue, which is fair and
knows priorities, decides what comes next and what is rejected, and not a queue of Ray's.
"""

import threading
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, LoggingConfig
from starlette.requests import Request
from starlette.responses import Response

from dti_engine import __version__
from services import logs, metrics
from services.errors import SettingsError
from services.inference.factory import open_engine
from services.inference.http import EngineHandler
from services.inference.scheduler.calibration import MAX_BATCH_SIZE
from services.inference.spec import EngineSpec
from services.metrics.ray_exporter import RayMetrics
from services.settings import EngineSecret

PREFIX = "/engines"
"""The prefix of the paths of all engines."""

_DRAIN_TIMEOUT_S = 330.0
"""How long a replica that is stopped may finish its requests: longer than the API's default timeout
of a request. A replica ends as soon as it has finished.
"""

_EXTRA_REQUESTS = 16
"""Requests beyond the engine's queue that reach a replica, which rejects them at once."""

_FINGERPRINT_TIMEOUT_S = 20.0
_WATCH_INTERVAL_S = 2.0

log = logs.logger(__name__)


class EngineReplica:
    """An engine in a process of its own."""

    def __init__(self, spec: str) -> None:
        """Start the engine of a specification, given as JSON."""
        logs.configure("engine", as_json=True)
        metrics.use(RayMetrics(process="engine"))
        self._spec = spec
        self._engine = open_engine(EngineSpec.model_validate_json(spec))
        self._handler = EngineHandler(self._engine, EngineSecret.read().engine_secret)

    async def __call__(self, request: Request) -> Response:
        """Handle an HTTP request."""
        return await self._handler.handle(request)

    async def fingerprint(self) -> str:
        """Return the fingerprint of the specification that this engine runs."""
        return fingerprint(self._spec)

    def check_health(self) -> None:
        """Raise RuntimeError if Ray should replace this replica. Does not use the device."""
        if reason := self._engine.scheduler.unhealthy_reason():
            raise RuntimeError(reason)


def fingerprint(spec: str) -> str:
    """Return what identifies a running engine: its specification as JSON, and the code version."""
    return f"{__version__} {spec}"


def application(spec: EngineSpec) -> serve.Application:
    """Return the Serve application of one served model."""
    generation = spec.model.generation
    batch_size = generation.batch_size or MAX_BATCH_SIZE
    deployment: Any = serve.deployment(EngineReplica)
    options = deployment.options(
        name="engine",
        ray_actor_options={
            "num_gpus": spec.model.engine_gpus,
            "num_cpus": spec.model.engine_cpus,
            # Ray sets the variable to 1 by default, which would keep torch to one thread.
            "runtime_env": {
                "env_vars": {"OMP_NUM_THREADS": str(spec.threads)} if spec.threads else {}
            },
        },
        max_ongoing_requests=generation.queue_size + batch_size + _EXTRA_REQUESTS,
        # While no replica is up, requests wait in the proxy, since there is no engine's queue yet.
        max_queued_requests=generation.queue_size,
        autoscaling_config={
            "min_replicas": generation.min_engines,
            "max_replicas": max(generation.min_engines, generation.max_engines),
            "target_ongoing_requests": batch_size,
            "upscale_delay_s": 10,
            "downscale_delay_s": 300,
        },
        graceful_shutdown_timeout_s=_DRAIN_TIMEOUT_S,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=5,
        health_check_timeout_s=20,
        # Each attempt loads the model, and most causes, such as wrong weights, do not pass.
        max_constructor_retry_count=3,
        # A rolling update starts the new replica beside the old one, unless there may be no second
        # GPU for it.
        max_surge_percent=0 if spec.model.engine_gpus else 100,
        logging_config=LoggingConfig(enable_access_log=False),
    )
    return options.bind(spec.model_dump_json())


def build(arguments: dict[str, Any]) -> serve.Application:
    """Return an application from the fields of an `EngineSpec`.

    This is the entry point of Ray's own config files, as
    `import_path: services.inference.ray_serve:build`.
    """
    return application(EngineSpec.model_validate(arguments))


def prefix(model: str) -> str:
    """Return the path prefix of the engines of a model."""
    return f"{PREFIX}/{model}"


def connect(address: str, host: str, port: int, node_ip: str | None = None) -> None:
    """Connect this process to a Ray cluster, and start Serve's proxy at a host and port.

    Raises SettingsError if there is no cluster at the address.
    """
    try:
        ray.init(
            address=address,
            namespace="serve",
            log_to_driver=False,
            configure_logging=False,
            _node_ip_address=node_ip,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SettingsError(f"no Ray cluster at {address!r}: {error}"[:500]) from error
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        # No timeout: each request has its own.
        http_options=HTTPOptions(host=host, port=port, request_timeout_s=None),
    )


def deploy(specs: list[EngineSpec]) -> None:
    """Start the engines of all models, and wait until each accepts requests.

    Engines that already run the same specification are left alone, because Serve would restart them
    at every deployment.

    Raises SettingsError if an engine does not start.
    """
    for spec in specs:
        if _is_up(spec):
            log.info("engines are already up", model=spec.name)
            continue
        try:
            serve.run(application(spec), name=spec.name, route_prefix=prefix(spec.name))
        except RuntimeError as error:
            deployments = serve.status().applications[spec.name].deployments
            reason = "; ".join(status.message for status in deployments.values()) or str(error)
            raise SettingsError(f"no engine of {spec.name!r} comes up: {reason}"[-2000:]) from error
        log.info("engines are up", model=spec.name)


def _is_up(spec: EngineSpec) -> bool:
    """Return whether running engines have exactly this specification."""
    status = serve.status().applications.get(spec.name)
    if status is None or status.status != ApplicationStatus.RUNNING:
        return False
    try:
        engine: Any = serve.get_app_handle(spec.name)
        running = engine.fingerprint.remote().result(timeout_s=_FINGERPRINT_TIMEOUT_S)
    except (RayServeException, RayError, TimeoutError) as error:
        log.warning("engine does not report its fingerprint", model=spec.name, exc_info=error)
        return False
    return running == fingerprint(spec.model_dump_json())


def watch(stopped: threading.Event) -> None:
    """Check until stopped that Ray is reachable. Raise SettingsError if it is not."""
    while not stopped.wait(_WATCH_INTERVAL_S):
        try:
            serve.status()
        except (RayError, RayServeException, ConnectionError) as error:
            raise SettingsError(f"Ray is gone: {error}"[:300]) from error
