"""Fair share of a cluster between models: as a calculation, and on simulated nodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from services.contracts.jobs import JobItem, JobRequest
from services.contracts.models import ServedModel
from services.ledger.ledger import Ledger
from services.ledger.submissions import submit
from services.settings import LedgerSettings, SupervisorTimeouts
from services.storage.memory import MemoryStore
from services.supervisor.fair_share import FairShare, ResourceClaim, ShareDecision, shares
from services.supervisor.supervisor import Supervisor
from services.training.pool import ClusterNode, WorkerStatus

GPU = {"GPU": 1.0, "CPU": 1.0}
NODE = ClusterNode({"GPU": 4.0, "CPU": 8.0})


def test_places_are_dealt_out_one_by_one() -> None:
    both = {"a": ResourceClaim(GPU, 8, placed=4), "b": ResourceClaim(GPU, 8)}
    assert shares(both, [NODE], turn_s=600) == {"a": 2, "b": 2}
    assert shares(both, [NODE, NODE], turn_s=600) == {"a": 4, "b": 4}


def test_unused_shares_go_to_other_models() -> None:
    claims = {"a": ResourceClaim(GPU, 8), "b": ResourceClaim(GPU, 1), "c": ResourceClaim(GPU, 0)}
    assert shares(claims, [NODE], turn_s=600) == {"a": 3, "b": 1, "c": 0}


def test_large_workers_are_not_dealt_as_many_as_small_ones() -> None:
    claims = {"small": ResourceClaim(GPU, 99), "large": ResourceClaim({"GPU": 2.0, "CPU": 1.0}, 99)}
    assert shares(claims, [NODE] * 2, turn_s=600) == {"small": 4, "large": 2}


def test_a_model_that_fits_on_no_node_takes_nothing_from_others() -> None:
    claims = {"a": ResourceClaim(GPU, 8), "b": ResourceClaim({"GPU": 8.0, "CPU": 1.0}, 8)}
    assert shares(claims, [NODE] * 2, turn_s=600) == {"a": 8, "b": 0}
    assert shares(claims, [], turn_s=600) == {"a": 0, "b": 0}


def test_those_that_stay_without_a_backlog_go_first() -> None:
    claims = {"a": ResourceClaim(GPU, 8, placed=4), "b": ResourceClaim(GPU, 3, min_workers=3)}
    assert shares(claims, [NODE], turn_s=600) == {"a": 1, "b": 3}


def test_models_take_turns_where_there_are_fewer_places_than_models() -> None:
    one = [ClusterNode({"GPU": 1.0, "CPU": 8.0})]
    claims = {
        "a": ResourceClaim(GPU, 8, placed=1, since_s=700),
        "b": ResourceClaim(GPU, 8, since_s=599),
    }
    assert shares(claims, one, turn_s=600) == {"a": 1, "b": 0}
    claims["b"] = replace(claims["b"], since_s=601)
    assert shares(claims, one, turn_s=600) == {"a": 0, "b": 1}
    # A turn begins when the model is loaded, however long that takes.
    assert shares({**claims, "a": replace(claims["a"], loading=True)}, one, turn_s=600)["a"] == 1
    # Of those that have had theirs, the one that has had it longest goes.
    claims["c"] = ResourceClaim(GPU, 8, placed=1, since_s=300)
    assert shares(claims, one * 2, turn_s=600) == {"a": 0, "b": 1, "c": 1}


SMALL, BIG = {"pool": "small"}, {"pool": "big"}
POOLS = [ClusterNode(NODE.resources, labels) for labels in (SMALL, SMALL, BIG)]


def test_models_share_the_nodes_that_their_workers_may_run_on() -> None:
    claims = {
        "small": ResourceClaim(GPU, 99, SMALL),
        "big": ResourceClaim(GPU, 99, BIG),
        "none": ResourceClaim(GPU, 99, {"pool": "huge"}),
    }
    assert shares(claims, POOLS, turn_s=600) == {"small": 8, "big": 4, "none": 0}


def test_a_model_with_a_choice_takes_the_nodes_that_others_cannot_use() -> None:
    claims = {"any": ResourceClaim(GPU, 99), "small": ResourceClaim(GPU, 99, SMALL)}
    nodes = [ClusterNode(NODE.resources, SMALL), NODE]
    assert shares(claims, nodes, turn_s=600) == {"any": 5, "small": 3}
    claims["any"] = ResourceClaim(GPU, 4)
    assert shares(claims, nodes, turn_s=600) == {"any": 4, "small": 4}


def test_a_model_that_waits_takes_nothing_from_models_on_other_nodes() -> None:
    fields = {"weights": "x", "recipe": "sd", "slots": 1}
    models = {
        "small": ServedModel(**fields, labels=SMALL),
        "any": ServedModel(**fields),
        "big": ServedModel(**fields, labels=BIG),
    }
    desired = {"small": 8, "big": 4, "any": 0}
    idle = WorkerStatus("any1", "running", idle_s=10)
    workers = {
        "small": [WorkerStatus(f"small{n}", "running", 1) for n in range(8)],
        "any": [idle],
        "big": [WorkerStatus("big1", "pending", placed=False)],
    }
    now = 0.0
    fair_share = FairShare(lambda: now, interval_s=60)
    fair_share.decide(models, desired, workers, POOLS)
    now = 100.0
    decisions = fair_share.decide(models, desired, workers, POOLS)
    assert decisions["small"] == ShareDecision(), (
        "none of its nodes is one for the model that waits"
    )
    assert decisions["any"] == ShareDecision(0, must_release=True)
    assert decisions["big"] == ShareDecision()


@dataclass
class Cluster:
    """Places, given to the longest waiter, and a clock. Workers never end by themselves."""

    places: int
    loading: float = 0.0
    now: float = 0.0
    there: dict[str, WorkerStatus] = field(default_factory=dict[str, WorkerStatus])
    begun: dict[str, float] = field(default_factory=dict[str, float])
    started: int = 0

    def workers(self) -> Mapping[str, Sequence[WorkerStatus]]:
        found: dict[str, list[WorkerStatus]] = {}
        for member in self.there.values():
            found.setdefault(member.name[0], []).append(member)
        return found

    def nodes(self) -> Sequence[ClusterNode]:
        return [ClusterNode({"GPU": 1.0, "CPU": 1.0})] * self.places

    def start(self, pool: str) -> str:
        self.started += 1
        name = f"{pool}{self.started}"
        self.there[name] = WorkerStatus(name, "pending", placed=False)
        return name

    def drain(self, name: str) -> None:
        del self.there[name]

    def settle(self) -> None:
        for name, member in self.there.items():
            if not member.placed and sum(self.placed().values()) < self.places:
                self.there[name] = WorkerStatus(name, "pending")
                self.begun[name] = self.now
            elif member.placed and self.now - self.begun[name] >= self.loading:
                self.there[name] = WorkerStatus(name, "running", open_attempts=2)

    def placed(self) -> dict[str, int]:
        return self._count(placed=True)

    def waiting(self) -> dict[str, int]:
        return self._count(placed=False)

    def _count(self, placed: bool) -> dict[str, int]:
        names = [each.name[0] for each in self.there.values() if each.placed is placed]
        return {name: names.count(name) for name in "ab"}


@pytest.fixture
def ledger() -> Ledger:
    return Ledger.open(MemoryStore(), LedgerSettings(lease_s=30, poll_interval_s=0.01))


class FairShareHarness:
    def __init__(self, ledger: Ledger, cluster: Cluster) -> None:
        served_models = {
            name: ServedModel(weights="x", recipe="sd", slots=1, max_workers=6)
            for name in ("a", "b")
        }
        self.ledger, self.cluster = ledger, cluster
        self.supervision = Supervisor(
            ledger,
            served_models,
            cluster,
            timeouts=SupervisorTimeouts(fair_share_interval_s=60, scale_down_delay_s=300),
            clock=lambda: cluster.now,
        )

    def submit(self, pool: str, count: int) -> None:
        items = tuple(JobItem(name=str(i)) for i in range(count))
        submit(self.ledger, "acme", f"{pool}{count}", JobRequest(pool=pool, items=items))

    def advance(self, seconds: float) -> None:
        end = self.cluster.now + seconds
        while self.cluster.now < end:
            self.supervision.reconcile()
            self.cluster.settle()
            self.cluster.now += 10


def test_a_backlog_does_not_keep_another_model_from_its_share(ledger: Ledger) -> None:
    harness = FairShareHarness(ledger, Cluster(places=4))
    harness.submit("a", 100)
    harness.advance(30)
    assert harness.cluster.placed() == {"a": 4, "b": 0}
    assert harness.cluster.waiting() == {"a": 2, "b": 0}, "an autoscaler has to see them"
    harness.submit("b", 100)
    harness.advance(40)
    assert harness.cluster.placed() == {"a": 4, "b": 0}, "a node may be made meanwhile"
    assert harness.cluster.waiting() == {"a": 0, "b": 6}, "the next place is for b"
    harness.advance(60)
    assert harness.cluster.placed() == {"a": 2, "b": 2}
    assert harness.cluster.waiting() == {"a": 4, "b": 4}, "an autoscaler has to see them"
    started = harness.cluster.started
    harness.advance(600)
    assert harness.cluster.placed() == {"a": 2, "b": 2}
    assert harness.cluster.started == started, "what is fair is left alone"


def test_nodes_that_are_made_in_time_spare_those_at_work(ledger: Ledger) -> None:
    harness = FairShareHarness(ledger, Cluster(places=4))
    harness.submit("a", 4)
    harness.advance(30)
    harness.submit("b", 4)
    harness.advance(30)
    harness.cluster.places = 8
    harness.advance(300)
    assert harness.cluster.placed() == {"a": 4, "b": 4}
    assert harness.cluster.started == 8, "no worker was drained"


def test_a_worker_that_loads_for_longer_than_its_turn_still_works(ledger: Ledger) -> None:
    harness = FairShareHarness(ledger, Cluster(places=1, loading=400))
    harness.submit("a", 9)
    harness.submit("b", 9)
    at_work = dict.fromkeys("ab", 0.0)
    for _ in range(400):
        harness.advance(10)
        for member in harness.cluster.there.values():
            at_work[member.name[0]] += 10 * (member.state == "running")
    assert all(seconds > 300 for seconds in at_work.values())


def test_models_take_turns_on_one_place(ledger: Ledger) -> None:
    harness = FairShareHarness(ledger, Cluster(places=1))
    harness.submit("a", 9)
    harness.advance(30)
    harness.submit("b", 9)
    had: list[str] = []
    for _ in range(160):
        harness.advance(10)
        had += [name for name, count in harness.cluster.placed().items() if count]
    changes = sum(one != other for one, other in pairwise(had))
    assert 3 <= changes <= 5
    assert 0.3 < had.count("a") / len(had) < 0.7
