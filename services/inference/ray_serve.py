"""Engines in Ray Serve: an application for each offer, a replica for each GPU.

A replica takes all requests that it is given, so that it is the batcher, not a queue of Ray's, that
decides who comes next and who is turned away.

Engines brought up in a Ray cluster, and kept there while this process lives.
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
from services.inference.scheduler.calibration import MOST
from services.inference.spec import EngineSpec
from services.metrics.ray_exporter import RayMetrics
from services.settings import EngineSecret

PREFIX = "/engines"
"""Of the paths of all engines."""

_DRAIN = 330.0
"""Seconds that a replica which is to go has for what it has taken on: more than the API waits for
images, where it is not told otherwise. It goes as soon as nothing is left.
"""

_SPARE = 16  # requests beyond what the batcher takes: they are turned away at once


class EngineReplica:
    """One engine, in a process of its own."""

    def __init__(self, plan: str) -> None:
        """plan: an `EngineSpec` as JSON."""
        logs.configure("engine", as_json=True)
        metrics.use(RayMetrics(process="engine"))
        self._plan = plan
        self._engine = open_engine(EngineSpec.model_validate_json(plan))
        self._desk = EngineHandler(self._engine, EngineSecret.read().engine_secret)

    async def __call__(self, request: Request) -> Response:
        """Answer the API."""
        return await self._desk.answer(request)

    async def made_of(self) -> str:
        """What tells one engine from another."""
        return made_of(self._plan)

    def check_health(self) -> None:
        """Raises: RuntimeError if this replica should be replaced. Asks nothing of the device."""
        if trouble := self._engine.batcher.trouble():
            raise RuntimeError(trouble)


def made_of(plan: str) -> str:
    """Of a plan as JSON: it, and this version of the code."""
    return f"{__version__} {plan}"


def application(plan: EngineSpec) -> serve.Application:
    """The engines of one offer."""
    generation = plan.model.generation
    images = generation.batch_size or MOST
    deployment: Any = serve.deployment(EngineReplica)
    options = deployment.options(
        name="engine",
        ray_actor_options={
            "num_gpus": plan.model.engine_gpus,
            "num_cpus": plan.model.engine_cpus,
            # Ray sets 1 by default, whatever torch could use.
            "runtime_env": {
                "env_vars": {"OMP_NUM_THREADS": str(plan.threads)} if plan.threads else {}
            },
        },
        max_ongoing_requests=generation.queue_size + images + _SPARE,
        # While there is no replica; a request that waits here has no batcher yet.
        max_queued_requests=generation.queue_size,
        autoscaling_config={
            "min_replicas": generation.min_engines,
            "max_replicas": max(generation.min_engines, generation.max_engines),
            "target_ongoing_requests": images,
            "upscale_delay_s": 10,
            "downscale_delay_s": 300,
        },
        graceful_shutdown_timeout_s=_DRAIN,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=5,
        health_check_timeout_s=20,
        # Each loads the model: what is wrong with it will not pass by itself.
        max_constructor_retry_count=3,
        # One that needs no GPU can have its successor beside it.
        max_surge_percent=0 if plan.model.engine_gpus else 100,
        logging_config=LoggingConfig(enable_access_log=False),
    )
    return options.bind(plan.model_dump_json())


def build(arguments: dict[str, Any]) -> serve.Application:
    """For Ray's own config files: `import_path: services.inference.ray_serve:build`, with the
    fields of an `EngineSpec` as arguments.
    """
    return application(EngineSpec.model_validate(arguments))


def prefix(model: str) -> str:
    """Where the engines of an offer are found."""
    return f"{PREFIX}/{model}"


log = logs.logger(__name__)

_ANSWER = 20.0  # seconds that an engine has to say what it is
_LOOK = 2.0  # seconds between looks whether Ray is still there


def connect(address: str, host: str, port: int, node_ip: str | None = None) -> None:
    """Connect this process to a cluster, and have Serve listen. Raises: SettingsError."""
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
        # A request takes as long as it takes: the API says how long it waits.
        http_options=HTTPOptions(host=host, port=port, request_timeout_s=None),
    )


def deploy(plans: list[EngineSpec]) -> None:
    """Bring up the engines of all models, and wait until each generates. Engines that are up
    already are left as they are: Serve would replace them each time.

    Raises: SettingsError if one cannot be.
    """
    for plan in plans:
        if _is_up(plan):
            log.info("engines were up", model=plan.name)
            continue
        try:
            serve.run(application(plan), name=plan.name, route_prefix=prefix(plan.name))
        except RuntimeError as error:
            said = serve.status().applications[plan.name].deployments
            why = "; ".join(each.message for each in said.values()) or str(error)
            raise SettingsError(f"no engine of {plan.name!r} comes up: {why}"[-2000:]) from error
        log.info("engines are up", model=plan.name)


def _is_up(plan: EngineSpec) -> bool:
    """Whether engines of just this plan generate."""
    found = serve.status().applications.get(plan.name)
    if found is None or found.status != ApplicationStatus.RUNNING:
        return False
    try:
        engine: Any = serve.get_app_handle(plan.name)
        said = engine.made_of.remote().result(timeout_s=_ANSWER)
    except (RayServeException, RayError, TimeoutError) as error:
        log.warning("engine cannot say what it is", model=plan.name, error=str(error)[:300])
        return False
    return said == made_of(plan.model_dump_json())


def watch(stopped: threading.Event) -> None:
    """Until it is stopped. Raises: SettingsError if Ray is gone."""
    while not stopped.wait(_LOOK):
        try:
            serve.status()
        except Exception as error:
            raise SettingsError(f"Ray is gone: {error}"[:300]) from error
