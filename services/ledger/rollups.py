"""The states of a job's items, in few requests: the rollup, and what has ended since.

No object holds an item's state. It follows from which objects exist: an attempt, its end, a result,
a command. The *rollup* is a cache of the final states, one letter for each item and round, which
anyone may update by compare-and-swap; without it everything is read from the results. A result
changes only into a tombstone, so that a known final state stays true, and two rollups of a job
differ only in how much they know.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from services.contracts.jobs import ItemState
from services.errors import DamagedRecordError
from services.ledger.item_results import read_item_state
from services.ledger.jobs import JobCommands, read_commands, read_retried_items
from services.ledger.keys import BLOCK_SIZE, ItemBlock, ItemRef, JobKeys, parse_item_ref
from services.ledger.ledger import Ledger
from services.ledger.records import RollupRecord, pack, unpack

OPEN, ABSENT = ord("."), ord(" ")
"""The letters of an item that has not ended, and of one that is not in the round."""

_LETTERS = {
    ItemState.SUCCEEDED: ord("s"),
    ItemState.FAILED: ord("f"),
    ItemState.CANCELLED: ord("c"),
    ItemState.DELETED: ord("d"),
}
_ALL_LETTERS = bytes([OPEN, ABSENT, *_LETTERS.values()])
_STATES = {letter: state for state, letter in _LETTERS.items()}


class FinalStates:
    """The known final states of a job's `count` items, in each round."""

    def __init__(self, count: int, rounds: Iterable[bytes] = ()) -> None:
        self.count = count
        # A letter per item: 10,000 items are 10 KB, and `find` skips those that have ended without
        # a loop in Python.
        self.rounds = [bytearray(letters) for letters in rounds] or [bytearray(b"." * count)]

    def add_round(self, indices: Iterable[int]) -> None:
        """Add another round, of these items."""
        letters = bytearray([ABSENT]) * self.count
        for index in indices:
            letters[index] = OPEN
        self.rounds.append(letters)

    def record(self, item: ItemRef, state: ItemState) -> None:
        """Record the final state of an item in a round."""
        self.rounds[item.round][item.index] = _LETTERS[state]

    def open_items(self, block: ItemBlock) -> Iterator[int]:
        """Yield the indices of a block's items that are not known to have ended."""
        letters, end = self.rounds[block.round], (block.number + 1) * BLOCK_SIZE
        index = letters.find(OPEN, block.number * BLOCK_SIZE, end)
        while index >= 0:
            yield index
            index = letters.find(OPEN, index + 1, end)

    def open_blocks(self) -> list[ItemBlock]:
        """Return the blocks with items that are not known to have ended."""
        return [
            ItemBlock(round_, number)
            for round_, letters in enumerate(self.rounds)
            for number in range(-(-self.count // BLOCK_SIZE))
            if letters.find(OPEN, number * BLOCK_SIZE, (number + 1) * BLOCK_SIZE) >= 0
        ]

    def last_round(self, index: int) -> int:
        """Return the latest round that an item is in, which decides its state."""
        return next(
            round_
            for round_ in reversed(range(len(self.rounds)))
            if self.rounds[round_][index] != ABSENT
        )

    def state(self, index: int) -> ItemState | None:
        """Return an item's final state, or None if it is not known to have ended."""
        return _STATES.get(self.rounds[self.last_round(index)][index])

    def pack(self) -> bytes:
        """Return the payload of a rollup."""
        return b"\n".join(self.rounds)

    @classmethod
    def unpack(cls, payload: bytes, count: int) -> "FinalStates":
        """Read a rollup's payload; raise ValueError unless it has `count` letters a round."""
        rounds = payload.split(b"\n")
        # A letter that is none of ours stops `strip`, and so is left over.
        if any(len(letters) != count or letters.strip(_ALL_LETTERS) for letters in rounds):
            raise ValueError(f"the payload does not have a letter for each of {count} items")
        return cls(count, rounds)


@dataclass(frozen=True, slots=True)
class LatestAttempt:
    """The latest attempt at an item."""

    number: int
    ended: bool
    """Whether it ended without a result."""
    age: timedelta
    """How long ago it was claimed, or ended, when it was listed."""
    since: float
    """When that was, by `Ledger.clock`, or a little later.

    Not a time of the store: two of its times cannot be compared if its host's time has jumped.
    """


@dataclass(frozen=True, slots=True)
class AttemptScan:
    """The attempts and results of a block at one moment. Items that have neither are absent."""

    block: ItemBlock
    attempts: dict[int, LatestAttempt]
    results: frozenset[int]
    """The items that have ended."""

    def is_running(self, index: int) -> bool:
        """Return whether an attempt at an item is running."""
        latest = self.attempts.get(index)
        return index not in self.results and latest is not None and not latest.ended


def scan_attempts(ledger: Ledger, keys: JobKeys, block: ItemBlock) -> AttemptScan:
    """List the attempts and results of a block.

    Attempts are listed first: an item that has ended by then is then seen as ended. In the other
    order, a result between the two listings would make it look as if the attempt was running.
    """
    attempts = latest_attempts(ledger, keys, block)
    return AttemptScan(block, attempts, ended_items(ledger, keys, block))


def latest_attempts(ledger: Ledger, keys: JobKeys, block: ItemBlock) -> dict[int, LatestAttempt]:
    """Return the latest attempt at each item of a block that was ever claimed."""
    attempts: dict[int, LatestAttempt] = {}
    # Keys are listed in order, so that each attempt overwrites the one before, and its end itself.
    heads = ledger.heads(f"{keys.attempts}{block}")
    listed = ledger.clock()
    for head in heads:
        item, (number, *ended) = parse_item_ref(head.key[len(keys.attempts) :])
        since = listed - head.age.total_seconds()
        attempts[item.index] = LatestAttempt(int(number), bool(ended), head.age, since)
    return attempts


def ended_items(ledger: Ledger, keys: JobKeys, block: ItemBlock) -> frozenset[int]:
    """Return the items of a block that have a result."""
    names = (head.key[len(keys.results) :] for head in ledger.heads(f"{keys.results}{block}"))
    return frozenset(parse_item_ref(name)[0].index for name in names)


_WORTH_SAVING = 32
"""Results read beside the rollup from which on a reader updates it for the next ones."""


@dataclass
class ItemStates:
    """The states of a job's items at one moment, and the rollup that they were read from."""

    keys: JobKeys
    commands: JobCommands
    final: FinalStates
    scans: dict[ItemBlock, AttemptScan]
    """Scans of the blocks in which items may be open."""
    newly_ended: int = 0
    """Final states that the rollup did not have."""
    etag: str = ""
    """The rollup's ETag; empty if there is no rollup."""
    version: int = 0
    complete: bool = False
    """Whether the rollup says that all items have ended."""

    def state(self, index: int) -> ItemState:
        """Return an item's state."""
        # First, as the command stands before its tombstones are written.
        if self.commands.is_deleted(index):
            return ItemState.DELETED
        if final := self.final.state(index):
            return final
        item = ItemRef(self.final.last_round(index), index)
        scan = self.scans[item.block]
        if index in scan.attempts:
            return ItemState.RUNNING if scan.is_running(index) else ItemState.QUEUED
        return ItemState.CANCELLED if self.commands.cancelled else ItemState.QUEUED

    def states(self) -> Iterator[ItemState]:
        """Yield the states of all items, in order."""
        return (self.state(index) for index in range(self.final.count))

    def open_items(self) -> Iterator[tuple[ItemRef, AttemptScan]]:
        """Yield each item that has not ended in a round that it is in."""
        for block, scan in self.scans.items():
            for index in self.final.open_items(block):
                yield ItemRef(block.round, index), scan


def read_item_states(ledger: Ledger, keys: JobKeys, count: int) -> ItemStates:
    """Return the states of a job's `count` items.

    The commands are read before anything else. An item of a cancelled job that has no attempt in
    the scan will thus never run: a worker that claims it later sees the command.
    """
    states = _read_known_states(ledger, keys, count)
    blocks = states.final.open_blocks()
    scans = ledger.gather(lambda block: scan_attempts(ledger, keys, block), blocks)
    states.scans = dict(zip(blocks, scans, strict=True))
    ended = [item for item, scan in states.open_items() if item.index in scan.results]
    final = ledger.gather(lambda item: read_item_state(ledger, keys, item), ended)
    for item, state in zip(ended, final, strict=True):
        states.final.record(item, state)
    states.newly_ended = len(ended)
    return states


def read_final_states(ledger: Ledger, keys: JobKeys, count: int) -> tuple[JobCommands, FinalStates]:
    """Return a job's commands, and the final states that its rollup knows: enough to find work."""
    states = _read_known_states(ledger, keys, count)
    return states.commands, states.final


def save_rollup(ledger: Ledger, states: ItemStates, *, complete: bool) -> bool:
    """Write a rollup of these states; False if another process was faster."""
    record = RollupRecord(nonce=ledger.ids.nonce(), version=states.version + 1, complete=complete)
    body = pack(record, states.final.pack())
    if states.etag:
        return ledger.compare_and_swap(states.keys.rollup, body, states.etag) is not None
    return ledger.create_once(states.keys.rollup, body) is not None


def save_rollup_if_worthwhile(ledger: Ledger, states: ItemStates) -> None:
    """Update the rollup if a reader had to read many results that it lacks."""
    if states.newly_ended >= _WORTH_SAVING:
        save_rollup(ledger, states, complete=False)


def is_complete(ledger: Ledger, keys: JobKeys, commands: JobCommands, count: int) -> bool:
    """Return whether the rollup says that all items of every round have ended."""
    states = _read_rollup(ledger, keys, commands, count)
    return states.complete and len(states.final.rounds) > commands.retries


def _read_known_states(ledger: Ledger, keys: JobKeys, count: int) -> ItemStates:
    commands = read_commands(ledger, keys)
    states = _read_rollup(ledger, keys, commands, count)
    for round_ in range(len(states.final.rounds), commands.retries + 1):
        states.final.add_round(read_retried_items(ledger, keys, round_, count))
        # A retry was made since: the rollup does not know of its round.
        states.complete = False
    return states


def _read_rollup(ledger: Ledger, keys: JobKeys, commands: JobCommands, count: int) -> ItemStates:
    states = ItemStates(keys, commands, FinalStates(count), {})
    if not (found := ledger.find(keys.rollup)):
        return states
    head, body = found
    states.etag = head.etag
    # It is only a cache: a damaged one is replaced by the next rollup.
    with suppress(DamagedRecordError, ValueError):
        record, payload = unpack(keys.rollup, body, RollupRecord)
        states.final = FinalStates.unpack(payload, count)
        states.version, states.complete = record.version, record.complete
    return states
