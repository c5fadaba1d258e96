"""Invariants of recovery: deleted bytes are gone, and lost caches are rebuilt.

These checks run recovery themselves, and so change the bucket.
"""

from collections.abc import Callable, Iterator

from chaos.simulation.ground_truth import deleted_tenants, parse_record
from chaos.simulation.simulated_service import SimulatedService
from chaos.simulation.worker_process import secret
from services.contracts.jobs import ItemState
from services.ledger import queries
from services.ledger.recovery import Recovery


def deleted_bytes_are_gone(service: SimulatedService) -> Iterator[str]:
    """Check that after a deletion and a sweep no bytes are left that were made of it."""
    _perform(service, lambda recovery: recovery.sweep())
    secrets = [
        secret(truth.job, index)
        for truth in service.accepted_jobs()
        for index in range(50)
        if truth.deleted or truth.item_deleted(index)
    ]
    for key in service.bucket.keys(""):
        version = service.bucket.get(key)
        assert version
        for item_secret in secrets:
            if item_secret in version.body:
                yield f"{key} still has what was made of {item_secret!r}"
    for tenant in deleted_tenants(service.bucket):
        for key in service.bucket.keys(f"t/{tenant}/"):
            version = service.bucket.get(key)
            assert version
            is_command = key == f"t/{tenant}/deleted" or "/control/" in key
            if not is_command and parse_record(version.body)["type"] != "deleted":
                yield f"{key} is left of {tenant}, who was deleted"


def rebuilt_from_nothing(service: SimulatedService) -> Iterator[str]:
    """Check that without queue entries and rollups a sweep and a pass restore all states."""
    before = _counts(service)
    for key in service.bucket.keys(""):
        if key.startswith("queue/") or key.endswith("/rollup"):
            service.bucket.delete(0, "checker", key, None)
    without_caches = _counts(service)
    _perform(service, lambda recovery: recovery.sweep())
    _perform(service, lambda recovery: recovery.recover())
    for job, counts in _counts(service).items():
        if before[job] != counts or _ended(without_caches[job]) != _ended(counts):
            yield f"job {job}: {before[job]}, then {without_caches[job]}, then {counts}"
    for truth in service.accepted_jobs():
        states = [truth.state(index) for index in range(0 if truth.deleted else truth.count)]
        raw = {state: states.count(state) for state in ItemState if state in states}
        counted = {s: n for s in ItemState if (n := before.get(truth.job, {}).get(s.value))}
        if not truth.deleted and raw != counted:
            yield f"job {truth.job} is counted as {counted}, and is {raw}"
    # A supervisor of the service may have been in the middle of a sweep.
    _perform(service, lambda recovery: recovery.recover())
    if left := service.bucket.keys("queue/"):
        yield f"finished jobs are still queued: {left}"


def _ended(counts: dict[str, int]) -> dict[str, int]:
    """Return the counts of ended items, with the undecided ones in one.

    A rollup may count an item as cancelled that a worker claimed too late, and crashed: without the
    rollup it seems to run until the lease expires.
    """
    vague = ("queued", "running", "cancelled")
    known = {state: count for state, count in counts.items() if state not in vague}
    return {**known, "vague": sum(counts[state] for state in vague)}


def _perform(service: SimulatedService, action: Callable[[Recovery], object]) -> None:
    process = service.world.process("checker", offset=0.0, rate=1.0)
    recovery = Recovery(service.open_ledger(process))
    service.world.perform(process, lambda: action(recovery))


def _counts(service: SimulatedService) -> dict[str, dict[str, int]]:
    process = service.world.process("checker", offset=0.0, rate=1.0)
    ledger = service.open_ledger(process)
    truths = [truth for truth in service.accepted_jobs() if not truth.deleted]
    return service.world.perform(
        process,
        lambda: {
            truth.job: queries.view_job(ledger, truth.tenant, truth.job).counts.model_dump()
            for truth in truths
        },
    )
