"""What exists of a thousand items, and so how each of them stands."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from services.ledger.layout import Block, JobKeys, parse_place
from services.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Standing:
    """The latest attempt at an item."""

    number: int
    ended: bool
    """It has ended, and no result came of it."""
    since: datetime
    """When it was claimed, or ended, by the store's clock."""
    age: timedelta
    """How long that was ago."""


@dataclass(frozen=True, slots=True)
class Survey:
    """A block at one moment; what has no attempt and no result is not in it."""

    block: Block
    attempts: dict[int, Standing]
    results: frozenset[int]
    """Items that have ended."""

    def running(self, index: int) -> bool:
        standing = self.attempts.get(index)
        return index not in self.results and standing is not None and not standing.ended


def take_survey(ledger: Ledger, keys: JobKeys, block: Block) -> Survey:
    """Attempts first, then results: what had ended when its attempt was listed, is seen so."""
    attempts = latest_attempts(ledger, keys, block)
    return Survey(block, attempts, ended_items(ledger, keys, block))


def latest_attempts(ledger: Ledger, keys: JobKeys, block: Block) -> dict[int, Standing]:
    """Of each item that was ever claimed."""
    attempts: dict[int, Standing] = {}
    for head in ledger.heads(f"{keys.attempts}{block}"):
        place, (number, *ended) = parse_place(head.key[len(keys.attempts) :])
        attempts[place.index] = Standing(int(number), bool(ended), head.last_modified, head.age)
    return attempts


def ended_items(ledger: Ledger, keys: JobKeys, block: Block) -> frozenset[int]:
    """Items with a result."""
    names = (head.key[len(keys.results) :] for head in ledger.heads(f"{keys.results}{block}"))
    return frozenset(parse_place(name)[0].index for name in names)
