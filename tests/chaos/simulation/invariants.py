"""The invariants of the ledger, each as a check of a simulated service.

A check yields the violations that it finds. Most read the journal of the bucket, which has all
changes in order; the others compare it with the history of the processes.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from chaos.simulation.bucket import AppliedChange
from chaos.simulation.consistency import inconsistencies
from chaos.simulation.ground_truth import GroundTruth, parse_record
from chaos.simulation.history import AttemptKey
from chaos.simulation.recovery_invariants import deleted_bytes_are_gone, rebuilt_from_nothing
from chaos.simulation.simulated_service import RECOVERY_INTERVAL_S, SimulatedService
from services.contracts.jobs import ItemState

TAKEOVER_MARGIN_S = RECOVERY_INTERVAL_S + 2.0 + 8.0
"""Time after the end of a lease in which the attempts of its dead worker are ended.

It is from one recovery pass to the next, two roundings to whole seconds, and the requests of a
sweep and two passes.
"""


def find_violations(service: SimulatedService) -> list[str]:
    """Return what all checks find. The last two change the bucket."""
    return [
        f"{check.__name__}: {found}"
        for check in (*CHECKS, deleted_bytes_are_gone, rebuilt_from_nothing)
        for found in check(service)
    ]


def accepted_jobs_end(service: SimulatedService) -> Iterator[str]:
    """Check that every accepted job exists once and ends, and that no process saw an anomaly."""
    yield from service.history.anomalies
    yield from service.open_items()
    for truth in service.accepted_jobs():
        if truth.body("spec") is None:
            yield f"{truth.tenant}'s job {truth.job} is gone"
    for key, changes in _by_key(service, "/spec"):
        if not key.endswith("/spec"):
            continue
        kinds = [_kind(change) for change in changes]
        redactions = kinds.count("job") - 1
        commands = list(_changes(service, key.replace("/spec", "/control/item.")))
        erasures = len({command.key for command in commands})
        if kinds[1 + redactions :] not in ([], ["deleted"]) or not 0 <= redactions <= erasures:
            yield f"{key} was {', then '.join(kinds)}"


def results_are_final(service: SimulatedService) -> Iterator[str]:
    """Check that a result changes only to a tombstone, and a tombstone never."""
    for key, changes in _by_key(service, "/results/"):
        kinds = [_kind(change) for change in changes]
        if kinds not in (["result"], ["deleted"], ["result", "deleted"]):
            yield f"{key} was {', then '.join(kinds)}"


def results_are_valid(service: SimulatedService) -> Iterator[str]:
    """Check that a success has its digest's bytes, and comes from a claim of its worker."""
    claims: dict[str, tuple[float, str]] = {}
    for change in _changes(service, "/attempts/"):
        if change.body and not change.key.endswith(".ended"):
            # The first one counts: a claim of a deleted job is removed, and may be made again.
            claims.setdefault(change.key, (change.time, parse_record(change.body)["worker"]))
    for change in _changes(service, "/results/"):
        record = parse_record(change.body) if change.body else {}
        if record.get("status") != "succeeded":
            continue
        payload = change.body.partition(b"\n")[2]
        if hashlib.sha256(payload).hexdigest() != record["sha256"]:
            yield f"{change.key} has other bytes than it says"
        claim = change.key.replace("/results/", "/attempts/") + f".{record['attempt']:02d}"
        time, worker = claims.get(claim, (float("inf"), ""))
        if time > change.time or not record["nonce"].startswith(f"{worker}."):
            yield f"{change.key} came of an attempt that its worker had not claimed"


def claims_are_single(service: SimulatedService) -> Iterator[str]:
    """Check that an attempt is claimed once, ended once, and started only by its claimant."""
    for start in service.history.starts:
        tenant, job, item_ref, number = start.attempt
        key = f"t/{tenant}/jobs/{job}/attempts/{item_ref}.{number:02d}"
        claims = [c for c in service.bucket.journal if c.key == key and c.body]
        if not any(parse_record(claim.body)["worker"] == start.worker for claim in claims):
            yield f"{start} was claimed by another"
    for key, changes in _by_key(service, "/attempts/"):
        if sum(bool(change.body) for change in changes) > 1 and not _deleted(service, key):
            yield f"{key} was written {len(changes)} times"


def nothing_starts_after_a_command(service: SimulatedService) -> Iterator[str]:
    """Check that no attempt starts that was claimed after a cancellation or deletion."""
    written = {change.key: change.time for change in reversed(service.bucket.journal)}
    for start in service.history.starts:
        tenant, job, item_ref, number = start.attempt
        folder = f"t/{tenant}/jobs/{job}/"
        claim = written.get(f"{folder}attempts/{item_ref}.{number:02d}", float("inf"))
        for command in ("cancel", "deleted", f"item.{item_ref.index:05d}"):
            if written.get(f"{folder}control/{command}", float("inf")) < claim:
                yield f"{start} was claimed at {claim:.3f}, after control/{command}"


def deletions_hold(service: SimulatedService) -> Iterator[str]:
    """Check that after an acknowledged deletion no result exists or appears."""
    for completion in service.history.completions:
        if not completion.operation.startswith(("delete", "erase")):
            continue
        for key, changes in _by_key(service, "/results/"):
            if not _concerns(
                key, completion.operation, completion.tenant, completion.job, completion.index
            ):
                continue
            # What was there at the acknowledgement, and what came later.
            last = [change for change in changes if change.time <= completion.time][-1:]
            for change in (*last, *(later for later in changes if later.time > completion.time)):
                if _kind(change) not in ("deleted", "removed"):
                    yield f"{key} at {change.time:.3f}, though {completion}"


def erasures_hold(service: SimulatedService) -> Iterator[str]:
    """Check that after an acknowledged erasure no spec has the item's id or work."""
    for completion in service.history.completions:
        if completion.operation != "erase item":
            continue
        truth = GroundTruth(service.bucket, completion.tenant, completion.job)
        spec = truth.body("spec")
        if spec and not truth.deleted:
            item = truth.item(completion.index)
            if item != {"name": f"erased-{completion.index}", "work": {}}:
                yield f"{item} is in a spec, though {completion}"


def work_is_not_repeated(service: SimulatedService) -> Iterator[str]:
    """Check that an attempt resumes from the checkpoints acknowledged before its claim."""
    written = {change.key: change.time for change in reversed(service.bucket.journal)}
    for start in service.history.starts:
        tenant, job, item_ref, number = start.attempt
        folder = f"t/{tenant}/jobs/{job}/"
        claim = written.get(f"{folder}attempts/{item_ref}.{number:02d}", float("inf"))
        if written.get(f"{folder}results/{item_ref}", float("inf")) <= start.time:
            continue  # It has ended meanwhile, and its checkpoints are gone.
        for saved in service.history.checkpoints.get((tenant, job, item_ref), ()):
            if saved.attempt[3] < number and saved.time <= claim and saved.step > start.step:
                yield f"{start} was claimed at {claim:.3f}, after {saved}"


def leases_last(service: SimulatedService) -> Iterator[str]:
    """Check that no lease is broken before it expires, or changes after its end."""
    for key, changes in _by_key(service, "service/workers/"):
        for before, after in pairwise(changes):
            if not after.body:
                continue
            state = parse_record(after.body)["state"]
            if parse_record(before.body)["state"] != "held":
                yield f"{key} was {parse_record(before.body)['state']}, then {state}"
            if state == "broken" and after.time - before.time <= service.config.lease_s:
                yield f"{key} was broken after {after.time - before.time:.3f} s"


def live_attempts_are_not_ended(service: SimulatedService) -> Iterator[str]:
    """Check that others end an attempt only when its worker's lease is not held any more.

    An attempt may be ended as released, too, if a held lease does not name it.
    """
    held: dict[str, list[dict[str, Any]]] = {}
    claims: dict[str, tuple[str, str]] = {}
    for change in service.bucket.journal:
        if change.key.startswith("service/workers/"):
            record: dict[str, Any] = (
                parse_record(change.body) if change.body else {"state": "removed"}
            )
            worker = change.key.rpartition("/")[2]
            held.pop(worker, None)
            if record["state"] == "held":
                held[worker] = record["attempts"]
        elif "/attempts/" in change.key and change.body:
            record = parse_record(change.body)
            if record["type"] == "claim":
                claims[change.key] = record["worker"], change.process
                continue
            # A worker may end its own attempts; deletion ends those of everybody.
            claim = change.key.removesuffix(".ended")
            worker, process = claims[claim]
            if worker not in held or change.process == process or _deleted(service, change.key):
                continue
            if record["cause"] == "lost" or any(
                _claim_of(other) == claim for other in held[worker]
            ):
                yield f"{claim} was {record['cause']} at {change.time:.3f}, though {worker} lives"


def failures_have_causes(service: SimulatedService) -> Iterator[str]:
    """Check that items fail as scripted, or because their attempts were lost often enough.

    While nothing but poison kills or delays a process, no item fails because of another.
    """
    quiet = not (service.faults.crash or service.faults.pause or service.faults.table("write"))
    for truth in service.accepted_jobs():
        for index in range(0 if truth.deleted else truth.count):
            if truth.item_deleted(index):
                continue
            script = truth.work(index)["script"]
            for round_ in truth.rounds(index):
                record = truth.result(round_, index)
                if record is None or record["type"] != "result":
                    continue
                if record["status"] == "succeeded" and script in ("poison", "bad"):
                    yield f"item {index} of {truth.job} succeeded, though it is {script}"
                if record["status"] != "failed" or script == "bad":
                    continue
                counted = [e for e in truth.ends(round_, index) if e["cause"] != "released"]
                final = record["reason"] == "out of memory"
                if len(counted) + final < truth.max_attempts:
                    yield f"item {index} of {truth.job} failed after {len(counted)}: {record}"
                if quiet and script == "ok" and truth.max_attempts > 1 and truth.tenant != "late":
                    yield f"item {index} of {truth.job} failed beside poison: {record}"


def last_attempts_are_isolated(service: SimulatedService) -> Iterator[str]:
    """Check that what may be poison runs isolated, and nothing else does."""
    truths = {(truth.tenant, truth.job): truth for truth in service.accepted_jobs()}
    for start in service.history.starts:
        tenant, job, item_ref, number = start.attempt
        if start.isolated and start.others:
            yield f"{start} has {start.others} other attempts beside it"
        truth = truths.get((tenant, job))
        # A deletion removes the ends of attempts, too.
        if truth is None or truth.deleted or truth.item_deleted(item_ref.index):
            continue
        causes = truth.causes(item_ref.round, item_ref.index, number)
        counted = [cause for cause in causes if cause != "released"]
        # With a single attempt there is no last one to protect: none is isolated then.
        last = 0 < len(counted) == truth.max_attempts - 1
        if start.isolated != (last or causes.count("released") >= 8):
            yield f"{start} came after {causes}"


def takeover_is_quick(service: SimulatedService) -> Iterator[str]:
    """Check that the items of a killed worker are taken over soon if nothing else is wrong."""
    if service.history.last_kill is None:
        return
    killed, worker, running = service.history.last_kill
    # A renewal that was under way arrives, though its worker is dead.
    renewals = (
        c.time
        for c in service.bucket.journal
        if c.key.endswith(worker) and c.body and parse_record(c.body)["state"] == "held"
    )
    due = max([killed, *renewals]) + service.config.lease_s + TAKEOVER_MARGIN_S
    for key in running:
        ended = _first_written(service, key, ".ended")
        unneeded = ended is None and _first_result(service, key) is not None
        if not unneeded and (ended is None or ended > due):
            yield f"{key} of a worker killed at {killed:.1f} was ended at {ended}"


def store_is_consistent(service: SimulatedService) -> Iterator[str]:
    """Check that the store never blames others for its own write, and the like."""
    yield from inconsistencies(service.recorders, service.bucket)


def observations_are_ordered(service: SimulatedService) -> Iterator[str]:
    """Check that what a client saw of an item stays true for later observations."""
    by_job = defaultdict(list)
    for observation in service.history.observations:
        by_job[observation.tenant, observation.job].append(observation)
    for observations in by_job.values():
        for before in observations:
            for after in observations:
                if after.invoked_at < before.time:
                    continue
                for index, (was, is_) in enumerate(zip(before.states, after.states, strict=True)):
                    if is_ not in _AFTER.get(was, _ANY):
                        yield f"item {index} of {before.job} was {was}, then {is_}"


CHECKS: tuple[Callable[[SimulatedService], Iterator[str]], ...] = (
    accepted_jobs_end,
    results_are_final,
    results_are_valid,
    claims_are_single,
    nothing_starts_after_a_command,
    deletions_hold,
    erasures_hold,
    work_is_not_repeated,
    leases_last,
    live_attempts_are_not_ended,
    failures_have_causes,
    last_attempts_are_isolated,
    takeover_is_quick,
    store_is_consistent,
    observations_are_ordered,
)

_ANY = frozenset(ItemState)
_AFTER = {
    ItemState.SUCCEEDED: {ItemState.SUCCEEDED, ItemState.DELETED},
    ItemState.CANCELLED: _ANY - {ItemState.SUCCEEDED, ItemState.FAILED},
    ItemState.DELETED: {ItemState.DELETED},
}


def _claim_of(held: dict[str, Any]) -> str:
    """Return the key of an attempt that a lease names."""
    item_ref = f"{held['round']:02d}.{held['index']:05d}.{held['number']:02d}"
    return f"t/{held['tenant']}/jobs/{held['job']}/attempts/{item_ref}"


def _kind(change: AppliedChange) -> str:
    return parse_record(change.body)["type"] if change.body else "removed"


def _changes(service: SimulatedService, part: str) -> Iterator[AppliedChange]:
    return (change for change in service.bucket.journal if part in change.key)


def _by_key(service: SimulatedService, part: str) -> Iterator[tuple[str, list[AppliedChange]]]:
    found: dict[str, list[AppliedChange]] = defaultdict(list)
    for change in _changes(service, part):
        found[change.key].append(change)
    yield from found.items()


def _deleted(service: SimulatedService, key: str) -> bool:
    _, tenant, _, job, _, name = key.split("/")
    truth = GroundTruth(service.bucket, tenant, job)
    return truth.deleted or truth.item_deleted(int(name.split(".")[1]))


def _concerns(key: str, operation: str, tenant: str, job: str, index: int) -> bool:
    folder = f"t/{tenant}/" if operation == "delete tenant" else f"t/{tenant}/jobs/{job}/"
    if not key.startswith(folder):
        return False
    return operation not in ("delete item", "erase item") or key.endswith(f".{index:05d}")


def _first_written(service: SimulatedService, attempt: AttemptKey, suffix: str) -> float | None:
    tenant, job, item_ref, number = attempt
    key = f"t/{tenant}/jobs/{job}/attempts/{item_ref}.{number:02d}{suffix}"
    return next((change.time for change in service.bucket.journal if change.key == key), None)


def _first_result(service: SimulatedService, attempt: AttemptKey) -> float | None:
    tenant, job, item_ref, _ = attempt
    key = f"t/{tenant}/jobs/{job}/results/{item_ref}"
    return next((change.time for change in service.bucket.journal if change.key == key), None)
