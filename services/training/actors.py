"""Training workers as Ray actors: one a GPU, detached, so that they outlive the supervisor.

Ray finds them a place, and its autoscaler makes one where there is none. It remembers nothing that
matters: an actor that dies is no more than a worker whose lease runs out.
"""

import secrets
import threading
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.actor import exit_actor
from ray.exceptions import RayActorError

from services import logs, metrics
from services.errors import SettingsError
from services.offers import Offers
from services.training.drains import is_draining
from services.training.members import Member
from services.training.opening import WorkerPlan, open_worker
from services.training.ray_metrics import RayMetrics
from services.training.worker import TrainingWorker

log = logs.logger(__name__)

NAMESPACE = "dti"
"""Of Ray: where the actors' names stand."""

_LOOK = 1.0  # seconds between two looks whether the node is being drained
_ANSWER = 2.0  # seconds that actors have to say how they are


class TrainingActor:
    """One worker, from start to end. Its process ends with it."""

    def __init__(self, plan: str) -> None:
        """plan: a `WorkerPlan` as JSON."""
        logs.configure("worker", as_json=True)
        metrics.use(RayMetrics(process="worker"))
        self._plan = WorkerPlan.model_validate_json(plan)
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

    def status(self, name: str) -> Member:
        """How it is; `name` is what it is called."""
        in_hand = self._worker.in_hand if self._worker else 0
        now = time.monotonic()
        if in_hand:
            self._idle_since = now
        state = "running" if self._worker else "pending"
        if self._draining.is_set():
            state = "draining"
        return Member(name, state, in_hand, now - self._idle_since)

    def _watch_node(self) -> None:
        """A node says so before it goes: spot instances, upgrades, SIGTERM to its pod."""
        while not self._draining.wait(_LOOK):
            if is_draining(self._node):
                log.info("node is being drained", pool=self._plan.pool)
                self.drain()
        # The model may have been loading.
        while not self._worker:
            time.sleep(_LOOK)
        self._worker.drain()


def connect(address: str, node_ip: str | None = None) -> None:
    """Connect this process to a cluster. Raises: SettingsError if there is none."""
    try:
        ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
            _node_ip_address=node_ip,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SettingsError(f"no Ray cluster at {address!r}: {error}"[:500]) from error


class RayPool:
    """The workers of all offers in a Ray cluster, which this process is connected to."""

    def __init__(self, plans: Mapping[str, WorkerPlan], offers: Offers) -> None:
        self._plans, self._offers = plans, offers
        self._known: dict[str, Member] = {}
        """What each actor said last."""

    def members(self) -> dict[str, list[Member]]:
        """Of each pool. One that does not answer is as it said last, or pending."""
        asked: dict[Any, str] = {}
        for name in ray.util.list_named_actors():
            if _pool_of(name) in self._plans and (actor := _find(name)):
                asked[actor.status.remote(name)] = name
        there = dict.fromkeys(asked.values())
        for answer in (
            ray.wait([*asked], num_returns=len(asked), timeout=_ANSWER)[0] if asked else []
        ):
            try:
                self._known[asked[answer]] = ray.get(answer)
            except RayActorError:
                del there[asked[answer]]
        self._known = {name: self._known.get(name, Member(name, "pending")) for name in there}
        found: dict[str, list[Member]] = {}
        for member in self._known.values():
            found.setdefault(_pool_of(member.name), []).append(member)
        return found

    def start(self, pool: str) -> None:
        """One more; it waits until there is a place for it."""
        offer, plan = self._offers[pool], self._plans[pool]
        ray.remote(TrainingActor).options(
            name=f"dti.{pool}.{secrets.token_hex(4)}",
            lifetime="detached",
            num_gpus=offer.gpus,
            num_cpus=offer.cpus,
            # To hear what is asked for while it works. Started anew by the supervisor alone.
            max_concurrency=8,
            max_restarts=0,
            runtime_env={"env_vars": _threads(plan)},
        ).remote(plan.model_dump_json())

    def drain(self, name: str) -> None:
        """One less. One that has no place yet is gone at once."""
        if actor := _find(name):
            if self._known.get(name, Member(name, "pending")).state == "pending":
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


def _pool_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) == 3 and parts[0] == "dti" else ""


def _find(name: str) -> Any:
    try:
        return ray.get_actor(name)
    except ValueError:
        return None  # It has just ended.


def _threads(plan: WorkerPlan) -> dict[str, str]:
    """Ray sets 1 by default, whatever torch could use."""
    return {"OMP_NUM_THREADS": str(plan.threads)} if plan.threads else {}
