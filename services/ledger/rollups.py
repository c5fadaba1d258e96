"""How a job stands, in few requests: what the rollup knows, and what has ended since.

The rollup is a cache that anyone may bring up to date, by a swap. Without it everything is found
out anew from the results.

Which items have ended, and how: a letter an item and round, as the rollup keeps them.

Results never change but to be deleted, so what is once known of an item stays known; two rollups of
a job differ only in how much they know yet.

What exists of a thousand items, and so how each of them stands.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.contracts.jobs import ItemState
from services.errors import DamagedRecordError
from services.ledger.jobs import JobCommands, read_commands, read_retried_items
from services.ledger.keys import BLOCK_SIZE, ItemBlock, ItemRef, JobKeys, parse_item_ref
from services.ledger.ledger import Ledger
from services.ledger.records import RollupRecord, pack, unpack
from services.ledger.results import read_item_state

OPEN, ABSENT = ord("."), ord(" ")
_LETTERS = {
    ItemState.SUCCEEDED: ord("s"),
    ItemState.FAILED: ord("f"),
    ItemState.CANCELLED: ord("c"),
    ItemState.DELETED: ord("d"),
}
_ALL = bytes([OPEN, ABSENT, *_LETTERS.values()])
_STATES = {letter: state for state, letter in _LETTERS.items()}


class FinalStates:
    """How the `count` items of a job have ended, in each round they are in."""

    def __init__(self, count: int, rounds: Iterable[bytes] = ()) -> None:
        self.count = count
        self.rounds = [bytearray(letters) for letters in rounds] or [bytearray(b"." * count)]

    def add_round(self, members: Iterable[int]) -> None:
        """Another round, of these items."""
        letters = bytearray([ABSENT]) * self.count
        for index in members:
            letters[index] = OPEN
        self.rounds.append(letters)

    def record(self, place: ItemRef, state: ItemState) -> None:
        self.rounds[place.round][place.index] = _LETTERS[state]

    def open_items(self, block: ItemBlock) -> Iterator[int]:
        """Items of a block that are not known to have ended."""
        letters, end = self.rounds[block.round], (block.number + 1) * BLOCK_SIZE
        index = letters.find(OPEN, block.number * BLOCK_SIZE, end)
        while index >= 0:
            yield index
            index = letters.find(OPEN, index + 1, end)

    def open_blocks(self) -> list[ItemBlock]:
        """Those with any such item."""
        return [
            ItemBlock(round_, number)
            for round_, letters in enumerate(self.rounds)
            for number in range(-(-self.count // BLOCK_SIZE))
            if letters.find(OPEN, number * BLOCK_SIZE, (number + 1) * BLOCK_SIZE) >= 0
        ]

    def last_round(self, index: int) -> int:
        """The latest round that an item is in: the one that counts."""
        return next(
            round_
            for round_ in reversed(range(len(self.rounds)))
            if self.rounds[round_][index] != ABSENT
        )

    def state(self, index: int) -> ItemState | None:
        """How an item has ended in its latest round; None: it has not, as far as is known."""
        return _STATES.get(self.rounds[self.last_round(index)][index])

    def pack(self) -> bytes:
        return b"\n".join(self.rounds)

    @classmethod
    def unpack(cls, payload: bytes, count: int) -> "FinalStates":
        """Raises: ValueError unless it has `count` letters a round."""
        rounds = payload.split(b"\n")
        if any(len(letters) != count or letters.strip(_ALL) for letters in rounds):
            raise ValueError(f"these are no letters of {count} items")
        return cls(count, rounds)


@dataclass(frozen=True, slots=True)
class LatestAttempt:
    """The latest attempt at an item."""

    number: int
    ended: bool
    """It has ended, and no result came of it."""
    since: datetime
    """When it was claimed, or ended, by the store's clock."""
    age: timedelta
    """How long that was ago."""


@dataclass(frozen=True, slots=True)
class AttemptScan:
    """A block at one moment; what has no attempt and no result is not in it."""

    block: ItemBlock
    attempts: dict[int, LatestAttempt]
    results: frozenset[int]
    """Items that have ended."""

    def is_running(self, index: int) -> bool:
        standing = self.attempts.get(index)
        return index not in self.results and standing is not None and not standing.ended


def scan_attempts(ledger: Ledger, keys: JobKeys, block: ItemBlock) -> AttemptScan:
    """Attempts first, then results: what had ended when its attempt was listed, is seen so."""
    attempts = latest_attempts(ledger, keys, block)
    return AttemptScan(block, attempts, ended_items(ledger, keys, block))


def latest_attempts(ledger: Ledger, keys: JobKeys, block: ItemBlock) -> dict[int, LatestAttempt]:
    """Of each item that was ever claimed."""
    attempts: dict[int, LatestAttempt] = {}
    for head in ledger.heads(f"{keys.attempts}{block}"):
        place, (number, *ended) = parse_item_ref(head.key[len(keys.attempts) :])
        attempts[place.index] = LatestAttempt(
            int(number), bool(ended), head.last_modified, head.age
        )
    return attempts


def ended_items(ledger: Ledger, keys: JobKeys, block: ItemBlock) -> frozenset[int]:
    """Items with a result."""
    names = (head.key[len(keys.results) :] for head in ledger.heads(f"{keys.results}{block}"))
    return frozenset(parse_item_ref(name)[0].index for name in names)


_WORTH_SAVING = 32
"""Results that a reader found beside the rollup, before it saves others the trouble."""


@dataclass
class ItemStates:
    """A job at one moment, and the rollup that it was read from."""

    keys: JobKeys
    commands: JobCommands
    final: FinalStates
    scans: dict[ItemBlock, AttemptScan]
    """Of blocks in which something may be open."""
    newly_ended: int = 0
    """Ends that the rollup did not have."""
    etag: str = ""
    """Of the rollup; empty: there is none."""
    version: int = 0
    complete: bool = False
    """The rollup says that all has ended."""

    def state(self, index: int) -> ItemState:
        """How an item stands."""
        if self.commands.is_deleted(index):
            return ItemState.DELETED
        if ended := self.final.state(index):
            return ended
        place = ItemRef(self.final.last_round(index), index)
        if place.index in self.scans[place.block].attempts:
            if self.scans[place.block].is_running(index):
                return ItemState.RUNNING
            return ItemState.QUEUED
        return ItemState.CANCELLED if self.commands.cancelled else ItemState.QUEUED

    def states(self) -> Iterator[ItemState]:
        return (self.state(index) for index in range(self.final.count))

    def open_items(self) -> Iterator[tuple[ItemRef, AttemptScan]]:
        """Items that have not ended in a round, though they are in it."""
        for block, survey in self.scans.items():
            for index in self.final.open_items(block):
                yield ItemRef(block.round, index), survey


def read_item_states(ledger: Ledger, keys: JobKeys, count: int) -> ItemStates:
    """How a job of `count` items stands. The orders are read before all else, so that an item
    without attempt in a cancelled job will never do anything.
    """
    standings = _read_known_states(ledger, keys, count)
    outcomes = standings.final
    blocks = outcomes.open_blocks()
    surveys = ledger.gather(lambda block: scan_attempts(ledger, keys, block), blocks)
    standings.scans = dict(zip(blocks, surveys, strict=True))
    new = [place for place, survey in standings.open_items() if place.index in survey.results]
    states = ledger.gather(lambda place: read_item_state(ledger, keys, place), new)
    for place, state in zip(new, states, strict=True):
        outcomes.record(place, state)
    standings.newly_ended = len(new)
    return standings


def read_final_states(ledger: Ledger, keys: JobKeys, count: int) -> tuple[JobCommands, FinalStates]:
    """Orders, and what the rollup knows of the rounds there are: for those who look for work."""
    standings = _read_known_states(ledger, keys, count)
    return standings.commands, standings.final


def save_rollup(ledger: Ledger, standings: ItemStates, *, complete: bool) -> bool:
    """Whether the rollup now says what these standings do; False: another saved first."""
    record = RollupRecord(
        nonce=ledger.ids.nonce(), version=standings.version + 1, complete=complete
    )
    body = pack(record, standings.final.pack())
    if standings.etag:
        return ledger.compare_and_swap(standings.keys.rollup, body, standings.etag) is not None
    return ledger.create_once(standings.keys.rollup, body) is not None


def save_rollup_if_worthwhile(ledger: Ledger, standings: ItemStates) -> None:
    """For readers who have found much that the rollup does not say."""
    if standings.newly_ended >= _WORTH_SAVING:
        save_rollup(ledger, standings, complete=False)


def is_complete(ledger: Ledger, keys: JobKeys, control: JobCommands, count: int) -> bool:
    """Whether the rollup says that all items of every round there is have ended."""
    known = _read_rollup(ledger, keys, control, count)
    return known.complete and len(known.final.rounds) > control.retries


def _read_known_states(ledger: Ledger, keys: JobKeys, count: int) -> ItemStates:
    control = read_commands(ledger, keys)
    standings = _read_rollup(ledger, keys, control, count)
    for round_ in range(len(standings.final.rounds), control.retries + 1):
        standings.final.add_round(read_retried_items(ledger, keys, round_, count))
        standings.complete = False
    return standings


def _read_rollup(ledger: Ledger, keys: JobKeys, control: JobCommands, count: int) -> ItemStates:
    standings = ItemStates(keys, control, FinalStates(count), {})
    if not (found := ledger.find(keys.rollup)):
        return standings
    head, body = found
    standings.etag = head.etag
    # It is only a cache: what is wrong with it is mended by writing it anew.
    with suppress(DamagedRecordError, ValueError):
        record, payload = unpack(keys.rollup, body, RollupRecord)
        standings.final = FinalStates.unpack(payload, count)
        standings.version, standings.complete = record.version, record.complete
    return standings
