"""Checkpoints: the training state of an attempt, from which the next attempt resumes."""

from dataclasses import dataclass

from services.errors import DamagedRecordError, SupersededError
from services.ledger.keys import ItemRef, JobKeys
from services.ledger.ledger import Ledger
from services.ledger.records import CheckpointRecord, pack, unpack


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint of the attempt `number`."""

    number: int
    step: int
    payload: bytes


class Checkpoints:
    """The checkpoints of one attempt, which alone writes them. Not thread-safe.

    Each replaces the one before by compare-and-swap, so that a delayed request cannot overwrite a
    later checkpoint.
    """

    def __init__(self, ledger: Ledger, keys: JobKeys, item: ItemRef, number: int) -> None:
        self._ledger = ledger
        self._keys = keys
        self._item = item
        self._number = number
        self._key = keys.checkpoint(item, number)
        self._version = 0
        self._etag = ""

    def save(self, step: int, payload: bytes) -> None:
        """Save a checkpoint, or raise SupersededError if it was removed as the item has ended."""
        record = CheckpointRecord(
            nonce=self._ledger.ids.nonce(), version=self._version + 1, step=step
        )
        body = pack(record, payload)
        # Counted before the write, which may be applied although it fails: no two writes have the
        # same bytes.
        self._version += 1
        if self._etag:
            etag = self._ledger.compare_and_swap(self._key, body, self._etag)
        else:
            etag = self._ledger.create_once(self._key, body)
        self._etag = etag or self._overwrite(body)

    def remove(self) -> None:
        """Remove all checkpoints of the item, as it has ended."""
        # A listing only where earlier attempts may have left some: most items are attempted once,
        # and need at most one request here.
        if self._number > 1:
            remove_checkpoints(self._ledger, self._keys, self._item)
        elif self._version:
            self._ledger.store.delete(self._key)

    def _overwrite(self, body: bytes) -> str:
        """Replace whatever version stands there, and return the new ETag.

        Only this attempt writes the key, so that an unexpected version is an earlier save of ours
        whose answer was lost.
        """
        for _ in range(3):
            found = self._ledger.find(self._key)
            if found is None:
                break
            head, stored = found
            if stored == body:
                return head.etag
            if etag := self._ledger.compare_and_swap(self._key, body, head.etag):
                return etag
        raise SupersededError(f"checkpoint {self._key!r} was removed: the item has ended")


def latest_checkpoint(ledger: Ledger, keys: JobKeys, item: ItemRef) -> Checkpoint | None:
    """Return the checkpoint with the most steps among all attempts at an item in a round."""
    found: list[Checkpoint] = []
    for head in ledger.heads(f"{keys.checkpoints}{item}."):
        if (stored := ledger.find(head.key)) is None:
            continue
        try:
            record, payload = unpack(head.key, stored[1], CheckpointRecord)
        except DamagedRecordError:
            continue  # An attempt from the start is better than none.
        found.append(Checkpoint(int(head.key.rpartition(".")[2]), record.step, payload))
    return max(found, key=lambda checkpoint: checkpoint.step, default=None)


def remove_checkpoints(ledger: Ledger, keys: JobKeys, item: ItemRef) -> None:
    """Remove the checkpoints of all attempts at an item in a round."""
    for head in ledger.heads(f"{keys.checkpoints}{item}."):
        ledger.store.delete(head.key)
