"""The recovery after a fault: how long until all interrupted items were claimed again."""

from dataclasses import dataclass, field

from chaos.history import History, HistoryEvent, attempt_of
from services.ledger.keys import ItemRef


@dataclass(frozen=True)
class FaultRecovery:
    """The recovery of one round. Times are in seconds since the first fault."""

    interrupted: int
    """Attempts that the fault interrupted."""
    claimed_after_s: float | None
    """Time until the last of their items was claimed again or had ended.

    None if there were none, or one was not claimed.
    """
    ready_after_s: float
    """Time until a supervisor and a worker with its model were there to claim them."""
    workers_left: int
    """Workers that were not hit."""
    recovered_after_s: dict[str, float] = field(default_factory=dict)
    """Time until each process that was hit did its work again, by name."""
    new_worker_after_s: float | None = None

    @property
    def ledger_s(self) -> float | None:
        """The part of the recovery that the lease has to account for."""
        if self.claimed_after_s is None:
            return None
        return max(0.0, self.claimed_after_s - self.ready_after_s)

    @property
    def is_complete(self) -> bool:
        return self.claimed_after_s is not None or not self.interrupted


def measure_recovery(history: History) -> FaultRecovery:
    """Measure the recovery by the observer's events. Raise IndexError if there was no fault."""
    faults = history.events("fault")
    since = faults[0].time
    workers_left = len(history.events("targets_chosen")[-1]["left"])
    interrupted = _interrupted_claims(history, faults)
    claimed = [_claimed_again_at(history, event) for event in interrupted]
    times = [time for time in claimed if time is not None]
    recovered = {event["name"]: event.time - since for event in history.events("recovered")}
    new = [event.time - since for event in history.events("worker_seen") if event.time > since]
    # With no worker left, the first new one has to load its model.
    ready = (recovered.get("supervisor", 0.0), 0.0 if workers_left else min(new, default=0.0))
    return FaultRecovery(
        interrupted=len(interrupted),
        claimed_after_s=max(times) - since if times and len(times) == len(claimed) else None,
        ready_after_s=max(ready),
        workers_left=workers_left,
        recovered_after_s=recovered,
        new_worker_after_s=min(new, default=None),
    )


def _interrupted_claims(history: History, faults: list[HistoryEvent]) -> list[HistoryEvent]:
    """Return the claims of workers that were hit, without the attempts that had ended by then."""
    hit_at = {worker: fault.time for fault in faults for worker in _workers_hit(history, fault)}
    return [
        event
        for event in history.events("claim_seen")
        if event["worker"] in hit_at and not _had_ended(history, event, hit_at[event["worker"]])
    ]


def _workers_hit(history: History, fault: HistoryEvent) -> set[str]:
    if fault["kind"] != "node":
        return set(fault["workers"])
    return {event["worker"] for event in history.events("worker_seen") if event.time < fault.time}


def _had_ended(history: History, claim: HistoryEvent, time: float) -> bool:
    job, item_ref, number = attempt_of(claim)
    ended_at = _result_seen_at(history, job, item_ref)
    attempt_ended = any(
        event.time <= time and attempt_of(event) == (job, item_ref, number)
        for event in history.events("attempt_end_seen")
    )
    return attempt_ended or (ended_at is not None and ended_at <= time)


def _claimed_again_at(history: History, claim: HistoryEvent) -> float | None:
    """Return when the item was claimed again, or had ended."""
    job, item_ref, number = attempt_of(claim)
    times = [
        event.time
        for event in history.events("claim_seen")
        if attempt_of(event)[:2] == (job, item_ref) and event["number"] > number
    ]
    if (ended_at := _result_seen_at(history, job, item_ref)) is not None:
        times.append(ended_at)
    ended_attempts = [attempt_of(event) for event in history.events("attempt_end_seen")]
    paused = {
        worker
        for fault in history.events("fault")
        if fault["kind"] == "paused"
        for worker in fault["workers"]
    }
    if attempt_of(claim) not in ended_attempts and claim["worker"] in paused:
        # Its worker was not declared dead, and goes on as soon as it continues.
        times += [event.time for event in history.events("continued")]
    return min(times, default=None)


def _result_seen_at(history: History, job: str, item_ref: ItemRef) -> float | None:
    key = history.keys(job).result(item_ref)
    return next(
        (event.time for event in history.events("result_seen") if event["key"] == key), None
    )
