"""What the ledger promises, each as a check of what happened in a simulated service.

A check returns what broke the promise, a line each. Most read the journal of the bucket, which has
every change in its order; the rest compare what processes did and were told with it.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from chaos.simulation.bucket import Applied
from chaos.simulation.consistency import untruths
from chaos.simulation.ground_truth import Ground, line
from chaos.simulation.history import Claimed
from chaos.simulation.service_processes import PASS, Service
from chaos.simulation.worker_process import secret
from services.contracts.jobs import ItemState
from services.ledger import queries as reading
from services.ledger.recovery import Recovery

TAKEOVER = PASS + 2.0 + 8.0
"""Seconds within which, once a lease is over, the attempts of its dead worker are ended, so that
others may follow: from one supervisor's pass to the next, two roundings to whole seconds, and the
requests of a sweep and two passes.
"""


def broken_promises(service: Service) -> list[str]:
    """Everything that any check finds. The last ones change the bucket."""
    return [
        f"{check.__name__}: {found}"
        for check in (*CHECKS, erased, rebuilt_from_nothing)
        for found in check(service)
    ]


def unended(service: Service) -> list[str]:
    """Accepted items that have not ended."""
    return [
        f"item {index} of {ground.tenant}'s job {ground.job}"
        for ground in accepted(service)
        for index in range(0 if ground.deleted else ground.count)
        if ground.state(index) is None
    ]


def kept(service: Service) -> Iterator[str]:
    """What was accepted is there, once, and ends; processes noticed nothing wrong."""
    yield from service.history.wrong
    yield from unended(service)
    for ground in accepted(service):
        if ground.body("spec") is None:
            yield f"{ground.tenant}'s job {ground.job} is gone"
    for key, changes in _by_key(service, "/spec"):
        if not key.endswith("/spec"):
            continue
        kinds = [_kind(change) for change in changes]
        if kinds not in (["job"], ["job", "deleted"]):
            yield f"{key} was {', then '.join(kinds)}"


def results_stand(service: Service) -> Iterator[str]:
    """A visible result never changes but to a tombstone, and that never."""
    for key, changes in _by_key(service, "/results/"):
        kinds = [_kind(change) for change in changes]
        if kinds not in (["result"], ["deleted"], ["result", "deleted"]):
            yield f"{key} was {', then '.join(kinds)}"


def results_are_whole(service: Service) -> Iterator[str]:
    """A success has the bytes that it says, of an attempt that its worker had claimed before."""
    claims: dict[str, tuple[float, str]] = {}
    for change in _changes(service, "/attempts/"):
        if change.body and not change.key.endswith(".ended"):
            # The first: of a deleted job it is removed, and may be made again in vain.
            claims.setdefault(change.key, (change.time, line(change.body)["worker"]))
    for change in _changes(service, "/results/"):
        record = line(change.body) if change.body else {}
        if record.get("status") != "succeeded":
            continue
        payload = change.body.partition(b"\n")[2]
        if hashlib.sha256(payload).hexdigest() != record["sha256"]:
            yield f"{change.key} has other bytes than it says"
        claim = change.key.replace("/results/", "/attempts/") + f".{record['attempt']:02d}"
        time, worker = claims.get(claim, (float("inf"), ""))
        if time > change.time or not record["nonce"].startswith(f"{worker}."):
            yield f"{change.key} came of an attempt that its worker had not claimed"


def claims_are_single(service: Service) -> Iterator[str]:
    """An attempt is claimed once, ended once, and begun by the worker that claimed it alone."""
    for start in service.history.starts:
        tenant, job, place, number = start.attempt
        key = f"t/{tenant}/jobs/{job}/attempts/{place}.{number:02d}"
        claims = [c for c in service.bucket.journal if c.key == key and c.body]
        if not any(line(claim.body)["worker"] == start.worker for claim in claims):
            yield f"{start} was claimed by another"
    for key, changes in _by_key(service, "/attempts/"):
        if sum(bool(change.body) for change in changes) > 1 and not _deleted(service, key):
            yield f"{key} was written {len(changes)} times"


def nothing_starts_after_an_order(service: Service) -> Iterator[str]:
    """No attempt begins that was claimed after its job was cancelled or deleted, or its item."""
    written = {change.key: change.time for change in reversed(service.bucket.journal)}
    for start in service.history.starts:
        tenant, job, place, number = start.attempt
        folder = f"t/{tenant}/jobs/{job}/"
        claim = written.get(f"{folder}attempts/{place}.{number:02d}", float("inf"))
        for order in ("cancel", "deleted", f"item.{place.index:05d}"):
            if written.get(f"{folder}control/{order}", float("inf")) < claim:
                yield f"{start} was claimed at {claim:.3f}, after control/{order}"


def deletions_hold(service: Service) -> Iterator[str]:
    """Once a deletion was acknowledged, no result of it is there or comes."""
    for answer in service.history.answers:
        if not answer.what.startswith("delete"):
            continue
        for key, changes in _by_key(service, "/results/"):
            if not _concerns(key, answer.what, answer.tenant, answer.job, answer.index):
                continue
            last = [change for change in changes if change.time <= answer.time][-1:]
            for change in (*last, *(one for one in changes if one.time > answer.time)):
                if _kind(change) not in ("deleted", "removed"):
                    yield f"{key} at {change.time:.3f}, though {answer}"


def work_is_not_repeated(service: Service) -> Iterator[str]:
    """An attempt goes on from what was acknowledged of earlier ones when it was claimed."""
    written = {change.key: change.time for change in reversed(service.bucket.journal)}
    for start in service.history.starts:
        tenant, job, place, number = start.attempt
        folder = f"t/{tenant}/jobs/{job}/"
        claim = written.get(f"{folder}attempts/{place}.{number:02d}", float("inf"))
        if written.get(f"{folder}results/{place}", float("inf")) <= start.time:
            continue  # It has ended meanwhile, and its checkpoints are gone.
        for saved in service.history.saved.get((tenant, job, place), ()):
            if saved.attempt[3] < number and saved.time <= claim and saved.step > start.step:
                yield f"{start} was claimed at {claim:.3f}, after {saved}"


def leases_last(service: Service) -> Iterator[str]:
    """No lease is broken before it is over, or twice, and none that is over for good goes on."""
    for key, changes in _by_key(service, "service/workers/"):
        for before, after in pairwise(changes):
            if not after.body:
                continue
            state = line(after.body)["state"]
            if line(before.body)["state"] != "held":
                yield f"{key} was {line(before.body)['state']}, then {state}"
            if state == "broken" and after.time - before.time <= service.scale.lease:
                yield f"{key} was broken after {after.time - before.time:.3f} s"


def none_is_ended_that_lives(service: Service) -> Iterator[str]:
    """Others end an attempt only when its worker's lease is not held any more, or, as released,
    does not name it.
    """
    held: dict[str, list[dict[str, Any]]] = {}
    claims: dict[str, tuple[str, str]] = {}
    for change in service.bucket.journal:
        if change.key.startswith("service/workers/"):
            record = line(change.body) if change.body else {"state": "removed"}
            worker = change.key.rpartition("/")[2]
            held.pop(worker, None)
            if record["state"] == "held":
                held[worker] = record["attempts"]
        elif "/attempts/" in change.key and change.body:
            record = line(change.body)
            if record["type"] == "claim":
                claims[change.key] = record["worker"], change.process
                continue
            claim = change.key.removesuffix(".ended")
            worker, process = claims[claim]
            if worker not in held or change.process == process or _deleted(service, change.key):
                continue
            if record["cause"] == "lost" or any(_claim_of(one) == claim for one in held[worker]):
                yield f"{claim} was {record['cause']} at {change.time:.3f}, though {worker} lives"


def failures_have_causes(service: Service) -> Iterator[str]:
    """An item fails as its script says, or because it was lost so often; never for another's sake
    while no process is killed or held up by anything but poison.
    """
    calm = not (service.faults.crash or service.faults.pause or service.faults.table("write"))
    for ground in accepted(service):
        for index in range(0 if ground.deleted else ground.count):
            if ground.item_deleted(index):
                continue
            fate = ground.work(index)["fate"]
            for round_ in ground.rounds(index):
                record = ground.result(round_, index)
                if record is None or record["type"] != "result":
                    continue
                if record["status"] == "succeeded" and fate in ("poison", "bad"):
                    yield f"item {index} of {ground.job} succeeded, though it is {fate}"
                if record["status"] != "failed" or fate == "bad":
                    continue
                counted = [e for e in ground.ends(round_, index) if e["cause"] != "released"]
                final = record["reason"] == "out of memory"
                if len(counted) + final < ground.max_attempts:
                    yield f"item {index} of {ground.job} failed after {len(counted)}: {record}"
                if calm and fate == "ok" and ground.max_attempts > 1 and ground.tenant != "late":
                    yield f"item {index} of {ground.job} failed beside poison: {record}"


def the_last_attempt_is_alone(service: Service) -> Iterator[str]:
    """Who may be poison runs with nothing beside it, and is told so."""
    grounds = {(ground.tenant, ground.job): ground for ground in accepted(service)}
    for start in service.history.starts:
        tenant, job, place, number = start.attempt
        if start.alone and start.beside:
            yield f"{start} has {start.beside} beside it"
        ground = grounds.get((tenant, job))
        if ground is None or ground.deleted:
            continue
        causes = ground.causes(place.round, place.index, number)
        counted = [cause for cause in causes if cause != "released"]
        last = 0 < len(counted) == ground.max_attempts - 1
        if start.alone != (last or causes.count("released") >= 8):
            yield f"{start} came after {causes}"


def takeover_is_quick(service: Service) -> Iterator[str]:
    """When a worker is killed and nothing else is wrong, others have its items soon."""
    if service.history.last_kill is None:
        return
    killed, worker, in_hand = service.history.last_kill
    # A renewal that was under way arrives, though its worker is dead.
    renewals = (
        c.time
        for c in service.bucket.journal
        if c.key.endswith(worker) and c.body and line(c.body)["state"] == "held"
    )
    due = max([killed, *renewals]) + service.scale.lease + TAKEOVER
    for claimed in in_hand:
        ended = _first_written(service, claimed, ".ended")
        unneeded = ended is None and _first_result(service, claimed) is not None
        if not unneeded and (ended is None or ended > due):
            yield f"{claimed} of a worker killed at {killed:.1f} was ended at {ended}"


def told_the_truth(service: Service) -> Iterator[str]:
    """The store told nobody that another had won where it was its own write, and the like."""
    yield from untruths(service.witnesses, service.bucket)


def seen_in_order(service: Service) -> Iterator[str]:
    """What a client saw of an item stands, for whoever looks later."""
    looks = defaultdict(list)
    for observation in service.history.observations:
        looks[observation.tenant, observation.job].append(observation)
    for observations in looks.values():
        for before in observations:
            for after in observations:
                if after.asked < before.time:
                    continue
                for index, (was, is_) in enumerate(zip(before.states, after.states, strict=True)):
                    if is_ not in _AFTER.get(was, _ANY):
                        yield f"item {index} of {before.job} was {was}, then {is_}"


def erased(service: Service) -> Iterator[str]:
    """After a deletion and a sweep, no bytes are left that were made of it."""
    _perform(service, lambda supervisor: supervisor.sweep())
    secrets = [
        secret(ground.job, index)
        for ground in accepted(service)
        for index in range(50)
        if ground.deleted or ground.item_deleted(index)
    ]
    for key in service.bucket.keys(""):
        version = service.bucket.get(key)
        assert version
        for one in secrets:
            if one in version.body:
                yield f"{key} still has what was made of {one!r}"
    for tenant in _deleted_tenants(service):
        for key in service.bucket.keys(f"t/{tenant}/"):
            version = service.bucket.get(key)
            assert version
            order = key == f"t/{tenant}/deleted" or "/control/" in key
            if not order and line(version.body)["type"] != "deleted":
                yield f"{key} is left of {tenant}, who was deleted"


def rebuilt_from_nothing(service: Service) -> Iterator[str]:
    """Without hints and rollups, a sweep and a pass find out all that was known."""
    before = _counts(service)
    for key in service.bucket.keys(""):
        if key.startswith("queue/") or key.endswith("/rollup"):
            service.bucket.delete(0, "checker", key, None)
    unknowing = _counts(service)
    _perform(service, lambda supervisor: supervisor.sweep())
    _perform(service, lambda supervisor: supervisor.recover())
    for job, counts in _counts(service).items():
        if before[job] != counts or _ended(unknowing[job]) != _ended(counts):
            yield f"job {job}: {before[job]}, then {unknowing[job]}, then {counts}"
    for ground in accepted(service):
        states = [ground.state(index) for index in range(0 if ground.deleted else ground.count)]
        raw = {state: states.count(state) for state in ItemState if state in states}
        told = {s: n for s in ItemState if (n := before.get(ground.job, {}).get(s.value))}
        if not ground.deleted and raw != told:
            yield f"job {ground.job} is counted as {told}, and is {raw}"
    # A supervisor of the service may have been in the middle of a sweep.
    _perform(service, lambda supervisor: supervisor.recover())
    if left := service.bucket.keys("queue/"):
        yield f"finished jobs are still queued: {left}"


CHECKS: tuple[Callable[[Service], Iterator[str]], ...] = (
    kept,
    results_stand,
    results_are_whole,
    claims_are_single,
    nothing_starts_after_an_order,
    deletions_hold,
    work_is_not_repeated,
    leases_last,
    none_is_ended_that_lives,
    failures_have_causes,
    the_last_attempt_is_alone,
    takeover_is_quick,
    told_the_truth,
    seen_in_order,
)

_ANY = frozenset(ItemState)
_AFTER = {
    ItemState.SUCCEEDED: {ItemState.SUCCEEDED, ItemState.DELETED},
    ItemState.CANCELLED: _ANY - {ItemState.SUCCEEDED, ItemState.FAILED},
    ItemState.DELETED: {ItemState.DELETED},
}


def accepted(service: Service) -> list[Ground]:
    """Jobs whose submission was acknowledged, of tenants that were not deleted."""
    deleted = _deleted_tenants(service)
    jobs = {
        (answer.tenant, answer.job): None
        for answer in service.history.answers
        if answer.what == "submit" and answer.tenant not in deleted
    }
    return [Ground(service.bucket, tenant, job) for tenant, job in jobs]


def _deleted_tenants(service: Service) -> set[str]:
    return {
        key.split("/")[1]
        for key in service.bucket.keys("t/")
        if key.count("/") == 2 and key.endswith("/deleted")
    }


def _claim_of(held: dict[str, Any]) -> str:
    """The key of an attempt that a lease names."""
    place = f"{held['round']:02d}.{held['index']:05d}.{held['number']:02d}"
    return f"t/{held['tenant']}/jobs/{held['job']}/attempts/{place}"


def _kind(change: Applied) -> str:
    return line(change.body)["type"] if change.body else "removed"


def _changes(service: Service, part: str) -> Iterator[Applied]:
    return (change for change in service.bucket.journal if part in change.key)


def _by_key(service: Service, part: str) -> Iterator[tuple[str, list[Applied]]]:
    found: dict[str, list[Applied]] = defaultdict(list)
    for change in _changes(service, part):
        found[change.key].append(change)
    yield from found.items()


def _deleted(service: Service, key: str) -> bool:
    _, tenant, _, job, *_ = key.split("/")
    return Ground(service.bucket, tenant, job).deleted


def _concerns(key: str, what: str, tenant: str, job: str, index: int) -> bool:
    folder = f"t/{tenant}/" if what == "delete tenant" else f"t/{tenant}/jobs/{job}/"
    if not key.startswith(folder):
        return False
    return what != "delete item" or key.endswith(f".{index:05d}")


def _first_written(service: Service, claimed: Claimed, what: str) -> float | None:
    tenant, job, place, number = claimed
    key = f"t/{tenant}/jobs/{job}/attempts/{place}.{number:02d}{what}"
    return next((change.time for change in service.bucket.journal if change.key == key), None)


def _first_result(service: Service, claimed: Claimed) -> float | None:
    tenant, job, place, _ = claimed
    key = f"t/{tenant}/jobs/{job}/results/{place}"
    return next((change.time for change in service.bucket.journal if change.key == key), None)


def _ended(counts: dict[str, int]) -> dict[str, int]:
    """Without what a rollup knows to be cancelled: a worker that crashed right after it claimed
    such an item, too late, looks as if it was at it, until a lease is over.
    """
    vague = ("queued", "running", "cancelled")
    known = {state: count for state, count in counts.items() if state not in vague}
    return {**known, "vague": sum(counts[state] for state in vague)}


def _perform(service: Service, act: Callable[[Recovery], object]) -> None:
    process = service.world.process("checker", offset=0.0, rate=1.0)
    supervisor = Recovery(service.open_ledger(process))
    service.world.perform(process, lambda: act(supervisor))


def _counts(service: Service) -> dict[str, dict[str, int]]:
    process = service.world.process("checker", offset=0.0, rate=1.0)
    ledger = service.open_ledger(process)
    grounds = [ground for ground in accepted(service) if not ground.deleted]
    return service.world.perform(
        process,
        lambda: {
            ground.job: reading.view_job(ledger, ground.tenant, ground.job).counts.model_dump()
            for ground in grounds
        },
    )
