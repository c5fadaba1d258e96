"""Engines in Ray Serve: one application for each served model, one replica for each GPU.

A replica accepts every request that it is sent, so that the engine's own queue, which is fair and
knows priorities, decides what comes next and what is rejected, and not a queue of Ray's.
"""

import threading
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.context import _get_global_client  # pyright: ignore[reportPrivateUsage]
from ray.serve.exceptions import RayServeException
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    LoggingConfig,
    ServeDeploySchema,
)
from starlette.requests import Request
from starlette.responses import Response

from services import logs, metrics
from services.contracts.models import MAX_CALIBRATED_BATCH_SIZE
from services.errors import SettingsError
from services.inference.spec import DEPLOYMENT, EngineSpec
from services.metrics.ray_exporter import RayMetrics
from services.settings import EngineSecret

_EXTRA_REQUESTS = 16
"""Requests beyond the engine's queue that reach a replica, which rejects them at once."""

_DEPLOY_INTERVAL_S = 0.2
_WATCH_INTERVAL_S = 2.0

log = logs.logger(__name__)


class EngineReplica:
    """An engine in a process of its own."""

    def __init__(self, spec: str) -> None:
        """Start the engine of a specification, given as JSON."""
        logs.configure("engine", as_json=True, on_ray=True)
        metrics.use(RayMetrics(process="engine"))
        # Imported here because they load torch, which `build` and `deploy` do not need.
        from services.inference.factory import open_engine
        from services.inference.http import EngineHandler

        self._engine = open_engine(EngineSpec.model_validate_json(spec))
        self._handler = EngineHandler(self._engine, EngineSecret.read().engine_secret)

    async def __call__(self, request: Request) -> Response:
        """Handle an HTTP request."""
        return await self._handler.handle(request)

    def check_health(self) -> None:
        """Raise RuntimeError if Ray should replace this replica. Does not use the device."""
        if reason := self._engine.scheduler.unhealthy_reason():
            raise RuntimeError(reason)


def application(spec: EngineSpec) -> serve.Application:
    """Return the Serve application of one served model, with one replica.

    The configuration says how many replicas there are, and how long one that is stopped may finish
    its requests (`services.inference.spec`).
    """
    generation = spec.model.generation
    batch_size = generation.batch_size or MAX_CALIBRATED_BATCH_SIZE
    deployment: Any = serve.deployment(EngineReplica)
    options = deployment.options(
        name=DEPLOYMENT,
        ray_actor_options={
            "num_gpus": spec.model.engine_gpus,
            "num_cpus": spec.model.engine_cpus,
            "label_selector": dict(spec.model.engine_labels),
            # Ray sets the variable to 1 by default, which would keep torch to one thread.
            "runtime_env": {
                "env_vars": {"OMP_NUM_THREADS": str(spec.threads)} if spec.threads else {}
            },
        },
        max_ongoing_requests=generation.queue_size + batch_size + _EXTRA_REQUESTS,
        # While no replica is up, requests wait in the proxy, since there is no engine's queue yet.
        max_queued_requests=generation.queue_size,
        autoscaling_config={"min_replicas": 1, "max_replicas": 1},
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

    It is the `import_path` of Serve's configuration.
    """
    return application(EngineSpec.model_validate(arguments))


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
        proxy_location=ProxyLocation.EveryNode,
        # No timeout: each request has its own.
        http_options=HTTPOptions(host=host, port=port, request_timeout_s=None),
    )


def deploy(config: Mapping[str, Any], stopped: threading.Event) -> None:
    """Deploy a configuration, and wait until all engines accept requests, or until stopped.

    Engines whose `args` are as before stay as they are. Applications that the configuration does
    not name are deleted.

    Raises SettingsError if an engine does not start.
    """
    schema = ServeDeploySchema.model_validate(config)
    client: Any = _get_global_client()
    # As `serve run` does. Serve's REST API, the public way, is part of Ray's dashboard, which need
    # not run.
    client.deploy_apps(schema)
    starting = {application.name for application in schema.applications}
    while starting and not stopped.wait(_DEPLOY_INTERVAL_S):
        statuses = serve.status().applications
        for name in sorted(starting & statuses.keys()):
            status = statuses[name]
            if status.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                reason = _reason(status)
                raise SettingsError(f"no engine of {name!r} comes up: {reason}"[-2000:])
            if status.status == ApplicationStatus.RUNNING:
                starting.remove(name)
                log.info("engines are up", model=name)


def _reason(status: ApplicationStatusOverview) -> str:
    messages = [each.message for each in status.deployments.values() if each.message]
    return "; ".join(messages) or status.message


def watch(stopped: threading.Event) -> None:
    """Check until stopped that Ray is reachable. Raise SettingsError if it is not."""
    while not stopped.wait(_WATCH_INTERVAL_S):
        try:
            serve.status()
        except (RayError, RayServeException, ConnectionError) as error:
            raise SettingsError(f"Ray is gone: {error}"[:300]) from error
