"""Whether a store told its callers the truth: their witnesses against the server's journal."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable

from chaos.simulation.bucket import Applied, Bucket
from chaos.simulation.recorder import Call, Witness
from services.errors import OutcomeUnknownError, PreconditionFailedError, UnavailableError


def untruths(witnesses: Iterable[Witness], bucket: Bucket) -> list[str]:
    """Everything that any check below finds."""
    witnesses = list(witnesses)
    return [
        line
        for check in (lost_to_itself, returned_unwritten, applied_though_unavailable)
        for line in check(witnesses, bucket)
    ]


def lost_to_itself(witnesses: Iterable[Witness], bucket: Bucket) -> list[str]:
    """Calls that were refused though what stood there, when their last request was served, was
    their own write.

    What stood there before that does not count: others may overwrite between the refusal and the
    look at what stands there.
    """
    history = _History(bucket)
    found: list[str] = []
    for call in _calls(witnesses):
        if call.error and issubclass(call.error, PreconditionFailedError) and call.requests:
            standing = history.standing(call.key, bucket.positions[call.requests[-1]])
            if standing and standing.request in call.requests:
                found.append(f"{call!r}, but it was its own request {standing.request}")
    return found


def returned_unwritten(witnesses: Iterable[Witness], bucket: Bucket) -> list[str]:
    """Writes that returned though their bytes were never written on the condition asked for."""
    written: dict[tuple[str, bytes], list[Applied]] = defaultdict(list)
    for change in bucket.journal:
        if change.kind == "put":
            written[change.key, change.body].append(change)
    return [
        f"{call!r}, but nobody wrote these bytes on this condition"
        for call in _calls(witnesses)
        if call.returned
        and call.operation in ("create", "replace", "put")
        and not any(_is_of(change, call) for change in written.get((call.key, call.body), ()))
    ]


def applied_though_unavailable(witnesses: Iterable[Witness], bucket: Bucket) -> list[str]:
    """Calls that said nothing was changed, though one of their requests was applied, even later."""
    applied = {change.request for change in bucket.journal}
    return [
        f"{call!r}, but {sorted(applied.intersection(call.requests))} were applied"
        for call in _calls(witnesses)
        if call.error
        and issubclass(call.error, UnavailableError)
        and not issubclass(call.error, OutcomeUnknownError)
        and not applied.isdisjoint(call.requests)
    ]


class _History:
    """The journal by keys."""

    def __init__(self, bucket: Bucket) -> None:
        self._places: dict[str, list[int]] = defaultdict(list)
        self._journal = bucket.journal
        for place, change in enumerate(bucket.journal):
            self._places[change.key].append(place)

    def standing(self, key: str, position: int) -> Applied | None:
        """The write that stood there after so many changes of the journal."""
        places = self._places.get(key, [])
        index = bisect_left(places, position)
        change = self._journal[places[index - 1]] if index else None
        return change if change and change.kind == "put" else None


def _is_of(change: Applied, call: Call) -> bool:
    if call.ended is None or change.time > call.ended or change.etag != call.result:
        return False
    return call.operation == "put" or change.previous_etag == call.expected


def _calls(witnesses: Iterable[Witness]) -> Iterable[Call]:
    """Each once: a witness and its one for leases have the same."""
    for calls in {id(witness.calls): witness.calls for witness in witnesses}.values():
        yield from calls
