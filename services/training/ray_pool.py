"""Training workers as Ray actors: one a GPU, detached, so that they outlive the supervisor.

Ray finds them a place, and its autoscaler makes one where there is none. It remembers nothing that
matters: an actor that dies is no more than a worker whose lease runs out.

What Ray knows of nodes and of actors without a place. It has no public way to ask that does
without its dashboard; Ray Train and Ray Serve look here, too.
"""

import hashlib
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, cast

import ray
from ray._private import state
from ray.actor import exit_actor
from ray.exceptions import ActorUnavailableError, RayActorError, RayError

from services import logs, metrics
from services.contracts.models import ServedModels
from services.errors import SettingsError
from services.metrics.ray_exporter import RayMetrics
from services.training.factory import WorkerSpec, open_worker
from services.training.pool import UnresponsiveWorkers, WorkerStatus
from services.training.worker import TrainingWorker


def is_draining(node: str) -> bool:
    """Whether a node, by its id, is about to go."""
    draining: dict[str, int] = state.state.get_draining_nodes()
    return node in draining


def waiting_actors() -> set[str]:
    """Names of actors that have no process yet."""
    return {
        each["Name"]
        for each in _actors()
        if each["State"] in ("DEPENDENCIES_UNREADY", "PENDING_CREATION")
    }


def room(needs: Mapping[str, Mapping[str, float]]) -> list[dict[str, float]]:
    """What each node that stays has free, and what these actors, by name, take of it."""
    free: dict[str, dict[str, float]] = state.state.available_resources_per_node()
    going: dict[str, int] = state.state.get_draining_nodes()
    nodes = {node: dict(has) for node, has in free.items() if node not in going}
    for each in _actors():
        node = nodes.get(each["Address"]["NodeID"])
        if each["State"] == "ALIVE" and node is not None:
            for what, amount in needs.get(each["Name"], {}).items():
                node[what] = node.get(what, 0.0) + amount
    return list(nodes.values())


def _actors() -> Iterable[dict[str, Any]]:
    return cast(dict[str, dict[str, Any]], state.actors()).values()


log = logs.logger(__name__)

_LOOK = 1.0  # seconds between two looks whether the node is being drained
_ANSWER = 2.0  # seconds that actors have to say how they are


class TrainingActor:
    """One worker, from start to end. Its process ends with it."""

    def __init__(self, plan: str) -> None:
        """plan: a `WorkerSpec` as JSON."""
        logs.configure("worker", as_json=True)
        metrics.use(RayMetrics(process="worker"))
        self._plan = WorkerSpec.model_validate_json(plan)
        self._worker: TrainingWorker | None = None
        self._draining = threading.Event()
        self._idle_since = time.monotonic()
        context: Any = ray.get_runtime_context()
        self._node: str = context.get_node_id()
        # By itself, so that it is nobody's task: whoever made this actor may die.
        context.current_actor.run.remote()

    def run(self) -> None:
        """Work until drained, and end the process."""
        threading.Thread(target=self._watch_node, name="node", daemon=True).start()
        try:
            self._worker = open_worker(self._plan)
            if not self._draining.is_set():
                self._worker.run()
        except Exception:
            log.exception("worker failed", pool=self._plan.pool)
        exit_actor()

    def drain(self) -> None:
        """Give back what is in hand, with its checkpoints, and end."""
        self._draining.set()
        if worker := self._worker:
            worker.drain()

    def status(self, name: str) -> WorkerStatus:
        """How it is; `name` is what it is called."""
        in_hand = self._worker.attempts if self._worker else 0
        now = time.monotonic()
        if in_hand:
            self._idle_since = now
        state = "running" if self._worker else "pending"
        if self._draining.is_set():
            state = "draining"
        return WorkerStatus(name, state, in_hand, now - self._idle_since)

    def _watch_node(self) -> None:
        """A node says so before it goes: spot instances, upgrades, SIGTERM to its pod."""
        while not self._draining.wait(_LOOK):
            try:
                drained = is_draining(self._node)
            except Exception as error:  # Ray's head is away; it is asked again.
                log.warning("node cannot be looked at", error=str(error)[:300])
                continue
            if drained:
                log.info("node is being drained", pool=self._plan.pool)
                self.drain()
        # The model may have been loading.
        while not self._worker:
            time.sleep(_LOOK)
        self._worker.drain()


def connect(address: str, store: str, node_ip: str | None = None) -> None:
    """Connect this process to a cluster, and to the workers of this store alone: several services
    may share a cluster. Raises: SettingsError if there is none.
    """
    try:
        ray.init(
            address=address,
            namespace=f"dti-{hashlib.sha256(store.encode()).hexdigest()[:12]}",
            log_to_driver=False,
            configure_logging=False,
            _node_ip_address=node_ip,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SettingsError(f"no Ray cluster at {address!r}: {error}"[:500]) from error


class RayPool:
    """The workers of all offers in a Ray cluster, which this process is connected to.

    Those of another plan, such as other weights, or of an offer that is no more, are drained. Those
    that give no answer for long are killed.
    """

    def __init__(
        self, plans: Mapping[str, WorkerSpec], served_models: ServedModels, silence: float = 600
    ) -> None:
        """silence: seconds without an answer."""
        self._plans, self._models = plans, served_models
        self._prefixes = {f"dti.{name}.{_digest(plan)}.": name for name, plan in plans.items()}
        self._known: dict[str, WorkerStatus] = {}
        """What each actor said last."""
        self._outdated: set[str] = set()
        self._asked: dict[str, Any] = {}
        """What has not been answered yet: nobody is asked twice."""
        self._silence = UnresponsiveWorkers(silence, time.monotonic)

    def members(self) -> dict[str, list[WorkerStatus]]:
        """Of each pool. One that does not answer is as it said last; one that never did is taken
        to have something in hand.
        """
        waiting = waiting_actors()
        names = [name for name in ray.util.list_named_actors() if name.startswith("dti.")]
        for name in names:
            if self._pool_of(name) is None:
                self._drain_outdated(name)
        placed = self._ask(name for name in names if name not in waiting)
        answers = self._answers()
        gone = [name for name, answer in answers.items() if answer is None]
        for name in self._silence.note([*placed], answers):
            log.error("worker gives no answer, and is killed", worker=name)
            ray.kill(placed[name])
            gone.append(name)
        last = self._known | {name: WorkerStatus(name, "pending", placed=False) for name in waiting}
        self._known = {
            name: answers.get(name) or last.get(name) or WorkerStatus(name, "running", in_hand=1)
            for name in names
            if name not in gone and (name in placed or name in waiting)
        }
        found: dict[str, list[WorkerStatus]] = {}
        for name, member in self._known.items():
            if pool := self._pool_of(name):
                found.setdefault(pool, []).append(member)
        return found

    def _ask(self, names: Iterable[str]) -> dict[str, Any]:
        """How they are, those that have a place; returns them."""
        placed = {name: actor for name in names if (actor := _find(name))}
        self._asked = {
            name: self._asked.get(name) or actor.status.remote(name)
            for name, actor in placed.items()
        }
        return placed

    def _answers(self) -> dict[str, WorkerStatus | None]:
        """Of those who answered, within a moment. None: it is dead."""
        names = {question: name for name, question in self._asked.items()}
        if not names:
            return {}
        answers: dict[str, WorkerStatus | None] = {}
        for question in ray.wait([*names], num_returns=len(names), timeout=_ANSWER)[0]:
            name = names[question]
            del self._asked[name]
            try:
                answers[name] = ray.get(question)
            except ActorUnavailableError:
                continue
            except RayActorError:
                answers[name] = None
            except RayError as error:
                log.warning("worker cannot say how it is", error=str(error)[:300])
        return answers

    def _pool_of(self, name: str) -> str | None:
        return self._prefixes.get(name.rpartition(".")[0] + ".")

    def _drain_outdated(self, name: str) -> None:
        if name not in self._outdated:
            log.info("worker of another plan drained", worker=name)
            self._outdated.add(name)
            self.drain(name)

    def nodes(self) -> list[dict[str, float]]:
        """What each node has for workers, and for those of them that are there."""
        return room(
            {
                name: {"GPU": served_model.gpus, "CPU": served_model.cpus}
                for name in ray.util.list_named_actors()
                if name.startswith("dti.")
                and (served_model := self._models.get(name.split(".")[1]))
            }
        )

    def start(self, pool: str) -> str:
        """One more; it waits until there is a place for it. Returns what it is called."""
        served_model, plan = self._models[pool], self._plans[pool]
        name = f"dti.{pool}.{_digest(plan)}.{secrets.token_hex(4)}"
        ray.remote(TrainingActor).options(
            name=name,
            lifetime="detached",
            num_gpus=served_model.gpus,
            num_cpus=served_model.cpus,
            # To hear what is asked for while it works. Started anew by the supervisor alone.
            max_concurrency=8,
            max_restarts=0,
            runtime_env={"env_vars": _threads(plan)},
        ).remote(plan.model_dump_json())
        return name

    def drain(self, name: str) -> None:
        """One less. One that has no place yet is gone at once."""
        if actor := _find(name):
            if name in waiting_actors():
                ray.kill(actor)
            else:
                actor.drain.remote()

    def drain_all(self, seconds: float = 60) -> None:
        """Drain all workers, and wait until they are gone, so many seconds at most."""
        end, asked = time.monotonic() + seconds, set[str]()
        while (there := self.members()) and time.monotonic() < end:
            for name in {each.name for members in there.values() for each in members} - asked:
                asked.add(name)
                self.drain(name)
            time.sleep(0.3)


def _digest(plan: WorkerSpec) -> str:
    return hashlib.sha256(plan.model_dump_json().encode()).hexdigest()[:10]


def _find(name: str) -> Any:
    try:
        return ray.get_actor(name)
    except ValueError:
        return None  # It has just ended.


def _threads(plan: WorkerSpec) -> dict[str, str]:
    """Ray sets 1 by default, whatever torch could use."""
    return {"OMP_NUM_THREADS": str(plan.threads)} if plan.threads else {}
