"""Engines brought up in a Ray cluster, and kept there while this process lives."""

import threading
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from services import logs
from services.errors import SettingsError
from services.inference.deployment import application, made_of, prefix
from services.inference.plans import EnginePlan

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


def deploy(plans: list[EnginePlan]) -> None:
    """Bring up the engines of all offers, and wait until each paints. Those that are up already are
    left as they are: Serve would replace them each time.

    Raises: SettingsError if one cannot be.
    """
    for plan in plans:
        if _is_up(plan):
            log.info("engines were up", offer=plan.name)
            continue
        try:
            serve.run(application(plan), name=plan.name, route_prefix=prefix(plan.name))
        except RuntimeError as error:
            said = serve.status().applications[plan.name].deployments
            why = "; ".join(each.message for each in said.values()) or str(error)
            raise SettingsError(f"no engine of {plan.name!r} comes up: {why}"[-2000:]) from error
        log.info("engines are up", offer=plan.name)


def _is_up(plan: EnginePlan) -> bool:
    """Whether engines of just this plan paint."""
    found = serve.status().applications.get(plan.name)
    if found is None or found.status != ApplicationStatus.RUNNING:
        return False
    try:
        engine: Any = serve.get_app_handle(plan.name)
        said = engine.made_of.remote().result(timeout_s=_ANSWER)
    except (RayServeException, RayError, TimeoutError) as error:
        log.warning("engine cannot say what it is", offer=plan.name, error=str(error)[:300])
        return False
    return said == made_of(plan.model_dump_json())


def watch(stopped: threading.Event) -> None:
    """Until it is stopped. Raises: SettingsError if Ray is gone."""
    while not stopped.wait(_LOOK):
        try:
            serve.status()
        except Exception as error:
            raise SettingsError(f"Ray is gone: {error}"[:300]) from error
