"""Consistency of the store: what calls returned, against the server's journal."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable

from chaos.simulation.bucket import AppliedChange, Bucket
from chaos.simulation.recorder import Call, StoreRecorder
from services.errors import OutcomeUnknownError, PreconditionFailedError, UnavailableError


def inconsistencies(recorders: Iterable[StoreRecorder], bucket: Bucket) -> list[str]:
    """Return what any of the checks below finds."""
    recorders = list(recorders)
    return [
        line
        for check in (refused_by_own_write, returned_unwritten, applied_though_unavailable)
        for line in check(recorders, bucket)
    ]


def refused_by_own_write(recorders: Iterable[StoreRecorder], bucket: Bucket) -> list[str]:
    """Find calls that were refused by a write of their own.

    What counts is the object that was there when the last request of the call was served. Earlier
    objects do not: others may overwrite them between the refusal and the read for its cause.
    """
    history = _KeyHistory(bucket)
    found: list[str] = []
    for call in _calls(recorders):
        if call.error and issubclass(call.error, PreconditionFailedError) and call.requests:
            standing = history.standing(call.key, bucket.positions[call.requests[-1]])
            if standing and standing.request in call.requests:
                found.append(f"{call!r}, but it was its own request {standing.request}")
    return found


def returned_unwritten(recorders: Iterable[StoreRecorder], bucket: Bucket) -> list[str]:
    """Find writes that returned though their bytes were never written on their condition."""
    written: dict[tuple[str, bytes], list[AppliedChange]] = defaultdict(list)
    for change in bucket.journal:
        if change.kind == "put":
            written[change.key, change.body].append(change)
    return [
        f"{call!r}, but nobody wrote these bytes on this condition"
        for call in _calls(recorders)
        if call.returned
        and call.operation in ("create", "replace", "put")
        and not any(_is_of(change, call) for change in written.get((call.key, call.body), ()))
    ]


def applied_though_unavailable(recorders: Iterable[StoreRecorder], bucket: Bucket) -> list[str]:
    """Find calls that reported no change though a request was applied, even later."""
    applied = {change.request for change in bucket.journal}
    return [
        f"{call!r}, but {sorted(applied.intersection(call.requests))} were applied"
        for call in _calls(recorders)
        if call.error
        and issubclass(call.error, UnavailableError)
        and not issubclass(call.error, OutcomeUnknownError)
        and not applied.isdisjoint(call.requests)
    ]


class _KeyHistory:
    """The journal by keys."""

    def __init__(self, bucket: Bucket) -> None:
        self._places: dict[str, list[int]] = defaultdict(list)
        self._journal = bucket.journal
        for place, change in enumerate(bucket.journal):
            self._places[change.key].append(place)

    def standing(self, key: str, position: int) -> AppliedChange | None:
        """Return the write that a key had after so many changes of the journal."""
        places = self._places.get(key, [])
        index = bisect_left(places, position)
        change = self._journal[places[index - 1]] if index else None
        return change if change and change.kind == "put" else None


def _is_of(change: AppliedChange, call: Call) -> bool:
    if call.ended is None or change.time > call.ended or change.etag != call.result:
        return False
    return call.operation == "put" or change.previous_etag == call.expected


def _calls(recorders: Iterable[StoreRecorder]) -> Iterable[Call]:
    """Yield each call once; a recorder and its recorder for leases share their calls."""
    for calls in {id(recorder.calls): recorder.calls for recorder in recorders}.values():
        yield from calls
