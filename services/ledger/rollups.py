"""How a job stands, in few requests: what the rollup knows, and what has ended since.

The rollup is a cache that anyone may bring up to date, by a swap. Without it everything is found
out anew from the results.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from services.errors import DamagedRecordError
from services.jobs import ItemState
from services.ledger.control import Control, read_control, read_members
from services.ledger.endings import read_state
from services.ledger.layout import Block, JobKeys, Place
from services.ledger.ledger import Ledger
from services.ledger.outcomes import Outcomes
from services.ledger.records import RollupRecord, pack, unpack
from services.ledger.survey import Survey, take_survey

_WORTH_SAVING = 32
"""Results that a reader found beside the rollup, before it saves others the trouble."""


@dataclass
class Standings:
    """A job at one moment, and the rollup that it was read from."""

    keys: JobKeys
    control: Control
    outcomes: Outcomes
    surveys: dict[Block, Survey]
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
        place = Place(self.outcomes.last_round(index), index)
        if place.index in self.surveys[place.block].attempts:
            if self.surveys[place.block].running(index):
                return ItemState.RUNNING
            return ItemState.QUEUED
        return ItemState.CANCELLED if self.control.cancelled else ItemState.QUEUED

    def states(self) -> Iterator[ItemState]:
        return (self.state(index) for index in range(self.outcomes.count))

    def open_places(self) -> Iterator[tuple[Place, Survey]]:
        """Items that have not ended in a round, though they are in it."""
        for block, survey in self.surveys.items():
            for index in self.outcomes.open_items(block):
                yield Place(block.round, index), survey


def read_standings(ledger: Ledger, keys: JobKeys, count: int) -> Standings:
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


def read_outcomes(ledger: Ledger, keys: JobKeys, count: int) -> tuple[Control, Outcomes]:
    """Orders, and what the rollup knows of the rounds there are: for those who look for work."""
    standings = _known_standings(ledger, keys, count)
    return standings.control, standings.outcomes


def save(ledger: Ledger, standings: Standings, *, complete: bool) -> bool:
    """Whether the rollup now says what these standings do; False: another saved first."""
    record = RollupRecord(
        nonce=ledger.ids.nonce(), version=standings.version + 1, complete=complete
    )
    body = pack(record, standings.outcomes.pack())
    if standings.etag:
        return ledger.swap(standings.keys.rollup, body, standings.etag) is not None
    return ledger.create(standings.keys.rollup, body) is not None


def save_if_worth(ledger: Ledger, standings: Standings) -> None:
    """For readers who have found much that the rollup does not say."""
    if standings.found >= _WORTH_SAVING:
        save(ledger, standings, complete=False)


def is_complete(ledger: Ledger, keys: JobKeys, control: Control, count: int) -> bool:
    """Whether the rollup says that all items of every round there is have ended."""
    known = _read_rollup(ledger, keys, control, count)
    return known.complete and len(known.outcomes.rounds) > control.retries


def _known_standings(ledger: Ledger, keys: JobKeys, count: int) -> Standings:
    control = read_control(ledger, keys)
    standings = _read_rollup(ledger, keys, control, count)
    for round_ in range(len(standings.outcomes.rounds), control.retries + 1):
        standings.outcomes.add_round(read_members(ledger, keys, round_, count))
        standings.complete = False
    return standings


def _read_rollup(ledger: Ledger, keys: JobKeys, control: Control, count: int) -> Standings:
    standings = Standings(keys, control, Outcomes(count), {})
    if not (found := ledger.find(keys.rollup)):
        return standings
    head, body = found
    standings.etag = head.etag
    # It is only a cache: what is wrong with it is mended by writing it anew.
    with suppress(DamagedRecordError, ValueError):
        record, payload = unpack(keys.rollup, body, RollupRecord)
        standings.outcomes = Outcomes.unpack(payload, count)
        standings.version, standings.complete = record.version, record.complete
    return standings
