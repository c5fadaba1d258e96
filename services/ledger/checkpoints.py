"""Where an attempt has got to, for those who come after it."""

from dataclasses import dataclass

from services.errors import DamagedRecordError, SupersededError
from services.ledger.keys import ItemRef, JobKeys
from services.ledger.ledger import Ledger
from services.ledger.records import CheckpointRecord, pack, unpack


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Of the attempt `number`."""

    number: int
    step: int
    payload: bytes


class Checkpoints:
    """One attempt's own: nobody else writes them, and each goes on top of the one before, so that
    none that arrives late can overwrite a later one.
    """

    def __init__(self, ledger: Ledger, keys: JobKeys, place: ItemRef, number: int) -> None:
        self._ledger = ledger
        self._keys = keys
        self._place = place
        self._number = number
        self._key = keys.checkpoint(place, number)
        self._version = 0
        self._etag = ""

    def save(self, step: int, payload: bytes) -> None:
        """Raises: SupersededError if it was removed, because the item has ended."""
        record = CheckpointRecord(
            nonce=self._ledger.ids.nonce(), version=self._version + 1, step=step
        )
        body = pack(record, payload)
        self._version += 1
        if self._etag:
            etag = self._ledger.compare_and_swap(self._key, body, self._etag)
        else:
            etag = self._ledger.create_once(self._key, body)
        self._etag = etag or self._overwrite(body)

    def remove(self) -> None:
        """All checkpoints of the item, since it has ended."""
        if self._number > 1:
            remove_checkpoints(self._ledger, self._keys, self._place)
        elif self._version:
            self._ledger.store.delete(self._key)

    def _overwrite(self, body: bytes) -> str:
        """An earlier save of ours, whose answer was lost, stands there: go on from it."""
        for _ in range(3):
            found = self._ledger.find(self._key)
            if found is None:
                break
            head, there = found
            if there == body:
                return head.etag
            if etag := self._ledger.compare_and_swap(self._key, body, head.etag):
                return etag
        raise SupersededError(f"checkpoint {self._key!r} was removed: the item has ended")


def latest_checkpoint(ledger: Ledger, keys: JobKeys, place: ItemRef) -> Checkpoint | None:
    """The one that is furthest on, of all attempts at an item in this round."""
    found: list[Checkpoint] = []
    for head in ledger.heads(f"{keys.checkpoints}{place}."):
        if (there := ledger.find(head.key)) is None:
            continue
        try:
            record, payload = unpack(head.key, there[1], CheckpointRecord)
        except DamagedRecordError:
            continue  # An attempt from the start is better than none.
        found.append(Checkpoint(int(head.key.rpartition(".")[2]), record.step, payload))
    return max(found, key=lambda one: one.step, default=None)


def remove_checkpoints(ledger: Ledger, keys: JobKeys, place: ItemRef) -> None:
    """Of all attempts at an item in a round."""
    for head in ledger.heads(f"{keys.checkpoints}{place}."):
        ledger.store.delete(head.key)
