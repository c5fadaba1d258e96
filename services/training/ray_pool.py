"""Training workers as Ray actors: detached, so that they outlive the supervisor.

Ray finds them a place, and its autoscaler makes one where there is none. Ray keeps no state that
the service needs: an actor that dies is no more than a worker whose lease runs out.
"""

import hashlib
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import ray
from ray._private import services as ray_services
from ray._private import state
from ray.actor import exit_actor
from ray.exceptions import ActorUnavailableError, RayActorError, RayError

from dti_engine import __version__
from services import logs, metrics
from services.errors import SettingsError
from services.metrics.ray_exporter import RayMetrics
from services.process import error_boundary
from services.training.pool import ClusterNode, UnresponsiveWorkers, WorkerSpec, WorkerStatus

if TYPE_CHECKING:
    from services.training.worker import TrainingWorker

log = logs.logger(__name__)

_NODE_POLL_INTERVAL_S = 1.0
"""Interval at which a worker checks whether its node is being drained. A spot instance that is
taken away leaves as little as 30 s, and a checkpoint needs some of them.
"""

_ERROR_PAUSE = 5
"""Intervals until the next check after an unexpected error, whose traceback is logged each time."""

_STATUS_TIMEOUT_S = 2.0
"""Time for all actors together to answer how they are. The supervisor's pass waits for it, and one
that is late answers in the next pass.
"""

_DRAIN_POLL_INTERVAL_S = 0.3
_LISTENER_TIMEOUT_S = 3.0


class TrainingActor:
    """A worker, from start to end. Its process ends with it."""

    def __init__(self, spec: str) -> None:
        """spec: a `WorkerSpec` as JSON."""
        logs.configure("worker", as_json=True, on_ray=True)
        metrics.use(RayMetrics(process="worker"))
        self._spec = WorkerSpec.model_validate_json(spec)
        self._worker: TrainingWorker | None = None
        self._draining = threading.Event()
        self._idle_since = time.monotonic()
        context: Any = ray.get_runtime_context()
        self._node: str = context.get_node_id()
        # Called by the actor itself: a task of the supervisor would die with it.
        context.current_actor.run.remote()

    def run(self) -> None:
        """Work until drained, and end the process."""
        threading.Thread(target=self._watch_node, name="node", daemon=True).start()
        log.info("loading model", pool=self._spec.pool)
        try:
            # Imported here because it loads torch, which the supervisor, which imports this module,
            # too, does not need.
            from services.training.factory import open_worker

            self._worker = open_worker(self._spec)
            log.info("worker is ready", pool=self._spec.pool)
            if not self._draining.is_set():
                self._worker.run()
        except Exception:
            log.exception("worker failed", pool=self._spec.pool)
        exit_actor()

    def drain(self) -> None:
        """Release all subjects with checkpoints, and end."""
        self._draining.set()
        if worker := self._worker:
            worker.drain()

    def status(self, name: str) -> WorkerStatus:
        """Return how the worker is, under the name that it is known by."""
        open_attempts = self._worker.open_attempts if self._worker else 0
        now = time.monotonic()
        if open_attempts:
            self._idle_since = now
        state = "running" if self._worker else "pending"
        if self._draining.is_set():
            state = "draining"
        return WorkerStatus(name, state, open_attempts, now - self._idle_since)

    def _watch_node(self) -> None:
        """Drain when the node is about to go: spot instances, upgrades, SIGTERM to its pod."""
        pause_s = _NODE_POLL_INTERVAL_S
        while not self._draining.wait(pause_s):
            pause_s = _NODE_POLL_INTERVAL_S * _ERROR_PAUSE
            # No error ends the watch: a worker that sees no notice loses work at every drain.
            with error_boundary("watch of the node failed", pool=self._spec.pool):
                self._drain_with_node()
                pause_s = _NODE_POLL_INTERVAL_S
        # The notice may have come while the model was loading: the worker drains once it exists.
        while not self._worker:
            time.sleep(_NODE_POLL_INTERVAL_S)
        self._worker.drain()

    def _drain_with_node(self) -> None:
        try:
            is_draining = self._node in _draining_nodes()
        except (RayError, ConnectionError) as error:
            # Ray's head does not answer, and may be asked again: the notice lasts.
            log.warning("node state is unknown", error=str(error)[:300])
            return
        if is_draining:
            log.info("node is being drained", pool=self._spec.pool)
            self.drain()


def connect(address: str, store: str, node_ip: str | None = None) -> None:
    """Connect this process to a cluster, in the namespace of this store's workers.

    Several services may share a cluster. Raises: SettingsError if there is none.
    """
    try:
        _require_listener(_noted_address() if address == "auto" else address)
        ray.init(
            address=address,
            namespace=f"dti-{hashlib.sha256(store.encode()).hexdigest()[:12]}",
            log_to_driver=False,
            configure_logging=False,
            _node_ip_address=node_ip,
        )
    except (OSError, RuntimeError, ValueError) as error:
        # Otherwise, what the failed attempt has set up would fail the next one.
        ray.shutdown()
        raise SettingsError(f"no Ray cluster at {address!r}: {error}"[:500]) from error


def _noted_address() -> str:
    """Return what Ray takes `auto` for: RAY_ADDRESS, or the cluster that this host has noted.

    The note outlives its cluster. Raises: ConnectionError if there is neither.
    """
    return ray_services.get_ray_address_from_environment("auto", None)


def _require_listener(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT.

    Ray itself tries for four minutes, in which it hears no signal.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        host = host.removeprefix("[").removesuffix("]")  # of an IPv6 address
        socket.create_connection((host, int(port)), _LISTENER_TIMEOUT_S).close()


class RayPool:
    """The workers of all models in the Ray cluster that this process is connected to.

    Outdated workers are drained: of another spec, such as other weights, of another version of the
    code, or of a model that is no longer served. Workers that do not answer for long are killed.
    """

    def __init__(self, specs: Mapping[str, WorkerSpec], unresponsive_after_s: float) -> None:
        """specs: by pool. unresponsive_after_s: without an answer, a worker is killed."""
        self._specs = specs
        self._prefixes = {f"dti.{name}.{fingerprint(spec)}.": name for name, spec in specs.items()}
        self._known: dict[str, WorkerStatus] = {}
        """The latest status of each actor."""
        self._outdated: set[str] = set()
        self._pending_calls: dict[str, Any] = {}
        """Questions that have not been answered yet: no actor is asked twice."""
        self._unresponsive = UnresponsiveWorkers(unresponsive_after_s, time.monotonic)

    def workers(self) -> dict[str, list[WorkerStatus]]:
        """Return the workers of each pool.

        One that does not answer is as it was last, or, if it never answered, taken to be at work:
        a busy host is slow to answer, and to replace its workers would make it slower.
        """
        waiting = _waiting_actors()
        names = [name for name in ray.util.list_named_actors() if name.startswith("dti.")]
        for name in names:
            if self._pool_of(name) is None:
                self._drain_outdated(name)
        placed = self._ask(name for name in names if name not in waiting)
        answers = self._answers()
        gone = [name for name, answer in answers.items() if answer is None]
        for name in self._unresponsive.update([*placed], answers):
            log.error("worker does not answer, and is killed", worker=name)
            ray.kill(placed[name])
            gone.append(name)
        last = self._known | {name: WorkerStatus(name, "pending", placed=False) for name in waiting}
        self._known = {
            name: answers.get(name)
            or last.get(name)
            or WorkerStatus(name, "running", open_attempts=1)
            for name in names
            if name not in gone and (name in placed or name in waiting)
        }
        found: dict[str, list[WorkerStatus]] = {}
        for name, worker in self._known.items():
            if pool := self._pool_of(name):
                found.setdefault(pool, []).append(worker)
        return found

    def _ask(self, names: Iterable[str]) -> dict[str, Any]:
        """Ask the actors for their status; return their handles."""
        placed = {name: actor for name in names if (actor := _find(name))}
        self._pending_calls = {
            name: self._pending_calls.get(name) or actor.status.remote(name)
            for name, actor in placed.items()
        }
        return placed

    def _answers(self) -> dict[str, WorkerStatus | None]:
        """Return the answers that come within a moment; None for an actor that is dead."""
        names = {call: name for name, call in self._pending_calls.items()}
        if not names:
            return {}
        answers: dict[str, WorkerStatus | None] = {}
        for call in ray.wait([*names], num_returns=len(names), timeout=_STATUS_TIMEOUT_S)[0]:
            name = names[call]
            del self._pending_calls[name]
            try:
                answers[name] = ray.get(call)
            except ActorUnavailableError:
                continue
            except RayActorError:
                answers[name] = None
            except RayError as error:
                log.warning("worker status failed", worker=name, error=str(error)[:300])
        return answers

    def _pool_of(self, name: str) -> str | None:
        return self._prefixes.get(name.rpartition(".")[0] + ".")

    def _drain_outdated(self, name: str) -> None:
        if name not in self._outdated:
            log.info("outdated worker drained", worker=name)
            self._outdated.add(name)
            self.drain(name)

    def nodes(self) -> list[ClusterNode]:
        """Return what each node has for workers, including what those that there are have."""
        return _free_nodes(
            {
                name: {"GPU": spec.model.gpus, "CPU": spec.model.cpus}
                for name in ray.util.list_named_actors()
                if name.startswith("dti.") and (spec := self._specs.get(name.split(".")[1]))
            }
        )

    def start(self, pool: str) -> str:
        """Start one more worker, which waits until there is a place for it; return its name."""
        spec = self._specs[pool]
        name = f"dti.{pool}.{fingerprint(spec)}.{secrets.token_hex(4)}"
        ray.remote(TrainingActor).options(
            name=name,
            lifetime="detached",
            num_gpus=spec.model.gpus,
            num_cpus=spec.model.cpus,
            label_selector=dict(spec.model.labels),
            # `run` takes one of these threads; the others answer while it works.
            max_concurrency=8,
            # Only the supervisor restarts workers, because it knows whether one is still needed.
            max_restarts=0,
            runtime_env={"env_vars": _thread_variables(spec)},
        ).remote(spec.model_dump_json())
        return name

    def drain(self, name: str) -> None:
        """Have a worker end; one without a place is gone at once."""
        if actor := _find(name):
            if name in _waiting_actors():
                ray.kill(actor)
            else:
                actor.drain.remote()

    def drain_all(self, timeout_s: float) -> None:
        """Drain all workers, and wait until they are gone."""
        deadline, drained = time.monotonic() + timeout_s, set[str]()
        while (workers := self.workers()) and time.monotonic() < deadline:
            for name in {each.name for pool in workers.values() for each in pool} - drained:
                drained.add(name)
                self.drain(name)
            time.sleep(_DRAIN_POLL_INTERVAL_S)


def fingerprint(spec: WorkerSpec) -> str:
    """Return what tells workers apart: their spec, and the version of the code.

    Without the version, workers of old code would go on after an upgrade in the same cluster.
    """
    return hashlib.sha256(f"{__version__} {spec.model_dump_json()}".encode()).hexdigest()[:10]


def _find(name: str) -> Any:
    try:
        return ray.get_actor(name)
    except ValueError:
        return None  # It has just ended.


def _thread_variables(spec: WorkerSpec) -> dict[str, str]:
    # Ray sets OMP_NUM_THREADS to 1 by default, whatever torch could use.
    return {"OMP_NUM_THREADS": str(spec.threads)} if spec.threads else {}


# Ray has no public way to ask for the following that does without its dashboard; Ray Train and Ray
# Serve use the same private module.


def _draining_nodes() -> dict[str, int]:
    """Return the nodes that are about to go, by their ids, with their deadlines."""
    return state.state.get_draining_nodes()


def _waiting_actors() -> set[str]:
    """Return the names of actors that have no process yet."""
    return {
        actor["Name"]
        for actor in _actors()
        if actor["State"] in ("DEPENDENCIES_UNREADY", "PENDING_CREATION")
    }


def _free_nodes(needs: Mapping[str, Mapping[str, float]]) -> list[ClusterNode]:
    """Return what each node that stays has free, plus what these actors, by name, take of it."""
    free: dict[str, dict[str, float]] = state.state.available_resources_per_node()
    draining = _draining_nodes()
    nodes = {node: dict(amounts) for node, amounts in free.items() if node not in draining}
    for actor in _actors():
        node = nodes.get(actor["Address"]["NodeID"])
        if actor["State"] == "ALIVE" and node is not None:
            for name, amount in needs.get(actor["Name"], {}).items():
                node[name] = node.get(name, 0.0) + amount
    labels = {node["NodeID"]: node["Labels"] for node in ray.nodes()}
    return [ClusterNode(amounts, labels.get(node, {})) for node, amounts in nodes.items()]


def _actors() -> Iterable[dict[str, Any]]:
    return cast(dict[str, dict[str, Any]], state.actors()).values()
