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
from services.ledger.jobs import JobCommands, read_control, read_members
from services.ledger.keys import BLOCK, ItemBlock, ItemRef, JobKeys, parse_place
from services.ledger.ledger import Ledger
from services.ledger.records import RollupRecord, pack, unpack
from services.ledger.results import read_state

OPEN, ABSENT = ord("."), ord(" ")
_LETTERS = {
    ItemState.SUCCEEDED: ord("s"),
    ItemState.FAILED: ord("f"),
    ItemState.CANCELLED: ord("c"),
    ItemState.DELETED: ord("d"),
}
_ALL = bytes([OPEN, ABSENT, *_LETTERS.values()])
_STATES = {letter: state for state, letter in _LETTERS.items()}


class ItemOutcomes:
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

    def note(self, place: ItemRef, state: ItemState) -> None:
        self.rounds[place.round][place.index] = _LETTERS[state]

    def open_items(self, block: ItemBlock) -> Iterator[int]:
        """Items of a block that are not known to have ended."""
        letters, end = self.rounds[block.round], (block.number + 1) * BLOCK
        index = letters.find(OPEN, block.number * BLOCK, end)
        while index >= 0:
            yield index
            index = letters.find(OPEN, index + 1, end)

    def open_blocks(self) -> list[ItemBlock]:
        """Those with any such item."""
        return [
            ItemBlock(round_, number)
            for round_, letters in enumerate(self.rounds)
            for number in range(-(-self.count // BLOCK))
            if letters.find(OPEN, number * BLOCK, (number + 1) * BLOCK) >= 0
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
    def unpack(cls, payload: bytes, count: int) -> "ItemOutcomes":
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

    def running(self, index: int) -> bool:
        standing = self.attempts.get(index)
        return index not in self.results and standing is not None and not standing.ended


def take_survey(ledger: Ledger, keys: JobKeys, block: ItemBlock) -> AttemptScan:
    """Attempts first, then results: what had ended when its attempt was listed, is seen so."""
    attempts = latest_attempts(ledger, keys, block)
    return AttemptScan(block, attempts, ended_items(ledger, keys, block))


def latest_attempts(ledger: Ledger, keys: JobKeys, block: ItemBlock) -> dict[int, LatestAttempt]:
    """Of each item that was ever claimed."""
    attempts: dict[int, LatestAttempt] = {}
    for head in ledger.heads(f"{keys.attempts}{block}"):
        place, (number, *ended) = parse_place(head.key[len(keys.attempts) :])
        attempts[place.index] = LatestAttempt(
            int(number), bool(ended), head.last_modified, head.age
        )
    return attempts


def ended_items(ledger: Ledger, keys: JobKeys, block: ItemBlock) -> frozenset[int]:
    """Items with a result."""
    names = (head.key[len(keys.results) :] for head in ledger.heads(f"{keys.results}{block}"))
    return frozenset(parse_place(name)[0].index for name in names)


_WORTH_SAVING = 32
"""Results that a reader found beside the rollup, before it saves others the trouble."""


@dataclass
class ItemStates:
    """A job at one moment, and the rollup that it was read from."""

    keys: JobKeys
    control: JobCommands
    outcomes: ItemOutcomes
    surveys: dict[ItemBlock, AttemptScan]
    """Of blocks in which something may be open."""
    found: int = 0
    """Ends that the rollup did not have."""
    etag: str = ""
    """Of the rollup; empty: there is none."""
    version: int = 0
    complete: bool = False
    """The rollup says that all has ended."""

    def state(self, index: int) -> ItemState:
        """How an item stands."""
        if self.control.is_deleted(index):
            return ItemState.DELETED
        if ended := self.outcomes.state(index):
            return ended
        place = ItemRef(self.outcomes.last_round(index), index)
        if place.index in self.surveys[place.block].attempts:
            if self.surveys[place.block].running(index):
                return ItemState.RUNNING
            return ItemState.QUEUED
        return ItemState.CANCELLED if self.control.cancelled else ItemState.QUEUED

    def states(self) -> Iterator[ItemState]:
        return (self.state(index) for index in range(self.outcomes.count))

    def open_places(self) -> Iterator[tuple[ItemRef, AttemptScan]]:
        """Items that have not ended in a round, though they are in it."""
        for block, survey in self.surveys.items():
            for index in self.outcomes.open_items(block):
                yield ItemRef(block.round, index), survey


def read_standings(ledger: Ledger, keys: JobKeys, count: int) -> ItemStates:
    """How a job of `count` items stands. The orders are read before all else, so that an item
    without attempt in a cancelled job will never do anything.
    """
    standings = _known_standings(ledger, keys, count)
    outcomes = standings.outcomes
    blocks = outcomes.open_blocks()
    surveys = ledger.gather(lambda block: take_survey(ledger, keys, block), blocks)
    standings.surveys = dict(zip(blocks, surveys, strict=True))
    new = [place for place, survey in standings.open_places() if place.index in survey.results]
    states = ledger.gather(lambda place: read_state(ledger, keys, place), new)
    for place, state in zip(new, states, strict=True):
        outcomes.note(place, state)
    standings.found = len(new)
    return standings


def read_outcomes(ledger: Ledger, keys: JobKeys, count: int) -> tuple[JobCommands, ItemOutcomes]:
    """Orders, and what the rollup knows of the rounds there are: for those who look for work."""
    standings = _known_standings(ledger, keys, count)
    return standings.control, standings.outcomes


def save(ledger: Ledger, standings: ItemStates, *, complete: bool) -> bool:
    """Whether the rollup now says what these standings do; False: another saved first."""
    record = RollupRecord(
        nonce=ledger.ids.nonce(), version=standings.version + 1, complete=complete
    )
    body = pack(record, standings.outcomes.pack())
    if standings.etag:
        return ledger.swap(standings.keys.rollup, body, standings.etag) is not None
    return ledger.create(standings.keys.rollup, body) is not None


def save_if_worth(ledger: Ledger, standings: ItemStates) -> None:
    """For readers who have found much that the rollup does not say."""
    if standings.found >= _WORTH_SAVING:
        save(ledger, standings, complete=False)


def is_complete(ledger: Ledger, keys: JobKeys, control: JobCommands, count: int) -> bool:
    """Whether the rollup says that all items of every round there is have ended."""
    known = _read_rollup(ledger, keys, control, count)
    return known.complete and len(known.outcomes.rounds) > control.retries


def _known_standings(ledger: Ledger, keys: JobKeys, count: int) -> ItemStates:
    control = read_control(ledger, keys)
    standings = _read_rollup(ledger, keys, control, count)
    for round_ in range(len(standings.outcomes.rounds), control.retries + 1):
        standings.outcomes.add_round(read_members(ledger, keys, round_, count))
        standings.complete = False
    return standings


def _read_rollup(ledger: Ledger, keys: JobKeys, control: JobCommands, count: int) -> ItemStates:
    standings = ItemStates(keys, control, ItemOutcomes(count), {})
    if not (found := ledger.find(keys.rollup)):
        return standings
    head, body = found
    standings.etag = head.etag
    # It is only a cache: what is wrong with it is mended by writing it anew.
    with suppress(DamagedRecordError, ValueError):
        record, payload = unpack(keys.rollup, body, RollupRecord)
        standings.outcomes = ItemOutcomes.unpack(payload, count)
        standings.version, standings.complete = record.version, record.complete
    return standings
